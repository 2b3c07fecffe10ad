"""Networks as files for devices, proved equal to the originals.

    python -m zoo export digits/resnet20_bireal_1w1a --output=digits/net.tflite

`to_lce` writes for Larq Compute Engine (64-bit ARM). Refused early is what cannot be converted;
rewritten is what keeps a target from fusing; and `compare` sets the file against the network, bit
by bit where they differ.
"""

from irnet_tf.export.compare import TOLERANCE, compare
from irnet_tf.export.lce import operators, to_lce
from irnet_tf.export.report import export, report_text

__all__ = ["TOLERANCE", "compare", "export", "operators", "report_text", "to_lce"]
