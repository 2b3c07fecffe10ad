"""Train or evaluate a network of the zoo.

    python train.py                                   # digits, embedded, minutes
    python train.py --model=cifar10/resnet20_bireal_1w1a --data_dir=D --output_dir=O
    python train.py --mode=evaluate --output_dir=O    # a run, as its config.json describes it
    python train.py --mode=evaluate --model=cifar10/resnet20_bireal_1w1a --data_dir=D

A run that was stopped is resumed when the same command is given again. Every field of a recipe
and every argument of a network is a flag of its own name; what is not given is the recipe's.
"""

import os
from pathlib import Path
import sys

__drops_chatter__ = True  # of TensorFlow: irnet_tf looks for it when it is imported

from absl import app, flags, logging
import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import data, evaluation, training
from irnet_tf.model_config import classes_of
from irnet_tf.training import flags as flags_of
from irnet_tf.training.distribute import STRATEGIES
from irnet_tf.training.run_dir import RunDir
from irnet_tf.training.saved_run import read_run
from irnet_tf.training.workers import has_workers
import zoo
from zoo.loading import find_model_config

FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")
flags.DEFINE_string("model", "digits/resnet20_bireal_1w1a", "a name of zoo.list_models()")
flags.DEFINE_string("recipe", "paper", "which of the network's recipes, such as paper or fast")
flags.DEFINE_string("data_dir", None, "where the data is; a folder with train/CLASS/* is your own")
flags.DEFINE_float("validation_split", None, "share of each class to test on, if none is set aside")
flags.DEFINE_string("output_dir", None, "the run folder; runs/MODEL if not given")
flags.DEFINE_integer("seed", 0, "of initial weights, order and augmentation")
flags.DEFINE_enum("strategy", "auto", STRATEGIES, "which devices share the work")
flags.DEFINE_bool(
    "sync_batch_norm", False, "batch norm over all devices; the authors' is over each by itself"
)
flags.DEFINE_bool("jit_compile", False, "compile the step with XLA: faster on GPUs, not on CPUs")
flags.DEFINE_enum("ede", "on", ["on", "off"], "whether EDE's t grows; off: it stays at its start")
flags.DEFINE_bool("log_details", False, "flip ratio, gradient norm and histogram of each layer")
flags.DEFINE_bool("resume", True, "resume a run that is in output_dir")
flags.DEFINE_bool("overwrite", False, "delete a run that is in output_dir")
flags.DEFINE_string(
    "weights",
    None,
    "weights file, or 'pretrained': to begin with, or to evaluate; a run's best.safetensors if an "
    "evaluation is not given any. A file that is evaluated says of which network and data it is",
)
OWN = [flag.name for flag in FLAGS.get_key_flags_for_module(__name__)]
RECIPE = flags_of.define_recipe_flags(FLAGS)
NETWORK = flags_of.define_builder_flags(FLAGS, taken=RECIPE)
flags.adopt_module_key_flags(flags_of)


def main(argv):
    given = flags_of.given(FLAGS, [*OWN, *RECIPE, *NETWORK])
    flags_of.check(argv, given)
    file = FLAGS.mode == "evaluate" and FLAGS.weights not in (None, "pretrained")
    alone = file and not FLAGS["model"].present
    folder = RunDir(output_dir())
    its = file and Path(FLAGS.weights).resolve().parent == folder.path.resolve()
    its = its and folder.config.exists()
    if FLAGS.mode == "evaluate" and (FLAGS.output_dir or its or not FLAGS.weights):
        past = read_run(folder.path, needs_best=not FLAGS.weights)
        if past is not None:
            return evaluate_run(past)
        if FLAGS.output_dir and not (FLAGS["model"].present or FLAGS.weights):
            raise ValueError(f"output_dir {output_dir()!r} holds no run; which model is meant?")
    name, said = of_file(FLAGS.weights) if alone else (FLAGS.model, {})
    entry = zoo.info(name)
    recipe = flags_of.choose_recipe(FLAGS.recipe, entry.recipes)
    recipe = flags_of.replace(recipe, {**said, **flags_of.given(FLAGS, RECIPE)})
    arguments = flags_of.given(FLAGS, NETWORK)
    flags_of.check_network(name, entry.builder, arguments)
    folder.check_path()
    strategy = training.make_strategy(FLAGS.strategy)
    evaluating = FLAGS.mode == "evaluate"
    weights = FLAGS.weights or ("pretrained" if evaluating else None)
    images = open_all(
        strategy,
        name,
        weights,
        recipe.data,
        FLAGS.data_dir,
        validation_split=FLAGS.validation_split,
    )
    if evaluating:
        return evaluate(entry, recipe, arguments, images, strategy, weights)

    arguments = {"num_classes": images.num_classes, **arguments}
    result = training.train(
        lambda: zoo.load(name, weights, **arguments),
        images,
        recipe,
        output_dir(),
        strategy=strategy,
        seed=FLAGS.seed,
        ede=FLAGS.ede == "on",
        jit_compile=FLAGS.jit_compile,
        sync_batch_norm=FLAGS.sync_batch_norm,
        resume=FLAGS.resume,
        overwrite=FLAGS.overwrite,
        flags=given,
        log_details=FLAGS.log_details,
    )
    if training.is_chief(strategy):
        final, best = result["final"], result["best"]
        print(
            f"{FLAGS.model} on {images.name}: test accuracy {final['accuracy']:.2%} after the last "
            f"epoch, best {best['accuracy']:.2%} in epoch {best['epoch']} of {recipe.epochs}; "
            f"{result['images_per_second']:.0f} images/s\n"
            f"curves, weights and logs are in {output_dir()}"
        )


def open_all(strategy, network, weights, name, data_dir, **how):
    """The data. It and weights of ours can be read by all workers, or all stop.

    Args:
        data_dir: where it is, or a function that says where.
    """

    def read():
        if weights is not None:
            find_model_config(network if weights == "pretrained" else Path(weights))
        return data.load(name, data_dir() if callable(data_dir) else data_dir, **how)

    with training.stop_all_workers(strategy, RunDir(output_dir()).reason):
        return training.on_all_workers(strategy, read)


def of_file(path):
    """The name of a weights file's network, and the data it was trained on, as a recipe has it."""
    known = find_model_config(path)
    if known.network is None:
        raise ValueError(
            f"weights {path!r} do not name a network of the zoo; which model is meant?"
        )
    return known.network, {k: v for k, v in (known.recipe or {}).items() if k == "data"}


def evaluate_run(past):
    """The weights of a run, on its own data; flags that say otherwise are refused."""
    past.check({name: FLAGS[name].value for name in FLAGS if FLAGS[name].present})
    recipe = past.recipe
    if FLAGS.mixed_precision:
        recipe = flags_of.replace(recipe, {"mixed_precision": FLAGS.mixed_precision})
    strategy = training.make_strategy(FLAGS.strategy)
    weights = FLAGS.weights or RunDir(output_dir()).best
    images = open_all(
        strategy,
        past.identity["network"],
        weights,
        recipe.data,
        lambda: past.data_dir(FLAGS.data_dir),
        validation_split=past.flags.get("validation_split"),
    )
    try:
        images.check_classes(past.identity["data"]["classes"])
    except ValueError as error:
        raise ValueError(f"{output_dir()!r} holds a run; {error}") from error
    evaluate(
        zoo.info(past.identity["network"]),
        recipe,
        past.identity["arguments"],
        images,
        strategy,
        weights,
    )


def evaluate(entry, recipe, arguments, images, strategy, weights):
    """The weights on the data, whose classes must be those that the network was trained on."""
    # With another number of classes zoo.load makes a new, random classifier.
    arguments = {k: v for k, v in arguments.items() if k != "num_classes"}
    with (
        training.global_state(FLAGS.seed, recipe.mixed_precision),
        strategy.scope(),
        training.stop_all_workers(strategy, RunDir(output_dir()).reason),
    ):
        model = zoo.load(entry.name, weights, **arguments)
        images.check_classes(classes_of(model))
        result = evaluation.evaluate(model, images)
    if training.is_chief(strategy):
        count = images.test.num_examples
        top5 = f", top-5 {result['top5']:.2%}" if images.num_classes > 5 else ""
        print(
            f"{entry.name}, {weights}: accuracy {result['accuracy']:.2%}{top5}, loss "
            f"{result['loss']:.4f} on all {count} "
            f"test images of {images.name.removeprefix('images of ')}"
        )
        if FLAGS.output_dir and not has_workers(strategy):
            folder = os.path.join(output_dir(), "evaluation")
            evaluation.report(model, images, folder, title=entry.name)
            print(f"classes, confusion, calibration and worst mistakes are in {folder}")


def output_dir():
    return FLAGS.output_dir or os.path.join("runs", FLAGS.model.replace("/", "_"))


def run(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        main(argv)
    except (ValueError, OSError, training.WorkerLost) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    app.run(run)
