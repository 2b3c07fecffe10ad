"""Latency of 1-bit networks and their float and int8 counterparts on this machine.

    python benchmarks/latency.py --data_dir=D
    python benchmarks/latency.py --networks=imagenet/resnet18_bireal_1w1a --batches=1 --threads=1

All models of a table take turns in one process, five runs each. Processor time, divided by threads
and images, is least disturbed by other programs; wall-clock time is shown beside it. The int8
counterparts are quantised by the frameworks' own tools (TensorFlow Lite's converter; NNCF for
OpenVINO, `pip install nncf`) on test images of CIFAR-10, resized to the network's input; without
`--data_dir` on noise. OpenVINO is measured again, limited to AVX2 (`ONEDNN_MAX_CPU_ISA`,
which its 1-bit convolutions ignore).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NNCF_TELEMETRY", "0")

from irnet_tf import data, export  # noqa: E402
from irnet_tf._utils import processor  # noqa: E402
from irnet_tf.export import lce, openvino  # noqa: E402
from irnet_tf.export.rewrite import full_precision, trace  # noqa: E402
from irnet_tf.model_config import get_model_config  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import zoo  # noqa: E402

IN_A_ROW = 5  # as in a server with one network, whose weights are in the cache
NETWORKS = "cifar10/resnet20_bireal_1w1a,imagenet/resnet18_bireal_1w1a"


def main():
    options = parser().parse_args()
    print(f"{processor()}; {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores")
    for name, batch, threads, images_are, times in tables(options):
        print(f"\n{name}, batch {batch}, threads {threads}, int8 from {images_are}")
        print_table(times, batch, threads)
    if not options.only_openvino and "avx512f" in processor():
        print("\nOpenVINO limited to AVX2:", flush=True)
        subprocess.run(
            [sys.executable, *sys.argv, "--only_openvino"],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
            check=True,
        )


def tables(options):
    """Yields network, batch, threads, calibration images and the result of `measure`."""
    for name in options.networks.split(","):
        model = zoo.load(name, "pretrained" if zoo.info(name).weights else None)
        images, images_are = calibration_images(model, options.data_dir)
        baselines = {} if options.only_openvino else tflite_baselines(model, images)
        files = openvino_models(model, images)
        for batch in map(int, options.batches.split(",")):
            for threads in map(int, options.threads.split(",")):
                runs = openvino_runs(files, images, batch, threads)
                if not options.only_openvino:
                    runs |= tflite_runs(model, baselines, images, batch, threads)
                yield name, batch, threads, images_are, measure(runs, options.seconds)


def parser():
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--networks", default=NETWORKS, help="zoo names, separated by commas")
    made.add_argument("--batches", default="1,32")
    threads = sorted({1, len(os.sched_getaffinity(0))})
    made.add_argument("--threads", default=",".join(map(str, threads)))
    made.add_argument("--seconds", type=float, default=1.0, help="per model")
    made.add_argument("--data_dir", help="folder of CIFAR-10")
    made.add_argument("--only_openvino", action="store_true")
    return made


def calibration_images(model, data_dir, count=64):
    """Normalised images, and their description."""
    preprocessing = get_model_config(model).preprocessing
    if data_dir is None:
        shape = (count, *model.input_shape[1:])
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32), "noise"
    source = data.load("cifar10", data_dir)
    batches = data.evaluation_batches(source.test, batch_size=count, preprocessing=preprocessing)
    return next(iter(batches))[0].numpy(), f"{count} test images of {source.name}"


def openvino_models(model, images):
    """OpenVINO models of batch 1 by name."""
    baseline = openvino.to_openvino(full_precision(model))
    models = {
        "OpenVINO 1-bit, binary": openvino.to_openvino(model, form="binary"),
        "OpenVINO 1-bit, int8": openvino.to_openvino(model, form="int8"),
        "OpenVINO float": baseline,
    }
    try:
        import nncf
    except ImportError:
        print("NNCF is missing, and with it the int8 counterpart of OpenVINO: pip install nncf")
        return models
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = nncf.Dataset([image[None] for image in images])
        models["OpenVINO int8"] = nncf.quantize(baseline, dataset, subset_size=len(images))
    return models


def openvino_runs(models, images, batch, threads):
    def run(model):
        model = model.clone()
        shape = model.input(0).get_partial_shape()
        shape[0] = batch
        model.reshape(shape)
        request = openvino.compiled_model(model, threads).create_infer_request()
        inputs = np.resize(images, (batch, *images.shape[1:]))
        request.infer([inputs])  # the inputs stay there, as in TensorFlow Lite
        return lambda: request.infer(share_outputs=True)

    return {name: run(model) for name, model in models.items()}


def tflite_baselines(model, images):
    """TFLite files by name."""
    module, function = trace(full_precision(model))

    def converter():
        return tf.lite.TFLiteConverter.from_concrete_functions([function], module)

    quantising = converter()
    quantising.optimizations = [tf.lite.Optimize.DEFAULT]
    quantising.representative_dataset = lambda: ([image[None]] for image in images)
    return {
        "TensorFlow Lite float": converter().convert(),
        "TensorFlow Lite int8": quantising.convert(),
    }


def tflite_runs(model, baselines, images, batch, threads):
    inputs = np.resize(images, (batch, *images.shape[1:]))

    def run(file):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = tf.lite.Interpreter(model_content=file, num_threads=threads)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, inputs)
        return interpreter.invoke

    runs = {name: run(file) for name, file in baselines.items()}
    if batch == 1:  # it runs larger batches image by image
        device = lce.Device(export.to_lce(model), threads)
        runs["Larq Compute Engine"] = lambda: device.predict(inputs)
    return runs


def measure(runs, seconds, least=7):
    """Processor and clock seconds, `[n, 2]`, by name."""
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    until = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < until or len(next(iter(times.values()))) < least:
        for name, run in runs.items():
            for _ in range(IN_A_ROW):
                begin = time.process_time(), time.perf_counter()
                run()
                end = time.process_time(), time.perf_counter()
                times[name].append(np.subtract(end, begin))
    return {name: np.array(values) for name, values in times.items()}


def rows_of(times, batch, threads):
    """Milliseconds per image by processor time and by the clock, a row per model."""
    rows = []
    for name, values in times.items():
        values = 1e3 * values / batch / np.array([threads, 1])
        low, middle = values.min(0), np.median(values, 0)
        rows.append(
            {
                "ms per image": name,
                "cpu min": low[0],
                "cpu median": middle[0],
                "clock min": low[1],
                "clock med.": middle[1],
                "runs": len(values),
            }
        )
    return rows


def print_table(times, batch, threads):
    line = "  {:28} {:>11} {:>11} {:>11} {:>11} {:>6}".format
    rows = rows_of(times, batch, threads)
    print(line(*rows[0]))
    for row in rows:
        cells = (f"{v:.3f}" if isinstance(v, float) else v for v in row.values())
        print(line(*cells), flush=True)


if __name__ == "__main__":
    main()
