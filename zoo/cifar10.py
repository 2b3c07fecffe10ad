"""Networks of table 3 of the paper, for CIFAR-10."""

from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.preprocessing import CIFAR10
from irnet_tf.training import Recipe
from zoo.registration import Weights, register, register_twin

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
    epochs=250,  # the accuracy has levelled off; 300 for Bi-Real 1/1, 150 in full precision
    warmup=0.02,  # the first steps at 0.1 diverge or saturate activations
    t_max=3.0,  # a sharper sign passes little gradient: 1.4 points over t_max 10 in 12 epochs
)
_FAST_VGG_SMALL = _FAST.replace(
    epochs=150,
    classifier_lr_scale=0.015,  # it reads 8,192 values of +-1 without a batch norm before it
    mixed_precision="mixed_bfloat16",  # half the time of a step, same accuracy
)
_FAST_RESNET18 = _FAST.replace(
    epochs=90,
    classifier_lr_scale=0.1,  # at 0.1 its logits dominate the first steps
)

resnet20_bireal_1w1a = register(
    "cifar10/resnet20_bireal_1w1a",
    cifar_resnet,
    {"depth": 20, "structure": "bireal"},
    _RESNET20_1W1A,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST.replace(epochs=300)},
    paper=(0.865,),
    weights=Weights(
        "cifar10_resnet20_bireal_1w1a.safetensors",
        "636996b101fcbca924dbfb7029221f781c25477e15ac64e15c9187add8ffeb12",
        55_632,
    ),
)
resnet20_bireal_fp = register_twin(
    "cifar10/resnet20_bireal_1w1a",
    recipes={"fast": _FAST.replace(epochs=150)},
    weights=Weights(
        "cifar10_resnet20_bireal_fp.safetensors",
        "64f5c073729fdd8d70eea3814471948a3956b0e0ca12c72b01c5f76fc1f98044",
        1_090_360,
    ),
)
resnet20_normal_1w1a = register(
    "cifar10/resnet20_normal_1w1a",
    cifar_resnet,
    {"depth": 20, "structure": "normal"},
    _RESNET20_1W1A,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST},
    paper=(0.854,),
    weights=Weights(
        "cifar10_resnet20_normal_1w1a.safetensors",
        "fa476941089dfe44ab2b7449b2011dd2ac26741a7d53d0268d1760d86cf51416",
        55_632,
    ),
)
resnet20_normal_1w32a = register(
    "cifar10/resnet20_normal_1w32a",
    cifar_resnet,
    {"depth": 20, "structure": "normal", "activation_bits": 32},
    _RESNET20_1W32A,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST},
    paper=(0.908,),
    weights=Weights(
        "cifar10_resnet20_normal_1w32a.safetensors",
        "8a2be22188f35cc07b7543aa0d1c47211ece009a02a814f5e31e270a4e2486b5",
        55_632,
    ),
)
resnet20_normal_fp = register_twin("cifar10/resnet20_normal_1w32a", paper=(0.917,))
vgg_small_1w1a = register(
    "cifar10/vgg_small_1w1a",
    vgg_small,
    {},
    _VGG_SMALL,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST_VGG_SMALL},
    paper=(0.904,),
    weights=Weights(
        "cifar10_vgg_small_1w1a.safetensors",
        "3eecb8feb02440360ec90f1d6879bf3779d732add419cea9ca98353e26695f35",
        945_972,
    ),
)
vgg_small_fp = register_twin("cifar10/vgg_small_1w1a", paper=(0.917,))
resnet18_normal_1w1a = register(
    "cifar10/resnet18_normal_1w1a",
    resnet,
    {"depth": 18, "stem": "cifar", "structure": "normal"},
    _RESNET18,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST_RESNET18},
    paper=(0.915,),
    weights=Weights(
        "cifar10_resnet18_normal_1w1a.safetensors",
        "9b7228c4efa72e07f59a4980637bc052817efc8fec86fa7c5facb6fdcd2396e8",
        2_183_128,
    ),
)
resnet18_normal_fp = register_twin("cifar10/resnet18_normal_1w1a", paper=(0.930,))
