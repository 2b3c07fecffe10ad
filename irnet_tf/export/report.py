"""Export to a file, proved equal to the network, with a report and a picture beside it."""

from __future__ import annotations

import json
from pathlib import Path

from irnet_tf._utils import check_choice, processor, write_atomically
from irnet_tf.analysis.measures import operations
from irnet_tf.export import lce, openvino
from irnet_tf.export.compare import compare, device_of
from irnet_tf.export.inputs import normalisation
from irnet_tf.export.latency import caveat, interleaved_ms
from irnet_tf.export.picture import draw
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import float_twin, trace
import numpy as np
import tensorflow as tf

FORMATS = {"lce": ".tflite", "openvino": ".xml"}
"""Formats and the suffixes of their files."""

_NAMES = {"lce": "Larq Compute Engine", "openvino": "OpenVINO"}


def export(
    model: tf.keras.Model,
    output,
    images,
    *,
    images_are: str,
    labels=None,
    format: str | None = None,
    form: str = "auto",
    uint8_input: bool = False,
    mean=None,
    std=None,
    paper_bytes: float | None = None,
) -> dict:
    """Write the file and, beside it, `report.txt`, `report.json` and `report.png`.

    Args:
        model, uint8_input, mean, std: as of `to_lce`.
        output: path of the file, `.tflite` or `.xml` (with a `.bin` beside it); its folder is
            made if need be.
        images: to compare on, as of `compare`.
        images_are: what they are, for the report.
        labels: their classes, int `[n]`, if there are any.
        format: `"lce"` or `"openvino"`; None: by the suffix of `output`.
        form: as of `to_openvino`.
        paper_bytes: the file's size in the paper, if it has one.

    Returns:
        What `report.json` holds: `rewrites`, `sizes` (bytes), `operations` (multiplications and
        additions counted as one, for one image), `operators` by kind, `comparison` (see
        `compare`), `latency` (milliseconds an image, median, one thread, on this machine).

    Raises:
        ValueError: before any work, if an argument does not fit; as of `to_lce`, `to_openvino` and
            `compare`; or, once the reports are written, if the file and the network are not
            equal. The file is not written then.
    """
    output = check_output(output, format)
    format = next(name for name, suffix in FORMATS.items() if suffix == output.suffix)
    normalise = normalisation(model, uint8_input, mean, std)
    given = {"mean": mean, "std": std}
    if format == "lce":
        file = lce.to_lce(model, uint8_input=uint8_input, **given)
        sizes = {"file": len(file)}
    else:
        file = openvino.to_openvino(model, form=form, uint8_input=uint8_input, **given)
        sizes = openvino.sizes(file)
    device = device_of(file)
    plan = make_plan(model, device.target)
    twins = _float_twins(model, format)
    one = np.asarray(images)[:1]
    x = one * normalise[0] + normalise[1] if uint8_input else one
    runs = {"1-bit file": lambda: device.predict(one)}
    runs |= {name: lambda run=run: run(x) for name, (run, _) in twins.items()}
    report = {
        "network": plan.name,
        "format": _NAMES[format],
        "rewrites": plan.notes,
        "sizes": {**sizes, "float": twins["float twin, TensorFlow Lite"][1]},
        "operations": operations(model),
        "operators": dict(device.operators()),
        "comparison": {
            "images_are": images_are,
            **compare(model, file, images, labels=labels, **given),
        },
        "latency": {"ms": interleaved_ms(runs), "machine": f"{processor()}, one thread"},
    }
    if format == "openvino":
        report["form"] = openvino.form_of(file)
    if paper_bytes:
        report["sizes"]["paper"] = paper_bytes
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output.parent / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomically(output.parent / "report.txt", report_text(report))
    draw(report, output.parent / "report.png")
    cure = "please report this with the network"
    if "inputs" in plan.parts.values():
        cure = (
            "a sign in front of a convolution with float weights may have flipped where its input "
            "was zero but for rounding, which cannot be traced; give other images, or weight_bits=1"
        )
    require(
        report["comparison"]["equal"],
        f"{output} would not be equal to the network {plan.name!r} and is not written; {cure}:\n"
        f"{report_text(report)}",
    )
    if format == "lce":
        write_atomically(output, file)
    else:
        openvino.save(file, output)
    return report


def check_output(output, format: str | None = None) -> Path:
    """The path, if a file of the format can be called so.

    Raises:
        ValueError: if not; says how to call it.
    """
    path = Path(output)
    if format is not None:
        check_choice("format", format, FORMATS)
    suffixes = list(FORMATS.values()) if format is None else [FORMATS[format]]
    require(
        str(output) and path.suffix in suffixes,
        f"output must be a file that ends in {' or '.join(suffixes)}, got {str(output)!r}",
    )
    require(not path.is_dir(), f"output {str(output)!r} is a folder; name a file in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    require(folder.is_dir(), f"output {str(output)!r}: {folder} is a file and not a folder")
    return path


def _float_twins(model, format):
    """From a name to (function that runs the full-precision twin, bytes of its file)."""
    twin = float_twin(model)
    module, function = trace(twin)
    file = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    twins = {"float twin, TensorFlow Lite": (_tflite(file), len(file))}
    if format == "openvino":
        made = openvino.to_openvino(twin)
        device = openvino.Device(made)
        twins["float twin, OpenVINO"] = (device.predict, openvino.sizes(made)["file"])
    return twins


def _tflite(file):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to a package of its own
        interpreter = tf.lite.Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]

    def run(image):
        interpreter.set_tensor(index, image)
        interpreter.invoke()

    return run


def report_text(report: dict) -> str:
    """The report for people; `report` is what `export` returned."""
    sizes, operations, latency = (report[k] for k in ("sizes", "operations", "latency"))
    form = f", {report['form']} form" if "form" in report else ""
    lines = [f"{report['format']} model of {report['network']}{form}", ""]
    lines += [f"rewritten: {note}" for note in report["rewrites"]] or ["rewritten: nothing"]
    size = f"size       {size_text(sizes['file'])}"
    if "weights" in sizes:
        size += f" ({size_text(sizes['weights'])} of them weights)"
    size += f"; float {size_text(sizes['float'])}, {sizes['float'] / sizes['file']:.1f} times"
    if "paper" in sizes:
        size += f"; in the paper {size_text(sizes['paper'])}"
    lines += [
        "",
        size,
        f"operations {operations['one_bit']:,} 1-bit, {operations['float']:,} float "
        "(a multiplication and an addition count as one)",
        "operators  " + ", ".join(f"{n} {kind}" for kind, n in report["operators"].items()),
        "",
        *_comparison_lines(report["comparison"]),
        "",
        f"latency    an image, on {latency['machine']}; medians of runs taken in turn:",
        *(f"  {ms:8.3f} ms {name}" for name, ms in latency["ms"].items()),
    ]
    if caveat(report):
        lines.append(f"           {caveat(report)}")
    return "\n".join(lines) + "\n"


def _comparison_lines(seen):
    lines = [
        f"compared with TensorFlow on {seen['images']} images ({seen['images_are']}):",
        f"  largest difference of outputs {seen['largest_difference']:.1e}, "
        f"same top-1 on {seen['agreement']:.2%}",
    ]
    if "accuracy" in seen:
        accuracy = seen["accuracy"]
        lines.append(
            f"  accuracy {accuracy['file']:.2%} of the file, {accuracy['network']:.2%} of the "
            "network"
        )
    if seen["traced_images"]:
        lines.append(
            f"  images that differ by more: {seen['traced_images']}. Run alone, "
            f"{seen['flipped_bits']} of their bits differ, behind activations of at most "
            f"{seen['largest_flipped']:.1e} of their layer's largest, by rounding (which in "
            "TensorFlow depends on the batch); given the file's bits, outputs differ by "
            f"{seen['largest_difference_given_bits']:.1e} at most"
        )
    return [*lines, "  equal" if seen["equal"] else "  NOT EQUAL"]


def size_text(count) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"
