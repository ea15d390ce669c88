"""The metrics of a run: episodes, plans and speed."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from evaluation.executed_plans import achieved_rewards
from tools.logger import Logger
from training.agent import Agent
from training.collector import Collector
from training.driver import Episode, Policy
from training.schedules import Schedule
from training.turns import Turns

# Of these an episode has those that its simulator reports.
OUTCOME_METRICS = {"success", "success_final", "cost"}


class RunMetrics:
    """Turns episodes, plans and times of a run into metrics."""

    def __init__(self, agent: Agent, turns: Turns, schedule: Schedule, logger: Logger):
        self._agent, self._turns, self._schedule, self._logger = agent, turns, schedule, logger
        self._last_write = time.perf_counter(), int(agent.step)
        # Episodes since the last line that did not report an outcome, by mode and task.
        self._silent: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    @property
    def state(self) -> list[dict]:
        """What was counted since the last line, beside what the logger collected."""
        counts = [(mode, task, dict(count)) for (mode, task), count in self._silent.items()]
        return [{"mode": mode, "task": task, "silent": count} for mode, task, count in counts if count]

    @state.setter
    def state(self, state: list[dict]) -> None:
        self._silent.clear()
        self._silent.update({(row["mode"], row["task"]): Counter(row["silent"]) for row in state})

    def timed(self, policy: Policy) -> Policy:
        """Wraps a policy to log the seconds of each call."""

        def call(*args):
            start = time.perf_counter()
            result = policy(*args)
            self._logger.scalars({"speed/policy_seconds": time.perf_counter() - start})
            return result

        return call

    def episode(self, mode: str, episode: Episode, collector: Collector) -> None:
        """Logs an episode's summary, its predicted return and, in training, the metrics of its plans.

        Args:
            mode: 'train' or 'eval'.
            episode: an episode of any task.
            collector: the collector of that task. With several tasks, each one also has its own metrics.
        """
        stats = episode.summary()
        zeros = self._zeros(stats, self._silent[mode, collector.task])
        for prefix in {f"{mode}/", collector.metric_name(f"{mode}/")}:
            for values in [stats, *zeros]:
                self._logger.scalars(values, prefix)
        if "predicted_reward" in episode.extras:
            predicted = float(episode.extras["predicted_reward"].sum())
            achieved = float(achieved_rewards(self._agent, episode).sum())
            prefix = "plan/" if mode == "train" else "plan/eval_"
            self._logger.scalars({"predicted_return": predicted, "achieved_return": achieved}, prefix)
        if mode == "train":
            shown = {"return": stats["return"], "success": stats.get("success", float("nan"))}
            self._logger.progress(int(self._agent.step), **shown)
            if "planned" in episode.extras:
                self._plans(episode.extras["planned"], episode.extras["metrics"])

    @staticmethod
    def _zeros(stats: Mapping[str, float], silent: Counter[str]) -> list[dict[str, float]]:
        """Metrics of earlier episodes of the line which this one makes known to be 0; counts what it lacks itself."""
        silent.update(OUTCOME_METRICS - stats.keys())
        return [{name: 0.0} for name in sorted(silent.keys() & stats.keys()) for _ in range(silent.pop(name))]

    def _plans(self, planned: np.ndarray, metrics: dict[str, np.ndarray]) -> None:
        """Logs the mean of each metric [T] over the decisions at which a plan was made, bool [T]."""
        for name, values in metrics.items():
            known = values[planned & np.isfinite(values)]
            if known.size:
                self._logger.scalars({name: float(known.mean())})

    def write(self) -> None:
        """Writes all metrics since the last call, with the speed of the run."""
        now, step = time.perf_counter(), int(self._agent.step)
        before, step_before = self._last_write
        if step > step_before:
            self._logger.scalars({"speed/env_steps_per_second": (step - step_before) / (now - before)})
            self._last_write = now, step
        episodes = sum(collector.replay.episodes for collector in self._turns.collectors)
        self._logger.scalars({"steps": self._turns.replayed_steps, "episodes": episodes}, "replay/")
        drivers = [collector.driver for collector in self._turns.collectors if collector.driver]
        if dropped := sum(driver.dropped for driver in drivers):
            self._logger.scalars({"train/dropped": dropped})
        counts = {"updates": int(self._agent.updates), "decisions": self._turns.decisions}
        self._logger.scalars(counts, "train/")
        self._logger.write(self._schedule.now)
        self._silent.clear()
