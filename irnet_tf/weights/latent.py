"""Latent weights that Libra-PB quantizes to given signs and exponents."""

from __future__ import annotations

import numpy as np


def latent_weights(plus: np.ndarray, exponents: np.ndarray, std) -> np.ndarray:
    """Latent weights of given signs and exponents, as far as there are any.

    Of p plus and q minus weights with mean 0 let each side's magnitudes sum to 1, and their
    squares to r in all. Then std = sqrt(r / (n - 1)) and mean|w_std| = 2 / n / std. Equal
    magnitudes give the smallest r, 1/p + 1/q, hence the largest exponent; all of a side's
    magnitude in one weight the largest, 2. In between, a share `theta` of the magnitude goes
    to k heavy weights of each side and the rest is spread evenly, which gives
    r = 1/p + 1/q + theta**2 * (1/k_p - 1/p + 1/k_q - 1/q).

    Args:
        plus: bool [n, channels]; channels of one sign become 0, a constant channel.
        exponents: int [channels].
        std: of each channel's latent weights.

    Returns:
        float64 [n, channels].
    """
    n = len(plus)
    p = np.maximum(plus.sum(0), 1)
    q = np.maximum(n - plus.sum(0), 1)
    smallest = 1 / p + 1 / q

    def of_magnitude(x):  # r of a mean|w_std|, and the other way round
        return (n - 1) * (2 / (n * x)) ** 2

    # Aim for the middle of what can be reached of log2(mean|w_std|) between s - 1/2, s + 1/2.
    low = np.maximum(of_magnitude(np.exp2(exponents + 0.5)), smallest)
    high = np.minimum(of_magnitude(np.exp2(exponents - 0.5)), 2)
    r = np.clip(np.sqrt(low * high), smallest, 2)

    # As many heavy weights as leave the others half of the magnitude, far from changing sign.
    k_p, k_q = np.ones_like(p), np.ones_like(q)
    for heavy_share in 2.0 ** -np.arange(12, -0.5, -0.5):
        many_p = np.maximum(1, (p * heavy_share).astype(int))
        many_q = np.maximum(1, (q * heavy_share).astype(int))
        enough = (r - smallest) * 4 <= 1 / many_p + 1 / many_q - smallest
        k_p, k_q = np.where(enough, many_p, k_p), np.where(enough, many_q, k_q)
    room = 1 / k_p + 1 / k_q - smallest
    theta = np.sqrt(np.divide(r - smallest, room, out=np.zeros_like(r), where=room > 0))

    count, k = np.where(plus, p, q), np.where(plus, k_p, k_q)
    rank = np.where(plus, plus.cumsum(0), (~plus).cumsum(0))  # 1 to count, on each side
    heavy = rank * k // count > (rank - 1) * k // count  # k of them, evenly apart
    magnitude = (1 - theta) / count + heavy * theta / k
    varied = plus.any(0) & ~plus.all(0)
    return np.where(plus, 1, -1) * magnitude * (varied * std * np.sqrt((n - 1) / r))
