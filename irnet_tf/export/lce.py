"""Larq Compute Engine: TFLite files with Larq's 1-bit operators, for 64-bit ARM.

Larq's converter turns a convolution into a 1-bit operator (`LceBconv2d`) if its input is a sign
and its weights have one magnitude per output channel. This module also packs 1-bit weights of
convolutions with float inputs, stores facts in the file and runs it.
"""

from __future__ import annotations

import collections
import json
import tempfile

from irnet_tf import _compat
from irnet_tf import layers as blocks
from irnet_tf._utils import write_atomically
from irnet_tf.export.plan import Plan, Target, make_plan, require
from irnet_tf.export.rewrite import facts_of, normalisation, rewritten, trace
import larq as lq
import numpy as np
import tensorflow as tf

_FACTS = b"irnet_tf"  # name of the metadata entry

TARGET = Target(
    name="Larq Compute Engine",
    # ZeroPadding2D is missing: Larq's converter turns it into padding="same", another padding.
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
)  # fmt: skip


def to_lce(model: tf.keras.Model, *, uint8_input: bool = False) -> bytes:
    """Converts a network to a Larq Compute Engine model (a TFLite file with Larq's operators).

    Every 1-bit convolution becomes an `LceBconv2d`. Convolutions with 1-bit weights and float
    inputs are computed in float, but their weights are stored as bits.

    Args:
        model: Functional Keras model with one input `[batch, height, width, channels]`, of any
            precision. It is not changed.
        uint8_input: If True, the file takes RGB pixels from 0 to 255 and normalises them itself,
            with the preprocessing of the model config.

    Returns:
        Content of the file. It has batch size 1, float32 or uint8 inputs and float32 outputs.

    Raises:
        ValueError: If the network cannot be converted, has no preprocessing for `uint8_input`, or
            if a 1-bit convolution stayed float.
        ImportError: If Larq Compute Engine is not installed.
    """
    normalise = normalisation(model) if uint8_input else None
    plan = make_plan(model, TARGET)
    for name in plan.binary:
        check_span(model.get_layer(name))
    try:
        import larq_compute_engine as lce
    except ImportError as error:
        raise ImportError(
            "exporting needs larq-compute-engine: pip install irnet_tf[deploy]"
        ) from error

    module, function = trace(rewritten(model, plan), normalise)
    # lce.convert_keras_model saves a Keras model, which takes ten times as long as a module.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        flat = _compat.parse_tflite(lce.convert_saved_model(folder))
    if plan.packable:
        _pack_weights(flat)
    _add_facts(flat, facts_of(model, uint8_input))
    file = _compat.serialise_tflite(flat)
    found = operators(file)["LceBconv2d"]
    require(
        found == len(plan.binary),
        f"{len(plan.binary)} convolutions of {plan.name!r} are 1-bit, but only {found} became "
        f"LceBconv2d; please report this. Operators: {dict(operators(file))}",
    )
    return file


def check_span(layer) -> None:
    """Rejects zero padding on both sides of a window, which Larq's kernels compute wrongly."""
    sides = layer.input_shape[1:3]
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate)]
    require(
        layer.padding != "same" or all(side >= span for side, span in zip(sides, spans)),
        f"layer {layer.name!r} gets {sides[0]}x{sides[1]} pixels, fewer than its kernel spans "
        f"({spans[0]}x{spans[1]}), which {TARGET.name} computes wrongly; use a larger input_shape",
    )


def operators(file: bytes) -> collections.Counter:
    """Returns the number of operators of each kind in a TFLite file."""
    flat = _compat.parse_tflite(file)
    return collections.Counter(_operator_name(flat, op) for op in flat.subgraphs[0].operators)


def save(file: bytes, path) -> None:
    """Writes a file."""
    write_atomically(path, file)


def file_facts(file: bytes) -> dict:
    """Returns the facts stored in a file (see `rewrite.facts_of`), or {}."""
    flat = _compat.parse_tflite(file)
    for entry in flat.metadata or []:
        if entry.name == _FACTS:
            return json.loads(flat.buffers[entry.buffer].data.tobytes())
    return {}


def _add_facts(flat, facts):
    entry = _compat.tflite_schema().MetadataT()
    entry.name, entry.buffer = _FACTS, _add_buffer(flat, json.dumps(facts).encode())
    flat.metadata = [*(flat.metadata or []), entry]


def _add_buffer(flat, data: bytes) -> int:
    flat.buffers.append(_compat.tflite_schema().BufferT())
    flat.buffers[-1].data = np.frombuffer(data, np.uint8)
    return len(flat.buffers) - 1


class Device:
    """A file in Larq's interpreter.

    Attributes:
        target: Capabilities of the format.
        input_type: NumPy dtype of the images.
        input_shape: `(height, width, channels)`.
    """

    target = TARGET

    def __init__(self, file: bytes, threads: int = 1):
        self.file = file
        self._interpreter = _compat.lce_interpreter(file, threads)
        self.input_shape = tuple(self._interpreter.input_shapes[0][1:])
        self.input_type = np.dtype(self._interpreter.input_types[0])

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs for images `[n, height, width, channels]`."""
        return self._interpreter.predict(images)

    def bits(self, plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the input signs `[1, height, width, channels]` of each 1-bit convolution.

        Raises:
            ValueError: If the file has other 1-bit weights than the plan.
        """
        flat = _compat.parse_tflite(self.file)
        graph = flat.subgraphs[0]
        # Converted tensors have no reliable names: convolutions are identified by their weights.
        owners = {
            _pack(plan.kernel(name).transpose(3, 0, 1, 2)).tobytes(): name for name in plan.binary
        }
        tensors = {}
        for op in graph.operators:
            if _operator_name(flat, op) == "LceBconv2d":
                words = flat.buffers[graph.tensors[op.inputs[1]].buffer].data.tobytes()
                require(
                    words in owners,
                    f"the file was made from another network: {plan.name!r} has other 1-bit "
                    "weights; export it again",
                )
                tensors[owners[words]] = op.inputs[0]
        graph.outputs = np.concatenate([graph.outputs, list(tensors.values())]).astype(np.int32)
        flat.signatureDefs = []  # they list a single output
        values = _compat.lce_interpreter(_compat.serialise_tflite(flat)).predict(image)
        return {
            name: _unpack(words, plan.kernel(name).shape[2])
            for name, words in zip(tensors, values[1:])
        }


def _operator_name(flat, operator) -> str:
    schema = _compat.tflite_schema()
    code = flat.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return code.customCode.decode()
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(k for k, v in vars(schema.BuiltinOperator).items() if v == number)


def _pack_weights(flat):
    """Stores weights of one magnitude per channel as bits, unpacked by operators of the file."""
    schema, graph = _compat.tflite_schema(), flat.subgraphs[0]

    def add_code(builtin, custom=None):
        code = schema.OperatorCodeT()
        code.version, code.customCode = 1, custom
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        flat.operatorCodes.append(code)
        return len(flat.operatorCodes) - 1

    def add_tensor(name, shape, kind, data=None):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.array(shape, np.int32), kind
        tensor.buffer = 0 if data is None else _add_buffer(flat, data.tobytes())  # 0 is empty
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(code, inputs, output):
        made = schema.OperatorT()
        made.opcodeIndex = code
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        return made

    dequantize = add_code(schema.BuiltinOperator.CUSTOM, b"LceDequantize")
    multiply = add_code(schema.BuiltinOperator.MUL)
    f32, i32 = schema.TensorType.FLOAT32, schema.TensorType.INT32
    operators = []
    for op in graph.operators:
        if _operator_name(flat, op) == "CONV_2D":
            tensor = graph.tensors[op.inputs[1]]
            data = flat.buffers[tensor.buffer].data
            kernel = np.frombuffer(data.tobytes(), np.float32).reshape(tensor.shape)
            scale = np.abs(kernel[:, :1, :1, :1])
            if kernel[0].size > 1 and (np.abs(kernel) == scale).all():
                name, packed = tensor.name.decode(), _pack(kernel)
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


def _pack(x):
    """Packs the last axis, 32 values per int32, lowest bit first, 1 where x is negative."""
    missing = -x.shape[-1] % 32
    bits = np.pad(x < 0, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return np.packbits(bits, -1, "little").view("<i4")


def _unpack(words, channels):
    """Returns +1 and -1 from packed bits."""
    words = np.ascontiguousarray(words, "<i4")
    return 1 - 2 * np.unpackbits(words.view(np.uint8), -1, channels, "little").astype(np.float32)
