"""The training loop: collection, updates, evaluation, logs and checkpoints around an agent."""

import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import envs
import models
from base_agent import OPEN_LOOP_ROWS, BaseAgent, PolicyState
from episodes.replay import MixedReplay
from tools.errors import UserError
from tools.logger import Logger
from training.checkpoints import restore
from training.collector import Collector
from training.driver import Episode, Policy
from training.schedules import Every
from world_model.open_loop import CONTEXT

PRETRAIN_SLICE = 50  # updates between looks at the clock and the schedules


class TrainingRun:
    """One run of the training loop on a log directory.

    Environments, replay, logger, schedules and checkpoints around an agent. Several tasks take turns (PlaNet section
    5): a round collects an episode of each in every training environment, and batches mix their episodes.
    """

    def __init__(self, agent: BaseAgent, logdir: Path, quiet: bool = False):
        c = self.config = agent.config
        self.agent, self.logdir = agent, logdir
        tasks = envs.split_tasks(c.task)
        self.folder = logdir / f"worker-{agent.worker}" if agent.worker else logdir
        self.collectors = [Collector(agent, task, self.folder) for task in tasks]
        replays = [collector.replay for collector in self.collectors]
        self.replay = replays[0]
        if len(tasks) > 1:
            self.replay = MixedReplay(replays, agent.device_batch_size, agent.worker_seed + len(tasks))
        self.replay_state = tf.Variable("", trainable=False, name="replay_random_state")
        self.noise_state = tf.Variable("", trainable=False, name="noise_random_state")
        self.offline = c.steps == 0
        if self.offline and not self.can_train():
            raise UserError("steps is 0, so the run collects nothing, and has no episodes either: give --offline_dir.")
        if self.offline and agent.value_data == "plans":
            raise UserError("steps is 0, so no plans are made that a value could learn from: set --value_data replay.")
        self._open_checkpoint()
        total, unit = (c.pretrain, "updates") if self.offline else (c.steps, "steps")
        self.logger = Logger(self.folder, total, quiet, tasks if len(tasks) > 1 else (), unit)
        if not self.offline:
            for collector in self.collectors:
                collector.start()
        self._next_turn()
        self.batches = None
        self.train_episodes = self.replay.episodes
        step = self.axis()
        self.should_train = Every(c.train_every, step)
        self.should_eval = Every(c.eval_every, step)
        self.should_log = Every(c.log_every, step)
        self.should_save = Every(c.checkpoint_every, step)
        self.clock, self.clock_step = time.perf_counter(), int(agent.step)

    def axis(self) -> int:
        """What everything named `_every` counts: environment steps, or updates where nothing is collected."""
        return int(self.agent.updates if self.offline else self.agent.step)

    def run(self) -> None:
        """Collects and trains until the budget of environment steps is spent; saves at the end."""
        c, agent = self.config, self.agent
        resumed = agent.updates >= max(c.pretrain, 1)
        try:
            while self.prefilling():
                self.collect(agent.random_policy)
            if agent.workers > 1 and not self.can_train():
                raise UserError(
                    "Hosts update together, so each needs an episode before the first update: raise prefill."
                )
            self.should_train(int(agent.step))  # the prefill is paid for by `pretrain`
            for collector in self.collectors:
                if collector.driver:
                    collector.driver.policy_state = None  # what the random policy kept means nothing to the agent's
            if not resumed and self.can_train():
                self.pretrain()
            if self.should_eval(self.axis()) or (c.eval_every and not resumed):
                self.evaluate()
            while agent.step < c.steps:
                self.collect(lambda *args: agent.policy(*args, explore=True))
                due = self.should_train(int(agent.step))
                if due and self.can_train():
                    self.update(due * c.train_steps)
                if self.should_eval(int(agent.step)):
                    self.evaluate()
                if self.should_save(int(agent.step)):
                    self.save()
            self.save()
            self.write()
        finally:
            self.close()

    def prefilling(self) -> bool:
        """Whether random actions are due: for `prefill` steps, and of several tasks until each has an episode."""
        c, step = self.config, int(self.agent.step)
        wanting = len(self.collectors) > 1 and not self.can_train()
        return step < c.steps and (step < c.prefill or wanting)

    def can_train(self) -> bool:
        """Whether there are episodes (of each task) to train on."""
        return all(collector.replay.entries for collector in self.collectors)

    def pretrain(self) -> None:
        """Updates until there are `pretrain` of them; an interrupted pretraining goes on from its last checkpoint.

        What is named _every counts updates here. Without environment steps this is the whole training, with evaluations
        on the way.
        """
        c, agent = self.config, self.agent
        start = int(agent.updates)
        should_log, should_save = Every(c.log_every, start), Every(c.checkpoint_every, start)
        while (updates := int(agent.updates)) < c.pretrain:
            if should_log(updates):
                self.write()
            if should_save(updates):
                self.save()
            if self.offline and self.should_eval(updates):
                self.evaluate()
            self.update(min(PRETRAIN_SLICE, c.pretrain - updates))
        self.save()

    def collect(self, policy: Policy) -> None:
        """One decision in every training environment of the task in turn; finished episodes go to its replay."""
        collector = self.collector
        episodes = collector.driver.step(self.timed(policy))
        collector.decisions.assign_add(self.config.envs)
        self.agent.step.assign_add(self.config.envs * collector.repeat * self.agent.workers)
        for episode in episodes:
            collector.replay.add(episode.data)
            self.agent.rewards.add(episode.data["reward"][1:])
            self.train_episodes += 1
            self.log_episode("train", episode, collector)
        if collector.replay.episodes >= self.turn_ends:
            self._next_turn()
        step = int(self.agent.step)
        if self.should_log(step):
            self.write()
        self.logger.progress(step, episodes=self.train_episodes, updates=int(self.agent.updates))

    def _next_turn(self) -> None:
        # The task with the fewest episodes, the first of them: that is one after the other, also where an earlier run
        # stopped within a round, and it evens out what parallel environments that end at once have collected too much.
        self.collector = min(self.collectors, key=lambda collector: collector.replay.episodes)
        self.turn_ends = self.collector.replay.episodes + self.config.envs

    def timed(self, policy: Policy) -> Policy:
        """The policy, with its seconds per call logged."""

        def call(*args):
            start = time.perf_counter()
            result = policy(*args)
            self.logger.scalars({"speed/policy_seconds": time.perf_counter() - start})
            return result

        return call

    def update(self, count: int) -> None:
        """`count` updates of the world model."""
        if self.batches is None:
            self.batches = self.agent.batches(self.replay)
        step, before = self.axis(), int(self.agent.updates)
        start = time.perf_counter()
        for done in range(1, count + 1):
            metrics = self.agent.train_step(next(self.batches))
            self.logger.scalars(metrics, "model/")
            # Reading the agent's own count would wait for the device.
            self.logger.progress(before + done if self.offline else step, updates=before + done)
        # Reading one result waits for all of them, so the time below is honest.
        float(metrics["loss"])
        self.logger.scalars({"update_seconds": (time.perf_counter() - start) / count}, "speed/")

    def evaluate(self) -> None:
        """`eval_episodes` episodes of each task without exploration noise, always from the same seeds.

        Also writes a video, an open-loop prediction and the first decoded plan of each task. Of several hosts the first
        does it, and the others wait for it in the next update.
        """
        if self.agent.worker:
            return
        for collector in self.collectors:
            self.evaluate_task(collector)
        self.write()

    def evaluate_task(self, collector: Collector) -> None:
        """The evaluation of one task."""
        c, agent = self.config, self.agent
        driver = collector.start_evaluation()
        episodes: list[Episode] = []
        first_state = None
        while len(episodes) < c.eval_episodes:
            episodes += driver.step(lambda *args: agent.policy(*args, explore=False))
            first_state = first_state or driver.policy_state
        for episode in episodes[: c.eval_episodes]:
            self.log_episode("eval", episode, collector)
        if c.media:
            first = min(episodes, key=lambda episode: episode.env)
            self.logger.video(collector.name("eval/episode"), first.data["image"], fps=20)
            self.open_loop_video(collector)
            self.plan_media(first, first_state, collector.name("plan/plan_above_execution"))

    def open_loop_video(self, collector: Collector) -> None:
        """Predictions of the model on replayed chunks of a task, if chunks are longer than the context."""
        if self.config.batch_length <= CONTEXT or self.config.batch_size < OPEN_LOOP_ROWS:
            return
        if not self.can_train():
            return
        chunks = collector.replay.sample()
        # With keys that only this task has, the function would be traced anew.
        batch = {key: tf.convert_to_tensor(chunks[key]) for key in self.replay.chunk()}
        self.logger.video(collector.name("model/open_loop"), self.agent.open_loop(batch).numpy(), fps=10)

    def plan_media(self, episode: Episode, policy_state: PolicyState, name: str) -> None:
        """The first plan of an evaluation, decoded, above the frames of its execution (LatCo ICML figure 5)."""
        states = self.agent.planned_states(policy_state)
        if states is None:
            return
        states = states[episode.env]
        shown = min(len(states), episode.length)
        decoded = models.postprocess(self.agent.model.decode(states[None, :shown])[0]).numpy()
        executed = episode.data["image"][1 : shown + 1]
        self.logger.video(name, np.concatenate([decoded, executed], 1), fps=10)
        columns = np.linspace(0, shown - 1, min(shown, 10)).round().astype(int)
        rows = [np.concatenate(list(frames[columns]), 1) for frames in (decoded, executed)]
        self.logger.image(name, np.concatenate(rows, 0))

    def log_episode(self, mode: str, episode: Episode, collector: Collector) -> None:
        """Logs an episode's summary, of several tasks under its own too, and what its plans promised and achieved."""
        stats = episode.summary()
        for prefix in {f"{mode}/", collector.name(f"{mode}/")}:
            self.logger.scalars(stats, prefix)
        if mode == "train":
            self.logger.progress(
                int(self.agent.step), **{"return": stats["return"], "success": stats.get("success", float("nan"))}
            )
        if "predicted_reward" in episode.extras:
            predicted = float(episode.extras["predicted_reward"].sum())
            # In the units that the model learned, so that the two can be compared.
            achieved = float(tf.reduce_sum(self.agent.rewards(tf.constant(episode.data["reward"][1:]))))
            prefix = "plan/" if mode == "train" else "plan/eval_"
            self.logger.scalars({"predicted_return": predicted, "achieved_return": achieved}, prefix)
        if mode == "train" and "planned" in episode.extras:
            self.log_plans(episode.extras)

    def log_plans(self, extras: dict[str, np.ndarray]) -> None:
        """Means over an episode's plans of what the planner said of them.

        A plan's statistics stand at the step that made it.
        """
        planned = extras["planned"]
        for name, values in extras["metrics"].items():
            known = values[planned & np.isfinite(values)]
            if known.size:
                self.logger.scalars({name: float(known.mean())})

    def write(self) -> None:
        """Writes all metrics since the last call, with the speed of the run."""
        step, now = int(self.agent.step), time.perf_counter()
        if step > self.clock_step:
            self.logger.scalars({"env_steps_per_second": (step - self.clock_step) / (now - self.clock)}, "speed/")
            self.clock, self.clock_step = now, step
        steps = sum(collector.replay.steps * collector.repeat for collector in self.collectors)
        decisions = sum(int(collector.decisions) for collector in self.collectors)
        self.logger.scalars({"steps": steps, "episodes": self.replay.episodes}, "replay/")
        self.logger.scalars({"updates": int(self.agent.updates), "decisions": decisions}, "train/")
        self.logger.write(self.axis())

    # Checkpoints

    def _open_checkpoint(self) -> None:
        agent = self.agent
        # Of one task they follow from the steps.
        decisions = {"decisions": [collector.decisions for collector in self.collectors]}
        self.checkpoint = tf.train.Checkpoint(
            **agent.learned, rng=agent.rng, replay_state=self.replay_state, noise_state=self.noise_state,
            **(decisions if len(self.collectors) > 1 else {}),
        )  # fmt: skip
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.logdir / "checkpoints"), self.config.checkpoints_kept
        )
        if self.manager.latest_checkpoint:
            restore(self.checkpoint, self.manager.latest_checkpoint)
            if not agent.worker:
                self.replay.random_state = json.loads(self.replay_state.numpy())
                agent.noise.bit_generator.state = json.loads(self.noise_state.numpy())
        else:  # statistics are in checkpoints; the first start takes them from the offline episodes
            for episode in (episode for collector in self.collectors for episode in collector.replay.memory):
                agent.rewards.add(episode["reward"][1:])
        self._count_decisions()

    def _count_decisions(self) -> None:
        """Sets decisions and steps to those of the checkpoint, or of the episodes where these are more.

        Episodes are saved more often than weights: after a crash the data may be ahead of the last checkpoint, and they
        were paid for. Several hosts must agree, so they start from the checkpoint.
        """
        if len(self.collectors) == 1:
            repeat = self.collectors[0].repeat * self.agent.workers
            self.collectors[0].decisions.assign(int(self.agent.step) // repeat)
        if self.agent.workers > 1:
            return
        for collector in self.collectors:
            collector.decisions.assign(max(int(collector.decisions), collector.replay.steps))
        self.agent.step.assign(sum(int(collector.decisions) * collector.repeat for collector in self.collectors))

    def save(self) -> None:
        """Writes a checkpoint (atomic: the index that names the newest one is replaced last) and drops the oldest.

        Of several hosts the first does it; all read it, so the log directory must be one that all of them see.
        """
        if self.agent.worker:
            return
        self.replay_state.assign(json.dumps(self.replay.random_state))
        self.noise_state.assign(json.dumps(self.agent.noise.bit_generator.state))
        self.manager.save()

    def close(self) -> None:
        """Closes logger and environments."""
        self.batches = None
        self.logger.close()
        for collector in self.collectors:
            collector.close()
