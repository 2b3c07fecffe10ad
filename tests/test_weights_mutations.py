"""Damaged and hostile weights files: each loads or raises a ValueError with its path."""

import hashlib
import json
import re

import irnet_tf
from irnet_tf.model_config import BUILDERS, ModelConfig, register_builder, set_model_config
from irnet_tf.preprocessing import DIGITS
from irnet_tf.weights import save_weights
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
import zoo

WEIRD = (None, True, -1, 0, 2**70, 1e308, 0.5, "", "x", "\x1b[2J", [], [1], [[]], {}, {"a": 1})


def tiny(units=3, num_classes=4, kernel_quantizer=None):
    x = inputs = tf.keras.layers.Input((9,))
    quantizer = kernel_quantizer or irnet_tf.LibraPB()
    x = lq.layers.QuantDense(units, kernel_quantizer=quantizer, use_bias=False, name="dense")(x)
    x = tf.keras.layers.BatchNormalization(name="bn")(x)
    x = tf.keras.layers.Dense(num_classes, name="fc")(x)
    config = ModelConfig(
        "tiny", {"units": units, "num_classes": num_classes}, classes=tuple("abcd"),
        preprocessing=DIGITS, classifier="fc", seed=1, recipe={"t_max": 10.0},
        data={"name": "x"}, results={"accuracy": 0.5}, training={"epoch": 3},
    )  # fmt: skip
    return set_model_config(tf.keras.Model(inputs, x), config)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good file."""
    register_builder("tiny", tiny)
    path = tmp_path_factory.mktemp("good") / "tiny.safetensors"
    save_weights(tiny(), path)
    yield path.read_bytes()
    del BUILDERS["tiny"]


def sealed(data):
    """Returns the bytes with a correct digest, if there is room for one."""
    seal = re.search(rb'sha256\\":\\"(.{64})', data[:300], re.S)
    if not seal:
        return data
    start, end = seal.span(1)
    empty = data[:start] + b"0" * 64 + data[end:]
    return data[:start] + hashlib.sha256(empty).hexdigest().encode() + data[end:]


def survives(path, data):
    """Returns True if a file loads. Otherwise it must be a ValueError about this file."""
    path.write_bytes(data)
    try:
        model = zoo.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    assert all(np.isfinite(w).all() for w in model.get_weights())
    return True


def byte_mutations(good, count, seed=0):
    rng = np.random.default_rng(seed)
    header = 8 + int.from_bytes(good[:8], "little")
    for _ in range(count):
        data = bytearray(good)
        # Mostly in the header, where damage means most.
        i = int(rng.integers(header if rng.random() < 0.8 else len(data)))
        kind = rng.integers(4)
        if kind == 0:
            data[i] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[i : i + int(rng.integers(1, 9))]
        elif kind == 2:
            data[i:i] = rng.bytes(int(rng.integers(1, 9)))
        else:
            data[i] = int(rng.choice([0, 0x22, 0x2C, 0x5B, 0x7B, 0x7D, 0x30, 0x39, 0xFF]))
        if data != good:
            yield bytes(data)


def header_mutations(good):
    """Yields files with one value of the header left out or replaced by any JSON value."""
    length = int.from_bytes(good[:8], "little")
    outer, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    inner = json.loads(outer.pop("__metadata__")["irnet_tf"])

    def assemble():
        metadata = {"irnet_tf": json.dumps(inner, separators=(",", ":"))}
        text = json.dumps({"__metadata__": metadata, **outer}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + body

    def mutate(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            before = node.copy()
            for new in WEIRD:
                node[key] = new
                yield assemble()
            if isinstance(node, dict):
                del node[key]
                yield assemble()
                node.clear()
                node.update(before)
            node[key] = before[key]
            if isinstance(before[key], (dict, list)):
                yield from mutate(before[key])

    yield from mutate(inner)
    yield from mutate(outer)


def sweep(path, mutations):
    results = [survives(path, data) for data in mutations]
    print(f"{len(results)} files, {sum(results)} of them load")
    assert not all(results)
    return results


def test_a_sample(good, tmp_path):
    path = tmp_path / "network.safetensors"
    assert survives(path, good) and sealed(good) == good
    assert not any(sweep(path, byte_mutations(good, 100)))  # their digest is wrong
    assert any(sweep(path, map(sealed, byte_mutations(good, 60))))
    assert any(sweep(path, map(sealed, list(header_mutations(good))[::17])))
    for kind in (b"BF16", b"F8_E5M2"):  # NumPy does not know these types
        assert not survives(path, sealed(good.replace(b'"dtype":"F32"', b'"dtype":"%b"' % kind)))


@pytest.mark.slow
def test_all(good, tmp_path):
    path = tmp_path / "network.safetensors"
    sweep(path, map(sealed, byte_mutations(good, 1000, seed=2)))
    sweep(path, map(sealed, header_mutations(good)))
