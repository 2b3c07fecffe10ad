"""Networks of table 3 of the paper, for CIFAR-10."""

from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.preprocessing import CIFAR10
from irnet_tf.training import Recipe
from zoo.registration import Weights, register, register_twin

# As in the authors' code: 400 epochs of 128, 0.1 with a cosine.
_RESNET20_1W32A = Recipe(
    data="cifar10",
    epochs=400,
    batch_size=128,
    learning_rate=0.1,
    augmentation="shift_and_flip",
)
_RESNET20_1W1A = _RESNET20_1W32A.replace(t_min=1e-3)
_VGG_SMALL = _RESNET20_1W32A.replace(epochs=300, learning_rate=0.007)
# For tens of epochs on a CPU. Measured on the Bi-Real 1/1 ResNet-20, see docs: small batches give
# more updates, and a smaller gamma leaves fewer activations at Hardtanh's bounds.
_FAST = _RESNET20_1W32A.replace(
    epochs=60, batch_size=32, residual_gamma_init=0.3, mixed_precision="mixed_bfloat16"
)
# Its classifier reads 8,192 values of +-1 without a batch norm before it.
_FAST_VGG_SMALL = _FAST.replace(
    epochs=16, batch_size=64, learning_rate=0.02, classifier_lr_scale=0.05, residual_gamma_init=1.0
)
# Not published; the recipe of the 1/32 ResNet-20.
_RESNET18 = _RESNET20_1W32A

resnet20_bireal_1w1a = register(
    "cifar10/resnet20_bireal_1w1a",
    cifar_resnet,
    {"depth": 20, "structure": "bireal"},
    _RESNET20_1W1A,
    preprocessing=CIFAR10,
    recipes={"fast": _FAST.replace(epochs=120, weight_decay=5e-4, t_max=3.0)},
    paper=(0.865,),
    weights=Weights(
        "cifar10_resnet20_bireal_1w1a.safetensors",
        "636996b101fcbca924dbfb7029221f781c25477e15ac64e15c9187add8ffeb12",
        55_632,
    ),
)
resnet20_bireal_fp = register_twin(
    "cifar10/resnet20_bireal_1w1a",
    recipes={"fast": _FAST.replace(epochs=30)},
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
    recipes={"fast": _FAST.replace(t_max=3.0)},
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
    recipes={"fast": _FAST.replace(epochs=10, t_max=3.0, classifier_lr_scale=0.1)},
    paper=(0.915,),
    weights=Weights(
        "cifar10_resnet18_normal_1w1a.safetensors",
        "9b7228c4efa72e07f59a4980637bc052817efc8fec86fa7c5facb6fdcd2396e8",
        2_183_128,
    ),
)
resnet18_normal_fp = register_twin("cifar10/resnet18_normal_1w1a", paper=(0.930,))
