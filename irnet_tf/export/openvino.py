"""OpenVINO: models (`.xml` with `.bin`) whose 1-bit convolutions are fast on x86.

Two forms of the same 1-bit network: `"binary"` computes with bits, `"int8"` with bytes of -1 and
+1. Which is faster depends on the processor. Both keep one bit a binary weight in the file.
"""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path
import re
import sys
import tempfile

from irnet_tf._utils import check_choice, write_atomically
from irnet_tf.export.inputs import describe_file, normalisation
from irnet_tf.export.latency import interleaved_ms
from irnet_tf.export.plan import Plan, Target, make_plan, require
import numpy as np
import tensorflow as tf

# OpenVINO takes a stub for its telemetry where that is not installed. Before it is imported.
sys.modules.setdefault("openvino_telemetry", None)

FORMS = ("binary", "int8", "auto")

# What a file must give everywhere: plugins else take bfloat16 where the processor has it.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def to_openvino(
    model: tf.keras.Model,
    *,
    form: str = "auto",
    uint8_input: bool = False,
    batch_size: int | None = 1,
    mean=None,
    std=None,
):
    """The network as an OpenVINO model; `save` writes it.

    1-bit convolutions are computed with bits (`form="binary"`) or exactly so with bytes
    (`form="int8"`). Weights that are 1-bit take one bit in the file in either form, and also where
    the inputs are float; those are unpacked when the file is loaded. A network without 1-bit
    convolutions is the same in all forms.

    Args:
        model: a functional Keras model of one input `[batch, height, width, channels]`, such as
            those of `irnet_tf.models`, of whatever precision; it is left as it is.
        form: `"binary"`, `"int8"`, or `"auto"`: the one that is faster on this machine, with one
            thread; `form_of` tells which.
        uint8_input: whether the file takes pixels 0 to 255 and normalises them itself, as the
            network's description has it.
        batch_size: of the file. None: any, which OpenVINO's 1-bit kernels cannot do, so that
            `"auto"` is int8 then. A model of a batch size can be given another one with
            `openvino.Model.reshape`, or when a `Runner` loads it.
        mean, std: for a network without a description, as of `to_lce`.

    Returns:
        An `openvino.Model` from `[batch_size, height, width, channels]`, float32 (uint8 with
        `uint8_input`), to float32 outputs. Compile it with `INFERENCE_PRECISION_HINT="f32"`.

    Raises:
        ValueError: if the network cannot be converted: the layer and the cure are named; or if
            form, batch_size, mean or std do not fit.
        ImportError: without OpenVINO.
    """
    check_choice("form", form, FORMS)
    require(
        batch_size is None or (isinstance(batch_size, int) and batch_size > 0),
        f"batch_size must be a positive integer or None, got {batch_size!r}",
    )
    normalise = normalisation(model, uint8_input, mean, std)
    plan = make_plan(model, target())
    problem = _no_binary(plan, batch_size)
    require(form != "binary" or not problem, f'{problem}; use form="int8"')
    facts = describe_file(model, uint8_input, mean, std)
    from irnet_tf.export.openvino_graph import build

    if not plan.binary:
        return build(model, plan, "float", batch_size, normalise, facts)
    if form == "auto" and not problem:
        forms = {f: build(model, plan, f, batch_size, normalise, facts) for f in ("binary", "int8")}
        times = interleaved_ms({form: _timed(made) for form, made in forms.items()}, 0.25)
        return forms[min(times, key=times.get)]
    form = "int8" if form == "auto" else form
    return build(model, plan, form, batch_size, normalise, facts)


def save(model, path) -> None:
    """Write an OpenVINO model as `path` (`.xml`) and, beside it, `.bin`, without rounding it.

    What was there stays until both are written.

    Raises:
        OSError: if they cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            runtime().save_model(model, made, compress_to_fp16=False)
            runtime().Core().read_model(made)  # a full disk is nothing that it would tell
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"{str(path)!r} cannot be written: {reason}") from error
        text = re.sub(r">\s+<", "><", made.read_text())  # half of it is indentation
        write_atomically(made, text)
        for suffix in (".bin", ".xml"):
            os.replace(made.with_suffix(suffix), path.with_suffix(suffix))


def sizes(model) -> dict:
    """Bytes that `save` writes: `file` in all, and the `weights` of them (`.bin`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        save(model, path)
        weights = path.with_suffix(".bin").stat().st_size
        return {"file": path.stat().st_size + weights, "weights": weights}


def form_of(model) -> str:
    """`"binary"`, `"int8"`, or `"float"` where nothing is 1-bit, of a model of `to_openvino`."""
    return json.loads(model.get_rt_info(["irnet_tf"]).astype(str))["form"]


def operators(model) -> collections.Counter:
    """How many operations of each kind a model has, constants and results aside."""
    kinds = collections.Counter(node.get_type_name() for node in model.get_ordered_ops())
    return collections.Counter({k: n for k, n in kinds.items() if k not in ("Constant", "Result")})


def runtime():
    """The `openvino` package.

    Raises:
        ImportError: if it is not there; says how to get it.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "OpenVINO models need openvino: pip install irnet_tf[openvino]"
        ) from error
    return openvino


def target() -> Target:
    """What OpenVINO can do."""
    runtime()
    from irnet_tf.export.openvino_layers import ACTIVATIONS, LAYERS

    return Target(
        name="OpenVINO",
        layers=LAYERS,
        activations=tuple(ACTIVATIONS),
        symmetric_padding=True,
        small_images=True,
        float_inputs=(
            "{} convolutions have 1-bit weights and float inputs: they are computed in float, "
            "their weights are bits in the file, and unpacked once when it is loaded"
        ),
    )


def _no_binary(plan, batch_size) -> str | None:
    """Why OpenVINO's 1-bit kernels cannot compute this; None if they can."""
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
                f"layer {layer.name!r} has {channels} input channels, of which OpenVINO's 1-bit "
                "convolution is right only for multiples of 8"
            )
        if not all(_settled(parent, parents) for parent in parents[layer]):
            return (
                f"layer {layer.name!r} takes signs of something that no convolution or pooling "
                "gave, and OpenVINO's 1-bit convolution crashes there"
            )
    return None


def _settled(layer, parents) -> bool:
    """Whether OpenVINO keeps what a layer gives in the order that its 1-bit kernels read."""
    kinds = tf.keras.layers
    if isinstance(layer, (kinds.Conv2D, kinds.MaxPooling2D, kinds.AveragePooling2D)):
        return True
    reordered = (kinds.InputLayer, kinds.Dense, kinds.Reshape, kinds.Flatten, kinds.Softmax)
    return not isinstance(layer, reordered) and all(_settled(p, parents) for p in parents[layer])


def _timed(model):
    """Runs the model on this machine, one thread, on an image of zeros."""
    compiled = compiled_model(model)
    inputs = compiled.input(0)
    image = np.zeros(list(inputs.shape), inputs.element_type.to_dtype())
    return lambda: compiled(image)


def compiled_model(model, threads: int = 1):
    """The model on this machine's processor, in float32."""
    settings = {**PRECISION, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}  # fmt: skip
    return runtime().Core().compile_model(model, "CPU", settings)


class Device:
    """A model on this machine, one thread and batch 1, for `compare`.

    Attributes:
        target: what the format can do.
        input_type: NumPy's, of the images.
    """

    def __init__(self, model):
        self.target = target()
        self.model = _of_batch_1(model)
        self._compiled = compiled_model(self.model)
        self.input_type = np.dtype(self._compiled.input(0).element_type.to_dtype())

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Outputs of images `[n, height, width, channels]`."""
        return np.concatenate([self._compiled(image[None])[0] for image in images])

    def operators(self) -> collections.Counter:
        """How many of each kind the model has."""
        return operators(self.model)

    def bits(self, plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
        """From each 1-bit convolution to the signs `[1, height, width, channels]` that it gets.

        Raises:
            ValueError: if the file has other 1-bit weights than the plan.
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
                f"the file has 1-bit weights that {plan.name!r} does not have, so it was made of "
                "another network; make it anew with to_openvino",
            )
        # Not the signs themselves: OpenVINO crashes when asked for an output of {0, 1}.
        outputs = [nodes[f"{name}/sign"].input_value(0) for name in plan.binary]
        added = model.add_outputs(outputs)
        assert len(added) == len(outputs)
        values = list(compiled_model(model)(image).values())[1:]
        bits = {}
        for name, value in zip(plan.binary, values):
            bits[name] = np.where(value >= 0, 1, -1).astype(np.float32).transpose(0, 2, 3, 1)
            bits[name][..., plan.negated.get(name, [])] *= -1
        return bits


def _of_batch_1(model):
    shape = model.input(0).get_partial_shape()
    if shape[0].is_static and shape[0].get_length() == 1:
        return model
    model = model.clone()
    shape[0] = 1
    model.reshape(shape)
    return model
