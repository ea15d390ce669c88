"""One planner of the leaderboard: built in any size on a frozen model, timed, counted, judged and executed."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from agents import load_agent, make_planner
from benchmarks.equal_time import SPACES, Tuned, fit_size, fits, sized, smallest
from benchmarks.execution import play_open_loop
from benchmarks.model_counter import ModelCounter
from benchmarks.plan_losses import Plans, Starts, closed_loop, found, sampled_returns
from evaluation.numbers import mean_interval, share_interval
from optimizers import Planner
from tools.config import Config

BATCH = 16  # plans at once, beside one
BATCH_SECONDS = 60.0  # after which batches are not repeated


class Contestant:
    """A planner on a frozen model, whose evaluations are counted.

    Args:
        model: as `load_agent` takes it.
        planner: its name.
        words: that override settings of the run.
        repeats: how many plans give the median time of a size, and how many batches are timed.
    """

    def __init__(self, model: str, planner: str, words: Sequence[str], repeats: int):
        self.name, self.repeats, self.counter = planner, repeats, ModelCounter()
        self.agent = load_agent(model, [*words, "--planner", planner], "--model")
        self.problem = self.counter.watch(self.agent.latent_problem())
        self._base: Config = self.agent.config
        self._built: tuple[Any, Planner] | None = None

    def build(self, size: int, tuned: Tuned) -> Planner:
        """The agent's new planner, or the present one if it is the same."""
        config = sized(self._base, self.name, size, tuned)
        if self._built is None or self._built[0] != config:
            self._built = (config, make_planner(config, self.problem))
            self.agent.config, self.agent.planner = self._built
        return self._built[1]

    def fit(self, budget: float, tuned: Tuned, known: dict[int, float], z0: tf.Tensor) -> int:
        """The size whose plan from the first of z0 takes the budget, see `fit_size`."""

        def measure(size: int) -> float:
            planner, times = self.warm(size, tuned, z0), []
            for repeat in range(self.repeats):
                times.append(timed(planner, z0[:1], repeat)[0])
                if not fits(times[0], 2.0 * budget):
                    break
            return float(np.median(times))

        return fit_size(measure, budget, known, SPACES[self.name].first, smallest(self.name))

    def warm(self, size: int, tuned: Tuned, z0: tf.Tensor) -> Planner:
        """`build`, then one plan: the first one compiles, and is slow beyond that."""
        planner = self.build(size, tuned)
        planner(z0[:1], [0, 0])
        return planner

    def plan_each(self, z0: tf.Tensor, seed: int) -> tuple[Plans, np.ndarray, dict[str, float]]:
        """Plans one by one from z0 [N, n], the seconds of each [N], and what a plan asked of the dynamics."""
        planner = self.agent.planner
        before, plans, seconds = self.counter.read(), [], []
        for row in range(len(z0)):
            took, plan = timed(planner, z0[row : row + 1], row + 1, seed)
            plans.append(found(plan))
            seconds.append(took)
        after = self.counter.read()
        each = [(new - old) / len(z0) for new, old in zip(after, before, strict=True)]
        counts = {"model_steps": each[0], "model_jacobians": each[1]}
        return Plans(*map(np.concatenate, zip(*plans, strict=True))), np.array(seconds), counts

    def batch_seconds(self, z0: tf.Tensor) -> list[float]:
        """Seconds of `repeats` calls (fewer long ones) for `BATCH` plans together from z0 [N, n] by turns."""
        planner, many = self.agent.planner, tf.gather(z0, np.arange(BATCH) % len(z0))
        planner(many, [0, 0], iterations=0)
        times: list[float] = []
        while len(times) < self.repeats and sum(times) < BATCH_SECONDS:
            times.append(timed(planner, many, len(times))[0])
        return times


def timed(planner: Planner, z0: tf.Tensor, number: int, seed: int = 0) -> tuple[float, Any]:
    """The seconds of one call, and its plans."""
    start = time.perf_counter()
    plan = planner(z0, [seed, number])
    plan.actions.numpy()
    return time.perf_counter() - start, plan


def trial(contestant: Contestant, budget: float, tuned: Tuned, z0: tf.Tensor, seed: int) -> dict[str, Any]:
    """The fields of a line about settings that are tried: mean score of the plans from z0 [N, n] at a budget."""
    known: dict[int, float] = {}
    size = contestant.fit(budget, tuned, known, z0)
    row: dict[str, Any] = {"size": size, "seconds": known[size], "fits": fits(known[size], budget)}
    if not row["fits"]:
        return row | {"score": None}
    contestant.warm(size, tuned, z0)
    return row | {"score": float(contestant.plan_each(z0, seed)[0].score.mean())}


def result(
    contestant: Contestant,
    budget: float,
    tuned: Tuned,
    known: dict[int, float],
    starts: Starts,
    episodes: bool,
    num_envs: int,
) -> dict[str, Any]:
    """The fields of a line about a planner at a budget of seconds a plan.

    Args:
        contestant: the planner.
        budget: seconds.
        tuned: its settings.
        known: size -> seconds so far, see `fit_size`.
        starts: where plans and episodes start.
        episodes: play whole episodes, too.
        num_envs: environments that play them.
    """
    agent = contestant.agent
    z0 = agent.planner_start(starts.features)
    size = contestant.fit(budget, tuned, known, z0)
    row: dict[str, Any] = {"size": size, "fits": fits(known[size], budget)}
    if not row["fits"]:
        return row | {"seconds": {"mean": known[size], "low": None, "high": None}}
    contestant.warm(size, tuned, z0)
    plans, seconds, counts = contestant.plan_each(z0, starts.seed)
    row |= counts | {"seconds": interval(seconds)}
    sampled = sampled_returns(contestant.problem, z0, plans.actions, starts.seed)
    row |= {"plans_per_second_1": per_second(1, seconds)}
    row |= {f"plans_per_second_{BATCH}": per_second(BATCH, contestant.batch_seconds(z0))}
    played = play_open_loop(starts.batch, starts.seeds, plans.actions)
    each: dict[str, Any] = {"seed": list(starts.seeds), "return_mean": plans.returns, "return_sampled": sampled}
    each["return_blind"] = played.rewards.sum(1)
    if played.success is not None:
        each["success_blind"] = played.success.any(1).astype(int)
    if episodes:
        line, more = closed_loop(agent, starts, num_envs)
        each |= {"return": more["return"], "predicted": more["episode_predicted"]}
        each |= {"success": more["success"]} if "success" in more else {}
        row |= {"envs": line["envs"], "envs_plan_seconds": line["plan_seconds"]}
    for name in ("return_mean", "return_sampled", "return_blind", "return", "predicted"):
        if name in each:
            row[name] = interval(each[name])
    for name in ("success_blind", "success"):
        if name in each:
            row[name] = share_interval(each[name])
    return row | {"per_start": each}


def interval(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean and its 95% interval by Student's t."""
    found_interval = mean_interval([float(value) for value in values])
    return {key: found_interval[key] for key in ("mean", "low", "high")}


def per_second(plans: int, seconds: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Plans per second of calls for so many plans, with a 95% interval: that of the seconds of a call, inverted."""
    each = interval(seconds)
    times = {"mean": each["mean"], "low": each["high"], "high": each["low"]}
    return {key: None if value is None or value <= 0.0 else plans / value for key, value in times.items()}
