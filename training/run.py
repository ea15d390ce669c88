"""The training loop: collect, update, evaluate, save (PlaNet and LatCo, algorithm 1)."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

import envs
from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from tools.command_line import note
from tools.errors import UserError
from tools.files import expanded
from tools.logger import Logger
from tools.signals import StopRequest, Terminated
from training.agent import Agent
from training.checkpoints import Checkpoints, Part
from training.collector import Collector
from training.contradictions import note_settings
from training.driver import Policy
from training.evaluator import Evaluator
from training.initial_weights import start_from
from training.logdir import CHECKPOINTS, check_places
from training.media import EvaluationMedia
from training.metrics import RunMetrics
from training.schedules import Every, Schedule
from training.turns import Turns
from training.updates import SkippedUpdates, Updates

PRETRAIN_SLICE = 50  # updates between checks of the schedule


class TrainingRun:
    """Trains an agent in a log directory, resuming from the last checkpoint if there is one.

        prefill     random actions for `prefill` steps, with several tasks also until each has an episode
        pretrain    `pretrain` updates, as soon as there is an episode
        steps       act; `train_steps` updates every `train_every` steps; evaluate, log and save on schedule

    With `steps: 0` the run collects nothing and only pretrains on the episodes of `offline_dir`.
    """

    def __init__(self, agent: Agent, logdir: Path, quiet: bool = False, begin: Callable[[], object] = lambda: None):
        """Raises UserError, without having written anything, for what the run cannot work with.

        Args:
            agent: new; its state is that of the last checkpoint afterwards.
            logdir: log directory.
            quiet: no progress line.
            begin: called when nothing can be refused any more, before the first file is written.
        """
        c = self.config = agent.config
        self.agent, tasks = agent, envs.split_tasks(c.task)
        folder = logdir / f"worker-{agent.worker}" if agent.worker else logdir
        check_places(folder)
        collectors = [Collector(agent, task, folder) for task in tasks]
        self.turns = Turns(collectors, c.envs)
        self.replay: Replay | MixedReplay = collectors[0].replay
        if len(tasks) > 1:
            replays = [collector.replay for collector in collectors]
            self.replay = MixedReplay(replays, agent.device_batch_size, agent.worker_seed + len(tasks))
        self._check_offline()
        self._check_value()
        self.checkpoints = Checkpoints(agent, self.replay, collectors, logdir / CHECKPOINTS)
        resumed = self.checkpoints.restore()
        if not resumed and c.init_from:
            start_from(agent, expanded(c.init_from))
        self._check_rewards()
        note_settings(c)
        self.schedule = Schedule(c, agent, resumed)
        self.checkpoints.attach("schedule", self.schedule)
        self.learning = False  # whether there was an episode to learn from
        self.acting = False  # whether the policy's memory is the agent's, not that of random actions
        length, unit = (c.pretrain, "updates") if self.schedule.offline else (c.steps, "steps")
        try:
            if c.steps:
                for collector in collectors:
                    collector.start()
            begin()
            self.logger = Logger(folder, length, quiet, tasks if len(tasks) > 1 else (), unit)
        except BaseException:
            self._close_environments()
            raise
        self.metrics = RunMetrics(agent, self.turns, self.schedule, self.logger)
        self.stop = StopRequest()
        skipped = SkippedUpdates(folder / "skipped_updates", c.max_skipped_updates, c.precision == "float16")
        self.updates = Updates(agent, self.replay, self.schedule, self.logger, skipped, self.stop)
        media = EvaluationMedia(agent, self.turns, self.replay, self.logger) if c.media else None
        self.evaluation = Evaluator(agent, self.metrics, media, self.stop)
        if c.deterministic:
            self._attach_exact_parts(resumed)

    def _attach_exact_parts(self, resumed: bool) -> None:
        """Goes on in the middle of episodes, turns and metrics, where the checkpoint was saved."""
        parts: dict[str, Part] = {"run": self, "turns": self.turns, "metrics": self.logger, "outcomes": self.metrics}
        parts |= {f"collector/{collector.task}": collector for collector in self.turns.collectors}
        for name, part in parts.items():
            self.checkpoints.attach(name, part, exact=True)
        if (resumed or self.replay.episodes) and not self.checkpoints.exact:
            note("the run was killed or has other settings now, so it will not match an uninterrupted run.")

    @property
    def state(self) -> dict[str, bool]:
        """See `acting`."""
        return {"acting": self.acting}

    @state.setter
    def state(self, state: dict[str, bool]) -> None:
        self.acting = state["acting"]

    def _check_rewards(self) -> None:
        """Raises UserError if float32 cannot hold the square of an offline reward: all updates would be skipped."""
        c, memory = self.config, self.turns.collectors[0].replay.memory
        if not c.offline_dir:
            return
        ends = [end(episode["reward"][1:]) for episode in memory for end in (np.min, np.max)]
        largest = np.abs(self.agent.rewards(tf.constant(ends)).numpy()).max()
        if not largest < np.sqrt(np.finfo(np.float32).max / (c.batch_size * c.batch_length)):
            raise UserError(
                f"Rewards in {c.offline_dir} reach {np.abs(ends).max():.3g}, which float32 cannot square: scale them "
                "down, or set --reward_transform clip or tanh."
            )

    def _check_offline(self) -> None:
        """Raises UserError if a run collects nothing and has nothing to learn from."""
        if self.config.steps:
            return
        if not self.turns.can_train:
            raise UserError("steps is 0, so the run collects nothing, and has no episodes either: give --offline_dir.")

    def _check_value(self) -> None:
        """Raises UserError if the value is to learn from plans and none are made."""
        c, planless = self.config, ""
        if c.steps == 0:
            planless = "steps is 0"
        elif c.planner == "policy" and c.policy_teacher == "none":
            planless = "policy_teacher is none"
        if planless and self.agent.value_data == "plans":
            raise UserError(f"{planless}, so no plans are made that a value could learn from: set --value_data replay.")

    def _check_episodes(self) -> None:
        """Raises UserError if the run ends without having learned anything, for want of a whole episode."""
        for collector in self.turns.collectors:
            if self.config.steps and not collector.replay.entries:
                raise UserError(
                    f"No episode of {collector.task} ended in {int(self.agent.step)} environment steps, so nothing was "
                    "stored and learned: raise steps above the length of an episode, or set a shorter time_limit."
                )

    def run(self) -> None:
        """Collects and trains for `steps` environment steps, then saves.

        After SIGTERM, the step or the update of the pretraining is finished, an evaluation is not.

        Raises:
            Terminated: after SIGTERM, when all is saved.
        """
        with self.stop.armed():
            try:
                with contextlib.suppress(Terminated):
                    self._train()
                self.checkpoints.save()
                self.metrics.write()
            finally:
                self.close()
        if self.stop.requested:
            raise Terminated(f"saved at {self.schedule.now:,} {self.logger.unit}; the same command goes on from there")
        self._check_episodes()

    def _train(self) -> None:
        c, agent = self.config, self.agent
        self.prefill()
        self.start_learning()
        while agent.step < c.steps:
            self.collect(lambda *args: agent.policy(*args, explore=True))
            step = int(agent.step)
            if self.learning:
                self.update()
            else:
                self.start_learning()
            if self.learning and self.schedule.evaluate.due(step):
                self.evaluate()
            if self.schedule.save(step):
                self.checkpoints.save()
            self.stop.check()

    def prefill(self) -> None:
        """Collects with random actions."""
        while self.prefilling():
            self._switch(acting=False)
            self.collect(self.agent.random_policy)
            self.schedule.train(int(self.agent.step))  # no updates are due for random actions
            self.stop.check()
        if self.agent.workers > 1 and not self.turns.can_train:
            raise UserError("Hosts update together, so each needs an episode before the first update: raise prefill.")
        self._switch(acting=True)

    def _switch(self, acting: bool) -> None:
        """Forgets the policy's memory where another one acts now."""
        if acting != self.acting:
            for collector in self.turns.collectors:
                if collector.driver:
                    collector.driver.policy_state = None
        self.acting = acting

    def start_learning(self) -> None:
        """Pretrains and evaluates as soon as there is an episode to learn from, which may be after the prefill.

        A new run is evaluated also where it has nothing to pretrain.
        """
        if not self.turns.can_train:
            return
        self.learning = True
        if self.agent.updates < self.config.pretrain:
            self.pretrain()
            self.schedule.train(int(self.agent.step))  # the updates for these steps are those of `pretrain`
        elif not self.schedule.begun:
            self.schedule.evaluate.count = -1
        if self.schedule.evaluate.due(self.schedule.now):
            self.evaluate()
        self.update()

    def update(self) -> None:
        """Makes the updates that are due for the environment steps so far."""
        self.schedule.begun = True
        if due := self.schedule.train(int(self.agent.step)):
            self.updates.make(due * self.config.train_steps)

    def prefilling(self) -> bool:
        """Whether to act randomly: for `prefill` steps, and with several tasks until each has an episode."""
        step, several = int(self.agent.step), len(self.turns.collectors) > 1
        return step < self.config.steps and (step < self.config.prefill or (several and not self.turns.can_train))

    def pretrain(self) -> None:
        """Makes the `pretrain` updates that an interrupted pretraining has not made yet.

        `log_every` and `checkpoint_every` count updates here. An offline run does all its training and evaluation here.
        """
        c, start = self.config, int(self.agent.updates)
        log, save = Every(c.log_every, start), Every(c.checkpoint_every, start)
        while (updates := int(self.agent.updates)) < c.pretrain:
            if log(updates):
                self.metrics.write()
            if save(updates):
                self.checkpoints.save()
            if self.schedule.offline and self.schedule.evaluate.due(updates):
                self.evaluate()
            self.stop.check()  # only here, after the logging and evaluation that the last updates have made due
            self.updates.make(min(PRETRAIN_SLICE, c.pretrain - updates))
        self.schedule.evaluate.count = -1  # the first evaluation follows
        self.checkpoints.save()

    def collect(self, policy: Policy) -> None:
        """One decision in every training environment of the current task."""
        agent = self.agent
        collector, episodes = self.turns.collect(self.metrics.timed(policy))
        agent.step.assign_add(self.config.envs * collector.repeat * agent.workers)
        for episode in episodes:
            agent.rewards.add(episode.data["reward"][1:])
            self.metrics.episode("train", episode, collector)
        step = int(agent.step)
        if self.schedule.log(step):
            self.metrics.write()
        self.logger.progress(step, episodes=self.replay.episodes, updates=int(agent.updates))

    def evaluate(self) -> None:
        """Evaluates each task. With several hosts only the first one does; the others wait in the next update."""
        if not self.agent.worker:
            before = self.agent.rng.state.numpy(), self.replay.random_state, self.logger.state, self.metrics.state
            try:
                for collector in self.turns.collectors:
                    self.evaluation(collector)
            except Terminated:
                # The resumed run makes it from its start.
                random_state, self.replay.random_state, self.logger.state, self.metrics.state = before
                self.agent.rng.reset(random_state)
                raise
            self.metrics.write()
        self.schedule.evaluate(self.schedule.now)  # only now, so that one that is cut off is made again

    def close(self) -> None:
        """Closes the logger and the environments."""
        self.updates.close()
        try:
            self.logger.close()
        finally:
            self._close_environments()

    def _close_environments(self) -> None:
        for collector in self.turns.collectors:
            collector.close()
