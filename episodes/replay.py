"""Experience on disk and in memory: whole episodes in compressed files, chunks of them for training.

Time alignment (an episode of T agent steps has T + 1 entries):

    entry       0       1       2    ...    T
    action      0      a_1     a_2   ...   a_T      action[t] led to image[t]
    image      o_0     o_1     o_2   ...   o_T
    reward      0      r_1     r_2   ...   r_T      reward[t] came with image[t]
    cost       c_0     c_1     c_2   ...   c_T      cost[t] came with image[t]; optional
    discount    1       1       1    ...   0|1      0 only at a true terminal state, never at a time limit
    is_first  true   false   false   ...  false

One file an episode, named `<UTC time>-<unique id>-<transitions T>.npz`, so that names sort by age and steps are counted
without opening files.
"""

import datetime
import os
import re
import secrets
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tools.errors import UserError
from tools.files import replaced

if TYPE_CHECKING:
    import tensorflow as tf

Episode = dict[str, np.ndarray]


class Key(NamedTuple):
    """What an episode stores under one name."""

    dtype: type
    axes: tuple[str, ...]  # of one entry; the entries come before them
    required: bool = True
    in_batch: bool = True


KEYS = {
    "image": Key(np.uint8, ("height", "width", "3")),
    "action": Key(np.float32, ("size",)),  # within [-1, 1]
    "reward": Key(np.float32, ()),
    "discount": Key(np.float32, ()),
    "is_first": Key(np.bool_, ()),
    "state": Key(np.float32, ("size",), required=False),  # where the simulator has one
    "success": Key(
        np.float32, (), required=False, in_batch=False
    ),  # where the environment knows it; for diagnosis only
    "cost": Key(np.float32, (), required=False),  # where the environment reports one
}

PREFETCH = 4  # batches; at 50 x 50 images of 64 x 64 one batch is 31 MB

_FILE_NAME = re.compile(r"(?P<time>\d{8}T\d{12})-[0-9a-f]{8}-(?P<transitions>\d+)\.npz")
_TIME_FORMAT = "%Y%m%dT%H%M%S%f"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Replay:
    """Episodes in a folder, the newest of them in memory, sampled in chunks for training.

    Sampling may run in one thread while another adds episodes. Two processes may write to one folder; each knows the
    other's episodes only from its next start on.

    Args:
        directory: folder of the episode files; created when missing.
        batch_size: chunks a batch, B.
        batch_length: entries a chunk, L.
        capacity: entries kept in memory (a 64 x 64 image takes 12.3 kB); above it the oldest episodes leave memory,
            never the disk. The newest episode always stays.
        seed: of the sampling.
        offline: folder of episodes that were collected before and count as the oldest ones in memory; they are only
            read, and neither `steps` nor `episodes` counts them.

    Raises:
        UserError: for an unusable setting, an offline folder without episodes, and for an episode file that is corrupt
            or differs in its keys or shapes from the newest one. Nothing is deleted.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        batch_size: int,
        batch_length: int,
        capacity: int,
        seed: int,
        offline: str | os.PathLike | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("batch_length", batch_length), ("capacity", capacity)):
            if value < 1:
                raise UserError(f"{name} is {value}, but the replay needs at least 1; set it higher.")
        self.directory = Path(directory)
        self.batch_size = batch_size
        self.batch_length = batch_length
        self.capacity = capacity
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._memory: deque[Episode] = deque()  # oldest first
        self._ends = np.zeros(0, np.int64)  # cumulative lengths of the episodes in memory
        self._episodes = 0
        self._steps = 0
        self._newest = ""  # time in the newest file name
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The replay folder {directory} cannot be made ({error}); choose another log directory."
            ) from error
        self._load(Path(offline) if offline else None)

    @property
    def steps(self) -> int:
        """Agent transitions on disk: the sum of (entries - 1) over all episodes, those dropped from memory included."""
        return self._steps

    @property
    def episodes(self) -> int:
        """Episodes on disk, those dropped from memory included."""
        return self._episodes

    @property
    def entries(self) -> int:
        """Entries in memory, at most `capacity` unless one episode alone is longer."""
        ends = self._ends
        return int(ends[-1]) if len(ends) else 0

    @property
    def memory(self) -> tuple[Episode, ...]:
        """The episodes in memory, oldest first; not to be changed."""
        return tuple(self._memory)

    @property
    def random_state(self) -> dict[str, Any]:
        """State of the sampling generator, ready for JSON.

        Setting it back makes `sample` go on exactly where it was. Through `dataset` a resumed run is not exact: the
        generator is ahead by the prefetched batches (`PREFETCH`, and one in the making), which a resumed run skips, and
        from which episodes a batch could draw depends on when the other thread added them. The distribution is the
        same, the batches are not.
        """
        with self._lock:
            return dict(self._rng.bit_generator.state)

    @random_state.setter
    def random_state(self, state: Mapping[str, Any]) -> None:
        with self._lock:
            try:
                self._rng.bit_generator.state = state
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"The saved random state of the replay is unusable ({error}); restore another checkpoint."
                ) from error

    def add(self, arrays: Mapping[str, np.ndarray | Sequence]) -> Path:
        """Write one whole episode to disk and put it in memory.

        Args:
            arrays: those of `KEYS`, all with the same number of entries T + 1 >= 2; they are copied.

        Returns:
            The file, complete on disk.

        Raises:
            UserError: when the episode breaks the conventions at the top of this file; nothing is written then.
        """
        # Without order='C' a transposed view would keep its strides, and sampling from it be twenty times slower.
        episode = {key: np.array(value, order="C") for key, value in arrays.items()}
        try:
            check_episode(episode)
            if self._memory:
                check_same_kind(self._memory[-1], episode)
        except ValueError as error:
            raise UserError(
                f"An episode was refused: {error}. Correct the environment or collector that made it."
            ) from error
        self._newest = _time_after(self._newest)
        transitions = len(episode["action"]) - 1
        path = self.directory / f"{self._newest}-{secrets.token_hex(4)}-{transitions:06d}.npz"
        _write(path, episode)
        with self._lock:
            self._remember(episode)
            self._episodes += 1
            self._steps += transitions
        return path

    def sample(self) -> Episode:
        """Draw one batch of chunks that never cross an episode.

        An episode in memory is drawn with probability proportional to its length, the chunk's first entry uniformly
        among those that leave a full chunk. Episodes shorter than that are padded with zeros at the end, where `mask`
        is 0.

        Returns:
            image uint8 [B, L, H, W, 3], action float32 [B, L, A], reward, discount, mask float32 [B, L], is_first bool
            [B, L], and state float32 [B, L, S] and cost float32 [B, L] where the episodes have them; fresh arrays.

        Raises:
            UserError: when there is no episode.
        """
        batch = _zeros(self)
        self.fill(batch, range(self.batch_size))
        return batch

    def fill(self, batch: Episode, rows: Sequence[int] | np.ndarray) -> None:
        """Draw chunks as `sample` does into some rows of a batch of zeros, for each key that the batch has.

        Raises:
            UserError: when there is no episode.
        """
        with self._lock:
            self._need_an_episode()
            drawn = self._rng.integers(self._ends[-1], size=len(rows))
            episodes = [self._memory[i] for i in np.searchsorted(self._ends, drawn, side="right")]
            lengths = np.array([len(episode["action"]) for episode in episodes], np.int64)
            starts = self._rng.integers(np.maximum(lengths - self.batch_length, 0) + 1)
        # Episodes in memory never change, so the copies need no lock and do not hold up `add`.
        counts = np.minimum(lengths, self.batch_length)
        for key in batch.keys() - {"mask"}:
            for row, episode, start, count in zip(rows, episodes, starts, counts, strict=True):
                batch[key][row, :count] = episode[key][start : start + count]
        batch["mask"][rows] = np.arange(self.batch_length) < counts[:, None]

    def chunk(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape, [L, ...], and dtype of each key of a chunk.

        Raises:
            UserError: when there is no episode yet, since the first one tells the shapes.
        """
        with self._lock:
            self._need_an_episode()
            like = self._memory[-1]
        arrays = {key: value for key, value in like.items() if KEYS[key].in_batch}
        chunk = {key: ((self.batch_length, *value.shape[1:]), value.dtype) for key, value in arrays.items()}
        return chunk | {"mask": ((self.batch_length,), np.dtype(np.float32))}

    def dataset(self) -> "tf.data.Dataset":
        """Batches of `sample` for ever, prepared ahead in another thread; every shape is static.

        Raises:
            UserError: when there is no episode yet, since the first one tells the shapes.
        """
        return _dataset(self)

    def _load(self, offline: Path | None) -> None:
        """Count every file; read the newest into memory until the capacity is reached, then offline ones."""
        paths = episode_files(self.directory)
        self._episodes = len(paths)
        self._steps = sum(int(_parse(path)["transitions"]) for path in paths)
        self._newest = _parse(paths[-1])["time"] if paths else ""
        before = episode_files(offline) if offline else []
        if offline and not before:
            raise UserError(
                f"The offline folder {offline} has no episodes: make some with collect.py, or name another."
            )
        newest_first: list[Episode] = []
        entries = 0
        for path in reversed(before + paths):
            length = int(_parse(path)["transitions"])
            entries += length + 1
            if newest_first and entries > self.capacity:
                break
            newest_first.append(_read(path, length))
            try:
                check_same_kind(newest_first[0], newest_first[-1])
            except ValueError as error:
                raise UserError(
                    f"{path} does not belong with the newer episodes: {error}. Move it out of the folder."
                ) from error
        for episode in reversed(newest_first):
            self._remember(episode)

    def _remember(self, episode: Episode) -> None:
        """Append to memory and drop the oldest above the capacity. The caller holds the lock, or is alone."""
        self._memory.append(episode)
        self._ends = np.append(self._ends, self.entries + len(episode["action"]))
        while self._ends[-1] > self.capacity and len(self._memory) > 1:
            self._memory.popleft()
            self._ends = self._ends[1:] - self._ends[0]

    def _need_an_episode(self) -> None:
        if not self._memory:
            raise UserError(
                f"The replay folder {self.directory} has no episode to sample from; collect some first (prefill)."
            )


class MixedReplay:
    """Several replays sampled as one, such as those of the tasks of one agent.

    The replay of each chunk is drawn uniformly: every task counts the same, however many decisions its episodes have
    (which differ with the action repeat). A batch has the keys that all of them have.

    Args:
        replays: at least one, of one batch length; entries that they share have one shape.
        batch_size: chunks a batch, B.
        seed: of the draws among the replays, which have random states of their own.
    """

    def __init__(self, replays: Sequence[Replay], batch_size: int, seed: int) -> None:
        self.replays = list(replays)
        self.batch_size = batch_size
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()

    @property
    def episodes(self) -> int:
        """Episodes on disk."""
        return sum(replay.episodes for replay in self.replays)

    @property
    def random_state(self) -> dict[str, Any]:
        """State of the draws and of every replay, ready for JSON; see `Replay.random_state`."""
        with self._lock:
            states = [replay.random_state for replay in self.replays]
            return {"mixture": self._rng.bit_generator.state, "replays": states}

    @random_state.setter
    def random_state(self, state: Mapping[str, Any]) -> None:
        with self._lock:
            try:
                self._rng.bit_generator.state = state["mixture"]
                states = list(zip(self.replays, state["replays"], strict=True))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"The saved random state of the replays is unusable ({error}); restore another checkpoint."
                ) from error
            for replay, own in states:
                replay.random_state = own

    def sample(self) -> Episode:
        """Draw one batch as `Replay.sample` does, each chunk from a replay drawn uniformly.

        Raises:
            UserError: when a replay has no episode.
        """
        batch = _zeros(self)
        with self._lock:  # so that the random states belong together
            drawn = self._rng.integers(len(self.replays), size=self.batch_size)
            for index, replay in enumerate(self.replays):
                replay.fill(batch, np.flatnonzero(drawn == index))
        return batch

    def chunk(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape, [L, ...], and dtype of each key of a chunk that all replays have.

        Raises:
            UserError: when a replay has no episode yet.
        """
        chunks = [replay.chunk() for replay in self.replays]
        return {key: value for key, value in chunks[0].items() if all(key in chunk for chunk in chunks)}

    def dataset(self) -> "tf.data.Dataset":
        """Batches of `sample` for ever, as `Replay.dataset`.

        Raises:
            UserError: when a replay has no episode yet.
        """
        return _dataset(self)


def _zeros(replay: Replay | MixedReplay) -> Episode:
    """A batch of zeros as the replay samples it."""
    return {key: np.zeros((replay.batch_size, *shape), dtype) for key, (shape, dtype) in replay.chunk().items()}


def _dataset(replay: Replay | MixedReplay) -> "tf.data.Dataset":
    """The batches that a replay samples, prepared ahead in another thread."""
    import tensorflow as tf

    signature = {
        key: tf.TensorSpec((replay.batch_size, *shape), dtype) for key, (shape, dtype) in replay.chunk().items()
    }

    def batches() -> Iterator[Episode]:
        while True:
            yield replay.sample()

    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(PREFETCH)


def check_episode(episode: Mapping[str, np.ndarray]) -> None:
    """Check one episode against the conventions at the top of this file.

    Raises:
        ValueError: with the first broken convention in words.
    """
    _check_keys(episode)
    for key in ("action", "reward", "discount", "state", "success", "cost"):
        if key in episode and not np.isfinite(episode[key]).all():
            first = int(np.argwhere(~np.isfinite(episode[key]))[0, 0])
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
    """Raise ValueError unless keys, dtypes and shapes are those of `KEYS`, with one length of at least two."""
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
    """Check that two episodes, each as `check_episode` wants it, can be in one replay.

    Raises:
        ValueError: their keys or, but for the length, their shapes differ.
    """
    if set(reference) != set(episode):
        raise ValueError(
            f"its keys are {', '.join(sorted(episode))}, those of the others {', '.join(sorted(reference))}"
        )
    for key, value in episode.items():
        if value.shape[1:] != reference[key].shape[1:]:
            raise ValueError(f"{key} has shape {value.shape[1:]} an entry, {reference[key].shape[1:]} in the others")


def episode_files(directory: str | os.PathLike) -> list[Path]:
    """The episode files of a folder, oldest first. Raises UserError for an .npz that is not named like one."""
    paths = sorted(Path(directory).expanduser().glob("*.npz"))
    for path in paths:
        _parse(path)
    return paths


def read_episode(path: str | os.PathLike) -> Episode:
    """One whole episode from its file. Raises UserError where `Replay` would refuse the file."""
    path = Path(path)
    return _read(path, int(_parse(path)["transitions"]))


def _parse(path: Path) -> re.Match[str]:
    match = _FILE_NAME.fullmatch(path.name)
    if not match:
        raise UserError(
            f"{path} is not named like an episode (<time>-<id>-<transitions>.npz); move it out of the replay folder."
        )
    return match


def _time_after(newest: str) -> str:
    """Time for a file name, moved past the newest: names sort in the order of adding whatever the clock does."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    if newest:
        now = max(now, datetime.datetime.strptime(newest, _TIME_FORMAT) + datetime.timedelta(microseconds=1))
    return now.strftime(_TIME_FORMAT)


def _read(path: Path, transitions: int) -> Episode:
    try:
        with open(path, "rb") as file:
            # Without this an array file (.npy) under a wrong name would be loaded as one bare array.
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not a whole .npz archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                episode = {key: np.asarray(arrays[key], order="C") for key in arrays.files}
        check_episode(episode)
        if len(episode["action"]) != transitions + 1:
            raise ValueError(f"it has {len(episode['action']) - 1} transitions, its name says {transitions}")
    except _UNREADABLE as error:
        raise UserError(
            f"{path} is not a usable episode: {error}. Move it out of the replay folder; nothing was deleted."
        ) from error
    return episode


def _write(path: Path, episode: Episode) -> None:
    with replaced(path, "wb") as file:
        np.savez_compressed(file, **episode)  # type: ignore[arg-type]  # no entry is called allow_pickle
