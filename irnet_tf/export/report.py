"""Export to a file, verified against the network, with a report and a figure beside it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
import tempfile
import textwrap

from irnet_tf._utils import check_choice, processor, write_atomically
from irnet_tf.analysis.measures import operations
from irnet_tf.export import lce, openvino
from irnet_tf.export.comparison import TOLERANCE, compare
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import full_precision
from irnet_tf.model_config import get_model_config
import tensorflow as tf

FORMATS = {"lce": ".tflite", "openvino": ".xml"}
"""Formats and their file suffixes."""


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
        uint8_input: Input of the file, as in `to_lce`.

    Returns:
        Contents of `report.json`, with the keys `network`, `format`, `rewrites`, `sizes` (bytes),
        `operations` (multiply-adds of one image), `operators` by kind, `comparison` (see
        `compare`) and `latency` (median milliseconds per image, one thread, this machine).

    Raises:
        ValueError: If an argument does not fit, if the network cannot be converted, or if file
            and network differ. The file is then not written.
    """
    output = check_output(output, format)
    if output.suffix == ".tflite":
        module, convert = lce, lce.to_lce
    else:
        module, convert = openvino, functools.partial(openvino.to_openvino, form=form)
    files = {
        "file": convert(model, uint8_input=uint8_input),
        "full precision": convert(full_precision(model)),
    }
    devices = {name: module.Device(file) for name, file in files.items()}
    plan = make_plan(model, devices["file"].target)
    config = get_model_config(model)
    report = {
        "network": (config and config.network) or plan.name,
        "format": devices["file"].target.name,
        "rewrites": plan.notes,
        "sizes": {name.replace(" ", "_"): size_of(file) for name, file in files.items()},
        "operations": operations(model),
        "operators": dict(module.operators(files["file"])),
        "comparison": {
            "images_source": images_source,
            **compare(model, files["file"], images, labels=labels),
        },
        "latency": {
            "ms": openvino.latency_ms(devices),
            "machine": f"{processor()}, one thread",
        },
    }
    if module is openvino:
        report["form"] = openvino.form_of(files["file"])
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
        report["comparison"]["equal"],
        f"{output} is not written: its outputs differ from the network's; {cure}. "
        f"Details: {output.parent / 'report.txt'}",
    )
    module.save(files["file"], output)
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


def size_of(file) -> int:
    """Returns the size in bytes of a result of `to_lce` or `to_openvino`, once it is written."""
    if isinstance(file, bytes):
        return len(file)
    with tempfile.TemporaryDirectory() as folder:
        openvino.save(file, Path(folder) / "net.xml")
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def report_text(report: dict) -> str:
    """Returns the result of `export` as text."""
    result, sizes, operations = (report[k] for k in ("comparison", "sizes", "operations"))
    size = sizes["file"]
    size = f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} KB"
    form = f", {report['form']} form" if "form" in report else ""
    lines = [
        f"{report['network']}: {report['format']}{form}",
        "",
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
            f"{result['traced_images']} of them differ by more than {TOLERANCE:g}, because a sign "
            f"turns the rounding error of an activation near zero into another bit. Run one at a "
            f"time, they differ in {result['flipped_bits']} bit(s); the activations are at most "
            f"{result['largest_flipped']:.1e} of the largest in their layer. With the file's bits, "
            f"the network's logits differ by at most {result['largest_difference_given_bits']:.1e}."
        )
        lines += textwrap.wrap(why, 100, initial_indent="  ", subsequent_indent="  ")
    lines += [
        "",
        f"size        {size}, {sizes['full_precision'] / sizes['file']:.1f} times less than full "
        "precision",
        f"operations  {operations['one_bit']:,} 1-bit, {operations['float']:,} float multiply-adds",
        "operators   " + ", ".join(f"{n} {kind}" for kind, n in report["operators"].items()),
        *(f"rewritten   {note}" for note in report["rewrites"]),
        f"latency     median per image, {report['latency']['machine']}",
        *(f"  {ms:8.3f} ms {name}" for name, ms in report["latency"]["ms"].items()),
        *_caveat(report),
    ]
    return "\n".join(lines) + "\n"


def _caveat(report) -> list[str]:
    if report["format"] != lce.TARGET.name or "x86" not in report["latency"]["machine"]:
        return []
    return [
        "Larq's 1-bit kernels are for 64-bit ARM; this latency on x86 says nothing about a device. "
        "For x86, export to OpenVINO (.xml)."
    ]


def _draw(report: dict, path) -> None:
    """Draws size, operations and latency of the file beside its full-precision counterpart."""
    from matplotlib.figure import Figure

    one_bit, others = report["operations"]["one_bit"], report["operations"]["float"]
    counts = {"1-bit": one_bit, "float": others, "full precision": one_bit + others}
    panels = {
        "size, MB": {name.replace("_", " "): n / 1e6 for name, n in report["sizes"].items()},
        "multiply-adds, millions": {name: count / 1e6 for name, count in counts.items()},
        "ms per image, this machine": report["latency"]["ms"],
    }
    figure = Figure((10, 4), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 3), panels.items()):
        colours = ["0.75" if name == "full precision" else "tab:blue" for name in values]
        bars = axes.bar(list(values), list(values.values()), color=colours, edgecolor="0.2")
        axes.bar_label(bars, fmt="{:,.3g}")
        axes.margins(y=0.15)
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['network']}: {report['format']}")
    notes = [f"Latency: {report['latency']['machine']}, median.", *_caveat(report)]
    figure.supxlabel("\n".join(textwrap.wrap(" ".join(notes), 130)), fontsize=8)
    figure.savefig(path, dpi=120)
