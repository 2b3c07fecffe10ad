"""Predictions of exported networks, without TensorFlow where the file needs none.

    from irnet_runner import Runner

    Runner("net.xml").predict("cat.jpg")    # [[("cat", 0.93), ("dog", 0.04), ...]]

or `python -m irnet_runner net.xml cat.jpg dog.png`. This one file, with numpy, openvino and (for
image files) pillow, is all that a server needs to run `.xml` files. It stands beside the package
`irnet_tf`, not within, because importing that imports TensorFlow. `.tflite` files with Larq's
operators need Larq Compute Engine, and with it TensorFlow and `irnet_tf`.
"""

from __future__ import annotations

from collections.abc import Iterable
import itertools
import json
import os
from pathlib import Path
import sys
import threading

import numpy as np

MAX_PIXELS = 1 << 27
"""Image files with more are refused, before they are decoded."""


class Runner:
    """An exported network on this machine. Several threads may use one; they take turns.

    Args:
        path: of an `.xml` file (its `.bin` beside it) or a `.tflite` file.
        threads: how many threads compute.
        batch_size: how many images are computed at once; 1 for `.tflite`.

    Attributes:
        facts: what the file says of itself: `network`, `output`, `uint8_input`, and `classes` and
            `preprocessing` where they are known.
        input_shape: `(height, width, channels)`.

    Raises:
        ValueError: if the file is not one that irnet_tf wrote, or an argument does not fit.
        ImportError: if what runs it is not installed.
        OSError: if it cannot be read.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1, batch_size: int = 1):
        path = Path(path)
        for name, value in (("threads", threads), ("batch_size", batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        loaders = {".xml": _load_openvino, ".tflite": _load_tflite}
        if path.suffix not in loaders:
            raise ValueError(f"path must end in {' or '.join(loaders)}, got {str(path)!r}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
        self.batch_size = batch_size
        self._turn = threading.Lock()
        self._run, shape, facts = loaders[path.suffix](path, threads, batch_size)
        if not facts:
            raise ValueError(f"{path} was not written by irnet_tf: export the network with it")
        self.facts, self.input_shape = facts, tuple(shape)

    def predict(self, images, top: int | None = 5) -> list[list[tuple[str, float]]]:
        """The likeliest classes of images, which are preprocessed as the network expects.

        Args:
            images: the path of a JPEG or PNG file, an image of Pillow's, an array or tensor of
                pixels, 0 to 255: `[height, width, 3]` or `[batch, height, width, 3]` (grey ones
                `[height, width]` or `[..., 1]`), or a list of any of these but batches.
            top: how many classes to give an image; None: all.

        Returns:
            For each image its likeliest classes, the likeliest first, as pairs of name and
            probability. Classes without a name are named by their number.

        Raises:
            ValueError: if an image cannot be read or has another shape, or `top` is below 1.
            OSError: if a file cannot be read.
        """
        if top is not None and (not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be a whole number of at least 1, or None, got {top!r}")
        ready = (self.preprocess(image) for image in _pixels(images))
        found = []
        while batch := list(itertools.islice(ready, self.batch_size)):
            found.append(self.outputs(np.stack(batch)))
        if not found:
            raise ValueError("there are no images to look at; give at least one")
        outputs = np.concatenate(found)
        probabilities = _softmax(outputs) if self.facts["output"] == "logits" else outputs
        classes = self.facts.get("classes") or list(map(str, range(outputs.shape[1])))
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [(classes[i], float(row[i])) for i in best] for row, best in zip(probabilities, order)
        ]

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """What the network gives, float32 `[n, classes]`.

        Args:
            inputs: as the file takes them: `[n, height, width, channels]`, uint8 pixels if
                `facts["uint8_input"]`, else normalised float32.
        """
        found = []
        for i in range(0, len(inputs), self.batch_size):
            batch = inputs[i : i + self.batch_size]
            missing = self.batch_size - len(batch)
            whole = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
            with self._turn:  # what computes has one place for images and one for results
                found.append(np.array(self._run(whole))[: len(batch)])
        return np.concatenate(found)

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """From pixels 0 to 255, `[height, width, 3]` of any size, to what the file takes.

        Grey images are `[height, width]` or `[height, width, 1]`.
        """
        known = self.facts.get("preprocessing")
        if known is None:
            if image.shape != self.input_shape:
                raise ValueError(
                    f"the file does not say how to preprocess images: give them as "
                    f"{list(self.input_shape)}, got {list(image.shape)}"
                )
            return image.astype(np.uint8 if self.facts["uint8_input"] else np.float32)
        grey = image[..., None] if image.ndim == 2 else image
        if grey.ndim != 3 or grey.shape[2] not in (1, 3) or 0 in grey.shape:
            raise ValueError(
                f"images must be [height, width, 3], pixels 0 to 255, got {list(image.shape)}; "
                "grey ones [height, width] or [height, width, 1]"
            )
        image = np.broadcast_to(grey, (*grey.shape[:2], 3))
        pixels = resize(crop(image, known["crop"]), known["size"])
        if self.facts["uint8_input"]:
            return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        mean, std = (np.array(known[name], np.float32) for name in ("mean", "std"))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def crop(image: np.ndarray, share: float) -> np.ndarray:
    """The centre square that covers a share of the shorter side."""
    sides = np.array(image.shape[:2])
    extent = max(int(np.rint(np.float32(sides.min()) * np.float32(share))), 1)
    top, left = (sides - extent) // 2
    return image[top : top + extent, left : left + extent]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square image of another size, bilinear and antialiased, as `tf.image.resize` has it."""
    side = len(image)
    if side == size:
        return image
    step = side / size
    centres = (np.arange(size) + 0.5) * step
    distance = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(step, 1)
    weights = np.maximum(1 - distance, 0)
    weights /= weights.sum(1, keepdims=True)
    rows = np.tensordot(weights, image.astype(np.float64), (1, 0))
    return np.tensordot(weights, rows, (1, 1)).transpose(1, 0, 2)


def _load_openvino(path, threads, batch_size):
    sys.modules.setdefault("openvino_telemetry", None)  # as if not installed: nothing is sent
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"{path} needs openvino: pip install openvino") from error
    core = openvino.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(
            f"{path} cannot be read, with {path.with_suffix('.bin').name} beside it: "
            f"{str(error).strip().splitlines()[-1]}"
        ) from error
    facts = {}
    if model.has_rt_info(["irnet_tf"]):
        facts = json.loads(model.get_rt_info(["irnet_tf"]).astype(str))
    shape = model.input(0).get_partial_shape()
    shape[0] = batch_size
    model.reshape(shape)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda batch: request.infer([batch])[0], list(compiled.input(0).shape)[1:], facts


def _load_tflite(path, threads, batch_size):
    if batch_size != 1:
        raise ValueError(f"a .tflite file computes one image at a time, got {batch_size=}")
    file = path.read_bytes()
    try:
        from irnet_tf.export.lce import Device, file_facts

        facts = file_facts(file)  # first, as a damaged file may crash the interpreter
        device = Device(file, threads)
    except ImportError as error:
        raise ImportError(
            f"{path} needs irnet_tf with Larq Compute Engine ({error}): "
            "pip install irnet_tf[deploy]"
        ) from error
    except Exception as error:  # whatever a damaged file makes its parser raise
        raise ValueError(f"{path} is damaged, or no such file: {error!r}") from error
    return device.predict, device.input_shape, facts


def _pixels(images):
    """Images one by one, as arrays."""
    array = len(getattr(images, "shape", ())) in (2, 3)  # NumPy's, TensorFlow's, PyTorch's
    if array or isinstance(images, (str, os.PathLike)) or hasattr(images, "convert"):
        images = [images]
    elif not isinstance(images, Iterable):
        raise ValueError(f"images must be paths or arrays of pixels, got {type(images).__name__}")
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            yield read_image(image)
        else:
            yield pixels_of(image) if hasattr(image, "convert") else np.asarray(image)


def pixels_of(image) -> np.ndarray:
    """The pixels of an image of Pillow's, uint8 `[height, width, 3]`.

    Of 16 bits the upper eight are taken, as TensorFlow does; Pillow would clip.
    """
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The pixels of a JPEG or PNG file, uint8 `[height, width, 3]`.

    Raises:
        ValueError: if it is no such file, or has more than `MAX_PIXELS`.
        OSError: if it cannot be read.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("image files need pillow: pip install pillow") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, at most {MAX_PIXELS}"
                )
            return pixels_of(image)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is no JPEG or PNG file" if unknown else error
        raise ValueError(f"{os.fspath(path)!r} cannot be read as an image: {reason}") from error


def _softmax(x):
    x = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def main(argv: list[str]) -> None:
    """`python -m irnet_runner FILE IMAGE...`: the likeliest classes of each image."""
    if len(argv) < 2 or argv[0].startswith("-"):
        sys.exit("usage: python -m irnet_runner NET.xml|NET.tflite IMAGE...")
    try:
        runner = Runner(argv[0])
        for path in argv[1:]:
            [found] = runner.predict(path)
            print(f"{path}: " + ", ".join(f"{name} {p:.1%}" for name, p in found), flush=True)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"irnet_runner: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
