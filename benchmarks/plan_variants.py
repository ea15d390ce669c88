"""Variants of a run beside the best plans known: the lines of plan_quality.py --execute."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rich.console

from agents import load_agent
from benchmarks.execution import Played, play_open_loop
from benchmarks.plan_losses import (
    Plans,
    Starts,
    closed_loop,
    estimate,
    found,
    idle,
    judged,
    measure,
    open_loop,
    rounded,
    sampled_returns,
)
from planning_agent import PlanningAgent
from tools.progress import ProgressLine


def pool(agent: PlanningAgent, best_of: int) -> dict[str, list[str]]:
    """Label -> words of the searches that look for the best plans: LatCo and GD from many starts, CEM with many
    candidates under the mean dynamics, which is what plans are compared by."""
    if not best_of:
        return {}
    c, half, times = agent.config, max(1, best_of // 2), max(1, best_of // 8)
    words = {f"latco x {best_of}": ["--planner", "latco", "--latco_solver", "auto", "--n_parallel_plans", str(best_of)]}
    if not c.cost_head:  # only collocation keeps state constraints
        words[f"gd x {half}"] = ["--planner", "gd", "--n_parallel_plans", str(half)]
        words[f"cem, {times} x candidates"] = [
            "--planner",
            "cem",
            "--cem_candidates",
            str(times * c.cem_candidates),
            "--sample_states",
            "false",
            "--n_parallel_plans",
            "1",
        ]
    shared = ["--planning_horizon", str(c.planning_horizon), "--discount", repr(c.discount), "--mpc_steps", "1"]
    shared += ["--restart_samples", "0"]
    if c.augmented_objective:  # which no score has, and GD and CEM refuse
        shared += ["--augmented_objective", "false"]
    return {label: [*chosen, *shared] for label, chosen in words.items()}


def search(agent: PlanningAgent, starts: Starts, label: str) -> Plans:
    """The agent's plans from one start after the other, which bounds the memory of many restarts."""
    z0, plans = agent.planner_start(starts.features), []
    with ProgressLine(len(z0), f"starts, {label}", rich.console.Console(stderr=True)) as progress:
        for row in progress.track(range(len(z0))):
            plans.append(found(agent.planner(z0[row : row + 1], [starts.seed, 1 + row])))
    return Plans(*map(np.concatenate, zip(*plans, strict=True)))


def best_known(candidates: Mapping[str, Plans]) -> tuple[Plans, list[str]]:
    """The plan with the best score from each start, and whose it is; of equal ones the first."""
    names, plans = list(candidates), list(candidates.values())
    scores = np.stack([plan.score for plan in plans])
    winner = np.argmax(np.where(np.isfinite(scores), scores, -np.inf), 0)
    rows = np.arange(len(winner))
    best = Plans(*(np.stack(parts)[winner, rows] for parts in zip(*plans, strict=True)))
    return best, [names[index] for index in winner]


def settings(agent: PlanningAgent) -> dict[str, Any]:
    """The fields of a line that describe the agent."""
    c = agent.config
    names = ("planner", "mpc_steps", "warm_start", "n_parallel_plans", "restart_samples", "discount")
    return {
        "step": int(agent.step),
        "updates": int(agent.updates),
        "horizon": c.planning_horizon,
        **{name: c[name] for name in names},
    }


def objective(agent: PlanningAgent) -> tuple[int, float]:
    """What returns of plans must share to be compared: horizon and discount."""
    return agent.config.planning_horizon, agent.config.discount


@dataclass
class Variant:
    """A variant whose plans are known.

    Attributes:
        label: its name.
        words: that made it of the run's own settings.
        agent: plays it.
        row: the line so far.
        plans: from all starts.
        sampled: [N], their returns under sampled dynamics.
    """

    label: str
    words: Sequence[str]
    agent: PlanningAgent
    row: dict[str, Any]
    plans: Plans
    sampled: np.ndarray


def plan_variant(label: str, words: Sequence[str], agent: PlanningAgent, starts: Starts) -> Variant:
    """Plans from all starts."""
    row, plan, sampled = measure(agent.planner, agent.planner_start(starts.features), starts.seed)
    return Variant(label, words, agent, settings(agent) | row, found(plan), sampled)


def reference(label: str, agent: PlanningAgent, starts: Starts, plans: Plans) -> Variant:
    """Plans that no variant made, to be compared with them; the agent lends its model."""
    sampled = sampled_returns(agent.planner.problem, agent.planner_start(starts.features), plans.actions, starts.seed)
    row = {key: settings(agent)[key] for key in ("step", "updates", "horizon", "discount")}
    row |= {**estimate("return_mean", plans.returns), "return_sampled": float(sampled.mean())}
    row["return_se"] = row.pop("return_mean_se")
    return Variant(label, [], agent, row, plans, sampled)


def gauge(
    logdir: str,
    agents: Mapping[str, tuple[Sequence[str], PlanningAgent]],
    starts: Starts,
    best_of: int,
    overrides: Sequence[str],
    num_envs: int,
) -> Iterator[dict[str, Any]]:
    """Yields the line of every variant, after those of the scripted actions, of no actions and of the best plans known.

    Args:
        logdir: of the run.
        agents: label -> the words of a variant and its agent.
        starts: of all of them.
        best_of: size of the search for the best plans, 0 for none beside the variants.
        overrides: words for the agents of that search.
        num_envs: environments that play episodes in parallel.
    """
    variants = [plan_variant(label, words, agent, starts) for label, (words, agent) in agents.items()]
    best = {}
    for kind in dict.fromkeys(objective(variant.agent) for variant in variants):
        own = [variant for variant in variants if objective(variant.agent) == kind]
        agent, candidates = own[0].agent, {variant.label: variant.plans for variant in own}
        still = candidates["idle"] = idle(agent, agent.planner_start(starts.features))
        if starts.scripted:
            played = starts.scripted.first(agent.config.planning_horizon)
            plans = judged(agent.planner.problem, agent.planner_start(starts.features), played.actions)
            candidates["scripted"] = plans
        for label, words in pool(agent, best_of).items():
            candidates[label] = search(load_agent(logdir, [*overrides, *words]), starts, label)
        best[kind] = best_known(candidates)
        if starts.scripted:
            yield whole_line(reference("scripted", agent, starts, plans), starts, best[kind], played)
        yield whole_line(reference("idle", agent, starts, still), starts, best[kind])
        yield whole_line(reference("best_known", agent, starts, best[kind][0]), starts, best[kind])
    for variant in variants:
        yield whole_line(variant, starts, best[objective(variant.agent)], num_envs=num_envs)


def whole_line(
    variant: Variant, starts: Starts, best: tuple[Plans, list[str]], played: Played | None = None, num_envs: int = 0
) -> dict[str, Any]:
    """The line of a variant: its plans, their execution, unless that is known, and with `num_envs` whole episodes."""
    played = played or play_open_loop(starts.batch, starts.seeds, variant.plans.actions)
    line, each = open_loop(variant.agent, starts, variant.plans, best, variant.sampled, played)
    if num_envs:
        for part, more in zip((line, each), closed_loop(variant.agent, starts, num_envs), strict=True):
            part.update(more)
    head = {"benchmark": "plan_quality", "variant": variant.label, "task": starts.task, "starts": len(starts.seeds)}
    head |= {"start_seed": starts.seed, "words": list(variant.words)}
    return rounded(head | variant.row | line | {"per_start": each})
