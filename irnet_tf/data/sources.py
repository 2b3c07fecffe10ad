"""Moved: `irnet_tf.data` has these names."""

from irnet_tf.data.dataset import Data, Split, load

__all__ = ["Data", "Split", "load"]
