"""Networks of table 4 of the paper, for ImageNet."""

from irnet_tf.training import Recipe
from zoo.registration import register, register_full_precision

# The authors' 62,500 steps of 2,048 images are 100 epochs; 2,500 of them warm up.
_RECIPE = Recipe(
    data="imagenet2012",
    epochs=100,
    batch_size=2048,
    learning_rate=0.8,
    lr_schedule="step",
    decay_at=(0.3, 0.6, 0.9),
    warmup=0.04,
    warmup_start_lr=0.2,
    nesterov=True,
    augmentation="imagenet",
    scale_lr_with_batch=True,
)

resnet18_bireal_1w1a = register(
    "imagenet/resnet18_bireal_1w1a",
    "resnet",
    {"depth": 18, "structure": "bireal"},
    _RECIPE.replace(weight_decay=1e-5),
    paper=(0.581, 0.800),
)
resnet18_bireal_fp = register_full_precision("imagenet/resnet18_bireal_1w1a", _RECIPE)
resnet18_normal_1w32a = register(
    "imagenet/resnet18_normal_1w32a",
    "resnet",
    {"depth": 18, "structure": "normal", "activation_bits": 32},
    _RECIPE,
    paper=(0.665, 0.868),
)
resnet18_normal_fp = register_full_precision("imagenet/resnet18_normal_1w32a")
resnet34_bireal_1w1a = register(
    "imagenet/resnet34_bireal_1w1a",
    "resnet",
    {"depth": 34, "structure": "bireal"},
    _RECIPE,
    paper=(0.629, 0.841),
)
resnet34_bireal_fp = register_full_precision("imagenet/resnet34_bireal_1w1a")
resnet34_normal_1w32a = register(
    "imagenet/resnet34_normal_1w32a",
    "resnet",
    {"depth": 34, "structure": "normal", "activation_bits": 32},
    _RECIPE,
    paper=(0.704, 0.895),
)
resnet34_normal_fp = register_full_precision("imagenet/resnet34_normal_1w32a")
