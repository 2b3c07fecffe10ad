"""Predictions of exported networks. `.xml` files need neither TensorFlow nor irnet_tf.

    from zoo.runtime import Runner

    Runner("net.xml").predict("cat.jpg")    # [[("cat", 0.93), ("dog", 0.04), ...]]

On the command line: `python -m zoo.runtime net.xml cat.jpg FOLDER`. `.xml` files need numpy,
openvino and (for image files) pillow. `.tflite` files with Larq's operators need irnet_tf with Larq
Compute Engine, which imports TensorFlow.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
from pathlib import Path
import sys
import threading
from xml.etree import ElementTree

import numpy as np
from zoo.images import image_files, read_image, rgb_batches


class Runner:
    """An exported network on this machine. Threads that share one take turns.

    Args:
        path: `.xml` file (its `.bin` beside it) or `.tflite` file.
        threads: Number of threads of one inference.
        batch_size: Number of images per inference; 1 for `.tflite`.

    Attributes:
        facts: Facts in the file: `network`, `output`, `uint8_input`, and `classes` and
            `preprocessing` if they are known.
        input_shape: `(height, width, channels)`.

    Raises:
        ValueError: If the file was not written by irnet_tf or is damaged, or an argument is
            invalid.
        ImportError: If the package that runs the file is not installed.
        OSError: If the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1, batch_size: int = 1):
        path = Path(path)
        if threads < 1 or batch_size < 1:
            raise ValueError(f"must be positive: {threads=}, {batch_size=}")
        loaders = {".xml": _load_openvino, ".tflite": _load_tflite}
        if path.suffix not in loaders:
            raise ValueError(f"path must end in {' or '.join(loaders)}, got {str(path)!r}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
        self.batch_size = batch_size
        self._lock = threading.Lock()
        self._run, shape, self.facts = loaders[path.suffix](path, threads, batch_size)
        self.input_shape = tuple(shape)

    def predict(self, images, top: int | None = 5) -> list[list[tuple[str, float]]]:
        """The most probable classes of images. Arguments, result and errors: as `zoo.predict`."""
        if self.facts.get("preprocessing") is None:
            raise ValueError(
                f"the file has no preprocessing: pass {list(self.input_shape)} inputs to outputs()"
            )
        ready = (self.preprocess(image) for batch in rgb_batches(images) for image in batch)
        found = []
        while batch := list(itertools.islice(ready, self.batch_size)):
            found.append(self.outputs(np.stack(batch)))
        outputs = np.concatenate(found)
        probabilities = softmax(outputs) if self.facts["output"] == "logits" else outputs
        return likeliest(probabilities, self.facts.get("classes"), top)

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """The network's outputs, float32 `[n, classes]`.

        Args:
            inputs: Inputs of the file, `[n, height, width, channels]`: uint8 pixels if
                `facts["uint8_input"]`, else normalised float32.
        """
        found = []
        for i in range(0, len(inputs), self.batch_size):
            batch = inputs[i : i + self.batch_size]
            whole = np.resize(batch, (self.batch_size, *batch.shape[1:]))  # repeats the images
            with self._lock:
                found.append(np.array(self._run(whole))[: len(batch)])
        return np.concatenate(found)

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """From pixels 0 to 255, `[height, width, 3]` of any size, to an input of the file."""
        known = self.facts["preprocessing"]
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
    """A square image of another size, bilinear and antialiased as `tf.image.resize`."""
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits `[batch, classes]`, in float64."""
    x = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def likeliest(probabilities: np.ndarray, classes, top) -> list[list[tuple[str, float]]]:
    """The `top` classes of each row with their probabilities, see `zoo.predict`."""
    if top is not None and (not isinstance(top, int) or top < 1):
        raise ValueError(f"top must be a positive integer or None, got {top!r}")
    count = probabilities.shape[1]
    classes = classes or [str(number) for number in range(count)]
    if len(classes) != count:
        raise ValueError(f"{count} predictions per image do not match {len(classes)} classes")
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [[(classes[i], float(row[i])) for i in best] for row, best in zip(probabilities, order)]


def _load_openvino(path, threads, batch_size):
    sys.modules.setdefault("openvino_telemetry", None)  # no usage statistics are sent
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"{path} needs openvino: pip install openvino") from error
    try:
        facts = json.loads(ElementTree.parse(path).find("rt_info/irnet_tf").get("value"))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError):
        facts = None
    _check_facts(path, facts)  # before OpenVINO reads the .bin
    core = openvino.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path} cannot be read: {reason}") from error
    shape = model.input(0).get_partial_shape()
    shape[0] = batch_size
    model.reshape(shape)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # not bfloat16, which OpenVINO prefers where it exists
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
        raise ValueError(f"batch_size must be 1 for a .tflite file, got {batch_size}")
    file = path.read_bytes()
    try:
        from irnet_tf.export.lce import Device, file_facts

        facts = file_facts(file)  # before Device, because a damaged file crashes the interpreter
        device = Device(file, threads)
    except ImportError as error:
        raise ImportError(
            f"{path} needs irnet_tf with Larq Compute Engine ({error}): "
            "pip install irnet_tf[deploy]"
        ) from error
    except Exception as error:  # any exception of the parser of a damaged file
        raise ValueError(f"{path} is damaged or not a .tflite file: {error!r}") from error
    _check_facts(path, facts)
    return device.predict, device.input_shape, facts


def _check_facts(path, facts):
    """Raises ValueError for missing or mistyped facts, or a `.bin` with another SHA-256."""
    if not isinstance(facts, dict) or not facts:
        raise ValueError(f"{path} was not written by irnet_tf: export the network with it")
    checks = {
        "output": ("'logits' or 'probabilities'", lambda v: v in ("logits", "probabilities")),
        "uint8_input": ("true or false", lambda v: isinstance(v, bool)),
        "classes": ("a list of names", lambda v: v is None or _are(str, v)),
        "preprocessing": ("an object", lambda v: v is None or isinstance(v, dict)),
    }
    if isinstance(known := facts.get("preprocessing"), dict):
        facts = facts | {f"preprocessing.{name}": value for name, value in known.items()}
        checks |= {
            "preprocessing.size": ("1 to 4096", lambda v: type(v) is int and 0 < v <= 4096),
            "preprocessing.mean": ("3 numbers", lambda v: _are(float, v, 3)),
            "preprocessing.std": ("3 positive numbers", lambda v: _are(float, v, 3) and min(v) > 0),
            "preprocessing.crop": ("above 0, at most 1", lambda v: _are(float, [v]) and 0 < v <= 1),
        }
    for name, (expected, valid) in checks.items():
        if not valid(facts.get(name)):
            raise ValueError(f"{path}: {name} must be {expected}, got {facts.get(name)!r:.80}")
    if path.suffix == ".xml":
        expected, binary = facts.get("bin_sha256"), path.with_suffix(".bin")
        if hashlib.sha256(binary.read_bytes()).hexdigest() != expected:
            raise ValueError(
                f"{binary} has not the SHA-256 {expected}: damaged, or another export's"
            )


def _are(kind, values, count=None):
    kinds = (int, float) if kind is float else kind
    valid = isinstance(values, list) and all(isinstance(value, kinds) for value in values)
    return valid and count in (None, len(values))


def predict_files(predict, paths: list[str], top: int) -> bool:
    """Prints predictions of image files and folders, then unreadable files; True if there are none.

    Args:
        predict: Function of pixels and `top`, such as `Runner.predict`.
        paths: Image files and folders.
        top: Number of classes per image.
    """
    files = [f for path in paths for f in (image_files(path) if os.path.isdir(path) else [path])]
    failed = []
    for file in files:
        try:
            pixels = read_image(file)
        except (ValueError, OSError) as error:
            failed.append(str(error))
            continue
        [best] = predict(pixels, top)
        print(file)
        for name, probability in best:
            print(f"  {100 * probability:6.2f} %  {name}", flush=True)
    for message in failed:
        print(f"not read: {message}", file=sys.stderr)
    return not failed


def main(argv: list[str] | None = None) -> None:
    """The command `python -m zoo.runtime NET IMAGE...`."""
    parser = argparse.ArgumentParser("python -m zoo.runtime", description="Classes of images.")
    parser.add_argument("network", metavar="NET", help=".xml or .tflite file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, help="number of classes per image (5)")
    options = parser.parse_args(argv)
    try:
        if not predict_files(Runner(options.network).predict, options.images, options.top):
            sys.exit(1)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"zoo.runtime: {error}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up messages
    main()
