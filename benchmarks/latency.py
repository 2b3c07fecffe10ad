"""Size and latency of 1-bit networks and their float and int8 counterparts on this machine.

    python benchmarks/latency.py --data_dir=D [--output=FILE.json]
    python benchmarks/latency.py imagenet/resnet18_bireal_1w1a --batches=1 --threads=1

All models take turns in one process. Processor time, divided by threads and images, is less
disturbed by other programs than the clock. The int8 counterparts are quantised by the frameworks'
own tools (TensorFlow Lite's converter; NNCF for OpenVINO, `pip install nncf`) on test images of
CIFAR-10, resized to the network's input; without `--data_dir` on noise. With
`ONEDNN_MAX_CPU_ISA=AVX2`, OpenVINO is limited to AVX2 (but not its 1-bit convolutions).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NNCF_TELEMETRY", "0")

from irnet_tf import data, export, weights  # noqa: E402
from irnet_tf.export import lce, openvino  # noqa: E402
from irnet_tf.export.report import size_of  # noqa: E402
from irnet_tf.export.rewrite import full_precision, trace  # noqa: E402
from irnet_tf.model_config import get_model_config  # noqa: E402
import numpy as np  # noqa: E402
from tables import add_output, in_turns, show  # noqa: E402
import tensorflow as tf  # noqa: E402
import zoo  # noqa: E402

NETWORKS = ("cifar10/resnet20_bireal_1w1a", "imagenet/resnet18_bireal_1w1a")


def load(name):
    """The network with weights of the zoo, or random ones."""
    model = zoo.load(name, "pretrained" if zoo.info(name).weights else None)
    if not zoo.info(name).weights:
        rng = np.random.default_rng(0)
        for layer in model.layers:  # converters remove batch norms that change nothing
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def calibration_images(model, data_dir, count=64):
    """Normalised images, and their description."""
    if data_dir is None:
        shape = (count, *model.input_shape[1:])
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32), "noise"
    preprocessing = get_model_config(model).preprocessing
    source = data.load("cifar10", data_dir)
    batches = data.evaluation_batches(source.test, batch_size=count, preprocessing=preprocessing)
    return next(iter(batches))[0].numpy(), f"{count} test images of {source.name}"


def files_of(model, images):
    """Files by name: OpenVINO models, TFLite files and files of Larq Compute Engine."""
    counterpart = full_precision(model)
    module, function = trace(counterpart)

    def converter():
        return tf.lite.TFLiteConverter.from_concrete_functions([function], module)

    quantising = converter()
    quantising.optimizations = [tf.lite.Optimize.DEFAULT]
    quantising.representative_dataset = lambda: ([image[None]] for image in images)
    files = {
        "Larq Compute Engine": export.to_lce(model),
        "OpenVINO 1-bit, binary": export.to_openvino(model, form="binary"),
        "OpenVINO 1-bit, int8": export.to_openvino(model, form="int8"),
        "OpenVINO float": export.to_openvino(counterpart),
        "TensorFlow Lite float": converter().convert(),
        "TensorFlow Lite int8": quantising.convert(),
    }
    try:
        import nncf
    except ImportError:
        print("NNCF is missing, and with it the int8 counterpart of OpenVINO: pip install nncf")
        return files
    dataset = nncf.Dataset([image[None] for image in images])
    files["OpenVINO int8"] = nncf.quantize(
        files["OpenVINO float"].clone(), dataset, subset_size=len(images)
    )
    return files


def run_of(name, file, inputs, threads):
    """A function that runs a file on a batch of inputs, which stay in its memory."""
    if name == "Larq Compute Engine":
        device = lce.Device(file, threads)
        return lambda: device.predict(inputs)
    if name.startswith("TensorFlow Lite"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = tf.lite.Interpreter(model_content=file, num_threads=threads)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, inputs)
        return interpreter.invoke
    model = file.clone()
    model.reshape(list(inputs.shape))
    request = openvino.compiled_model(model, threads).create_infer_request()
    request.infer([inputs])
    return lambda: request.infer(share_outputs=True)


def measure(name, options):
    """Rows of the tables `size` and `latency` for a network."""
    model = load(name)
    images, images_are = calibration_images(model, options.data_dir)
    files = files_of(model, images)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        weights.save_weights(model, file.name)
        bytes_of = {"1-bit weights file": os.path.getsize(file.name)}
    bytes_of |= {file: size_of(made) for file, made in files.items()}
    whole = bytes_of["TensorFlow Lite float"]
    sizes = [
        {"network": name, "file": file, "bytes": count, "times smaller": whole / count}
        for file, count in bytes_of.items()
    ]
    latencies = []
    for batch in map(int, options.batches.split(",")):
        inputs = np.resize(images, (batch, *images.shape[1:]))
        for threads in map(int, options.threads.split(",")):
            runs = {
                file: run_of(file, made, inputs, threads)
                for file, made in files.items()
                if batch == 1 or file != "Larq Compute Engine"  # runs batches image by image
            }
            # In a row, as in a server with one network, whose weights are in the cache.
            for file, seconds in in_turns(runs, options.turns, in_a_row=5).items():
                processor, clock = (1e3 * np.median(seconds, 0) / batch).tolist()
                row = {"network": name, "file": file, "batch": batch, "threads": threads}
                row |= {"cpu median": processor / threads, "clock median": clock}
                latencies.append({**row, "int8 from": images_are})
    return sizes, latencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="names in the zoo")
    parser.add_argument("--batches", default="1,32")
    threads = sorted({1, len(os.sched_getaffinity(0))})
    parser.add_argument("--threads", default=",".join(map(str, threads)))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--data_dir", help="folder of CIFAR-10; default: noise")
    add_output(parser)
    options = parser.parse_args()
    sizes, latencies = zip(*(measure(name, options) for name in options.networks))
    show({"size": sum(sizes, []), "latency": sum(latencies, [])}, options.output)


if __name__ == "__main__":
    main()
