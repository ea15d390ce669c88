"""Checkpoints of a run."""

import json
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from episodes.replay import MixedReplay, Replay
from tools.errors import UserError
from tools.files import writing
from training.agent import Agent
from training.collector import Collector


class Checkpoints:
    """Saves and restores a run: the agent, the random streams and, with several tasks, their decisions.

    Episodes are separate files. With several hosts, the first one saves and all restore, so they must share the log
    directory.
    """

    def __init__(self, agent: Agent, replay: Replay | MixedReplay, collectors: Sequence[Collector], folder: Path):
        self._agent, self._replay, self._collectors = agent, replay, collectors
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
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(folder), agent.config.checkpoints_kept)

    def restore(self) -> bool:
        """Restores the newest checkpoint; returns whether there was one."""
        newest = self.manager.latest_checkpoint
        if newest:
            restore(self.checkpoint, newest)
            if not self._agent.worker:
                self._replay.random_state = json.loads(self.replay_state.numpy())
                self._agent.noise.bit_generator.state = json.loads(self.noise_state.numpy())
        self._count_steps()
        return bool(newest)

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

    def save(self) -> None:
        """Writes a checkpoint and deletes the oldest. Atomic: the index that names the newest is replaced last."""
        if self._agent.worker:
            return
        self.replay_state.assign(json.dumps(self._replay.random_state))
        self.noise_state.assign(json.dumps(self._agent.noise.bit_generator.state))
        with writing(Path(self.manager.directory)):
            self.manager.save()


def restore(checkpoint: tf.train.Checkpoint, path: str, partial: bool = False) -> None:
    """Restores objects from a checkpoint file that must contain all of them.

    Args:
        checkpoint: the objects by name.
        path: the file, without its suffix.
        partial: whether the file may contain other objects, too.

    Raises:
        UserError: the file is damaged or was made with another configuration.
    """
    try:
        status = checkpoint.restore(path)
        if partial:
            status.expect_partial().assert_existing_objects_matched()
        else:
            status.assert_existing_objects_matched().assert_consumed()
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:  # IndexError: a file cut short
        raise UserError(
            f"The checkpoint {path} does not fit this configuration or is damaged "
            f"({str(error).splitlines()[0][:200]}): "
            "start with the configuration that made it, or choose another --logdir."
        ) from error
