"""Networks as files for devices, proved equal to the originals.

    python -m zoo export digits/resnet20_bireal_1w1a --output=digits/net.tflite

`to_lce` writes for Larq Compute Engine (64-bit ARM), `to_openvino` for OpenVINO (x86). What cannot
be converted is refused early; what keeps a target from fusing is rewritten; and `compare` sets
the file against the network, bit by bit where they differ.
"""

from irnet_tf.export.compare import TOLERANCE, compare
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
