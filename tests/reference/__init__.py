"""The authors' numbers, in this folder; inputs are drawn again, as its README says."""

import json
from pathlib import Path

from irnet_tf import models
import numpy as np

FOLDER = Path(__file__).parent

_FULL = {"padding": "symmetric"}
BUILDERS = {
    "cifar_resnet20_1w1a": lambda: models.cifar_resnet(20, **_FULL),
    "cifar_resnet20_1w32a": lambda: models.cifar_resnet(
        20, activation_bits=32, structure="normal", **_FULL
    ),
    "cifar_vgg_small_1w1a": lambda: models.vgg_small(**_FULL),
    "cifar_resnet18_1w1a": lambda: models.resnet(18, stem="cifar", structure="normal", **_FULL),
    "imagenet_resnet18_1w1a": lambda: models.resnet(18, **_FULL),
    "imagenet_resnet18_1w32a": lambda: models.resnet(
        18, activation_bits=32, structure="normal", **_FULL
    ),
    "imagenet_resnet34_1w1a": lambda: models.resnet(34, **_FULL),
    "imagenet_resnet34_1w32a": lambda: models.resnet(
        34, activation_bits=32, structure="normal", **_FULL
    ),
}


class Reference:
    def __init__(self, name):
        self.name = name
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)
        self.meta = json.loads(str(self.arrays.pop("meta")))
        m = self.meta
        params = {n: self._param(i, n, s) for i, (n, s) in enumerate(m["params"])}
        buffers = {n: self._buffer(i, n, s) for i, (n, s) in enumerate(m["buffers"])}
        self.param_names, self.buffer_names = list(params), list(buffers)
        self.state_dict = {**params, **buffers}
        shape = (m["batch"], 3, m["size"], m["size"])
        self.images = self._rng(2000).standard_normal(shape).transpose(0, 2, 3, 1)
        self.labels = self._rng(2001).integers(0, m["classes"], m["batch"])

    def _rng(self, key):
        return np.random.default_rng([self.meta["seed"], key])

    def _param(self, i, name, shape):
        z = self._rng(i).standard_normal(shape)
        if len(shape) == 4:
            return 0.05 * z + 0.01
        if len(shape) == 2:
            return 0.05 * z
        return 1 + 0.2 * z if name.endswith("weight") else 0.1 * z

    def _buffer(self, i, name, shape):
        z = self._rng(1000 + i).standard_normal(shape)
        return 0.1 * z if name.endswith("mean") else np.exp(0.2 * z)

    def build(self):
        return BUILDERS[self.name]()
