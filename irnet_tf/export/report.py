"""Export to a file, proved equal to the network, with a report and a picture beside it."""

from __future__ import annotations

import json
from pathlib import Path
import platform
import time

from irnet_tf.export import lce
from irnet_tf.export.compare import compare
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import float_twin, normalisation, rewritten, trace
import numpy as np
import tensorflow as tf


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
    plan = make_plan(model, lce.TARGET)
    normalise = normalisation(model, uint8_input, mean, std)
    file = lce.convert(plan, rewritten(model, plan), normalise)
    given = {"mean": mean, "std": std} if uint8_input else {}
    twin = _float_file(model)
    one = np.asarray(images)[:1]
    x = one * normalise[0] + normalise[1] if uint8_input else one
    ours, theirs = lce.Device(file), tf.lite.Interpreter(model_content=twin, num_threads=1)
    theirs.allocate_tensors()
    theirs.set_tensor(theirs.get_input_details()[0]["index"], x)
    report = {
        "network": model.name,
        "rewrites": plan.notes,
        "sizes": {"lce": len(file), "float": len(twin)},
        "operations": _operations(model, plan),
        "operators": lce.operators(file),
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
    require(
        report["comparison"]["equal"],
        f"{output} would not be equal to the network {model.name!r} and is not written; please "
        f"report this with the network:\n{report_text(report)}",
    )
    output.write_bytes(file)
    return report


def _float_file(model) -> bytes:
    """The full-precision twin, with the same layers, as an ordinary TFLite file."""
    module, function = trace(float_twin(model))
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()


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
