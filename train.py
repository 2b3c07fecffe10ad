"""Train or evaluate a network of the zoo.

    python train.py                                   # scikit-learn's digits, minutes
    python train.py --model=cifar10/resnet20_bireal_1w1a --data_dir=D --output_dir=O
    python train.py --weights=pretrained --model=cifar10/resnet20_bireal_1w1a --data_dir=MY_IMAGES
    python train.py --mode=evaluate --output_dir=O
    python train.py --mode=evaluate --weights=FILE --data_dir=D

The same command resumes a run that was stopped. Defaults are in brackets.
"""

import os
from pathlib import Path
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; train() handles Ctrl-C itself
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("starting TensorFlow ...", file=sys.stderr, flush=True)

from absl import app, flags, logging
import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import data, evaluation, training
from irnet_tf.model_config import check_arguments, classes_of
from irnet_tf.training import flags as flags_of
from irnet_tf.training.run_dir import RunDir
import zoo
from zoo.loading import find_model_config

FLAGS = flags.FLAGS
flags_of.define()


def output_dir():
    return FLAGS.output_dir or os.path.join("runs", FLAGS.model.replace("/", "_"))


def network_of(weights):
    """The network's name, and the arguments with which `zoo.load` finds its weights."""
    if weights in (None, "pretrained") or FLAGS["model"].present:
        return FLAGS.model, (FLAGS.model, weights)
    if name := find_model_config(weights).network:
        return name, (weights,)
    raise ValueError(f"{weights!r} does not name a network of the zoo; give --model")


def load_data(strategy, *arguments, **split):
    return training.on_all_workers(strategy, lambda: data.load(*arguments, **split))


def train(strategy):
    name, source = network_of(FLAGS.weights)
    entry = zoo.info(name)
    recipe = flags_of.make_recipe(entry.recipes, FLAGS)
    arguments = flags_of.given(FLAGS, flags_of.NETWORK)
    check_arguments(name, entry.builder, arguments)
    split = {"validation_split": FLAGS.validation_split}
    images = load_data(strategy, recipe.data, FLAGS.data_dir, **split)
    arguments = {"num_classes": images.num_classes, **arguments}
    result = training.train(
        lambda: zoo.load(*source, **arguments),
        images,
        recipe,
        output_dir(),
        strategy=strategy,
        ede=FLAGS.ede == "on",
        flags=flags_of.given(FLAGS, flags_of.NAMES),
        **{name: FLAGS[name].value for name in flags_of.OPTIONS},
    )
    if training.is_chief(strategy):
        final, best = result["final"], result["best"]
        print(
            f"{name} on {images.name}: test accuracy {final['accuracy']:.2%} after the last epoch, "
            f"best {best['accuracy']:.2%} in epoch {best['epoch']} of {recipe.epochs}; "
            f"{result['images_per_second']:.0f} images/s\n"
            f"weights, curves and logs are in {output_dir()}"
        )


def evaluate(strategy):
    run, weights = RunDir(output_dir()), FLAGS.weights
    if not weights and run.config.exists():
        weights = str(run.best)
        if not run.best.exists():
            raise ValueError(f"{output_dir()!r} has no {run.best.name}: no epoch has finished")
    elif not weights and not FLAGS["model"].present:
        raise ValueError(f"{output_dir()!r} holds no run; give --output_dir, --model or --weights")
    weights = weights or "pretrained"
    name, source = network_of(weights)
    trained = weights != "pretrained"
    recipe = find_model_config(weights if trained else name).recipe or {}
    run = RunDir(Path(weights).parent)
    run_flags = run.read_config()["flags"] if trained and run.config.exists() else {}
    split = FLAGS.validation_split or run_flags.get("validation_split")
    images = load_data(
        strategy,
        FLAGS.data or recipe.get("data") or zoo.info(name).recipe.data,
        FLAGS.data_dir or run_flags.get("data_dir"),
        validation_split=split,
    )
    arguments = flags_of.given(FLAGS, flags_of.NETWORK)
    arguments.pop("num_classes", None)  # another number would make a new, random classifier
    precision = None if FLAGS.mixed_precision == "none" else FLAGS.mixed_precision
    with training.global_state(FLAGS.seed, precision), strategy.scope():
        model = zoo.load(*source, **arguments)
        images.check_classes(classes_of(model))
        result = evaluation.evaluate(model, images)
    if training.is_chief(strategy):
        top5 = f", top-5 {result['top5']:.2%}" if images.num_classes > 5 else ""
        print(
            f"{name}, {weights}: accuracy {result['accuracy']:.2%}{top5}, loss "
            f"{result['loss']:.4f} on all {result['images']} test images of "
            f"{images.name.removeprefix('images of ')}, {precision or 'float32'}"
        )
    if FLAGS.output_dir and strategy.num_replicas_in_sync == 1:
        folder = os.path.join(output_dir(), "evaluation")
        evaluation.report(model, images, folder, title=name)
        print(f"confusion matrix, calibration and misclassified images are in {folder}")


def main(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        flags_of.check(FLAGS, argv)
        strategy = training.make_strategy(FLAGS.strategy)
        with training.stop_all_workers(strategy, RunDir(output_dir()).reason):
            evaluate(strategy) if FLAGS.mode == "evaluate" else train(strategy)
    except (ValueError, OSError, training.WorkerLost) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    if {"-h", "--help", "--helpfull"} & set(sys.argv):
        print(__doc__ + flags_of.help_text())
    else:
        app.run(main)
