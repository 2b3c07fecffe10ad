"""Networks of table 3 of the paper, for CIFAR-10."""

from irnet_tf.training import Recipe
from zoo.registration import register, register_full_precision

# The authors' recipes.
_RESNET20_1W32A = Recipe(
    data="cifar10",
    epochs=400,
    batch_size=128,
    learning_rate=0.1,
    augmentation="shift_and_flip",
)
_RESNET20_1W1A = _RESNET20_1W32A.replace(t_min=1e-3)
_VGG_SMALL = _RESNET20_1W32A.replace(epochs=300, learning_rate=0.007)
# Not published: the recipe of the 1/32 ResNet-20.
_RESNET18 = _RESNET20_1W32A

# `fast`: fewer epochs, close to the paper's accuracy. README's table was trained with it.
_FAST = _RESNET20_1W32A.replace(
    epochs=250,  # shorter than the paper's 400; 300 for Bi-Real 1/1, 150 in full precision
    warmup=0.02,  # a short ramp to 0.1 from random weights
    t_max=3.0,  # a steeper estimator passes little gradient: 300 epochs reach what 400 do at 10
)
_FAST_VGG_SMALL = _FAST.replace(
    epochs=150,
    classifier_lr_scale=0.015,  # it reads 8,192 values of +-1 without a batch norm before it
    mixed_precision="mixed_bfloat16",  # a step takes 3.0 instead of 4.4 ms on an H200
)
_FAST_RESNET18 = _FAST.replace(
    epochs=90,
    classifier_lr_scale=0.1,  # at 0.1 its logits dominate the first steps
)

resnet20_bireal_1w1a = register(
    "cifar10/resnet20_bireal_1w1a",
    "cifar_resnet",
    {"depth": 20, "structure": "bireal"},
    _RESNET20_1W1A,
    fast=_FAST.replace(epochs=300),
    paper=(0.865,),
)
resnet20_bireal_fp = register_full_precision(
    "cifar10/resnet20_bireal_1w1a", fast=_FAST.replace(epochs=150)
)
resnet20_normal_1w1a = register(
    "cifar10/resnet20_normal_1w1a",
    "cifar_resnet",
    {"depth": 20, "structure": "normal"},
    _RESNET20_1W1A,
    fast=_FAST,
    paper=(0.854,),
)
resnet20_normal_1w32a = register(
    "cifar10/resnet20_normal_1w32a",
    "cifar_resnet",
    {"depth": 20, "structure": "normal", "activation_bits": 32},
    _RESNET20_1W32A,
    fast=_FAST,
    paper=(0.908,),
)
resnet20_normal_fp = register_full_precision("cifar10/resnet20_normal_1w32a", paper=(0.917,))
vgg_small_1w1a = register(
    "cifar10/vgg_small_1w1a",
    "vgg_small",
    {},
    _VGG_SMALL,
    fast=_FAST_VGG_SMALL,
    paper=(0.904,),
)
vgg_small_fp = register_full_precision("cifar10/vgg_small_1w1a", paper=(0.917,))
resnet18_normal_1w1a = register(
    "cifar10/resnet18_normal_1w1a",
    "resnet",
    {"depth": 18, "stem": "cifar", "structure": "normal"},
    _RESNET18,
    fast=_FAST_RESNET18,
    paper=(0.915,),
)
resnet18_normal_fp = register_full_precision("cifar10/resnet18_normal_1w1a", paper=(0.930,))
