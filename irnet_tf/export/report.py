"""Export to a file, verified against the network, with a report and a figure beside it."""

from __future__ import annotations

import json
from pathlib import Path
import textwrap

from irnet_tf._utils import check_choice, processor, write_atomically
from irnet_tf.analysis.measures import operations
from irnet_tf.export import lce, openvino
from irnet_tf.export.comparison import TOLERANCE, compare, device_of
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import full_precision, normalisation
from irnet_tf.model_config import get_model_config
import numpy as np
import tensorflow as tf

FORMATS = {"lce": ".tflite", "openvino": ".xml"}
"""Formats and their file suffixes."""

_NAMES = {"lce": "Larq Compute Engine", "openvino": "OpenVINO"}


def export(
    model: tf.keras.Model,
    output,
    images,
    *,
    images_source: str,
    labels=None,
    format: str | None = None,
    form: str = "auto",
    uint8_input: bool = False,
    mean=None,
    std=None,
) -> dict:
    """Writes a file and, beside it, `report.txt`, `report.json` and `report.png`.

    Args:
        model: Functional Keras model.
        output: Path of the file: `.tflite`, or `.xml` (with a `.bin` beside it).
        images: Images to compare file and network on, in the file's input type.
        images_source: Description of the images for the report.
        labels: Class indices of the images, int `[n]`.
        format: `"lce"` or `"openvino"`; default: by the suffix of `output`.
        form: Form of an OpenVINO file, as in `to_openvino`.
        uint8_input, mean, std: Input of the file, as in `to_lce`.

    Returns:
        Contents of `report.json`, with the keys `network`, `format`, `rewrites`, `sizes` (bytes),
        `operations` (multiply-adds of one image), `operators` by kind, `comparison` (see
        `compare`) and `latency` (median milliseconds per image, one thread, this machine).

    Raises:
        ValueError: If an argument does not fit, if the network cannot be converted, or if file
            and network differ. The file is then not written.
    """
    output = check_output(output, format)
    format = next(name for name, suffix in FORMATS.items() if suffix == output.suffix)
    normalise = normalisation(model, uint8_input, mean, std)
    arguments = {"uint8_input": uint8_input, "mean": mean, "std": std}
    counterpart = full_precision(model)
    if format == "lce":
        file, baseline = lce.to_lce(model, **arguments), lce.to_lce(counterpart)
        sizes = {"file": len(file), "full_precision": len(baseline)}
    else:
        file = openvino.to_openvino(model, form=form, **arguments)
        baseline = openvino.to_openvino(counterpart)
        sizes = openvino.sizes(file)
        sizes["full_precision"] = openvino.sizes(baseline)["file"]
    device, baseline = device_of(file), device_of(baseline)
    plan = make_plan(model, device.target)
    one = np.asarray(images)[:1]
    x = one * normalise[0] + normalise[1] if uint8_input else one
    runs = {
        "file": lambda: device.predict(one),
        "full precision": lambda: baseline.predict(x.astype(np.float32)),
    }
    config = get_model_config(model)
    comparison = compare(model, file, images, labels=labels, mean=mean, std=std)
    report = {
        "network": (config and config.network) or plan.name,
        "format": _NAMES[format],
        "rewrites": plan.notes,
        "sizes": sizes,
        "operations": operations(model),
        "operators": dict((lce if format == "lce" else openvino).operators(file)),
        "comparison": {"images_source": images_source, **comparison},
        "latency": {
            "ms": openvino.interleaved_ms(runs),
            "machine": f"{processor()}, one thread",
        },
    }
    if format == "openvino":
        report["form"] = openvino.form_of(file)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output.parent / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomically(output.parent / "report.txt", report_text(report))
    _draw(report, output.parent / "report.png")
    cure = "please report this"
    if "inputs" in plan.parts.values():
        cure = (
            "signs in front of float weights cannot be traced and may have flipped by rounding; "
            "use other images, or weight_bits=1"
        )
    require(
        comparison["equal"],
        f"{output} is not written: its outputs differ from the network's; {cure}. "
        f"Details: {output.parent / 'report.txt'}",
    )
    if format == "lce":
        write_atomically(output, file)
    else:
        openvino.save(file, output)
    return report


def check_output(output, format: str | None = None) -> Path:
    """Returns the output path.

    Raises:
        ValueError: If a file of the format cannot be written there.
    """
    path = Path(output)
    if format is not None:
        check_choice("format", format, FORMATS)
    suffixes = list(FORMATS.values()) if format is None else [FORMATS[format]]
    require(
        path.suffix in suffixes,
        f"output must be a file that ends in {' or '.join(suffixes)}, got {str(output)!r}",
    )
    require(not path.is_dir(), f"output {str(output)!r} is a folder; give a file in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    require(folder.is_dir(), f"output {str(output)!r}: {folder} is a file, not a folder")
    return path


def report_text(report: dict) -> str:
    """Returns the result of `export` as text."""
    sizes, operations, latency = (report[k] for k in ("sizes", "operations", "latency"))
    form = f", {report['form']} form" if "form" in report else ""
    ratio = sizes["full_precision"] / sizes["file"]
    size = f"{_bytes(sizes['file'])}, {ratio:.1f} times less than full precision"
    lines = [
        f"{report['network']}: {report['format']}{form}",
        "",
        *_comparison_lines(report["comparison"]),
        "",
        f"size        {size}",
        f"operations  {operations['one_bit']:,} 1-bit, {operations['float']:,} float multiply-adds",
        "operators   " + ", ".join(f"{n} {kind}" for kind, n in report["operators"].items()),
        *(f"rewritten   {note}" for note in report["rewrites"]),
        f"latency     median per image, {latency['machine']}",
        *(f"  {ms:8.3f} ms {name}" for name, ms in latency["ms"].items()),
        *filter(None, [_caveat(report)]),
    ]
    return "\n".join(lines) + "\n"


def _comparison_lines(result):
    lines = [
        "EQUAL to the network" if result["equal"] else "NOT EQUAL to the network",
        f"  {result['images']} images ({result['images_source']}): same top-1 class on "
        f"{result['agreement']:.2%}, largest difference of a logit "
        f"{result['largest_difference']:.1e}",
    ]
    if "accuracy" in result:
        file, network = result["accuracy"]["file"], result["accuracy"]["network"]
        lines.append(f"  accuracy: file {file:.2%}, network {network:.2%}")
    if result["traced_images"]:
        why = (
            f"{result['traced_images']} images differ by more than {TOLERANCE:g}, because a sign "
            f"turns the rounding error of an activation near zero into another bit. Run one at a "
            f"time, {result['flipped_bits']} of their bits differ; the activations are at most "
            f"{result['largest_flipped']:.1e} of the largest in their layer. With the file's bits, "
            f"the network's logits differ by at most {result['largest_difference_given_bits']:.1e}."
        )
        lines += textwrap.wrap(why, 100, initial_indent="  ", subsequent_indent="  ")
    return lines


def _bytes(count) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _caveat(report) -> str | None:
    if report["format"] != "Larq Compute Engine" or "x86" not in report["latency"]["machine"]:
        return None
    return (
        "Larq's 1-bit kernels are for 64-bit ARM; this latency on x86 says nothing about a device. "
        "For x86, export to OpenVINO (.xml)."
    )


def _draw(report: dict, path) -> None:
    """Draws size, operations and latency of the file beside its full-precision counterpart."""
    from matplotlib.figure import Figure

    sizes, operations, latency = (report[k] for k in ("sizes", "operations", "latency"))
    total = sum(operations.values())
    counts = {"1-bit": operations["one_bit"], "float": operations["float"], "full precision": total}
    panels = {
        "size, MB": {
            "file": sizes["file"] / 1e6,
            "full precision": sizes["full_precision"] / 1e6,
        },
        "multiply-adds, millions": {name: count / 1e6 for name, count in counts.items()},
        "ms per image, this machine": latency["ms"],
    }
    notes = [f"Latency: {latency['machine']}, median.", _caveat(report) or ""]
    figure = Figure((10, 4), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 3), panels.items()):
        colours = ["0.75" if name == "full precision" else "tab:blue" for name in values]
        bars = axes.bar(list(values), list(values.values()), color=colours, edgecolor="0.2")
        axes.bar_label(bars, fmt="{:,.3g}")
        axes.margins(y=0.15)
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['network']}: {report['format']}")
    figure.supxlabel("\n".join(textwrap.wrap(" ".join(notes), 130)), fontsize=8)
    figure.savefig(path, dpi=120)
