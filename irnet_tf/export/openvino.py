"""OpenVINO: models (`.xml` with `.bin`) whose 1-bit convolutions are fast on x86.

A 1-bit network has two equivalent forms: `"binary"` computes with bits, `"int8"` with bytes of -1
and +1. Which one is faster depends on the processor. Both store one bit per binary weight.
"""

from __future__ import annotations

import collections
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
from irnet_tf.export.rewrite import facts_of, normalisation
import numpy as np
import tensorflow as tf

# Before OpenVINO is imported: it then uses a stub instead of its telemetry.
sys.modules.setdefault("openvino_telemetry", None)

FORMS = ("binary", "int8", "auto")


def to_openvino(
    model: tf.keras.Model,
    *,
    form: str = "auto",
    uint8_input: bool = False,
    batch_size: int | None = 1,
    mean=None,
    std=None,
):
    """Converts a network to an OpenVINO model; `save` writes it.

    Binary weights take one bit each in the file, also where the inputs are float; those are
    unpacked when the file is loaded. A network without 1-bit convolutions is the same in all forms.

    Args:
        model: Functional Keras model with one input `[batch, height, width, channels]`, of any
            precision. It is not changed.
        form: `"binary"`, `"int8"`, or `"auto"`: the faster one on this machine with one thread.
        uint8_input: If True, the file takes pixels 0 to 255 and normalises them itself.
        batch_size: Batch size of the file. None: any, which only the int8 form supports.
        mean, std: Normalisation for `uint8_input`, as in `to_lce`.

    Returns:
        An `openvino.Model` with float32 (or uint8) inputs `[batch_size, height, width, channels]`
        and float32 outputs. Compile it with `INFERENCE_PRECISION_HINT="f32"`.

    Raises:
        ValueError: If the network cannot be converted, or an argument does not fit.
        ImportError: If OpenVINO is not installed.
    """
    check_choice("form", form, FORMS)
    require(
        batch_size is None or (isinstance(batch_size, int) and batch_size > 0),
        f"batch_size must be a positive integer or None, got {batch_size!r}",
    )
    normalise = normalisation(model, uint8_input, mean, std)
    plan = make_plan(model, target())
    problem = _binary_problem(plan, batch_size)
    require(form != "binary" or not problem, f'{problem}; use form="int8"')
    from irnet_tf.export.openvino_graph import build

    facts = facts_of(model, uint8_input, mean, std)
    if not plan.binary:
        forms = ["float"]
    elif form == "auto":
        forms = ["int8"] if problem else ["binary", "int8"]
    else:
        forms = [form]
    made = {form: build(model, plan, form, batch_size, normalise, facts) for form in forms}
    if len(made) == 1:
        return made[forms[0]]
    times = interleaved_ms({form: _run_zeros(model) for form, model in made.items()}, 0.25)
    return made[min(times, key=times.get)]


def save(model, path) -> None:
    """Writes an OpenVINO model as `path` (`.xml`) and a `.bin` beside it, in full precision.

    The facts in the `.xml` contain the SHA-256 of the `.bin` (`bin_sha256`). Existing files are
    replaced once both are complete.

    Raises:
        OSError: If they cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            runtime().save_model(model, made, compress_to_fp16=False)
            digest = hashlib.sha256(made.with_suffix(".bin").read_bytes()).hexdigest()
            model.set_rt_info(json.dumps({**_facts(model), "bin_sha256": digest}), ["irnet_tf"])
            runtime().save_model(model, made, compress_to_fp16=False)
            runtime().Core().read_model(made)  # save_model does not report a full disk
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"{str(path)!r} cannot be written: {reason}") from error
        made.write_text(re.sub(r">\s+<", "><", made.read_text()))  # half of it is indentation
        for suffix in (".bin", ".xml"):
            os.replace(made.with_suffix(suffix), path.with_suffix(suffix))


def sizes(model) -> dict:
    """Returns the bytes that `save` writes: `file` in total, `weights` of it (`.bin`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        save(model, path)
        weights = path.with_suffix(".bin").stat().st_size
        return {"file": path.stat().st_size + weights, "weights": weights}


def form_of(model) -> str:
    """Returns the form of a model of `to_openvino`: `"binary"`, `"int8"` or `"float"`."""
    return _facts(model)["form"]


def _facts(model) -> dict:
    return json.loads(model.get_rt_info(["irnet_tf"]).astype(str))


def operators(model) -> collections.Counter:
    """Returns the number of operations of each kind, without constants and results."""
    kinds = collections.Counter(node.get_type_name() for node in model.get_ordered_ops())
    return collections.Counter({k: n for k, n in kinds.items() if k not in ("Constant", "Result")})


def interleaved_ms(runs: dict, seconds: float = 1.0) -> dict:
    """Returns the median milliseconds of each function, called in turn for `seconds` each."""
    times = {name: [] for name in runs}
    for call in runs.values():
        call()
    until = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < until or len(next(iter(times.values()))) < 5:
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def runtime():
    """Returns the `openvino` package.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "OpenVINO models need openvino: pip install irnet_tf[openvino]"
        ) from error
    return openvino


def target() -> Target:
    """Returns the capabilities of OpenVINO."""
    runtime()
    from irnet_tf.export.openvino_graph import ACTIVATIONS, LAYERS

    return Target(
        name="OpenVINO",
        layers=LAYERS,
        activations=tuple(ACTIVATIONS),
        symmetric_padding=True,
        small_images=True,
    )


def _binary_problem(plan, batch_size) -> str | None:
    """Returns why OpenVINO's 1-bit kernels cannot compute a plan, or None."""
    if batch_size is None and plan.binary:
        return "OpenVINO's 1-bit convolution needs a known batch size, got batch_size=None"
    parents = {layer: [] for layer in plan.readers}
    for layer, readers in plan.readers.items():
        for reader in readers:
            parents[reader].append(layer)
    for layer in (layer for layer, part in plan.parts.items() if part == "both"):
        channels = plan.kernel(layer.name).shape[2]
        if channels % 8:
            return (
                f"layer {layer.name!r} has {channels} input channels, but OpenVINO's 1-bit "
                "convolution needs a multiple of 8"
            )
        if not all(_ordered(parent, parents) for parent in parents[layer]):
            return (
                f"layer {layer.name!r} reads no convolution or pooling, and OpenVINO's 1-bit "
                "convolution crashes there"
            )
    return None


def _ordered(layer, parents) -> bool:
    """Returns True if OpenVINO keeps a layer's output in the order that its 1-bit kernels read."""
    kinds = tf.keras.layers
    if isinstance(layer, (kinds.Conv2D, kinds.MaxPooling2D, kinds.AveragePooling2D)):
        return True
    reordered = (kinds.InputLayer, kinds.Dense, kinds.Reshape, kinds.Flatten, kinds.Softmax)
    return not isinstance(layer, reordered) and all(_ordered(p, parents) for p in parents[layer])


def _run_zeros(model):
    compiled = compiled_model(model)
    inputs = compiled.input(0)
    image = np.zeros(list(inputs.shape), inputs.element_type.to_dtype())
    return lambda: compiled(image)


def compiled_model(model, threads: int = 1):
    """Compiles a model for this machine's processor, in float32."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on processors that have it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    return runtime().Core().compile_model(model, "CPU", settings)


class Device:
    """A model on this machine with one thread and batch size 1.

    Attributes:
        target: Capabilities of the format.
        input_type: NumPy dtype of the images.
    """

    def __init__(self, model):
        self.target = target()
        shape = model.input(0).get_partial_shape()
        if shape[0].is_dynamic or shape[0].get_length() != 1:
            model = model.clone()
            shape[0] = 1
            model.reshape(shape)
        self.model = model
        self._compiled = compiled_model(self.model)
        self.input_type = np.dtype(self._compiled.input(0).element_type.to_dtype())

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs for images `[n, height, width, channels]`."""
        return np.concatenate([self._compiled(image[None])[0] for image in images])

    def bits(self, plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the input signs `[1, height, width, channels]` of each 1-bit convolution.

        Raises:
            ValueError: If the file has other 1-bit weights than the plan.
        """
        from irnet_tf.export.openvino_convolutions import positive_of

        model = self.model.clone()
        nodes = {node.get_friendly_name(): node for node in model.get_ops()}
        for name in plan.binary:
            weights = nodes.get(f"{name}/weights")
            kernel = plan.kernel(name).transpose(3, 2, 0, 1) > 0
            require(
                weights is not None
                and np.array_equal(positive_of(weights, form_of(model)), kernel),
                f"the file was made from another network: {plan.name!r} has other 1-bit weights; "
                "export it again",
            )
        # The inputs of the signs: OpenVINO crashes if the signs themselves are outputs.
        model.add_outputs([nodes[f"{name}/sign"].input_value(0) for name in plan.binary])
        values = list(compiled_model(model)(image).values())[1:]
        bits = {}
        for name, value in zip(plan.binary, values):
            bits[name] = np.where(value >= 0, 1, -1).astype(np.float32).transpose(0, 2, 3, 1)
            bits[name][..., plan.negated.get(name, [])] *= -1
        return bits
