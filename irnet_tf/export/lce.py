"""Larq Compute Engine: TFLite files with Larq's 1-bit operators, for 64-bit ARM.

Larq's converter makes a 1-bit operator (`LceBconv2d`) of a convolution whose input is a sign
and whose weights have one magnitude an output channel. What is left to do here: pack weights
that are 1-bit alone, and look into the file.
"""

from __future__ import annotations

import collections
import json
import tempfile

from irnet_tf import _compat
from irnet_tf import layers as blocks
from irnet_tf.export.inputs import describe_file, normalisation
from irnet_tf.export.plan import Plan, Target, make_plan, require
from irnet_tf.export.rewrite import rewritten, trace
import larq as lq
import numpy as np
import tensorflow as tf

_FACTS = b"irnet_tf"  # name of the metadata

TARGET = Target(
    name="Larq Compute Engine",
    # Not ZeroPadding2D: Larq's converter may make padding="same" of it, which pads the other side.
    layers=(
        lq.layers.QuantConv2D,
        blocks.OptionAShortcut,
        blocks.HardTanh,
        *(getattr(tf.keras.layers, name) for name in (
            "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
            "Dense", "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
            "InputLayer", "MaxPooling2D", "Multiply", "ReLU", "Rescaling", "Reshape", "Softmax",
        )),
    ),
    symmetric_padding=False,
    small_images=False,
    float_inputs=(
        "{} convolutions have 1-bit weights and float inputs: they stay float (CONV_2D), as "
        "LceBconv2d multiplies bits by bits; their weights are packed to bits in the file, and "
        "unpacked (LceDequantize, MUL) whenever it runs"
    ),
)  # fmt: skip


def to_lce(model: tf.keras.Model, *, uint8_input: bool = False, mean=None, std=None) -> bytes:
    """The network as a Larq Compute Engine model (a TFLite file with Larq's operators).

    Every 1-bit convolution becomes an `LceBconv2d`. Convolutions with 1-bit weights and float
    inputs stay float, as Larq has no such operator, but their weights are packed, 32 to a word.

    Args:
        model: a functional Keras model of one input `[batch, height, width, channels]`, such as
            those of `irnet_tf.models`, of whatever precision; it is left as it is.
        uint8_input: whether the file takes pixels 0 to 255 and normalises them itself, as the
            network's description has it.
        mean, std: with `uint8_input`, for a network without a description: the normalisation that
            it was trained with, per channel, of images between 0 and 1; numbers or sequences.

    Returns:
        The file's bytes: batch 1, float32 inputs (uint8 with `uint8_input`), float32 outputs.

    Raises:
        ValueError: before any work, if the network cannot be converted: the layer and the cure
            are named; or if mean and std do not fit. Afterwards, if a 1-bit convolution stayed
            float all the same.
    """
    normalise = normalisation(model, uint8_input, mean, std)
    plan = make_plan(model, TARGET)
    file = convert(plan, rewritten(model, plan), normalise)
    return _with_facts(file, describe_file(model, uint8_input, mean, std))


def convert(plan: Plan, network: tf.keras.Model, normalise=None) -> bytes:
    """The file of a rewritten network; see `to_lce`."""
    try:
        import larq_compute_engine as lce
    except ImportError as error:
        raise ImportError(
            "exporting needs larq-compute-engine: pip install irnet_tf[deploy]"
        ) from error

    module, function = trace(network, normalise)
    # Of a plain module: saving a Keras model, as lce.convert_keras_model does, traces every
    # layer and takes ten times as long.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        file = lce.convert_saved_model(folder)
    if plan.packable:
        file = _pack_weights(file)
    found = operators(file)["LceBconv2d"]
    require(
        found == len(plan.binary),
        f"{len(plan.binary)} convolutions of {plan.name!r} are 1-bit, but {found} became "
        f"LceBconv2d, the others stayed float; please report this with the network. Operators: "
        f"{dict(operators(file))}",
    )
    return file


def operators(file: bytes) -> collections.Counter:
    """How many operators of each kind a TFLite file has, by the names of its format."""
    flat = _compat.parse_tflite(file)
    return collections.Counter(_operator_name(flat, op) for op in flat.subgraphs[0].operators)


def file_facts(file: bytes) -> dict:
    """What a file says of itself, as of `inputs.describe_file`; {} if nothing."""
    flat = _compat.parse_tflite(file)
    for entry in flat.metadata or []:
        if entry.name == _FACTS:
            return json.loads(flat.buffers[entry.buffer].data.tobytes())
    return {}


def _with_facts(file, facts) -> bytes:
    schema, flat = _compat.tflite_schema(), _compat.parse_tflite(file)
    flat.buffers.append(schema.BufferT())
    flat.buffers[-1].data = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _FACTS, len(flat.buffers) - 1
    flat.metadata = [*(flat.metadata or []), entry]
    return _compat.serialise_tflite(flat)


class Device:
    """A file in Larq's interpreter.

    Attributes:
        target: what the format can do.
        input_type: NumPy's, of the images.
        input_shape: `(height, width, channels)`.
    """

    target = TARGET

    def __init__(self, file: bytes, threads: int = 1):
        self.file = file
        self._interpreter = _compat.lce_interpreter(file, threads)
        self.input_shape = tuple(self._interpreter.input_shapes[0][1:])
        self.input_type = np.dtype(self._interpreter.input_types[0])

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Outputs of images `[n, height, width, channels]`."""
        return self._interpreter.predict(images)

    def operators(self) -> collections.Counter:
        """How many of each kind the file has."""
        return operators(self.file)

    def bits(self, plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
        """From each 1-bit convolution to the signs `[1, height, width, channels]` that it gets.

        Raises:
            ValueError: if the file has other 1-bit weights than the plan.
        """
        flat = _compat.parse_tflite(self.file)
        graph = flat.subgraphs[0]
        # Converted tensors have no dependable names; the weights tell whose they are.
        owners = {
            _pack(plan.kernel(name).transpose(3, 0, 1, 2)).tobytes(): name for name in plan.binary
        }
        tensors = {}
        for op in graph.operators:
            if _operator_name(flat, op) == "LceBconv2d":
                words = flat.buffers[graph.tensors[op.inputs[1]].buffer].data.tobytes()
                require(
                    words in owners,
                    f"the file has 1-bit weights that {plan.name!r} does not have, so it was "
                    "made of another network; make it anew with to_lce",
                )
                tensors[owners[words]] = op.inputs[0]
        graph.outputs = np.concatenate([graph.outputs, list(tensors.values())]).astype(np.int32)
        flat.signatureDefs = []  # they name the one output
        values = _compat.lce_interpreter(_compat.serialise_tflite(flat)).predict(image)
        bits = {}
        for name, words in zip(tensors, values[1:]):
            bits[name] = _unpack(words, plan.kernel(name).shape[2])
            bits[name][..., plan.negated.get(name, [])] *= -1
        return bits


def _operator_name(flat, operator) -> str:
    schema = _compat.tflite_schema()
    code = flat.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return code.customCode.decode()
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(k for k, v in vars(schema.BuiltinOperator).items() if v == number)


def _pack_weights(file) -> bytes:
    """Let convolutions whose weights have one magnitude a channel unpack them from bits."""
    schema = _compat.tflite_schema()
    flat = _compat.parse_tflite(file)
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
        if _operator_name(flat, op) == "CONV_2D":
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
    return _compat.serialise_tflite(flat)


def _pack(x):
    """Larq's bits: of the last axis, 32 to an int32, the lowest first, 1 where x is negative."""
    missing = -x.shape[-1] % 32
    bits = np.pad(x < 0, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return np.packbits(bits, -1, "little").view("<i4")


def _unpack(words, channels):
    """+1 and -1 from Larq's bits."""
    words = np.ascontiguousarray(words, "<i4")
    return 1 - 2 * np.unpackbits(words.view(np.uint8), -1, channels, "little").astype(np.float32)
