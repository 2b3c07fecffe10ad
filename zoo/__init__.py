"""The networks of IR-Net: builder, recipes, results and weights of each.

    import zoo
    model = zoo.load("digits/resnet20_bireal_1w1a")
    zoo.predict("digits/resnet20_bireal_1w1a", "image.png")

Each name is imported on first use. `zoo.runtime` and `python -m zoo --help` need no TensorFlow.
"""

import importlib
import os
import sys

if "tensorflow" not in sys.modules:  # for `import tensorflow` before the first use of zoo
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

FAMILIES = ("digits", "cifar10", "imagenet", "larq_zoo")

_MODULES = {
    "Entry": "registry",
    "info": "registry",
    "list_models": "registry",
    "load": "loading",
    "decode_predictions": "prediction",
    "predict": "prediction",
    "preprocess_input": "prediction",
}

__all__ = [*FAMILIES, *_MODULES]  # noqa: PLE0604


def __getattr__(name):
    if name in FAMILIES:
        return importlib.import_module(f"zoo.{name}")
    if name in _MODULES:
        value = getattr(importlib.import_module(f"zoo.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
