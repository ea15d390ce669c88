"""Checkpoints of a run: what is saved, and where a resumed run stands."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from episodes.episode import time_of
from episodes.loading import EpisodeReader
from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from tools.command_line import note
from tools.files import replaced, writing
from training.agent import Agent
from training.checkpoint_files import restore_newest, tidy
from training.collector import Collector
from training.initial_weights import check_parts
from training.packing import pack, read_packed

# Settings that do not change what a run does until it stops.
_FREE = ("checkpoint_every", "checkpoints_kept", "logdir", "max_skipped_updates", "steps")


class Part(Protocol):
    """A part of a run that is in the middle of something. Its state is what `packing.pack` takes."""

    state: Any


class Checkpoints:
    """Saves and restores a run: the agent, the random streams, and what its parts are in the middle of.

    Episodes are separate files. With several hosts, the first one saves and all restore, so they must share the log
    directory.

    Attributes:
        exact: whether the run continues exactly where the restored checkpoint was saved: with the same settings and
            without later episodes, which a kill leaves.
    """

    def __init__(self, agent: Agent, replay: Replay | MixedReplay, collectors: Sequence[Collector], folder: Path):
        self._agent, self._replay, self._collectors, self._folder = agent, replay, collectors, folder
        self.replay_state = tf.Variable("", trainable=False, name="replay_random_state")
        self.noise_state = tf.Variable("", trainable=False, name="noise_random_state")
        # With a single task, decisions follow from the steps.
        decisions = {"decisions": [collector.decisions for collector in collectors]} if len(collectors) > 1 else {}
        self.checkpoint = tf.train.Checkpoint(
            **agent.checkpointed,
            rng=agent.rng,
            replay_state=self.replay_state,
            noise_state=self.noise_state,
            **decisions,
        )
        self.exact = False
        self._parts: dict[str, Part] = {}
        self._found: dict[str, Any] = {}  # the states of the parts in the restored checkpoint

    def restore(self) -> bool:
        """Restores the newest checkpoint that is whole; returns whether there was one."""
        check_parts(self._agent.checkpointed, self._folder.parent)
        agent, newest = self._agent, restore_newest(self.checkpoint, self._folder)
        episodes = sum(collector.replay.episodes for collector in self._collectors)
        if newest and not agent.worker:
            tidy(self._folder, newest)
            self._replay.random_state = json.loads(self.replay_state.numpy())
            agent.noise.bit_generator.state = json.loads(self.noise_state.numpy())
            self._found = self._read_parts(Path(f"{newest}.npz"))
        elif episodes and not newest:
            note(f"{self._folder.parent} has {episodes} episodes but no checkpoint: training starts anew with them.")
        known = self._found.get("episodes")
        self.exact = known == self._newest_episodes() and self._found["settings"] == self._settings()
        if self._is_behind(known):
            # The saved stream has already produced the actions of later episodes.
            later = np.random.default_rng([agent.worker_seed, episodes])
            agent.noise.bit_generator.state = later.bit_generator.state
        self._count_rewards(known if newest else [None] * len(self._collectors))
        self._count_steps()
        if not agent.worker:
            self.manager = tf.train.CheckpointManager(self.checkpoint, str(self._folder), agent.config.checkpoints_kept)
        return bool(newest)

    def attach(self, name: str, part: Part, exact: bool = False) -> None:
        """Saves the state of a part from now on, and restores it.

        Args:
            name: of the part in the file.
            part: the part.
            exact: whether its state means nothing with other settings or beside later episodes.
        """
        self._parts[name] = part
        if name in self._found and (self.exact or not exact):
            part.state = self._found[name]

    def save(self) -> None:
        """Writes a checkpoint and deletes the oldest. Atomic: the index that names the newest is replaced last."""
        if self._agent.worker:
            return
        self.replay_state.assign(json.dumps(self._replay.random_state))
        self.noise_state.assign(json.dumps(self._agent.noise.bit_generator.state))
        parts = {name: part.state for name, part in self._parts.items()}
        arrays = pack(parts | {"episodes": self._newest_episodes(), "settings": self._settings()})
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # First, since a checkpoint that has an index is whole.
            with replaced(self._folder / f"ckpt-{int(self.checkpoint.save_counter) + 1}.npz", "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes it for allow_pickle
            self.manager.save()
            for path in self._folder.glob("ckpt-*.npz"):
                if not path.with_suffix(".index").exists():
                    path.unlink()

    def _settings(self) -> dict[str, Any]:
        return {key: value for key, value in self._agent.config.items() if key not in _FREE}

    def _newest_episodes(self) -> list[str]:
        """The time in the name of each task's newest episode, empty where there is none."""
        return [collector.replay.newest for collector in self._collectors]

    def _read_parts(self, path: Path) -> dict[str, Any]:
        """The states of the parts; none in checkpoints from before there were any."""
        if not path.exists():
            return {}
        try:
            found = read_packed(path, self._agent.state_types)
            if not isinstance(found, dict) or {"episodes", "settings", "schedule"} - found.keys():
                raise ValueError("it is of another kind")
            return found
        except (OSError, ValueError) as error:
            note(f"{path} cannot be read ({error}): the run goes on with its weights and episodes alone.")
            return {}

    def _is_behind(self, known: list[str] | None) -> bool:
        """Whether this host has episodes that came after the checkpoint."""
        if known is not None:
            return any(newest > before for newest, before in zip(self._newest_episodes(), known, strict=True))
        # A checkpoint from before these names were saved, none at all, or one of another host.
        steps = sum(collector.replay.steps * collector.repeat for collector in self._collectors)
        return steps > (0 if self._agent.worker else int(self._agent.step))

    def _count_rewards(self, known: Sequence[str | None] | None) -> None:
        """Adds the rewards of episodes that came after the checkpoint to the statistics of the normalization.

        Args:
            known: each task's newest episode in the checkpoint, None without a checkpoint; or None for all of them if
                the checkpoint does not say.
        """
        if not self._agent.rewards.normalize or known is None:
            return
        for collector, before in zip(self._collectors, known, strict=True):
            for rewards in _rewards(collector.replay, before, self._agent.config.damaged_share):
                self._agent.rewards.add(rewards)

    def _count_steps(self) -> None:
        """Sets decisions and steps to those of the checkpoint or of the saved episodes, whichever are more.

        Episodes are saved more often than weights, so after a crash they may be ahead, and their steps count. Several
        hosts must agree, so they use the checkpoint's.
        """
        agent, collectors = self._agent, self._collectors
        if len(collectors) == 1:
            collectors[0].decisions.assign(int(agent.step) // (collectors[0].repeat * agent.workers))
        if agent.workers > 1:
            return
        for collector in collectors:
            collector.decisions.assign(max(int(collector.decisions), collector.replay.steps))
        agent.step.assign(sum(int(collector.decisions) * collector.repeat for collector in collectors))


def _rewards(replay: Replay, after: str | None, damaged_share: float) -> Iterator[np.ndarray]:
    """The rewards [T] of each episode on disk that is newer than a time; with None of all, and of those offline.

    Files that the replay did not open, since they are beyond its capacity, may be damaged: they are passed over.
    """
    if after is None:
        # The oldest in memory. Those that left it are not known.
        for episode in replay.memory[: max(0, len(replay.memory) - replay.episodes)]:
            yield episode["reward"][1:]
    reader = EpisodeReader(replay.directory, damaged_share, move=False)
    for path in reader.files:
        if after is None or time_of(path) > after:
            episode = reader.read(path)
            if episode is not None:
                yield episode["reward"][1:]
    reader.check_share()
    reader.set_aside()
