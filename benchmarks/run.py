"""All benchmarks: tables of training step, peak memory, input pipeline, export size and latency.

    python benchmarks/run.py --out=FOLDER [--data_dir=D] [--tables=step,latency] [--quick]

Prints the tables and writes them to FOLDER as DATE.json and DATE.md, with date, processor and
versions. Each table is measured in a process of its own; `step_time.py`, `input_pipeline.py` and
`latency.py` describe how. `--quick` is a test of the scripts with one small network and few turns.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
from pathlib import Path
import resource
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SMALL = "digits/resnet20_bireal_1w1a"


def step(options):
    """Time of a training step; processor time without a GPU."""
    import step_time
    import tensorflow as tf

    if options.quick:
        return step_time.measure(SMALL, batch=8, steps=2)
    rows = []
    for precision in ("float32", "mixed_bfloat16"):
        tf.keras.mixed_precision.set_global_policy(precision)
        for name in step_time.NETWORKS:
            found = step_time.measure(name)
            rows += [{**row, "precision": precision, "batch": 128} for row in found]
    return rows


def memory(options):
    """Peak memory of the process during two training steps."""
    import step_time

    networks, batch = ((SMALL,), 8) if options.quick else (step_time.NETWORKS, 128)
    rows = []
    for name in networks:
        for variant in step_time.VARIANTS:
            before, peak = in_new_process(peak_of, name, variant, batch)
            row = {"network": name, "variant": variant, "batch": batch}
            rows.append({**row, "peak, MB": peak, "before the network, MB": before})
    return rows


def peak_of(name, variant, batch):
    """Peak memory in MB before the network is built and after two steps; of a GPU if any."""
    import step_time
    import tensorflow as tf
    import zoo

    gpu = bool(tf.config.list_physical_devices("GPU"))

    def megabytes():
        if gpu:
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes * 1024 / 1e6

    before = megabytes()
    run = step_time.make_step(zoo.info(name), step_time.VARIANTS[variant], batch, False)
    run(), run()
    return before, megabytes()


def pipeline(options):
    """Speed of the ImageNet input pipeline on one core, with 200 synthetic photos of 110 KB."""
    import input_pipeline

    quick = {"turns": 1, "images": 16, "batch_size": 8, "photos": 16}
    return input_pipeline.measure(**(quick if options.quick else {}))


def size(options):
    """File sizes, with weights of the zoo or random ones, and of the full-precision counterpart."""
    from irnet_tf import export, weights
    from irnet_tf.export import openvino
    import latency
    import numpy as np
    import zoo

    rows = []
    for name in networks_of(options):
        shipped = zoo.info(name).weights is not None
        model = zoo.load(name) if shipped else with_random_norms(zoo.load(name, None))
        images = np.zeros((4, *model.input_shape[1:]), np.float32)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            weights.save_weights(model, file.name)
            files = {"1-bit weights file": os.path.getsize(file.name)}
        files["Larq Compute Engine"] = len(export.to_lce(model))
        for form in ("binary", "int8"):
            file = openvino.to_openvino(model, form=form)
            files[f"OpenVINO, {form}"] = openvino.sizes(file)["file"]
        baselines = latency.tflite_baselines(model, images)
        files |= {form: len(file) for form, file in baselines.items()}
        whole = files["TensorFlow Lite float"]
        rows += [
            {"network": name, "file": form, "bytes": count, "times smaller": whole / count}
            for form, count in files.items()
        ]
    return rows


def with_random_norms(model):
    """Randomises batch norms: converters remove those that change nothing."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def latencies(options):
    """Milliseconds per image of 1-bit files and of their float and int8 counterparts."""
    import latency

    arguments = [f"--networks={','.join(networks_of(options))}"]
    if options.data_dir:
        arguments.append(f"--data_dir={options.data_dir}")
    if options.quick:
        arguments += ["--batches=1", "--threads=1", "--seconds=0.05"]
    rows = []
    for name, batch, threads, images_are, times in latency.tables(
        latency.parser().parse_args(arguments)
    ):
        for row in latency.rows_of(times, batch, threads):
            known = {"network": name, "file": row.pop("ms per image")}
            known |= {"batch": batch, "threads": threads}
            rows.append({**known, **row, "int8 from": images_are})
    return rows


def networks_of(options):
    import latency

    return [SMALL] if options.quick else latency.NETWORKS.split(",")


TABLES = {"step": step, "memory": memory, "input": pipeline, "size": size, "latency": latencies}


def in_new_process(function, *arguments):
    """Calls a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def facts(options):
    """Date, machine and versions."""
    from irnet_tf._utils import processor
    from irnet_tf.training.config import versions
    import tensorflow as tf

    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "quick": options.quick,
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "GPUs": [device.name for device in tf.config.list_physical_devices("GPU")],
        "versions": versions(),
    }


def as_markdown(title, words, rows):
    """A table with heading and description; the first row defines the columns."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[number(row.get(name, "")) for name in names] for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"\n## {title}\n\n{words}\n\n{table}"


def number(value):
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def write(out, name, known, tables):
    """Writes both files; called after every table, so that an interrupted run keeps its tables."""
    (out / f"{name}.json").write_text(json.dumps({**known, "tables": tables}, indent=2) + "\n")
    versions = ", ".join(f"{package} {version}" for package, version in known["versions"].items())
    head = f"# Benchmarks, {known['date']}{', quick' if known['quick'] else ''}\n\n"
    head += f"{known['processor']}; {known['cores']} cores; {len(known['GPUs'])} GPUs; {versions}\n"
    parts = [
        as_markdown(title, TABLES[title].__doc__.strip(), rows) for title, rows in tables.items()
    ]
    (out / f"{name}.md").write_text(head + "".join(parts))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for DATE.json and DATE.md")
    parser.add_argument(
        "--tables", default=",".join(TABLES), help="names of tables, separated by commas"
    )
    parser.add_argument(
        "--data_dir", help="folder of CIFAR-10 for int8 calibration; default: noise"
    )
    parser.add_argument("--quick", action="store_true", help="one small network, few turns")
    options = parser.parse_args(argv)
    chosen = options.tables.split(",")
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        parser.error(f"unknown table {', '.join(unknown)}; known: {', '.join(TABLES)}")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    known = in_new_process(facts, options)
    name = known["date"][:19].replace(":", "").replace("T", "_")
    tables = {}
    for table in chosen:
        function = TABLES[table]
        # `memory` starts processes itself, which a process of a pool must not.
        rows = function(options) if function is memory else in_new_process(function, options)
        tables[table] = rows
        print(as_markdown(table, function.__doc__.strip(), rows), flush=True)
        write(out, name, known, tables)
    print(f"written to {out / name}.json and .md")


if __name__ == "__main__":
    main()
