"""Predictions of exported networks. `.xml` files need neither TensorFlow nor irnet_tf.

    from zoo.runtime import Runner

    Runner("net.xml").predict("cat.jpg")    # [[("cat", 0.93), ("dog", 0.04), ...]]

On the command line: `python -m zoo.runtime net.xml cat.jpg FOLDER`. `.xml` files need numpy,
openvino and (for image files) pillow. `.tflite` files with Larq's operators need irnet_tf with Larq
Compute Engine, which imports TensorFlow.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
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

    Attributes:
        facts: Facts in the file: `network`, `output`, `uint8_input`, and `classes` and
            `preprocessing` if they are known.
        input_shape: `(height, width, channels)`.

    Raises:
        ValueError: If the file is damaged or not irnet_tf's, or an argument is invalid.
        ImportError: If the package that runs the file is not installed.
        OSError: If the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        path = Path(path)
        if threads < 1:
            raise ValueError(f"threads must be positive, got {threads}")
        loaders = {".xml": _load_openvino, ".tflite": _load_tflite}
        if path.suffix not in loaders:
            raise ValueError(f"path must end in {' or '.join(loaders)}, got {str(path)!r}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
        self._lock = threading.Lock()
        self._run, shape, self.facts = loaders[path.suffix](path, threads)
        self.input_shape = tuple(shape)

    def predict(self, images, top: int | None = 5) -> list[list[tuple[str, float]]]:
        """The most probable classes of images. Arguments, result and errors: as `zoo.predict`."""
        if self.facts.get("preprocessing") is None:
            raise ValueError(
                f"the file has no preprocessing: pass {list(self.input_shape)} inputs to outputs()"
            )
        pixels = (image for batch in rgb_batches(images) for image in batch)
        outputs = np.concatenate([self.outputs(self.preprocess(image)[None]) for image in pixels])
        probabilities = softmax(outputs) if self.facts["output"] == "logits" else outputs
        return likeliest(probabilities, self.facts.get("classes"), top)

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """The network's outputs, float32 `[n, classes]`.

        Args:
            inputs: Inputs of the file, `[n, height, width, channels]`: uint8 pixels if
                `facts["uint8_input"]`, else normalised float32.
        """
        with self._lock:
            return np.concatenate([np.array(self._run(image[None])) for image in inputs])

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


@functools.cache  # of several, one that ends can free the stack of signal handlers
def _core():
    import openvino

    return openvino.Core()


def _load_openvino(path, threads):
    sys.modules.setdefault("openvino_telemetry", None)  # no usage statistics are sent
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} needs openvino: pip install openvino") from error
    try:
        facts = json.loads(ElementTree.parse(path).find("rt_info/irnet_tf").get("value"))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError):
        facts = None
    _check_facts(path, facts)
    binary = path.with_suffix(".bin")
    if hashlib.sha256(binary.read_bytes()).hexdigest() != facts.get("bin_sha256"):
        raise ValueError(
            f"{binary} has not the SHA-256 {facts.get('bin_sha256')}: damaged, or another export's"
        )
    core = _core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path} cannot be read: {reason}") from error
    shape = model.input(0).get_partial_shape()
    shape[0] = 1
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


def _load_tflite(path, threads):
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
    """Raises ValueError for missing or mistyped facts."""
    if not isinstance(facts, dict) or not facts:
        raise ValueError(f"{path} was not written by irnet_tf: export the network with it")
    expected = {
        "output": ("'logits' or 'probabilities'", lambda v: v in ("logits", "probabilities")),
        "uint8_input": ("true or false", lambda v: isinstance(v, bool)),
        "classes": ("a list of names", lambda v: v is None or _are(v, (str,))),
        "preprocessing": ("an object", lambda v: v is None or isinstance(v, dict)),
    }
    if isinstance(known := facts.get("preprocessing"), dict):
        facts = facts | {f"preprocessing.{name}": value for name, value in known.items()}
        expected |= {
            "preprocessing.size": ("1 to 4096", lambda v: _are([v], (int,)) and 0 < v <= 4096),
            "preprocessing.mean": ("3 numbers", lambda v: _are(v) and len(v) == 3),
            "preprocessing.std": ("3 numbers", lambda v: _are(v) and len(v) == 3),
            "preprocessing.crop": ("0 to 1", lambda v: _are([v]) and 0 <= v <= 1),
        }
    for name, (description, valid) in expected.items():
        if not valid(facts.get(name)):
            raise ValueError(f"{path}: {name} must be {description}, got {facts.get(name)!r:.80}")


def _are(values, types=(int, float)):
    return isinstance(values, list) and all(type(value) in types for value in values)


def predict_files(predict, paths: list[str], top: int) -> bool:
    """Prints predictions of files and folders, then unreadable files; True if there are none."""
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
