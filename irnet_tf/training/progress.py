"""What a run says in the terminal: an opening summary, a bar or lines in a log, epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import os
import sys
import time

from irnet_tf.model_config import get_model_config
import tensorflow as tf
from tqdm import tqdm


class Progress:
    """A bar where there is a terminal; a line now and then where the output goes elsewhere.

    Args:
        epochs, steps: how many there are, of steps in an epoch.
        quiet: whether to say nothing.
    """

    def __init__(self, epochs: int, steps: int, quiet: bool):
        self._epochs = epochs
        self._steps = steps
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._pause = float(os.environ.get("TQDM_MININTERVAL", 1 if self._terminal else 30))

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    @contextlib.contextmanager
    def epoch(self, number: int, first_step: int) -> Iterator[None]:
        """Within it steps are counted, of the epoch of this number from 1."""
        self._number = number
        self._shown = time.perf_counter()
        self._bar = tqdm(
            total=self._steps,
            initial=first_step,
            desc=f"epoch {number}/{self._epochs}",
            unit="step",
            leave=False,
            disable=self._quiet or not self._terminal,
            postfix="compiling" if not hasattr(self, "_compiled") else "",
        )
        with self._bar:
            yield

    def after_step(self, step: int, logs: dict, check_loss: Callable[[float], None]) -> None:
        """Show the loss of the epoch so far now and then, having checked it."""
        first = not hasattr(self, "_compiled")
        self._compiled = True
        self._bar.update()
        now = time.perf_counter()
        if not first and now - self._shown < self._pause:
            return
        self._shown = now
        loss, accuracy = float(logs["loss"]), float(logs["accuracy"])
        check_loss(loss)
        so_far = f"loss {loss:.3f}, accuracy {accuracy:.1%}"
        if self._terminal:
            self._bar.set_postfix_str(so_far)
        elif not self._quiet and not first:
            print(
                f"epoch {self._number}/{self._epochs}: step {step}/{self._steps}, {so_far}",
                file=sys.stderr,
                flush=True,
            )


def opening(
    *, model, data, recipe, options, preprocessing, folder, initialized_from, resumed
) -> str:
    """A run in a few lines, at its beginning."""
    description = get_model_config(model)
    network = (description and description.network) or model.name
    arguments = description.arguments if description else {}
    bits = [f"{arguments.get(f'{what}_bits', 1)}-bit {what}s" for what in ("weight", "activation")]
    parameters = sum(int(tf.size(v)) for v in model.trainable_variables)
    strategy = model.distribute_strategy
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    devices = f"{strategy.num_replicas_in_sync} {kind}" + "s" * (strategy.num_replicas_in_sync > 1)
    precision = recipe.mixed_precision or tf.keras.backend.floatx()
    rate = f"{recipe.lr_schedule} from {recipe.learning_rate:g}"
    lines = [
        ("network", f"{network}: {', '.join(bits)}, {parameters:,} parameters"),
        ("data", f"{data.name}: {data.train.num_examples} images to train on, "
                 f"{data.test.num_examples} to test, {data.num_classes} classes"),
        ("images", str(preprocessing)),
        ("recipe", f"{recipe.epochs} epochs, batch {recipe.batch_size}, rate {rate}, decay "
                   f"{recipe.weight_decay:g}, t {recipe.t_min:g} to {recipe.t_max:g}, "
                   f"augmentation {recipe.augmentation}"),
        ("begins", f"with weights {initialized_from[:14]}" if initialized_from  # a digest, or whose
                   else f"with random weights, seed {options.seed}"),
        ("devices", f"{devices}, {precision}{', XLA' if options.jit_compile else ''}"),
        ("folder", str(folder)),
    ]  # fmt: skip
    share = recipe.batch_size // strategy.num_replicas_in_sync
    if strategy.num_replicas_in_sync > 1 and share < 16 and not options.sync_batch_norm:
        lines.append(
            ("note", f"batch norm sees {share} images a device: give a larger batch_size, fewer "
                     "devices, or sync_batch_norm")
        )  # fmt: skip
    text = "\n".join(f"{name:<8} {value}" for name, value in lines)
    epoch, step = resumed
    if epoch == recipe.epochs:
        return f"{text}\nthe run in {folder} is finished; overwrite trains it anew"
    if epoch or step:
        return f"{text}\nresumed after epoch {epoch} of {recipe.epochs}, step {step}"
    return text


def in_words(row: dict, epochs: int) -> str:
    """A row of metrics.csv."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, train "
        f"{row['train_accuracy']:.2%}, test {row['test_accuracy']:.2%}, "
        f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
    )
