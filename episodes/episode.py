"""Episodes and their files.

Time alignment (an episode of T decisions has T + 1 entries):

    entry       0       1       2    ...    T
    action      0      a_1     a_2   ...   a_T      action[t] led to image[t]
    image      o_0     o_1     o_2   ...   o_T
    reward      0      r_1     r_2   ...   r_T      reward[t] came with image[t]
    cost       c_0     c_1     c_2   ...   c_T      cost[t] came with image[t]; optional
    discount    1       1       1    ...   0|1      0 only at a true terminal state, never at a time limit
    is_first  true   false   false   ...  false

Each episode is one file, named `<UTC time>-<unique id>-<transitions T>.npz`: names sort by age, and steps are counted
without opening files.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from episodes.archive import read_arrays
from tools.errors import UserError
from tools.files import expanded, replaced

Episode = dict[str, np.ndarray]


class Key(NamedTuple):
    """One array of an episode."""

    dtype: type
    axes: tuple[str, ...]  # of one entry; the time axis comes first
    required: bool = True
    in_batch: bool = True


KEYS = {
    "image": Key(np.uint8, ("height", "width", "3")),
    "action": Key(np.float32, ("size",)),  # within [-1, 1]
    "reward": Key(np.float32, ()),
    "discount": Key(np.float32, ()),
    "is_first": Key(np.bool_, ()),
    # Only if the environment provides them. Success is for evaluation, not for training.
    "state": Key(np.float32, ("size",), required=False),
    "success": Key(np.float32, (), required=False, in_batch=False),
    "cost": Key(np.float32, (), required=False),
}

# What a simulator may report, at every step or at some: see `envs`.
OUTCOMES = ("success", "cost")

_FILE_NAME = re.compile(r"(?P<time>\d{8}T\d{12})-[0-9a-f]{8}-(?P<transitions>\d{1,9})\.npz", re.ASCII)
_TIME_FORMAT = "%Y%m%dT%H%M%S%f"


def check_episode(episode: Mapping[str, np.ndarray]) -> None:
    """Check one episode against the conventions at the top of this file.

    Raises:
        ValueError: the first violated convention.
    """
    _check_keys(episode)
    for key in ("action", "reward", "discount", "state", "success", "cost"):
        if key not in episode:
            continue
        # A simulator may not know all of its state.
        bad = np.isinf(episode[key]) if key == "state" else ~np.isfinite(episode[key])
        if bad.any():
            first = int(np.argwhere(bad)[0, 0])
            raise ValueError(f"{key} is not finite at entry {first}")
    action, discount, is_first = episode["action"], episode["discount"], episode["is_first"]
    if np.abs(action).max(initial=0) > 1:
        raise ValueError(f"action leaves [-1, 1]: its largest absolute value is {np.abs(action).max():.6g}")
    if action[0].any():
        raise ValueError("action[0] must be zero, for no action led to the first image")
    if not is_first[0] or is_first[1:].any():
        raise ValueError("is_first must be true at entry 0 and nowhere else")
    if (discount < 0).any() or (discount > 1).any():
        raise ValueError("discount leaves [0, 1]")
    if (discount[:-1] == 0).any():
        raise ValueError("discount is 0 before the last entry, but a terminal state ends its episode")


def _check_keys(episode: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless keys, dtypes and shapes match `KEYS`, with one length of at least two."""
    missing = [name for name, key in KEYS.items() if key.required and name not in episode]
    unknown = sorted(set(episode) - set(KEYS))
    if missing or unknown:
        words = [f"{label} {', '.join(keys)}" for label, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise ValueError(f"wrong keys ({'; '.join(words)})")
    for name, value in episode.items():
        key = KEYS[name]
        if value.dtype != key.dtype:
            raise ValueError(f"{name} is {value.dtype} instead of {np.dtype(key.dtype)}")
        if value.ndim != 1 + len(key.axes) or (name == "image" and value.shape[-1] != 3):
            raise ValueError(f"{name} has shape {value.shape} instead of [{', '.join(('entries', *key.axes))}]")
    lengths = {key: len(value) for key, value in episode.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the numbers of entries differ ({', '.join(f'{key} {length}' for key, length in lengths.items())})"
        )
    if lengths["action"] < 2:
        raise ValueError("there is no transition (an episode needs at least two entries)")


def check_same_kind(reference: Episode, episode: Episode) -> None:
    """Check that two valid episodes can be in the same replay.

    Success and cost are 0 in an episode without them: simulators may report them at some steps only.

    Raises:
        ValueError: their other keys or the shapes of their entries differ.
    """
    own, others = (sorted(set(one).difference(OUTCOMES)) for one in (episode, reference))
    if own != others:
        raise ValueError(f"its keys are {', '.join(own)}, those of the others {', '.join(others)}")
    for key in own:
        value = episode[key]
        if value.shape[1:] != reference[key].shape[1:]:
            raise ValueError(f"{key} has shape {value.shape[1:]} an entry, {reference[key].shape[1:]} in the others")


def episode_files(directory: str | os.PathLike) -> list[Path]:
    """The episode files of a folder, oldest first. Raises UserError for an .npz with another kind of name."""
    named, others = split_by_name(directory)
    for path in others:
        raise UserError(
            f"{path} is not named like an episode (<time>-<id>-<transitions>.npz); move it out of the replay folder."
        )
    return named


def split_by_name(directory: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """The .npz files of a folder that are named like episodes, oldest first, and the others."""
    paths = sorted(path for path in expanded(directory).glob("*") if path.suffix.lower() == ".npz")
    named = [path for path in paths if _parse_name(path)]
    return named, sorted(set(paths) - set(named))


def read_episode(path: str | os.PathLike) -> Episode:
    """Reads one episode. Raises UserError if the file is not a valid episode."""
    try:
        return load_episode(Path(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a usable episode: {error}. Move it out of the replay folder; nothing was deleted."
        ) from error


def load_episode(path: Path) -> Episode:
    """Reads one episode.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a valid episode.
    """
    episode = read_arrays(path)
    check_episode(episode)
    if len(episode["action"]) != transitions_of(path) + 1:
        raise ValueError(f"it has {len(episode['action']) - 1} transitions, its name says {transitions_of(path)}")
    return episode


def transitions_of(path: Path) -> int:
    """How many transitions the name of an episode file says it has. Raises ValueError for another kind of name."""
    return int(_parsed(path)["transitions"])


def time_of(path: Path) -> str:
    """The time in the name of an episode file. Raises ValueError for another kind of name."""
    return _parsed(path)["time"]


def _parsed(path: Path) -> re.Match[str]:
    if match := _parse_name(path):
        return match
    raise ValueError("it is not named <time>-<id>-<transitions>.npz")


def _parse_name(path: Path) -> re.Match[str] | None:
    """The groups "time" and "transitions" of an episode file's name."""
    match = _FILE_NAME.fullmatch(path.name)
    with contextlib.suppress(ValueError):  # digits that are not a time; the last year leaves none for the next file
        if match and match["time"] < "9999" and datetime.datetime.strptime(match["time"], _TIME_FORMAT):
            return match
    return None


def time_after(newest: str) -> str:
    """The time for a new file name, always later than the newest: names sort in order even if the clock jumps."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    if newest:
        now = max(now, datetime.datetime.strptime(newest, _TIME_FORMAT) + datetime.timedelta(microseconds=1))
    return now.strftime(_TIME_FORMAT)


def write_episode(path: Path, episode: Episode) -> None:
    """Write one episode; a reader sees the whole file or none."""
    with replaced(path, "wb") as file:
        np.savez_compressed(file, **episode)  # type: ignore[arg-type]  # mypy takes it for allow_pickle
