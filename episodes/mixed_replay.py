"""Several replays sampled as one."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from episodes.episode import Episode
from episodes.replay import ChunkSpec, Replay, empty_batch, prefetched
from tools.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf


class MixedReplay:
    """Several replays sampled as one: the tasks of an agent.

    The replay of each chunk is drawn uniformly, so tasks have equal weight whatever the length of their episodes. A
    batch has the keys that all replays share.

    Args:
        replays: at least one, with the same batch length and with equal shapes of the shared keys.
        batch_size: chunks per batch, B.
        seed: seed of the choice of replays; each replay has its own random state.
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
        """Random states of the mixture and of every replay, ready for JSON; see `Replay.random_state`."""
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
        """Draw one batch as `Replay.sample` does, each chunk from a uniformly drawn replay.

        Raises:
            UserError: a replay has no episode.
        """
        return self.sample_as(self.chunk_spec())

    def sample_as(self, spec: ChunkSpec) -> Episode:
        """`sample` with the keys of an earlier `chunk_spec`."""
        batch = empty_batch(self.batch_size, spec)
        with self._lock:  # keeps `random_state` consistent
            drawn = self._rng.integers(len(self.replays), size=self.batch_size)
            for index, replay in enumerate(self.replays):
                replay.fill(batch, np.flatnonzero(drawn == index))
        return batch

    def chunk_spec(self) -> ChunkSpec:
        """Shape [L, ...] and dtype of the keys that all replays have.

        Raises:
            UserError: a replay has no episode yet.
        """
        specs = [replay.chunk_spec() for replay in self.replays]
        return {key: value for key, value in specs[0].items() if all(key in spec for spec in specs)}

    def dataset(self, count: int | None = None) -> "tf.data.Dataset":
        """As `Replay.dataset`.

        Raises:
            UserError: a replay has no episode yet.
        """
        return prefetched(self.sample_as, self.chunk_spec(), self.batch_size, count)
