"""Episodes without exploration noise: the policy that plays them, and the evaluations of a run."""

from itertools import islice
from typing import Any

import numpy as np

import models
from training.agent import Agent, Transition
from training.collector import Collector
from training.driver import Driver, play
from training.media import EvaluationMedia
from training.metrics import RunMetrics


class EvaluationPolicy:
    """An agent without exploration noise, as a policy of a driver.

    Args:
        agent: what acts.
        driver: of the environments. Those that wait get no plans, which would take time and random numbers.
        keep_plans: whether to record at every decision where the plan starts, 'plan_start' [B, n], and the states that
            it goes through, 'plan_states' [B, H, n].

    Attributes:
        plan_seconds: of every call of the planner but those that compiled.
    """

    def __init__(self, agent: Agent, driver: Driver, keep_plans: bool):
        self._agent, self._driver, self._keep_plans = agent, driver, keep_plans
        self.plan_seconds: list[float] = []

    def __call__(self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any) -> Transition:
        """See `training.driver.Driver`."""
        action, state, extras = self._agent.policy(obs, is_first, state, explore=False, idle=self._driver.waiting)
        if "planned" in extras:
            seconds = extras["metrics"]["speed/plan_seconds"][extras["planned"]]
            self.plan_seconds += [float(value) for value in seconds[:1] if np.isfinite(value)]
        states = self._agent.planned_states(state) if self._keep_plans else None
        if states is not None:
            extras = extras | {"plan_start": models.get_feat(state.latent).numpy(), "plan_states": states}
        return action, state, extras


class Evaluation:
    """Evaluates an agent in a run: `eval_episodes` episodes of a task, always from the same seeds.

    With `media` the first episode is shown.
    """

    def __init__(self, agent: Agent, metrics: RunMetrics, media: EvaluationMedia | None):
        self._agent, self._metrics, self._media = agent, metrics, media

    def __call__(self, collector: Collector) -> None:
        """Evaluates a task."""
        driver = collector.start_evaluation()
        policy = EvaluationPolicy(self._agent, driver, keep_plans=self._media is not None)
        episodes = list(islice(play(driver, policy), self._agent.config.eval_episodes))
        for episode in episodes:
            self._metrics.episode("eval", episode, collector)
        if self._media:
            # Of the environment with the least index, since which one is done first may change.
            self._media(min(episodes, key=lambda episode: episode.env), collector)
