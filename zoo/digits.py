"""Networks for scikit-learn's embedded 8x8 digits, shown as 32x32 images."""

from irnet_tf.training import Recipe
from zoo.registration import register, register_full_precision

# Chosen to end within minutes on two cores.
_RECIPE = Recipe(
    data="digits",
    epochs=40,
    batch_size=64,
    learning_rate=0.1,
    weight_decay=5e-4,
    augmentation="shift",
)

resnet20_bireal_1w1a = register(
    "digits/resnet20_bireal_1w1a",
    "cifar_resnet",
    {"depth": 20, "structure": "bireal"},
    _RECIPE,
)
resnet20_bireal_fp = register_full_precision("digits/resnet20_bireal_1w1a")
