"""The checkpoint files in a folder. The newest complete one is restored.

    checkpoint                             names the newest, for TensorFlow's tools
    ckpt-3.index, ckpt-3.data-...          weights, counters and random streams
    ckpt-3.npz                             what the run is in the middle of (`checkpoints.py`)
    damaged/                               checkpoints that could not be read
    unnamed/                               those that a kill left before the index named them

Without a usable index, the numbers say which checkpoint is the newest.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format

from tools.command_line import note
from tools.errors import UserError
from tools.files import replaced
from training.optimizer_state import as_saved, own_rates

INDEX = "checkpoint"
_NUMBERED = re.compile(r"ckpt-(\d+)\.index")
_NEWEST = re.compile(rb'^model_checkpoint_path: "(?:[^"]*/)?([^"/]+)"', re.MULTILINE)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the lines, one per variable, that TensorFlow logs when a refused checkpoint is deleted."""
    message = record.getMessage()
    return "unrestored values" not in message and "could not be found in the restored object" not in message


tf.get_logger().addFilter(_is_news)


def saved_checkpoints(folder: Path) -> list[str]:
    """The paths without suffix of the checkpoints in a folder, the newest first, with or without a usable index.

    Raises:
        UserError: a file is in the place of the folder, or the index is not a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file in the place of the folder of checkpoints: move it away.")
    numbers = [int(match[1]) for path in folder.glob("ckpt-*") if (match := _NUMBERED.fullmatch(path.name))]
    names = [f"ckpt-{number}" for number in sorted(numbers, reverse=True)]
    named = _named(folder)
    return [str(folder / name) for name in sorted(names, key=lambda name: name != named)]


def _named(folder: Path) -> str | None:
    """The checkpoint that the index names as the newest; None without an index or in one that is damaged."""
    index = folder / INDEX
    if index.exists() and not index.is_file():
        raise UserError(f"{index} is not a file, which should name the newest checkpoint: move it away.")
    match = _NEWEST.search(index.read_bytes()) if index.exists() else None
    return match[1].decode(errors="replace") if match else None


def restore_newest(
    checkpoint: tf.train.Checkpoint, folder: Path, partial: bool = False, or_older: bool = True
) -> str | None:
    """Restores the newest checkpoint in a folder and returns its path; None if there is none.

    Args:
        checkpoint: the objects by name.
        folder: where checkpoints were saved.
        partial: see `restore`.
        or_older: whether an older one is used, with a note, if the newest is damaged.

    Raises:
        UserError: no checkpoint could be restored, or see `saved_checkpoints`.
    """
    paths = saved_checkpoints(folder)
    if paths and Path(paths[0]).name != _named(folder):
        newest = Path(paths[0]).name
        note(f"{folder / INDEX} names none of the checkpoints beside it, so {newest} is taken as the newest.")
    failures = []
    for path in paths:
        try:
            restore(checkpoint, path, partial)
        except UserError as error:
            failures.append(error)
            if or_older:
                continue
            break
        if failures:
            note(f"{paths[0]} is damaged, so {Path(path).name} beside it is used.")
        return path
    if failures:
        raise failures[0]
    return None


def restore(checkpoint: tf.train.Checkpoint, path: str, partial: bool = False) -> None:
    """Restores objects from a checkpoint file that must contain all of them, whatever its precision.

    Learning rates stay as they are.

    Args:
        checkpoint: the objects by name.
        path: the file, without its suffix.
        partial: whether the file may contain other objects, too.

    Raises:
        UserError: the file is damaged or was made with another configuration.
    """
    try:
        names = _read_all(path)
        with own_rates(checkpoint), as_saved(checkpoint, names):
            status = checkpoint.restore(path)
            if partial:
                status.expect_partial().assert_existing_objects_matched()
            else:
                status.assert_existing_objects_matched().assert_consumed()
    except (AssertionError, IndexError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"The checkpoint {path} does not fit this configuration or is damaged "
            f"({str(error).splitlines()[0][:200]}): "
            "start with the configuration that made it, or choose another log directory."
        ) from error


def open_checkpoint(path: str) -> Any:
    """A reader of a checkpoint. Raises an error of TensorFlow's, or a ValueError if one of the files is not a file."""
    for file in Path(path).parent.glob(f"{Path(path).name}.*"):
        if not file.is_file():  # reading a pipe would wait
            raise ValueError(f"{file.name} is not a file")
    return tf.train.load_checkpoint(path)


def _read_all(path: str) -> list[str]:
    """Reads a checkpoint and returns the names in it.

    If it is damaged, this raises an error: then nothing was restored, not even a part of it.
    """
    reader = open_checkpoint(path)
    names = list(reader.get_variable_to_shape_map())
    for name in names:
        reader.get_tensor(name)
    return names


def tidy(folder: Path, newest: str) -> None:
    """Makes a checkpoint the newest one, also for a reader without the index.

    Those that were tried before it go to `damaged/`, others with a higher number to `unnamed/`.
    """
    paths = saved_checkpoints(folder)
    bad = paths[: paths.index(newest)]
    later = [path for path in paths if path not in bad and _number(path) > _number(newest)]
    _put_away(bad, folder / "damaged")
    _put_away(later, folder / "unnamed")
    if _named(folder) == Path(newest).name:
        return
    kept = [Path(path) for path in reversed(paths) if path not in (*bad, *later)]
    # Without times, TensorFlow's manager would not delete them later.
    times = [path.with_name(f"{path.name}.index").stat().st_mtime for path in kept]
    state = tf.compat.v1.train.generate_checkpoint_state_proto(
        str(folder), Path(newest).name, [path.name for path in kept], all_model_checkpoint_timestamps=times
    )
    with replaced(folder / INDEX) as file:  # TensorFlow's own function for this is deprecated and says so
        file.write(text_format.MessageToString(state))


def _number(path: str) -> int:
    return int(path.rpartition("-")[2])


def _put_away(paths: Sequence[str], folder: Path) -> None:
    """Moves the files of checkpoints to another folder."""
    for path in paths:
        folder.mkdir(exist_ok=True)
        for file in folder.parent.glob(f"{Path(path).name}.*"):
            file.replace(folder / file.name)
