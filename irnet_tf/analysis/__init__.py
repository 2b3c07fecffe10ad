"""Information in the bits of a binary network, layer by layer.

    python -m irnet_tf.analysis NETWORK --data_dir=D --out=O

The paper's argument (section 3.2): a balanced sign keeps the most information. A bit that is +1
with probability p has entropy -p log2(p) - (1 - p) log2(1 - p), at most 1.
"""

from irnet_tf.analysis.measures import (
    COLUMNS,
    analyse,
    as_csv,
    as_markdown,
    entropy,
    operations,
)
from irnet_tf.analysis.pictures import draw_details, draw_layers

__all__ = [
    "COLUMNS",
    "analyse",
    "as_csv",
    "as_markdown",
    "draw_details",
    "draw_layers",
    "entropy",
    "operations",
]
