"""OpenVINO: models (`.xml` with `.bin`) whose 1-bit convolutions are fast on x86.

A 1-bit network has two equivalent forms: `"binary"` computes with bits, `"int8"` with bytes of -1
and +1. Which one is faster depends on the processor. Both store one bit per binary weight.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import os
from pathlib import Path
import re
import sys
import tempfile
import time

from irnet_tf._utils import check_choice
from irnet_tf.export.plan import Plan, Target, make_plan, require
from irnet_tf.export.rewrite import facts_of, normalisation, rewritten
import numpy as np
import tensorflow as tf

# Before OpenVINO is imported: it then uses a stub instead of its telemetry.
sys.modules.setdefault("openvino_telemetry", None)

FORMS = ("binary", "int8", "auto")


def to_openvino(model: tf.keras.Model, *, form: str = "auto", uint8_input: bool = False):
    """Converts a network to an OpenVINO model; `save` writes it.

    Binary weights take one bit each in the file, also where the inputs are float; those are
    unpacked when the file is loaded. A network without 1-bit convolutions is the same in all forms.

    Args:
        model: Functional Keras model with one input `[batch, height, width, channels]`, of any
            precision. It is not changed.
        form: `"binary"`, `"int8"`, or `"auto"`: the faster one on this machine with one thread.
        uint8_input: Input of the file, as in `to_lce`.

    Returns:
        An `openvino.Model` with batch size 1, float32 or uint8 inputs and float32 outputs. Compile
        it with `INFERENCE_PRECISION_HINT="f32"`. Its method `reshape` changes the batch size; the
        binary form needs a known one.

    Raises:
        ValueError: If the network cannot be converted, or an argument does not fit.
        ImportError: If OpenVINO is not installed.
    """
    check_choice("form", form, FORMS)
    normalise = normalisation(model) if uint8_input else None
    plan = make_plan(model, target())
    network = rewritten(model, plan)
    problem = _binary_problem(network, plan.binary)
    require(form != "binary" or not problem, f'{problem}; use form="int8"')
    facts = facts_of(model, uint8_input)
    from irnet_tf.export.openvino_graph import build

    def made(form):
        return build(network, plan, form, normalise, facts)

    if not plan.binary:
        return made("float")
    if form != "auto" or problem:
        return made("int8" if problem else form)
    files = {form: made(form) for form in ("binary", "int8")}
    times = latency_ms({form: Device(file) for form, file in files.items()}, 0.25)
    return files[min(times, key=times.get)]


def save(model, path) -> None:
    """Writes an OpenVINO model as `path` (`.xml`) and a `.bin` beside it, in full precision.

    The facts in the `.xml` contain the SHA-256 of the `.bin` (`bin_sha256`). Existing files are
    replaced once both are complete.

    Raises:
        OSError: If they cannot be written.
    """
    import openvino

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            openvino.save_model(model, made, compress_to_fp16=False)
            digest = hashlib.sha256(made.with_suffix(".bin").read_bytes()).hexdigest()
            model.set_rt_info(json.dumps({**_facts(model), "bin_sha256": digest}), ["irnet_tf"])
            openvino.save_model(model, made, compress_to_fp16=False)
            core().read_model(made)  # save_model does not report a full disk
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"{str(path)!r} cannot be written: {reason}") from error
        made.write_text(re.sub(r">\s+<", "><", made.read_text()))  # half of it is indentation
        for suffix in (".bin", ".xml"):
            os.replace(made.with_suffix(suffix), path.with_suffix(suffix))


def form_of(model) -> str:
    """Returns the form of a model of `to_openvino`: `"binary"`, `"int8"` or `"float"`."""
    return _facts(model)["form"]


def _facts(model) -> dict:
    return json.loads(model.get_rt_info(["irnet_tf"]).astype(str))


def operators(model) -> collections.Counter:
    """Returns the number of operations of each kind, without constants and results."""
    kinds = collections.Counter(node.get_type_name() for node in model.get_ordered_ops())
    return collections.Counter({k: n for k, n in kinds.items() if k not in ("Constant", "Result")})


def latency_ms(devices: dict, seconds: float = 1.0) -> dict:
    """Returns the median milliseconds per image of each device; they take turns."""
    images = {n: np.zeros((1, *d.input_shape), d.input_type) for n, d in devices.items()}
    times = {name: [] for name in devices}
    until = time.perf_counter() + seconds * len(devices)
    while time.perf_counter() < until or len(next(iter(times.values()))) < 5:
        for name, device in devices.items():
            start = time.perf_counter()
            device.predict(images[name])
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def target() -> Target:
    """Returns the capabilities of OpenVINO.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        from irnet_tf.export.openvino_graph import LAYERS
    except ImportError as error:
        raise ImportError(
            "OpenVINO models need openvino: pip install irnet_tf[openvino]"
        ) from error
    return Target("OpenVINO", LAYERS)


def _binary_problem(network, names) -> str | None:
    """Returns why OpenVINO's 1-bit kernels cannot compute layers of a network, or None."""
    for layer in map(network.get_layer, names):
        channels = layer.input_shape[-1]
        if channels % 8:
            return (
                f"layer {layer.name!r} has {channels} input channels, but OpenVINO's 1-bit "
                "convolution needs a multiple of 8"
            )
        if not _ordered(layer.input.node.layer):
            return (
                f"layer {layer.name!r} reads no convolution or pooling, and OpenVINO's 1-bit "
                "convolution crashes there"
            )
    return None


def _ordered(layer) -> bool:
    """Returns True if OpenVINO keeps a layer's output in the order that its 1-bit kernels read."""
    kinds = tf.keras.layers
    if isinstance(layer, (kinds.Conv2D, kinds.MaxPooling2D, kinds.AveragePooling2D)):
        return True
    reordered = (kinds.InputLayer, kinds.Dense, kinds.Reshape, kinds.Flatten, kinds.Softmax)
    parents = [tensor.node.layer for tensor in tf.nest.flatten(layer.input)]
    return not isinstance(layer, reordered) and all(map(_ordered, parents))


@functools.cache  # of several, one that ends can free the stack of signal handlers
def core():
    """Returns OpenVINO's runtime."""
    import openvino

    return openvino.Core()


def compiled_model(model, threads: int = 1):
    """Compiles a model for this machine's processor, in float32."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on processors that have it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    return core().compile_model(model, "CPU", settings)


class Device:
    """A model with batch size 1 on this machine, in one thread; attributes as in `lce.Device`."""

    def __init__(self, model):
        self.target = target()
        self.model = model
        self.input_type = np.dtype(model.input(0).element_type.to_dtype())
        self.input_shape = tuple(model.input(0).shape)[1:]
        self._compiled = compiled_model(model)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs for images `[n, height, width, channels]`."""
        return np.concatenate([self._compiled(image[None])[0] for image in images])

    def bits(self, plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the input signs of each 1-bit convolution, as `lce.Device.bits`."""
        from irnet_tf.export.openvino_convolutions import one_bit_weights

        model, form = self.model.clone(), form_of(self.model)
        nodes = {node.get_friendly_name(): node for node in model.get_ops()}
        for name in plan.binary:
            weights = nodes.get(f"{name}/weights")
            expected, _ = one_bit_weights(plan.kernel(name), form)
            require(
                weights is not None and np.array_equal(weights.get_data(), expected.get_data()),
                f"the file was made from another network: {plan.name!r} has other 1-bit weights; "
                "export it again",
            )
        # The inputs of the signs: OpenVINO crashes if the signs themselves are outputs.
        model.add_outputs([nodes[f"{name}/sign"].input_value(0) for name in plan.binary])
        values = list(compiled_model(model)(image).values())[1:]
        signs = [np.where(value >= 0, 1, -1).astype(np.float32) for value in values]
        return {name: x.transpose(0, 2, 3, 1) for name, x in zip(plan.binary, signs)}
