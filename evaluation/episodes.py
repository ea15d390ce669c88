"""Plays episodes without exploration noise."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import rich.console

import envs
import models
from episodes.dataset import reported_outcomes
from tools.files import expanded
from tools.memory import enough_memory
from tools.progress import ProgressLine
from training.agent import Agent, Transition
from training.driver import Driver, Episode, alike, play
from training.logdir import EPISODES

PLAN_EXTRAS = ("plan_start", "plan_states")


class EvaluationPolicy:
    """An agent without exploration noise, as a policy for a driver.

    Args:
        agent: the agent.
        driver: drives the environments. Waiting ones get no plans, which would cost time and random numbers.
        keep_plans: whether to record at every decision where the plan starts, 'plan_start' [B, n], and the states that
            it goes through, 'plan_states' [B, H, n].

    Attributes:
        plan_seconds: seconds of each planning call, without calls that compiled.
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


def episode_seeds(seed: int, count: int) -> list[int]:
    """The seeds of `count` starts, which no training run uses."""
    return [envs.stream_seed(envs.EVAL_SEED + seed, number) for number in range(count)]


@enough_memory()
def run_episodes(
    agent: Agent,
    task: str,
    seeds: Sequence[int],
    num_envs: int,
    with_pictures: Collection[int] = (),
    with_plans: Collection[int] = (),
) -> tuple[list[Episode], float | None]:
    """Plays an episode of a task from each seed.

    Args:
        agent: the agent.
        task: one of its tasks.
        seeds: seeds of the starts.
        num_envs: number of parallel environments.
        with_pictures: numbers of the episodes whose images are kept.
        with_plans: numbers of the episodes whose images and plans (see `EvaluationPolicy`) are kept.

    Returns:
        the episodes in the order of the seeds, and the median seconds of a planning call for all environments at once,
        None if the only call compiled.
    """
    count = min(num_envs, len(seeds))
    # What the run's own episodes report is 0 where these report none.
    folder = expanded(agent.config.logdir) / EPISODES
    reported = reported_outcomes(folder if len(envs.split_tasks(agent.config.task)) == 1 else folder / task)
    driver = Driver(envs.make_vector_env(agent.config, count, agent.config.seed, task), reported)
    policy = EvaluationPolicy(agent, driver, keep_plans=bool(with_plans))
    agent.rng.reset_from_seed(agent.config.seed)  # so that no task depends on those before it
    episodes: list[Episode] = []
    try:
        driver.restart(seeds)
        with ProgressLine(len(seeds), "episodes", rich.console.Console(stderr=True)) as progress:
            for episode in islice(play(driver, policy), len(seeds)):
                episodes.append(_without_unseen(episode, with_pictures, with_plans))
                progress.update(len(episodes))
    finally:
        driver.close()
    seconds = float(np.median(policy.plan_seconds)) if policy.plan_seconds else None
    return sorted(alike(episodes), key=lambda episode: episode.number), seconds


def _without_unseen(episode: Episode, with_pictures: Collection[int], with_plans: Collection[int]) -> Episode:
    """The episode without images and plans that are not needed, to save memory."""
    if episode.number in with_plans:
        return episode
    dropped = PLAN_EXTRAS if episode.number in with_pictures else (*PLAN_EXTRAS, "image")
    data, extras = ({k: v for k, v in part.items() if k not in dropped} for part in (episode.data, episode.extras))
    return replace(episode, data=data, extras=extras)
