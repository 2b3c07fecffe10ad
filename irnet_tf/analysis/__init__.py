"""What is inside a binary network: how much information its bits carry, layer by layer.

    python -m irnet_tf.analysis NETWORK --data_dir=D --out=O

The paper's argument is that a balanced sign keeps the most information (section 3.2): a bit
that is +1 with probability p has an entropy of -p log2(p) - (1 - p) log2(1 - p), 1 at most.
"""

from irnet_tf.analysis.measures import (
    LayerFacts,
    analyse,
    as_csv,
    as_markdown,
    entropy,
    operations,
)
from irnet_tf.analysis.pictures import draw_details, draw_layers

__all__ = [
    "LayerFacts",
    "analyse",
    "as_csv",
    "as_markdown",
    "draw_details",
    "draw_layers",
    "entropy",
    "operations",
]
