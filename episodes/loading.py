"""Loads folders of episodes; damaged files are set aside, counted and named, so that a run goes on without them."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from episodes.episode import Episode, check_same_kind, load_episode, split_by_name, transitions_of
from tools.command_line import note
from tools.errors import UserError

FOLDER = "damaged"
NAMED = 10  # files in one message


class Loaded(NamedTuple):
    """What a replay starts with.

    Attributes:
        memory: the newest episodes up to the capacity, oldest first.
        files: the usable files of the folder, oldest first; those beyond the capacity were not opened.
    """

    memory: list[Episode]
    files: list[Path]


def load(directory: Path, offline: Path | None, capacity: int, damaged_share: float) -> Loaded:
    """Reads the newest episodes of a folder into memory, then those of the offline folder, which count as older.

    Raises:
        UserError: the offline folder has no usable episode, or too many files of a folder are damaged.
    """
    readers = [EpisodeReader(directory, damaged_share)]
    if offline:
        readers.append(EpisodeReader(offline, damaged_share, move=False))
        if not readers[-1].files:
            raise UserError(
                f"The offline folder {offline} has no episodes: make some with collect.py, or name another."
            )
    newest_first: list[Episode] = []
    entries = 0
    for reader, path in [(each, path) for each in readers for path in reversed(each.files)]:
        length = transitions_of(path) + 1
        if newest_first and entries + length > capacity:
            break
        episode = reader.read(path, newest_first[:1])
        if episode is not None:
            newest_first.append(episode)
            entries += length
    for reader in readers:  # all are looked at before anything is moved
        reader.check_share()
    if offline and not newest_first:
        raise UserError(f"The offline folder {offline} has no usable episode: repair its files, or name another.")
    for reader in readers:
        reader.set_aside()
    return Loaded(newest_first[::-1], readers[0].usable)


class EpisodeReader:
    """Reads the files of a folder and remembers which are damaged.

    Args:
        folder: of the episodes.
        share: how many of the files that were looked at may be damaged. One of a few may, unless this is 0.
        move: whether damaged files may be moved; otherwise they are passed over.

    Attributes:
        files: those that are named like episodes, oldest first.
        damaged: file -> what is wrong with it.
    """

    def __init__(self, folder: Path, share: float, move: bool = True) -> None:
        self._folder, self._share, self._move, self._whole = folder, share, move, 0
        self.files, others = split_by_name(folder)
        self.damaged = dict.fromkeys(others, "it is not named <time>-<id>-<transitions>.npz")

    @property
    def usable(self) -> list[Path]:
        """The files that are not known to be damaged, oldest first."""
        return [path for path in self.files if path not in self.damaged]

    def read(self, path: Path, like: Sequence[Episode] = ()) -> Episode | None:
        """An episode, None for a damaged one or one that is not of the kind of another."""
        try:
            episode = load_episode(path)
            for other in like:
                check_same_kind(other, episode)
        except (OSError, ValueError) as error:
            self.damaged[path] = str(error)
            return None
        self._whole += 1
        return episode

    def check_share(self) -> None:
        """Raises UserError if too many files are damaged."""
        if len(self.damaged) > max(self._share * (len(self.damaged) + self._whole), float(self._share > 0)):
            raise UserError(
                f"{self._count()} cannot be used, more than --damaged_share {self._share:g} allows: {self._words(1)}. "
                "Repair them, move them out of the folder, or allow a larger share; nothing was changed."
            )

    def set_aside(self) -> None:
        """Moves damaged files to the folder `damaged` beside the others, and names them."""
        if not self.damaged:
            return
        aside = self._folder / FOLDER
        if self._move:
            for path in self.damaged:
                _move(path, aside)
        place = f"set aside in {aside}" if self._move else "passed over"
        note(f"{self._count()} cannot be used and were {place}: {self._words(NAMED)}.")

    def _count(self) -> str:
        return f"{len(self.damaged)} of {len(self.damaged) + self._whole} episodes read in {self._folder}"

    def _words(self, most: int) -> str:
        words = [f"{path.name} ({reason})" for path, reason in sorted(self.damaged.items())]
        more = [f"and {len(words) - most} more"] if len(words) > most else []
        return ", ".join(words[:most] + more)


def _move(path: Path, folder: Path) -> None:
    """Moves a file into a folder, under another name where the name is taken. Raises UserError."""
    names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(1)))
    try:
        folder.mkdir(exist_ok=True)
        os.rename(path, next(free for name in names if not os.path.lexists(free := folder / name)))
    except OSError as error:
        raise UserError(
            f"The damaged {path} cannot be moved to {folder} ({error.strerror}): move it yourself."
        ) from error
