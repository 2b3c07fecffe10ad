"""Export of networks to files for devices, verified against the network.

    python -m zoo export digits/resnet20_bireal_1w1a --output=digits/net.tflite

`to_lce` converts for Larq Compute Engine (64-bit ARM), `to_openvino` for OpenVINO (x86). `compare`
runs the file and the network on the same images. `export` does all of this and writes a report.
"""

from irnet_tf.export.comparison import TOLERANCE, compare
from irnet_tf.export.lce import operators, to_lce
from irnet_tf.export.openvino import form_of, to_openvino
from irnet_tf.export.report import export, report_text

__all__ = [
    "TOLERANCE",
    "compare",
    "export",
    "form_of",
    "operators",
    "report_text",
    "to_lce",
    "to_openvino",
]
