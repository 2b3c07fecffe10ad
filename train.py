"""Train or evaluate a network of the zoo.

    python train.py                                   # digits, embedded, minutes
    python train.py --model=cifar10/resnet20_bireal_1w1a --data_dir=D --output_dir=O
    python train.py --mode=evaluate --model=cifar10/resnet20_bireal_1w1a --data_dir=D

A run that was stopped goes on when the same command is given again.
"""

import contextlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's chatter about missing GPUs

from absl import app, flags, logging
import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import data, training
from irnet_tf._checks import check_choice
from irnet_tf.training.groups import scale_residual_branches
from irnet_tf.training.strategy import STRATEGIES
import tensorflow as tf
import zoo

FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")
flags.DEFINE_string("model", "digits/resnet20_bireal_1w1a", "a name of zoo.list_models()")
flags.DEFINE_string("recipe", "paper", "which of the network's recipes: paper, fast")
flags.DEFINE_string("data_dir", None, "where the data is; a folder with train/CLASS/* is your own")
flags.DEFINE_enum("unreadable", "stop", ["stop", "skip"], "what to do at a damaged image")
flags.DEFINE_string("output_dir", None, "the run folder; runs/MODEL if not given")
flags.DEFINE_integer("epochs", None, "passes over the data; the recipe's if not given")
flags.DEFINE_integer("batch_size", None, "global batch size; the recipe's if not given")
flags.DEFINE_float("learning_rate", None, "highest learning rate; the recipe's if not given")
flags.DEFINE_float("weight_decay", None, "L2 decay; the recipe's if not given")
flags.DEFINE_float("t_max", None, "EDE's sharpness towards the end; the recipe's if not given")
flags.DEFINE_string("schedule", None, "cosine, linear or step; the recipe's if not given")
flags.DEFINE_integer("seed", 0, "of initial weights, order and augmentation")
flags.DEFINE_enum("strategy", "auto", STRATEGIES, "which devices share the work")
flags.DEFINE_enum(
    "mixed_precision",
    None,
    ["mixed_float16", "mixed_bfloat16"],
    "Keras policy; float32 if not given",
)
flags.DEFINE_bool(
    "sync_batch_norm", False, "batch norm over all devices; the authors' is over each by itself"
)
flags.DEFINE_bool("jit_compile", False, "compile the step with XLA: faster on GPUs, not on CPUs")
flags.DEFINE_enum("ede", "on", ["on", "off"], "whether EDE's t grows; off: it stays at its start")
flags.DEFINE_string("kernel_quantizer", None, "a Larq quantizer instead of libra_pb")
flags.DEFINE_string("input_quantizer", None, "a Larq quantizer instead of ede_sign")
flags.DEFINE_bool("resume", True, "go on with a run that is in output_dir")
flags.DEFINE_bool("overwrite", False, "delete a run that is in output_dir")
flags.DEFINE_string("weights", None, "weights file, or 'pretrained': to evaluate or begin with")


def main(argv):
    if len(argv) > 1:
        raise ValueError(f"did not understand {' '.join(argv[1:])}; flags begin with --")
    entry = zoo.info(FLAGS.model)
    check_choice("recipe", FLAGS.recipe, entry.recipes)
    recipe = entry.recipes[FLAGS.recipe].changed(
        epochs=FLAGS.epochs,
        batch_size=FLAGS.batch_size,
        learning_rate=FLAGS.learning_rate,
        weight_decay=FLAGS.weight_decay,
        t_max=FLAGS.t_max,
        schedule=FLAGS.schedule,
        mixed_precision=FLAGS.mixed_precision,
    )
    output_dir = output_folder()
    strategy = training.make_strategy(FLAGS.strategy)
    images = data.load(recipe.data, FLAGS.data_dir, unreadable=FLAGS.unreadable)
    quantizers = {
        name: getattr(FLAGS, name)
        for name in ("kernel_quantizer", "input_quantizer")
        if getattr(FLAGS, name)
    }
    arguments = {"num_classes": images.num_classes, **quantizers}

    if FLAGS.mode == "evaluate":
        best = os.path.join(output_dir, "best.safetensors")
        weights = FLAGS.weights or (best if os.path.exists(best) else "pretrained")
        with strategy.scope():
            model = zoo.load(FLAGS.model, weights, **arguments)
        workers = training.Workers(strategy)
        with workers.noticing_loss():
            result = training.evaluate(model, images, strategy)
        if workers.is_chief:
            count = images.test.num_examples
            skipped = count - result["images"]
            print(
                f"{FLAGS.model}, {weights}: accuracy {result['accuracy']:.2%}, top-5 "
                f"{result['top5']:.2%}, loss {result['loss']:.4f} on "
                f"{f'{skipped} less than ' if skipped else ''}all {count} test images of "
                f"{images.name}"
            )
        return

    def build():
        model = zoo.load(FLAGS.model, FLAGS.weights, **arguments)
        if FLAGS.weights is None and recipe.residual_gamma != 1:
            scale_residual_branches(model, recipe.residual_gamma)
        return model

    result = training.train(
        build,
        images,
        recipe,
        output_dir,
        network=FLAGS.model,
        arguments={**entry.arguments, **arguments},
        strategy=strategy,
        seed=FLAGS.seed,
        ede=FLAGS.ede == "on",
        jit_compile=FLAGS.jit_compile,
        mixed_precision=recipe.mixed_precision,
        sync_batch_norm=FLAGS.sync_batch_norm,
        resume=FLAGS.resume,
        overwrite=FLAGS.overwrite,
        flags={flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(argv[0])},
    )
    if not training.Workers(strategy).is_chief:
        return
    final, best = result["final"], result["best"]
    print(
        f"{FLAGS.model} on {images.name}: test accuracy {final['accuracy']:.2%} after the last "
        f"epoch, best {best['accuracy']:.2%} in epoch {best['epoch'] + 1} of {recipe.epochs}; "
        f"{result['images_per_second']:.0f} images/s\n"
        f"curves, weights and logs are in {output_dir}"
    )


def output_folder():
    return FLAGS.output_dir or os.path.join("runs", FLAGS.model.replace("/", "_"))


def run(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        main(argv)
    except (ValueError, OSError) as error:
        sys.exit(f"train.py: {error}")
    except training.WorkerLost as error:
        start_again(error)


def start_again(error):
    """Join the cluster anew, and go on from the last checkpoint once all workers are back.

    Gives up when that has failed three times since the last checkpoint.
    """
    checkpoint = tf.train.latest_checkpoint(os.path.join(output_folder(), "checkpoints"))
    before, _, times = os.environ.get("IRNET_TF_RESTARTS", "").rpartition("|")
    times = int(times) + 1 if times and before == str(checkpoint) else 1
    if times > 3:
        sys.exit(f"train.py: lost another worker ({error}) 4 times since {checkpoint}; gave up")
    print(f"train.py: lost another worker ({error}); joining again", file=sys.stderr, flush=True)
    os.environ["IRNET_TF_RESTARTS"] = f"{checkpoint}|{times}"
    for descriptor in os.listdir("/proc/self/fd"):  # TensorFlow's ports among them
        with contextlib.suppress(OSError):
            os.set_inheritable(int(descriptor), int(descriptor) < 3)
    # Of a flag that is given twice the last one counts.
    os.execv(sys.executable, [sys.executable, *sys.argv, "--nooverwrite", "--resume"])


if __name__ == "__main__":
    app.run(run)
