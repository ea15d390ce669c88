"""The replay: whole episodes on disk (episode.py) and in memory, sampled in chunks for training."""

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episodes.episode import (
    KEYS,
    Episode,
    check_episode,
    check_same_kind,
    time_after,
    time_of,
    transitions_of,
    write_episode,
)
from episodes.loading import load
from tools.errors import UserError
from tools.files import writing

if TYPE_CHECKING:
    import tensorflow as tf

ChunkSpec = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape [L, ...] and dtype by key

PREFETCH = 4  # batches; one of 50 x 50 images has 31 MB


class Replay:
    """Episodes in a folder, the newest of them in memory, sampled in chunks for training.

    One thread may sample while another adds episodes. Two processes may write to the same folder, but neither sees the
    other's episodes until it restarts.

    Args:
        directory: folder of the episode files, created if missing.
        batch_size: chunks per batch, B.
        batch_length: entries per chunk, L.
        capacity: entries kept in memory (a 64 x 64 image takes 12.3 kB). Above it the oldest episodes leave memory but
            stay on disk. The newest episode is always in memory.
        seed: seed of the sampling.
        offline: folder of previously collected episodes. They count as the oldest ones in memory, are never written,
            and are not part of `steps` and `episodes`.
        damaged_share: share of damaged files, or of another kind than the newest, that is set aside (`loading.py`).

    Raises:
        UserError: a setting is invalid, the offline folder has no episodes, or too many files are damaged. Nothing is
            deleted.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        batch_size: int,
        batch_length: int,
        capacity: int,
        seed: int,
        offline: str | os.PathLike | None = None,
        damaged_share: float = 0.0,
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
        self._load(Path(offline) if offline else None, damaged_share)

    @property
    def steps(self) -> int:
        """Transitions on disk: the sum of (entries - 1) over all episodes, in memory or not."""
        return self._steps

    @property
    def episodes(self) -> int:
        """Episodes on disk, in memory or not."""
        return self._episodes

    @property
    def entries(self) -> int:
        """Entries in memory: at most `capacity`, unless a single episode is longer."""
        ends = self._ends
        return int(ends[-1]) if len(ends) else 0

    @property
    def newest(self) -> str:
        """The time in the name of the newest episode on disk, which sorts like the episodes; empty without any."""
        return self._newest

    @property
    def memory(self) -> tuple[Episode, ...]:
        """The episodes in memory, oldest first. Do not modify them."""
        return tuple(self._memory)

    @property
    def random_state(self) -> dict[str, Any]:
        """State of the sampling generator, ready for JSON.

        `sample` and `dataset(count)` continue from it exactly. An endless `dataset` does not: the generator is ahead by
        the prefetched batches, which a resumed run skips.
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
        """Write one whole episode to disk and add it to memory.

        Args:
            arrays: arrays named in `KEYS`, all with the same number of entries T + 1 >= 2. They are copied.

        Returns:
            the path of the file.

        Raises:
            UserError: the episode breaks the conventions in `episode.py`, or cannot be written. Nothing is stored.
        """
        # With order='C': a transposed view would keep its strides and make sampling twenty times slower.
        episode = {key: np.array(value, order="C") for key, value in arrays.items()}
        try:
            check_episode(episode)
            if self._memory:
                check_same_kind(self._memory[-1], episode)
        except ValueError as error:
            raise UserError(
                f"An episode was refused: {error}. Correct the environment or collector that made it."
            ) from error
        self._newest = time_after(self._newest)
        transitions = len(episode["action"]) - 1
        path = self.directory / f"{self._newest}-{secrets.token_hex(4)}-{transitions:06d}.npz"
        with writing(path):
            write_episode(path, episode)
        with self._lock:
            self._remember(episode)
            self._episodes += 1
            self._steps += transitions
        return path

    def sample(self) -> Episode:
        """Draw one batch of chunks. A chunk never crosses the boundary of an episode.

        Episodes in memory are drawn with probability proportional to their length, the start of a chunk uniformly among
        those that leave a full chunk. Shorter episodes are padded with zeros at the end, where `mask` is 0.

        Returns:
            image uint8 [B, L, H, W, 3], action float32 [B, L, A], reward, discount, mask float32 [B, L], is_first bool
            [B, L], and, if the episodes have them, state float32 [B, L, S] and cost float32 [B, L]; new arrays.

        Raises:
            UserError: there is no episode.
        """
        return self.sample_as(self.chunk_spec())

    def sample_as(self, spec: ChunkSpec) -> Episode:
        """`sample` with the keys of an earlier `chunk_spec`."""
        batch = empty_batch(self.batch_size, spec)
        self.fill(batch, range(self.batch_size))
        return batch

    def fill(self, batch: Episode, rows: Sequence[int] | np.ndarray) -> None:
        """Draw chunks as in `sample` into some rows of a batch of zeros, for the keys of the batch that episodes have.

        Raises:
            UserError: there is no episode.
        """
        with self._lock:
            self._need_an_episode()
            drawn = self._rng.integers(self._ends[-1], size=len(rows))
            episodes = [self._memory[i] for i in np.searchsorted(self._ends, drawn, side="right")]
            lengths = np.array([len(episode["action"]) for episode in episodes], np.int64)
            starts = self._rng.integers(np.maximum(lengths - self.batch_length, 0) + 1)
        # Episodes in memory never change, so copying needs no lock and does not block `add`.
        counts = np.minimum(lengths, self.batch_length)
        for key in batch.keys() - {"mask"}:
            for row, episode, start, count in zip(rows, episodes, starts, counts, strict=True):
                if key in episode:
                    batch[key][row, :count] = episode[key][start : start + count]
        batch["mask"][rows] = np.arange(self.batch_length) < counts[:, None]

    def chunk_spec(self) -> ChunkSpec:
        """Shape [L, ...] and dtype of each key of a chunk: those that any episode in memory has.

        Raises:
            UserError: there is no episode yet to read them from.
        """
        with self._lock:
            self._need_an_episode()
            like = {key: value for episode in self._memory for key, value in episode.items()}
        arrays = {key: value for key, value in like.items() if KEYS[key].in_batch}
        spec = {key: ((self.batch_length, *value.shape[1:]), value.dtype) for key, value in arrays.items()}
        return spec | {"mask": ((self.batch_length,), np.dtype(np.float32))}

    def dataset(self, count: int | None = None) -> "tf.data.Dataset":
        """A data set of `sample` batches with static shapes, prefetched in another thread.

        Args:
            count: how many batches to draw, None for endlessly many.

        Raises:
            UserError: there is no episode yet to read the shapes from.
        """
        # The keys of now: later episodes may have others.
        return prefetched(self.sample_as, self.chunk_spec(), self.batch_size, count)

    def _load(self, offline: Path | None, damaged_share: float) -> None:
        """Count all files, and read the newest into memory up to the capacity; offline episodes count as the oldest."""
        memory, files = load(self.directory, offline, self.capacity, damaged_share)
        self._episodes = len(files)
        self._steps = sum(map(transitions_of, files))
        self._newest = time_of(files[-1]) if files else ""
        for episode in memory:
            self._remember(episode)

    def _remember(self, episode: Episode) -> None:
        """Add to memory and drop the oldest above the capacity. The caller holds the lock or is the only thread."""
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


def empty_batch(batch_size: int, spec: ChunkSpec) -> Episode:
    """A batch of zeros for a replay to fill."""
    return {key: np.zeros((batch_size, *shape), dtype) for key, (shape, dtype) in spec.items()}


def prefetched(
    sample_as: Callable[[ChunkSpec], Episode], spec: ChunkSpec, batch_size: int, count: int | None
) -> "tf.data.Dataset":
    """Batches that `sample_as` samples with the keys of `spec`, in another thread; see `Replay.dataset`."""
    import tensorflow as tf

    signature = {key: tf.TensorSpec((batch_size, *shape), dtype) for key, (shape, dtype) in spec.items()}

    def batches() -> Iterator[Episode]:
        while True:
            yield sample_as(spec)

    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.take(-1 if count is None else count).prefetch(PREFETCH)
