"""Larq Compute Engine models: networks as files for devices, proved equal to the originals.

    python -m irnet_tf.export --model=digits/resnet20_bireal_1w1a --output=digits/net.tflite

Larq's converter makes a 1-bit operator (`LceBconv2d`) of a convolution whose input is a sign
and whose weights have one magnitude an output channel. What is left to do here: refuse early
what it cannot convert, rewrite what keeps it from fusing, pack weights that are 1-bit alone,
and compare the file with the network, bit by bit where they differ.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
import platform
import sys
import tempfile
import time

from irnet_tf import layers as blocks
from irnet_tf._compat import without_starvation_warning
import larq as lq
import numpy as np
import tensorflow as tf

TOLERANCE = 1e-4
"""How far logits may be apart, given the same bits; relative to the largest, if that is above 1."""

# Not ZeroPadding2D: Larq's converter may make padding="same" of it, which pads the other side.
_CONVERTIBLE = (
    lq.layers.QuantConv2D, blocks.OptionAShortcut, blocks.HardTanh,
    *(getattr(tf.keras.layers, name) for name in (
        "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
        "Dense", "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "InputLayer",
        "MaxPooling2D", "Multiply", "ReLU", "Rescaling", "Reshape", "Softmax",
    )),
)  # fmt: skip


def to_lce(model: tf.keras.Model, *, uint8_input: bool = False, mean=None, std=None) -> bytes:
    """The network as a Larq Compute Engine model (a TFLite file with Larq's operators).

    Every 1-bit convolution becomes an `LceBconv2d`. Convolutions with 1-bit weights and float
    inputs stay float, as Larq has no such operator, but their weights are packed, 32 to a word.

    Args:
        model: a functional Keras model of one input `[batch, height, width, channels]`, such as
            those of `irnet_tf.models`, of whatever precision; it is left as it is.
        uint8_input: whether the file takes a camera's bytes and normalises them itself.
        mean, std: with `uint8_input`, the normalisation that the network was trained with: per
            channel, of images between 0 and 1; numbers or sequences of one a channel.

    Returns:
        The file's bytes: batch 1, float32 inputs (uint8 with `uint8_input`), float32 outputs.

    Raises:
        ValueError: before any work, if the network cannot be converted: the layer and the cure
            are named; or if mean and std do not fit. Afterwards, if a 1-bit convolution stayed
            float all the same.
    """
    return _convert(_rewrite(model), _normalisation(model, uint8_input, mean, std))


def compare(model: tf.keras.Model, file: bytes, images, *, mean=None, std=None) -> dict:
    """How the file's logits differ from the network's, and why.

    Float sums depend on their order. An activation that is zero but for rounding can get one
    sign in TensorFlow and the other on a device; from there on logits differ visibly although
    nothing is wrong. Images whose logits differ are therefore traced: the network runs again
    with the bits that the file had. The two are equal if then the logits are, and if every
    bit that differs belongs to an activation within rounding of zero.

    Args:
        model: the network that `file` was made of.
        file: what `to_lce` returned.
        images: `[n, height, width, channels]`, of the type that the file takes.
        mean, std: as given to `to_lce`, if the file takes uint8.

    Returns:
        `images`: how many; `largest_difference`: of logits; `agreement`: share of images with
        the same top-1; `traced_images`: those that differ by more than `TOLERANCE`;
        `flipped_bits`: in those, run one by one; `largest_flipped`: the largest activation behind a
        flipped bit, relative to the layer's largest; `largest_difference_given_bits`: of logits
        once the bits are equal; `equal`: whether it and `largest_flipped` are within
        `TOLERANCE`.

    Raises:
        ValueError: if the images do not fit the model, or the file has other 1-bit weights.
    """
    images = np.asarray(images)
    expected = np.uint8 if mean is not None else np.float32
    _require(
        images.dtype == expected and images.shape[1:] == model.input_shape[1:] and len(images),
        f"images must be {np.dtype(expected)} [n, {str(model.input_shape[1:])[1:-1]}], got "
        f"{images.dtype} {list(images.shape)}; files of uint8_input need mean and std here too",
    )
    plan = _rewrite(model)
    network = _copy(model, lambda layer, config: type(layer).from_config(config))
    x = images
    if mean is not None:
        scale, offset = _normalisation(model, True, mean, std)
        x = images * scale + offset
    ours = network.predict(x, batch_size=16, verbose=0).reshape(len(images), -1)
    theirs = _interpreter(file).predict(images).reshape(len(images), -1)
    limit = TOLERANCE * max(1.0, float(np.abs(ours).max()))

    difference = np.abs(ours - theirs).max(1)
    # Not "> limit": that would let NaN pass.
    traced = np.flatnonzero(~(difference <= limit)) if plan.binary else []
    given_bits, flips = difference.copy(), [(0, 0.0)]
    for i in traced:
        bits = _bits(plan, file, images[i : i + 1])
        logits, flipped = _run_with_bits(network, x[i : i + 1], bits)
        given_bits[i] = np.abs(logits.ravel() - theirs[i]).max()
        flips += flipped
    largest_flipped = max(size for _, size in flips)
    return {
        "images": len(images),
        "largest_difference": float(difference.max()),
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "traced_images": len(traced),
        "flipped_bits": sum(count for count, _ in flips),
        "largest_flipped": largest_flipped,
        "largest_difference_given_bits": float(given_bits.max()),
        "equal": bool(given_bits.max() <= limit and largest_flipped <= TOLERANCE),
    }


def export(
    model: tf.keras.Model,
    output,
    images,
    *,
    images_are: str,
    uint8_input: bool = False,
    mean=None,
    std=None,
    paper_bytes: float | None = None,
) -> dict:
    """Write the file and, beside it, `report.txt`, `report.json` and `report.png`.

    Args:
        model, uint8_input, mean, std: as of `to_lce`.
        output: path of the file; its folder is made if need be.
        images: to compare on, as of `compare`.
        images_are: what they are, for the report.
        paper_bytes: the file's size in the paper, if it has one.

    Returns:
        What `report.json` holds: `rewrites`, `sizes` (bytes), `operations` (multiplications and
        additions counted as one, for one image), `operators` by kind, `comparison` (see
        `compare`), `latency` (milliseconds an image, median, one thread, on this machine).

    Raises:
        ValueError: as of `to_lce` and `compare`; or, once the reports are written, if the file and
            the network are not equal. The file is not written then.
    """
    output = Path(output)
    plan = _rewrite(model)
    normalisation = _normalisation(model, uint8_input, mean, std)
    file = _convert(plan, normalisation)
    given = {"mean": mean, "std": std} if uint8_input else {}
    twin = _float_file(model)
    one = np.asarray(images)[:1]
    x = one * normalisation[0] + normalisation[1] if uint8_input else one
    ours, theirs = _interpreter(file), tf.lite.Interpreter(model_content=twin, num_threads=1)
    theirs.allocate_tensors()
    theirs.set_tensor(theirs.get_input_details()[0]["index"], x)
    report = {
        "network": model.name,
        "rewrites": plan.notes,
        "sizes": {"lce": len(file), "float": len(twin)},
        "operations": _operations(model, plan),
        "operators": operators(file),
        "comparison": {"images_are": images_are, **compare(model, file, images, **given)},
        "latency": {
            "lce_ms": _median_ms(lambda: ours.predict(one)),
            "float_ms": _median_ms(theirs.invoke),
            "machine": f"{platform.machine()}, one thread",
        },
    }
    if paper_bytes:
        report["sizes"]["paper"] = paper_bytes
    output.parent.mkdir(parents=True, exist_ok=True)
    (output.parent / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (output.parent / "report.txt").write_text(report_text(report))
    _plot(report, output.parent / "report.png")
    _require(
        report["comparison"]["equal"],
        f"{output} would not be equal to the network {model.name!r} and is not written; please "
        f"report this with the network:\n{report_text(report)}",
    )
    output.write_bytes(file)
    return report


# ---------------------------------------------------------------- what can be converted


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def _readers(model):
    """From each layer, in the order in which they run, to the layers that read it."""
    _require(
        getattr(model, "_is_graph_network", False),
        f"{model.name!r} is not a functional Keras model, so that its layers cannot be followed; "
        "build it with tf.keras.Model(inputs, outputs)",
    )
    _require(
        len(model.inputs) == len(model.outputs) == 1,
        f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; make a "
        "tf.keras.Model with one of each",
    )
    shape = model.input_shape
    _require(
        len(shape) == 4 and None not in shape[1:],
        f"the input {model.inputs[0].node.layer.name!r} has the shape {shape}, but a device needs "
        "[batch, height, width, channels], all but the first known; build the network with "
        "input_shape=(height, width, channels) and load the weights into it",
    )
    readers = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.layer
            _require(
                not isinstance(layer, (blocks.SymmetricConv2D, blocks.SymmetricMaxPool2D)),
                f'layer {layer.name!r} has padding="symmetric", which Larq Compute Engine does '
                "not have and its converter gets wrong; build and train the network with "
                'padding="same"',
            )
            _require(
                type(layer) in _CONVERTIBLE,
                f"layer {layer.name!r} is a {type(layer).__name__}, which is not known to convert "
                "rightly; use layers as in irnet_tf.models, and do what it does outside the model",
            )
            _require(
                layer not in readers,
                f"layer {layer.name!r} is used more than once; make a layer for every use",
            )
            readers[layer] = []
            for parent in node.parent_nodes:
                readers[parent.layer].append(layer)
    return readers


def _kind_of(layer, kernel):
    """What of a convolution is 1-bit: `"both"`, `"weights"`, `"inputs"` or None."""
    weights, inputs = layer.kernel_quantizer is not None, layer.input_quantizer is not None
    if inputs:
        probe = layer.input_quantizer(tf.constant([-2.0, -0.5, 0.0, 0.5, 2.0]))
        _require(
            np.array_equal(probe, [-1, -1, 1, 1, 1]),
            f"layer {layer.name!r} quantizes its input to something other than a sign, which Larq "
            "Compute Engine has no operator for; use ede_sign, ste_sign or approx_sign",
        )
    if weights:
        _require(
            (np.abs(kernel) == np.abs(kernel[:1, :1, :1])).all() and kernel.all(),
            f"layer {layer.name!r} has quantized weights of more than one magnitude, or zeros, in "
            "an output channel, which is not 1-bit; use libra_pb, ste_sign or magnitude_aware_sign",
        )
    if weights and inputs:
        _require(
            layer.groups == 1 and layer.data_format == "channels_last",
            f"layer {layer.name!r} is a 1-bit convolution with groups={layer.groups} and "
            f"data_format={layer.data_format!r}; use groups=1 and 'channels_last'",
        )
        _check_span(layer)
        return "both"
    return "weights" if weights else "inputs" if inputs else None


def _check_span(layer):
    """Larq's fast kernels compute the zero padding wrongly if it lies on both sides at once."""
    sides = layer.input_shape[1:3]
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate)]
    _require(
        layer.padding != "same" or all(side >= span for side, span in zip(sides, spans)),
        f"layer {layer.name!r} gets {sides[0]}x{sides[1]} pixels, fewer than the "
        f"{spans[0]}x{spans[1]} of its kernel, which Larq Compute Engine computes wrongly; build "
        "the network with a larger input_shape",
    )


def _normalisation(model, uint8_input, mean, std):
    """None, or (scale, offset) with `x * scale + offset = (x / 255 - mean) / std`."""
    if not uint8_input:
        _require(mean is None and std is None, "mean and std are for uint8_input=True; set it")
        return None
    _require(
        mean is not None and std is not None,
        "uint8_input=True needs the mean and std that the network was trained with, of images "
        "between 0 and 1, such as irnet_tf.preprocessing.CIFAR10.mean",
    )
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    channels = model.input_shape[-1]
    for name, value in (("mean", mean), ("std", std)):
        _require(
            value.shape in ((), (1,), (channels,)) and np.isfinite(value).all(),
            f"{name} must be one number or {channels}, one a channel, got {value}",
        )
    _require((std > 0).all(), f"std must be above 0, got {std}")
    return [
        np.broadcast_to(value, channels).astype(np.float32)
        for value in (1 / (255 * std), -mean / std)
    ]


# ---------------------------------------------------------------- rewriting


@dataclasses.dataclass
class _Plan:
    """A float32 copy of the network in the form that Larq fuses, and what was done to it.

    Attributes:
        model: the copy, of batch 1; its weights are quantized, its kernel quantizers gone.
        binary: names of the 1-bit convolutions.
        packable: how many convolutions have 1-bit weights and float inputs.
        negated: from a 1-bit convolution to the input channels `[channels]` of the other sign.
        notes: what was done, one sentence each.
    """

    binary: list[str]
    packable: int
    negated: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    model: tf.keras.Model = None


def _copy(model, make, weights=None, batch_size=None):
    """A float32 copy of layers `make(layer, config)`; weights by name, the same by default."""
    weights = weights or {layer.name: layer.get_weights() for layer in model.layers}

    def clone(layer):
        return make(layer, {**layer.get_config(), "dtype": "float32"})

    images = tf.keras.Input(model.input_shape[1:], batch_size, "images", "float32")
    with without_starvation_warning():
        copy = tf.keras.models.clone_model(model, images, clone_function=clone)
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return copy


def _rewrite(model) -> _Plan:
    """Check that the network can be converted, and bring it into the form that Larq fuses."""
    readers, kinds = _readers(model), {}
    with lq.context.quantized_scope(True):
        weights = {layer.name: layer.get_weights() for layer in readers}
    for layer in readers:
        _require(
            all(np.isfinite(value).all() for value in weights[layer.name]),
            f"layer {layer.name!r} has weights that are not finite; train it anew",
        )
        if isinstance(layer, lq.layers.QuantConv2D):
            kinds[layer] = _kind_of(layer, weights[layer.name][0])
    plan = _Plan(
        [layer.name for layer, kind in kinds.items() if kind == "both"],
        sum(kind == "weights" for kind in kinds.values()),
    )
    if plan.packable:
        plan.notes.append(
            f"{plan.packable} convolutions have 1-bit weights and float inputs: they stay float "
            "(CONV_2D), as LceBconv2d multiplies bits by bits; their weights are packed to bits "
            "in the file, and unpacked (LceDequantize, MUL) whenever it runs"
        )
    inputs_only = [layer.name for layer, kind in kinds.items() if kind == "inputs"]
    if inputs_only:
        plan.notes.append(f"stay float, as their weights are: {', '.join(inputs_only)}")

    dropped = [
        layer
        for layer, others in readers.items()
        if type(layer) is blocks.HardTanh
        and others
        and all(kinds.get(reader) in ("both", "inputs") for reader in others)
    ]
    if dropped:
        plan.notes.append(
            f"left out {len(dropped)} Hardtanh that only signs read, as sign(Hardtanh(x)) = "
            f"sign(x): {', '.join(layer.name for layer in dropped)}"
        )
    swapped = _move_pools(plan, readers, kinds, weights)

    def make(layer, config):
        if layer in dropped:
            return tf.keras.layers.Activation("linear", name=layer.name, dtype="float32")
        if layer in swapped:
            layer = swapped[layer]
            config = {**layer.get_config(), "dtype": "float32"}
            if type(layer) is tf.keras.layers.BatchNormalization:
                config.update(scale=True, center=True)
        if layer in kinds:
            sign = "ste_sign" if kinds[layer] in ("both", "inputs") else None
            config.update(kernel_quantizer=None, input_quantizer=sign)
        return type(layer).from_config(config)

    plan.model = _copy(model, make, weights, batch_size=1)
    return plan


def _move_pools(plan, readers, kinds, weights):
    """Max poolings between a 1-bit convolution and its batch norm change places with the norm.

    Pooling commutes with what rises. Channels that fall are negated: `a * max(x) + b` is
    `-max(-(a * x + b))`. The next convolution or dense layer, to which only Hardtanh or a sign
    lead, takes the sign into its weights.

    Returns:
        From each layer that moves to the one whose place it takes; `weights` are changed.
    """
    swapped = {}

    def next_of(layer, kind=tf.keras.layers.Layer):
        others = readers.get(layer, [])
        return others[0] if len(others) == 1 and isinstance(others[0], kind) else None

    for conv in (layer for layer, kind in kinds.items() if kind == "both"):
        pool = next_of(conv, tf.keras.layers.MaxPooling2D)
        norm = next_of(pool, tf.keras.layers.BatchNormalization)
        if not norm or conv.use_bias or conv.activation is not tf.keras.activations.linear:
            continue
        reader = next_of(norm)
        reader = next_of(reader) if type(reader) is blocks.HardTanh else reader
        if kinds.get(reader) == "both":
            moved, negative = _thresholds(norm, weights[conv.name][0])
            plan.negated[reader.name] = negative
            weights[reader.name][0][:, :, negative] *= -1
        else:
            moved, negative = _rising(norm)
            flat = reader if isinstance(reader, tf.keras.layers.Flatten) else None
            reader = next_of(flat, tf.keras.layers.Dense)
            if negative.any() and not reader:
                plan.notes.append(
                    f"{norm.name} stays behind {pool.name}: {negative.sum()} of its channels fall, "
                    "and no layer follows that could take their sign into its weights"
                )
                continue
            if negative.any():
                rows = weights[reader.name][0].reshape(-1, len(negative), reader.units)
                rows[:, negative] *= -1
        weights[norm.name] = moved
        swapped[pool], swapped[norm] = norm, pool
        until = f", {negative.sum()} channels negated until {reader.name}" if negative.any() else ""
        plan.notes.append(f"moved {norm.name} in front of {pool.name}{until}")
    return swapped


def _thresholds(norm, kernel):
    """Batch-norm weights whose sign, through a max pooling, is that of the norm behind it.

    A 1-bit convolution gives integers m times its weights' magnitude. So the norm becomes
    `m > t`, t half-way between the integers where its sign changes, as TensorFlow computes it.
    Channels that fall get the opposite sign, at a tie too; negating alone would not give that,
    as sign(0) = +1.

    Returns:
        `([gamma, beta, mean, variance], negated channels)`.
    """
    magnitude = np.abs(kernel[0, 0, 0]).astype(np.float32)
    most = int(np.prod(kernel.shape[:3]))
    sums = np.arange(-most, most + 1, dtype=np.float32)[:, None, None, None] * magnitude
    gamma, beta, mean, variance = _norm_weights(norm)
    values, *_ = tf.compat.v1.nn.fused_batch_norm(
        sums, gamma, beta, mean, variance, norm.epsilon, is_training=False
    )
    positive = values.numpy()[:, 0, 0] >= 0
    negated = positive[0] & ~positive[-1]
    threshold = (positive == negated).sum(0) - most - 0.5
    ones = np.ones_like(magnitude)
    return [ones, 0 * ones, (magnitude * threshold).astype(np.float32), ones], negated


def _rising(norm):
    """Batch-norm weights with the channels negated that fall; returns as `_thresholds`."""
    gamma, beta, mean, variance = _norm_weights(norm)
    sign = np.where(gamma < 0, -1, 1).astype(np.float32)
    return [sign * gamma, sign * beta, mean, variance], gamma < 0


def _norm_weights(norm):
    mean, variance = (
        v.numpy().astype(np.float32) for v in (norm.moving_mean, norm.moving_variance)
    )
    gamma = norm.gamma.numpy().astype(np.float32) if norm.scale else np.ones_like(mean)
    beta = norm.beta.numpy().astype(np.float32) if norm.center else np.zeros_like(mean)
    return gamma, beta, mean, variance


# ---------------------------------------------------------------- converting


def _traced(model, normalisation=None):
    """(holder of the variables, concrete function) of batch 1."""

    def call(images):
        x = images
        if normalisation:
            x = tf.cast(x, tf.float32) * normalisation[0] + normalisation[1]
        return model(x, training=False)

    module = tf.Module()
    module.variables_ = model.variables
    dtype = tf.uint8 if normalisation else tf.float32
    spec = tf.TensorSpec((1, *model.input_shape[1:]), dtype, "images")
    return module, tf.function(call).get_concrete_function(spec)


def _convert(plan, normalisation) -> bytes:
    try:
        import larq_compute_engine as lce
    except ImportError as error:
        raise ImportError(
            "exporting needs larq-compute-engine: pip install irnet_tf[deploy]"
        ) from error

    module, function = _traced(plan.model, normalisation)
    # Of a plain module: saving a Keras model, as lce.convert_keras_model does, traces every
    # layer and takes ten times as long.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        file = lce.convert_saved_model(folder)
    if plan.packable:
        file = _pack_weights(file)
    found = operators(file)["LceBconv2d"]
    _require(
        found == len(plan.binary),
        f"{len(plan.binary)} convolutions of {plan.model.name!r} are 1-bit, but {found} became "
        f"LceBconv2d, the others stayed float; please report this with the network. Operators: "
        f"{dict(operators(file))}",
    )
    return file


def _float_file(model) -> bytes:
    """The full-precision twin, with the same layers, as an ordinary TFLite file."""

    def make(layer, config):
        if isinstance(layer, lq.layers.QuantConv2D):
            config.update(kernel_quantizer=None, input_quantizer=None)
        return type(layer).from_config(config)

    module, function = _traced(_copy(model, make, batch_size=1))
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()


def _parse(file):
    from larq_compute_engine.mlir.python import tflite_schema

    return tflite_schema.ModelT.InitFromObj(tflite_schema.Model.GetRootAsModel(file, 0))


def _kind(flat, operator) -> str:
    from larq_compute_engine.mlir.python import tflite_schema

    code = flat.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return code.customCode.decode()
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(k for k, v in vars(tflite_schema.BuiltinOperator).items() if v == number)


def operators(file: bytes) -> collections.Counter:
    """How many operators of each kind a TFLite file has, by the names of its format."""
    flat = _parse(file)
    return collections.Counter(_kind(flat, op) for op in flat.subgraphs[0].operators)


def _pack_weights(file) -> bytes:
    """Let convolutions whose weights have one magnitude a channel unpack them from bits."""
    from larq_compute_engine.mlir.python import tflite_schema as schema
    from larq_compute_engine.mlir.python import util

    flat = _parse(file)
    graph = flat.subgraphs[0]

    def add_code(**fields):
        flat.operatorCodes.append(schema.OperatorCodeT())
        for name, value in {"version": 1, **fields}.items():
            setattr(flat.operatorCodes[-1], name, value)
        return len(flat.operatorCodes) - 1

    def add_tensor(name, shape, kind, data=None):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.array(shape, np.int32), kind
        tensor.buffer = 0  # by the format, the empty one
        if data is not None:
            flat.buffers.append(schema.BufferT())
            flat.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(flat.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(code, inputs, output):
        made = schema.OperatorT()
        made.opcodeIndex = code
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        return made

    custom = schema.BuiltinOperator.CUSTOM
    dequantize = add_code(
        customCode=b"LceDequantize", builtinCode=custom, deprecatedBuiltinCode=custom
    )
    multiply = schema.BuiltinOperator.MUL
    multiply = add_code(builtinCode=multiply, deprecatedBuiltinCode=multiply)
    operators = []
    for op in graph.operators:
        if _kind(flat, op) == "CONV_2D":
            tensor = graph.tensors[op.inputs[1]]
            data = flat.buffers[tensor.buffer].data
            kernel = np.frombuffer(data.tobytes(), np.float32).reshape(tensor.shape)
            scale = np.abs(kernel[:, :1, :1, :1])
            if kernel[0].size > 1 and (np.abs(kernel) == scale).all():
                name = tensor.name.decode()
                packed = _pack(kernel)
                f32, i32 = schema.TensorType.FLOAT32, schema.TensorType.INT32
                bits = add_tensor(f"{name}/bits", packed.shape, i32, packed)
                signs = add_tensor(f"{name}/signs", kernel.shape, f32)
                scales = add_tensor(f"{name}/scale", scale.shape, f32, scale)
                flat.buffers[tensor.buffer].data = None
                tensor.buffer = 0
                operators.append(operator(dequantize, [bits], signs))
                operators.append(operator(multiply, [signs, scales], op.inputs[1]))
                operators[-1].builtinOptionsType = schema.BuiltinOptions.MulOptions
                operators[-1].builtinOptions = schema.MulOptionsT()
        operators.append(op)
    graph.operators = operators
    return util._convert_model_from_object_to_bytearray(flat)


def _pack(x):
    """Larq's bits: of the last axis, 32 to an int32, the lowest first, 1 where x is negative."""
    missing = -x.shape[-1] % 32
    bits = np.pad(x < 0, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return np.packbits(bits, -1, "little").view("<i4")


def _unpack(words, channels):
    """+1 and -1 from Larq's bits."""
    words = np.ascontiguousarray(words, "<i4")
    return 1 - 2 * np.unpackbits(words.view(np.uint8), -1, channels, "little").astype(np.float32)


# ---------------------------------------------------------------- comparing


def _interpreter(file):
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter(file, num_threads=1)


def _bits(plan, file, image):
    """From each 1-bit convolution to the signs `[1, height, width, channels]` that it gets."""
    from larq_compute_engine.mlir.python import util

    flat = _parse(file)
    graph = flat.subgraphs[0]
    # Converted tensors have no dependable names; the weights tell whose they are.
    kernels = {name: plan.model.get_layer(name).kernel.numpy() for name in plan.binary}
    owners = {_pack(kernel.transpose(3, 0, 1, 2)).tobytes(): n for n, kernel in kernels.items()}
    tensors = {}
    for op in graph.operators:
        if _kind(flat, op) == "LceBconv2d":
            words = flat.buffers[graph.tensors[op.inputs[1]].buffer].data.tobytes()
            _require(
                words in owners,
                f"the file has 1-bit weights that {plan.model.name!r} does not have, so it was "
                "made of another network; make it anew with to_lce",
            )
            tensors[owners[words]] = op.inputs[0]
    graph.outputs = np.concatenate([graph.outputs, list(tensors.values())]).astype(np.int32)
    flat.signatureDefs = []  # they name the one output
    values = _interpreter(util._convert_model_from_object_to_bytearray(flat)).predict(image)
    bits = {}
    for name, words in zip(tensors, values[1:]):
        bits[name] = _unpack(words, kernels[name].shape[2])
        bits[name][..., plan.negated.get(name, [])] *= -1
    return bits


def _run_with_bits(network, x, bits):
    """(logits, [(how many bits differed, the largest activation behind one)] by layer)."""
    flipped = []

    def reader(signs):
        def quantize(activations):
            values = activations.numpy()
            differs = np.where(values >= 0, 1, -1) != signs
            if differs.any():
                relative = np.abs(values[differs]).max() / np.abs(values).max()
                flipped.append((int(differs.sum()), float(relative)))
            return tf.constant(signs)

        return quantize

    for name, signs in bits.items():
        network.get_layer(name).input_quantizer = reader(signs)
    return network(x, training=False).numpy(), flipped


# ---------------------------------------------------------------- reporting


def _operations(model, plan):
    counts = {"one_bit": 0, "float": 0}
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            positions = np.prod(layer.output_shape[1:-1], dtype=int)
            kind = "one_bit" if layer.name in plan.binary else "float"
            counts[kind] += int(positions * np.prod(layer.kernel.shape))
    return counts


def _median_ms(call, seconds=1.0, least=5) -> float:
    call()
    times = []
    while sum(times) < seconds or len(times) < least:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def report_text(report: dict) -> str:
    """The report for people; `report` is what `export` returned."""
    sizes, operations, latency = (report[k] for k in ("sizes", "operations", "latency"))
    seen = report["comparison"]
    lines = [f"Larq Compute Engine model of {report['network']}", ""]
    lines += [f"rewritten: {note}" for note in report["rewrites"]] or ["rewritten: nothing"]
    smaller = sizes["float"] / sizes["lce"]
    lines += [
        "",
        f"size       {_size(sizes['lce'])}; float {_size(sizes['float'])}, {smaller:.1f} times",
    ]
    if "paper" in sizes:
        lines[-1] += f"; in the paper {_size(sizes['paper'])}"
    lines += [
        f"operations {operations['one_bit']:,} 1-bit, {operations['float']:,} float "
        "(a multiplication and an addition count as one)",
        "operators  " + ", ".join(f"{n} {kind}" for kind, n in report["operators"].items()),
        "",
        f"compared with TensorFlow on {seen['images']} images ({seen['images_are']}):",
        f"  largest difference of logits {seen['largest_difference']:.1e}, "
        f"same top-1 on {seen['agreement']:.2%}",
    ]
    if seen["traced_images"]:
        lines.append(
            f"  images that differ by more: {seen['traced_images']}. Run alone, "
            f"{seen['flipped_bits']} of their bits differ, behind activations of at most "
            f"{seen['largest_flipped']:.1e} of their layer's largest, by rounding (which in "
            "TensorFlow depends on the batch); given the file's bits, logits differ by "
            f"{seen['largest_difference_given_bits']:.1e} at most"
        )
    lines += [
        "  equal" if seen["equal"] else "  NOT EQUAL",
        "",
        f"latency    {latency['lce_ms']:.2f} ms in Larq's interpreter, float "
        f"{latency['float_ms']:.2f} ms in TensorFlow Lite's ({latency['machine']}, median)",
        "           Larq's kernels are tuned for 64-bit ARM and not for x86, where portable code "
        "runs: what is measured on x86 says nothing of a device.",
    ]
    return "\n".join(lines) + "\n"


def _size(count) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _plot(report, path):
    from matplotlib.figure import Figure

    figure = Figure((9, 3), layout="constrained")
    sizes = {name: value / 1e6 for name, value in report["sizes"].items()}
    operations = {k: v / 1e6 for k, v in report["operations"].items()}
    latency = {k.removesuffix("_ms"): v for k, v in report["latency"].items() if k.endswith("_ms")}
    panels = (
        ("size, MB", sizes),
        ("operations, millions", operations),
        ("ms an image, here", latency),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), panels):
        names = [name.replace("one_bit", "1-bit").replace("lce", "1-bit file") for name in values]
        axes.bar_label(axes.bar(names, values.values()), fmt="{:,.4g}")
        axes.margins(y=0.15)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report["network"])
    figure.savefig(path, dpi=120)


# ---------------------------------------------------------------- command line

_PAPER_BYTES = {"imagenet/resnet18_bireal_1w1a": 4.21e6}


def _define_flags():
    from absl import flags

    flags.DEFINE_string("model", None, "a name of zoo.list_models()", required=True)
    flags.DEFINE_string("output", None, "the file; reports go beside it", required=True)
    flags.DEFINE_string("weights", "pretrained", "weights file, 'pretrained', or 'none' (random)")
    flags.DEFINE_bool("uint8_input", False, "take bytes, and normalise them in the file")
    flags.DEFINE_integer("num_classes", None, "the weights file's, else the model's, if not given")
    flags.DEFINE_list("input_shape", None, "height,width,channels; the model's if not given")
    flags.DEFINE_list("mean", None, "normalisation a channel, 0 to 1; the data's if not given")
    flags.DEFINE_list("std", None, "normalisation a channel, 0 to 1; the data's if not given")
    flags.DEFINE_string("data_dir", None, "test images to compare on, as of train.py; else noise")
    flags.DEFINE_integer("images", 64, "how many images to compare on", lower_bound=1)


def main(argv):
    """`python -m irnet_tf.export`; the flags are in `--help`."""
    from absl import flags
    from irnet_tf.weights import read_facts
    import zoo

    if len(argv) > 1:
        raise ValueError(f"did not understand {' '.join(argv[1:])}; flags begin with --")
    options = flags.FLAGS
    entry = zoo.info(options.model)
    weights = None if options.weights == "none" else options.weights
    arguments = {"num_classes": options.num_classes}
    if options.num_classes is None and weights not in (None, "pretrained"):
        arguments["num_classes"] = len(read_facts(weights)["data"]["classes"])
    if options.input_shape is not None:
        arguments["input_shape"] = tuple(int(side) for side in options.input_shape)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    model = zoo.load(options.model, weights, **arguments)

    pixels, images_are, mean, std = _test_images(entry.recipe, model, options)
    if options.uint8_input and (mean is None or std is None):
        raise ValueError(
            "--uint8_input needs the normalisation that the network was trained with: give "
            "--data_dir, or --mean and --std"
        )
    images, given = pixels, {"mean": mean, "std": std, "uint8_input": True}
    if not options.uint8_input:
        scale, offset = 255 * np.array(std or 0.25), np.array(mean or 0.5)
        images, given = (pixels / scale - offset * 255 / scale).astype(np.float32), {}
    paper = _PAPER_BYTES.get(options.model)
    report = export(
        model, options.output, images, images_are=images_are, paper_bytes=paper, **given
    )
    print(report_text(report) + f"\nwritten: {options.output}, with report.* beside it")


def _test_images(recipe, model, options):
    """(uint8 images, what they are, mean, std): the network's test data, or noise."""
    from irnet_tf import data
    from irnet_tf.description import describe
    from irnet_tf.preprocessing import Preprocessing

    shape, expected = model.input_shape[1:], describe(model).preprocessing
    mean, std = (
        [float(v) for v in value] if value else None for value in (options.mean, options.std)
    )
    if options.data_dir is None and recipe.data != "digits":
        return _noise(options.images, shape), "noise, for want of --data_dir", mean, std
    source = data.load(recipe.data, options.data_dir)
    mean, std = mean or expected.mean, std or expected.std
    if shape[0] != shape[1] or shape[2] != 3:
        return _noise(options.images, shape), f"noise, as images are not {shape}", mean, std
    batches = data.evaluation_batches(
        source.test,
        batch_size=min(options.images, 64),
        preprocessing=Preprocessing(shape[0], (0.0,) * 3, (1.0,) * 3, expected.crop),
    ).unbatch()
    chosen = [image for image, _ in batches.take(options.images).as_numpy_iterator()]
    return (
        np.rint(np.stack(chosen) * 255).astype(np.uint8),
        f"test images of {source.name}",
        mean,
        std,
    )


def _noise(count, shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def _run(argv):
    try:
        main(argv)
    except (ValueError, OSError) as error:
        sys.exit(f"irnet_tf.export: {error}")


if __name__ == "__main__":
    from absl import app

    _define_flags()
    app.run(_run)
