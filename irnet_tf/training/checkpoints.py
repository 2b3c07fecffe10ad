"""The last states of a run on disk: each appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import sys

from irnet_tf._utils import write_atomically
import tensorflow as tf

_KEPT = 3
_ROWS = "rows/.ATTRIBUTES/VARIABLE_VALUE"


class Checkpoints:
    """Files `ckpt-1.index`, `ckpt-1.data-00000-of-00001`, ... in a folder; the last three stay.

    A checkpoint is written in a folder of its own and renamed, the index last, so that one that
    has an index is complete. `checkpoint`, the file that `tf.train.latest_checkpoint` reads, is
    written for others; nothing is read from it here.

    Args:
        folder: where they are; made when the first is saved.
        objects: what is saved, by name; `rows`, a string variable, is missing in old ones.
    """

    def __init__(self, folder: str | os.PathLike, **objects):
        self.folder = Path(folder)
        self._objects = objects
        self._checkpoint = tf.train.Checkpoint(**objects)
        self._number = self._checkpoint.save_counter  # made by being read

    def finished(self) -> list[Path]:
        """Paths without suffix of those that are complete, the oldest first."""
        paths = [
            path.with_suffix("")
            for path in self.folder.glob("ckpt-*.index")
            if path.name[5:-6].isdecimal() and path.stat().st_size
        ]
        return sorted(paths, key=_number)

    def last(self) -> str:
        """Which is the last one, in words."""
        good = self.finished()
        return f"the last checkpoint is {good[-1]}" if good else "there is no checkpoint before"

    def restore(self) -> bool:
        """From the last one that can be read; a damaged one is passed over, with a warning.

        Returns:
            Whether there was one.

        Raises:
            ValueError: if there are some but none can be read, or they are of another network.
        """
        paths = self.finished()
        for path in reversed(paths):
            try:
                self._restore(str(path))
                return True
            except (tf.errors.OpError, IndexError) as error:
                reason = str(error).splitlines()[0]
                print(f"cannot read the checkpoint {path} ({reason})", file=sys.stderr)
            except (AssertionError, ValueError) as error:
                raise ValueError(
                    f"the checkpoint {path} is of another network or of another training; choose "
                    "another output_dir, or delete this run with overwrite"
                ) from error
        if paths:
            raise ValueError(
                f"none of the checkpoints in {self.folder} can be read; overwrite trains anew"
            )
        return False

    def number_from(self, other: Checkpoints) -> None:
        """Count on from what the other has restored."""
        self._number.assign(other._number)

    def _restore(self, path):
        objects = self._objects
        if not tf.train.load_checkpoint(path).has_tensor(_ROWS):  # made before rows were kept
            objects = {name: value for name, value in objects.items() if name != "rows"}
        checkpoint = tf.train.Checkpoint(**objects)
        status = checkpoint.restore(path)
        status.expect_partial()  # no warnings; what is left over is an error
        status.assert_consumed()
        self._number.assign(checkpoint.save_counter)

    def save(self) -> None:
        """Save one, and delete what is too old. All workers must call it.

        Raises:
            OSError, tf.errors.OpError: if that fails; what is left of it is deleted.
        """
        self._number.assign_add(1)
        name = f"ckpt-{int(self._number)}"
        aside = self.folder / "unfinished"
        aside.mkdir(parents=True, exist_ok=True)
        try:
            self._checkpoint.write(str(aside / name))
            # The data before the index, which says that they are there.
            for path in sorted(aside.glob(f"{name}.*"), key=lambda path: path.suffix == ".index"):
                _flush(path)
                os.replace(path, self.folder / path.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.tidy()
        last = [path.name for path in self.finished()]
        listed = "".join(f'all_model_checkpoint_paths: "{name}"\n' for name in last)
        write_atomically(
            self.folder / "checkpoint", f'model_checkpoint_path: "{last[-1]}"\n{listed}'
        )

    def tidy(self) -> None:
        """Delete all but the last three, and what killed runs left unfinished."""
        if not self.folder.is_dir():
            return
        kept = {path.name for path in self.finished()[-_KEPT:]}
        for path in self.folder.iterdir():
            ours = path.name.startswith(("ckpt-", ".checkpoint.", "checkpoint.tmp"))
            if path.name == "unfinished" or (ours and path.name.split(".")[0] not in kept):
                _remove(path)

    def delete(self) -> None:
        """Delete all of them; other files stay, and then the folder does."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name.startswith(("ckpt-", ".checkpoint.")) or path.name in (
                    "checkpoint",
                    "unfinished",
                ):
                    _remove(path)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _number(path: Path) -> int:
    return int(path.name.removeprefix("ckpt-"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """To the disk, so that a crash of the machine does not leave an empty file of this name."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
