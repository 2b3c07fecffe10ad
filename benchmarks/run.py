"""All benchmarks: tables of training step, peak memory, input pipeline, export size and latency.

    python benchmarks/run.py --out=FOLDER [--data_dir=D] [--tables=step,latency] [--quick]

Prints the tables and keeps them in FOLDER as DATE.json and DATE.md, with date, processor and
versions. Each table has a process of its own; what is measured how is said in `step_time.py`,
`input_pipeline.py` and `latency.py`. `--quick` takes minutes: one small network and few turns, to
see that everything runs; its figures say little.
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

__drops_chatter__ = True  # of TensorFlow: irnet_tf looks for it when it is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SMALL = "digits/resnet20_bireal_1w1a"


def step(options):
    """A training step, beside full precision and Larq's ste_sign; processor time without a GPU."""
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
    """The most memory that two training steps took, with all that Python and TensorFlow take."""
    import step_time

    networks, batch = ((SMALL,), 8) if options.quick else (step_time.NETWORKS, 128)
    rows = []
    for name in networks:
        for variant in step_time.VARIANTS:
            before, peak = alone(peak_of, name, variant, batch)
            row = {"network": name, "variant": variant, "batch": batch}
            rows.append({**row, "peak, MB": peak, "before the network, MB": before})
    return rows


def peak_of(name, variant, batch):
    """(MB before there is a network, the most MB after two steps), of a GPU if there is one."""
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
    """ImageNet's input pipeline on one core, beside others that read the same files."""
    import input_pipeline

    flags = ["", "--turns=1", "--images=16", "--batch_size=8"] if options.quick else [""]
    input_pipeline.FLAGS(flags)
    words, rows = input_pipeline.run(None, photos=16 if options.quick else 200)
    return [{**row, "of": words} for row in rows]


def size(options):
    """Bytes of whole files, of the zoo's weights or random ones, and of the full-precision twin."""
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
        twins = latency.tflite_twins(model, images)
        files |= {form: len(file) for form, file in twins.items()}
        whole = files["TensorFlow Lite float twin"]
        rows += [
            {"network": name, "file": form, "bytes": count, "times smaller": whole / count}
            for form, count in files.items()
        ]
    return rows


def with_random_norms(model):
    """A network whose batch norms do something: converters drop those that change nothing."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def latencies(options):
    """Milliseconds an image: 1-bit files and their float and int8 twins, taken in turn."""
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
            known = {"network": name, "file": row.pop("ms an image")}
            known |= {"batch": batch, "threads": threads}
            rows.append({**known, **row, "int8 from": images_are})
    return rows


def networks_of(options):
    import latency

    return [SMALL] if options.quick else latency.NETWORKS.split(",")


TABLES = {"step": step, "memory": memory, "input": pipeline, "size": size, "latency": latencies}


def alone(function, *arguments):
    """What a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def facts(options):
    """Date, machine and versions of what is measured."""
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
    """A table with its heading; columns as the first row has them."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[number(row.get(name, "")) for name in names] for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"\n## {title}\n\n{words}\n\n{table}"


def number(value):
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def write(out, name, known, tables):
    """Both files; anew after every table, so that a run that is stopped leaves what it has."""
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
    parser.add_argument("--out", required=True, help="folder that gets DATE.json and DATE.md")
    parser.add_argument("--tables", default=",".join(TABLES), help="some of them, with commas")
    parser.add_argument("--data_dir", help="of CIFAR-10, for int8 twins; noise if not given")
    parser.add_argument("--quick", action="store_true", help="a small network, few turns")
    options = parser.parse_args(argv)
    chosen = options.tables.split(",")
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        parser.error(f"there is no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    known = alone(facts, options)
    name = known["date"][:19].replace(":", "").replace("T", "_")
    tables = {}
    for table in chosen:
        function = TABLES[table]
        # `memory` starts processes itself, which a pool's must not.
        rows = function(options) if function is memory else alone(function, options)
        tables[table] = rows
        print(as_markdown(table, function.__doc__.strip(), rows), flush=True)
        write(out, name, known, tables)
    print(f"kept in {out / name}.json and .md")


if __name__ == "__main__":
    main()
