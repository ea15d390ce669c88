"""What planning in a learned model loses, and where: the parts of plan_quality.py and leaderboard.py that measure.

Shapes: N starts, horizon H, state size n, action size m. Returns are in the units that the model learned; where plans
discount, those of plans and of their execution do.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.execution import Played, chunks
from evaluation.episodes import run_episodes
from evaluation.executed_plans import achieved_rewards
from evaluation.numbers import describe, share_interval
from optimizers import LatentProblem, Plan, Planner
from planners.plan_state import before_finish
from planners.trajectories import rollout
from planning_agent import PlanningAgent
from training.driver import Episode

SAMPLED_ROLLOUTS = 20
DIGITS = 5  # of every number in a line


class Plans(NamedTuple):
    """Plans from N starts and what the mean dynamics say of them.

    Attributes:
        actions: [N, H, m].
        returns: [N], summed rewards.
        score: [N], what planners maximize: the returns, with the terminal value where the problem has one.
    """

    actions: np.ndarray
    returns: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Starts:
    """What all variants start from.

    Attributes:
        task: of the episodes.
        seed: decides the starts and the random numbers of the planners.
        seeds: of the N episodes.
        features: [N, n], inferred from their first images.
        batch: environments for the open-loop execution.
        scripted: the scripted policy from these starts, None where the task has none.
    """

    task: str
    seed: int
    seeds: Sequence[int]
    features: tf.Tensor
    batch: Any
    scripted: Played | None


# Plans under the model


def start_states(agent: PlanningAgent, batch: Any, seeds: Sequence[int]) -> tf.Tensor:
    """Features [N, n] of the first observations of the episodes that start from the seeds."""
    feats = []
    for rows in chunks(len(seeds), batch.num_envs):
        images = batch.reset(seed=[seeds[row] for row in rows])[0]["image"]
        for image in images[: len(set(rows))]:  # one by one: the samples of the posterior do not depend on the batch
            feats.append(agent.infer_first(image[None]))
    return tf.concat(feats, 0)


def sampled_returns(problem: LatentProblem, z0: tf.Tensor, actions: tf.Tensor, seed: int) -> np.ndarray:
    """Mean returns [N] of sampled rollouts of plans with actions [N, H, m] from z0 [N, n]."""
    z0, actions = (tf.repeat(x[:, None], SAMPLED_ROLLOUTS, 1) for x in (z0, actions))
    noise = tf.random.stateless_normal([*actions.shape[:3], problem.noise_size], [seed, 1])
    m = problem.action_size
    states = rollout(lambda z, x: problem.sample_step(z, x[..., :m], x[..., m:]), z0, tf.concat([actions, noise], -1))
    return tf.reduce_mean(tf.reduce_sum(problem.reward(states), -1), 1).numpy()


def converged_at(plan: Plan) -> float:
    """Median over the batch of the first iteration (from 1) after which the plan's own return changes by at most 2%."""
    reward = plan.curves["reward"].numpy()
    off = np.abs(reward - reward[:, -1:]) > 0.02 * np.abs(reward[:, -1:])
    return float(np.median([np.flatnonzero(row)[-1] + 2 if row.any() else 1 for row in off]))


def measure(planner: Planner, z0: tf.Tensor, seed: int) -> tuple[dict[str, Any], Plan, np.ndarray]:
    """A line of figures for a planner and its first states z0 (`PlanningAgent.planner_start`), the plans, and their
    mean returns [N] under sampled dynamics."""
    plan = planner(z0, [seed, 0])
    start = time.perf_counter()
    plan = planner(z0, [seed, 0])
    returns = tf.reduce_sum(plan.rewards, 1).numpy()
    seconds = time.perf_counter() - start
    sampled = sampled_returns(planner.problem, z0, plan.actions, seed)
    row = {
        "return_mean": float(returns.mean()),
        "return_se": standard_error(returns),
        "return_sampled": float(sampled.mean()),
        "return_own": float(np.mean(plan.curves["reward"][:, -1])),
    }
    for name in ("dynamics_violation", "action_violation"):
        if name in plan.curves:
            row[name] = float(np.mean(plan.curves[name][:, -1]))
            if planner.finish_steps:
                row[f"search_{name}"] = float(before_finish(plan, name, planner.finish_steps).mean())
    row = {key: value if value is None else float(f"{value:.4g}") for key, value in row.items()}
    row |= {
        "iterations": planner.iterations,
        "converged_at": converged_at(plan),
        "non_finite": int(tf.reduce_sum(plan.non_finite)),
        "seconds": round(seconds, 2),
    }
    return row, plan, sampled


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean; None of a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def found(plan: Plan) -> Plans:
    """What a planner found."""
    returns = tf.reduce_sum(plan.rewards, 1).numpy()
    value = 0.0 if plan.value is None else plan.value.numpy()
    return Plans(plan.actions.numpy(), returns, returns + value)


def judged(problem: LatentProblem, z0: tf.Tensor, actions: np.ndarray) -> Plans:
    """What the mean dynamics say of actions that no planner found."""
    states = rollout(problem.step, z0, tf.constant(actions))
    returns = tf.reduce_sum(problem.reward(states), 1).numpy()
    value = 0.0 if problem.value is None else problem.value(states[:, -1]).numpy()
    return Plans(actions, returns, returns + value)


def idle(agent: PlanningAgent, z0: tf.Tensor) -> Plans:
    """What the mean dynamics say of doing nothing from z0 [N, n], the planner's first states."""
    problem = agent.planner.problem
    return judged(problem, z0, np.zeros((len(z0), agent.planner.horizon, problem.action_size), np.float32))


# Execution


def achieved(agent: PlanningAgent, played: Played) -> np.ndarray:
    """What actions brought from each start [N], as the model would have it: its units, and the plans' discount."""
    rewards = agent.rewards(tf.constant(played.rewards)).numpy() * played.alive
    return rewards @ agent.config.discount ** np.arange(1, rewards.shape[1] + 1)


def episode_returns(agent: PlanningAgent, episode: Episode) -> tuple[float, float]:
    """The rewards that plans predicted for the executed actions, and those received, weighted alike."""
    return float(episode.extras["predicted_reward"].sum()), float(achieved_rewards(agent, episode).sum())


# Lines


def estimate(name: str, values: np.ndarray) -> dict[str, float | None]:
    """Mean over the starts and its standard error."""
    return {name: float(np.mean(values)), f"{name}_se": standard_error(values)}


def losses(plans: Plans, best: Plans, sampled: np.ndarray, came: np.ndarray) -> dict[str, Any]:
    """The three losses of plans, each with its standard error over the starts.

    Args:
        plans: what was found.
        best: the best plans known.
        sampled: [N], returns of the plans under sampled dynamics.
        came: [N], what they brought, executed open loop.
    """
    top = float(best.score.mean())
    return {
        **estimate("return_best", best.score),
        "search_gap": float(plans.score.mean()) / top if top > 0 else None,
        **estimate("search_loss", best.score - plans.score),
        "return_sampled_se": standard_error(sampled),
        **estimate("noise_loss", plans.returns - sampled),
        **estimate("achieved_open_loop", came),
        **estimate("model_loss", plans.returns - came),
    }


def open_loop(
    agent: PlanningAgent,
    starts: Starts,
    plans: Plans,
    best: tuple[Plans, list[str]],
    sampled: np.ndarray,
    played: Played,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a line about the first plans, and its values for each start."""
    came = achieved(agent, played)
    line = losses(plans, best[0], sampled, came)
    each: dict[str, Any] = {"seed": list(starts.seeds), "found": plans.score, "best": best[0].score, "best_by": best[1]}
    each |= {"sampled": sampled, "achieved_open_loop": came}
    if played.success is not None:
        each["success_open_loop"] = played.success.any(1).astype(int)
        line["success_open_loop"] = share_interval(each["success_open_loop"])
    return line, each


def closed_loop(agent: PlanningAgent, starts: Starts, num_envs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a line about whole episodes, and its values for each episode."""
    episodes, seconds = run_episodes(agent, starts.task, starts.seeds, num_envs)
    rows = [describe(episode, starts.seeds, starts.task) for episode in episodes]
    predicted, came = np.array([episode_returns(agent, episode) for episode in episodes]).T
    line: dict[str, Any] = estimate("episode_predicted", predicted) | estimate("episode_achieved", came)
    line |= {"plan_seconds": seconds, "envs": min(num_envs, len(rows))}
    each: dict[str, Any] = {"episode_predicted": predicted, "episode_achieved": came}
    for name in ("distance", "success", "return", "length"):
        if name in rows[0]:
            each[name] = [row[name] for row in rows]
    if "success" in each:
        line["success"] = share_interval(each["success"])
    return line, each


def rounded(value: Any) -> Any:
    """A value as JSON knows it, numbers with `DIGITS` digits, None for what is not finite."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
