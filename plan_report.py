"""Looks into one plan of a trained agent: how its optimization went, what it imagined, and what came of it.

    python plan_report.py --logdir logdir/metaworld_reach/latco/0
    python plan_report.py --logdir logdir/metaworld_reach/latco/0 --planner cem --cem_iterations 20 --rows 0 1 5 20

From the first state of one episode the planner plans once. Two pictures are written: plan_<planner>_<seed>_curves.png,
the return, the violations and the multipliers over the iterations (LatCo, ICML 2021, figures 6 and 11), and
plan_<planner>_<seed>_frames.png, the plan decoded after some iterations above the frames of executing the last one in
the environment without feedback (figure 1). One line of JSON on the standard output says the same in numbers.

Every setting of the run can be overridden (`python planning_agent.py --help` lists them), so one model may serve all
planners, except those that the weights and episodes depend on. Of an agent of several tasks `--task` chooses one.
"""

import tools.tensorflow_setup

import argparse
import json
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import envs
import models
from agents import load_agent
from analysis.figures import save
from optimizers import Plan
from tools.command_line import Parser, count
from tools.errors import UserError
from tools.revision import git_revision

if TYPE_CHECKING:
    from planning_agent import PlanningAgent

ROWS = (0, 2, 5, 10, 50, 200)
COLUMNS = 11  # time steps shown at most, the start among them
GAP = 4  # pixels between frames

# How the curves of a plan (see optimizers.Plan) are called in a legend.
VIOLATIONS = {
    "dynamics_violation": "dynamics",
    "action_violation": "action bounds",
    "constraint_violation": "state constraint",
}
MULTIPLIERS = {"lam": "λ (dynamics)", "nu": "ν (action bounds)", "kappa": "κ (state constraint)"}


class Execution(NamedTuple):
    """What came of a plan: T decisions were executed, fewer than planned where the episode ended before.

    Attributes:
        frames: uint8 [T + 1, 64, 64, 3], the start first.
        rewards: [T].
        success: whether the simulator reported success at any step, None where it does not know.
        cost: the largest cost of a step, None where the simulator reports none.
    """

    frames: np.ndarray
    rewards: np.ndarray
    success: bool | None
    cost: float | None


def report(
    logdir: Path, out: Path, overrides: Sequence[str], seed: int, rows: Sequence[int], task: str | None = None
) -> dict[str, Any]:
    """Plans once, executes the plan and writes both pictures.

    Args:
        logdir: log directory of the run.
        out: folder for the pictures.
        overrides: words of a command line that change the run's settings.
        seed: of the episode, the planner and the sample from the posterior of the first state.
        rows: iterations after which the plan is shown; the last one always is.
        task: which of the run's tasks, the first one unless given.

    Returns:
        the numbers of the report, ready for JSON.

    Raises:
        UserError: see `agents.load_agent`; or the run has no such task, or a picture cannot be written.
    """
    agent = load_agent(logdir, [*overrides, "--seed", str(seed)])
    tasks = envs.split_tasks(agent.config.task)
    task = task_of_run(agent, logdir, task or tasks[0])
    env = envs.make_vector_env(agent.config, 1, seed, task)
    try:
        image = env.reset()[0]["image"].copy()
        z0 = first_state(agent, image)
        plans = plans_after(agent, z0, rows)
        iterations, plan = plans[-1]
        executed = execute(env, image[0], plan.actions[0].numpy())
    finally:
        env.close()
    planner = agent.config.planner
    title = f"{task}, {planner}, seed {seed}, model after {int(agent.step):,} environment steps"
    stem = f"plan_{planner}_{seed}" if len(tasks) == 1 else f"plan_{task}_{planner}_{seed}"
    figures = {
        "curves": draw_curves(plan, iterations, executed, title),
        "frames": draw_frames(agent, z0, plans, executed, title),
    }
    files = [save(figure, out / f"{stem}_{name}.png") for name, figure in figures.items()]
    return {"task": task} | numbers(agent, plan, executed) | {"seed": seed, "logdir": str(logdir), "files": files}


def task_of_run(agent: "PlanningAgent", logdir: Path, task: str) -> str:
    """The task, which must be among those of the run. Raises UserError if it is not."""
    if task not in envs.split_tasks(agent.config.task):
        raise UserError(f"{logdir} holds a run with task = {agent.config.task}, not {task}: choose a task of the run.")
    return task


def first_state(agent: "PlanningAgent", image: np.ndarray) -> tf.Tensor:
    """The feature [1, n] that the agent infers from the first image of an episode, uint8 [1, 64, 64, 3]."""
    action = np.zeros([1, agent.action_size], np.float32)
    return models.get_feat(agent.filter(image, np.array([True]), agent.model.dynamics.initial(1), action))


def plans_after(agent: "PlanningAgent", z0: tf.Tensor, rows: Sequence[int]) -> list[tuple[int, Plan]]:
    """The plan from z0 [1, n] after each number of iterations in `rows` that it reaches, and the finished one."""
    seed = agent.rng.uniform_full_int([2], tf.int32)
    finished = agent.plan_from(z0, seed)
    last = int(finished.iterations[0])
    plans = [(row, agent.plan_from(z0, seed, iterations=row)) for row in sorted(set(rows)) if row < last]
    return [*plans, (last, finished)]


def execute(env: Any, image: np.ndarray, actions: np.ndarray) -> Execution:
    """Executes actions [H, m] one after the other, whatever they lead to; `image` is the environment's first one."""
    frames, rewards, successes, costs = [image], [], [], []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action[None])
        frames.append(obs["image"][0].copy())
        rewards.append(float(reward[0]))
        if "success" in info:
            successes.append(bool(info["success"][0]))
        if "cost" in info:
            costs.append(float(info["cost"][0]))
        if terminated[0] or truncated[0]:
            break
    success, cost = any(successes) if successes else None, max(costs, default=None)
    return Execution(np.stack(frames), np.array(rewards), success, cost)


def numbers(agent: "PlanningAgent", plan: Plan, executed: Execution) -> dict[str, Any]:
    """What the report says in numbers: the last iteration of the plan, its promise and its outcome."""
    last = {name: _finite(curve[0, -1]) for name, curve in plan.curves.items()}
    return {
        "planner": agent.config.planner,
        "return_predicted": _finite(tf.reduce_sum(plan.rewards[0])),
        "return_planned": last["reward"],
        **({} if plan.value is None else {"value": _finite(plan.value[0])}),
        "return_achieved": _finite(executed.rewards.sum()),
        "success": executed.success,
        "largest_cost": executed.cost,
        "violations": {name: last[name] for name in VIOLATIONS if name in last},
        "multipliers": {name: last[name] for name in MULTIPLIERS if name in last},
        "iterations": int(plan.iterations[0]),
        "non_finite": int(plan.non_finite[0]),
        "horizon": agent.config.planning_horizon,
        "executed": len(executed.rewards),
        "step": int(agent.step),
        "updates": int(agent.updates),
        **git_revision(),
    }


def _finite(value: Any) -> float | None:
    """A number that JSON can say, rounded to what float32 knows; None for infinities and NaN."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def draw_curves(plan: Plan, iterations: int, executed: Execution, title: str) -> Figure:
    """Return, violations and multipliers over the iterations, each in a panel of its own where the planner has any."""
    horizon = plan.actions.shape[1]
    curves = {name: curve[0, :iterations].numpy() for name, curve in plan.curves.items()}
    panels = [names for names in (VIOLATIONS, MULTIPLIERS) if curves.keys() & names.keys()]
    height = 2.9 * (1 + len(panels)) + 0.6
    figure = Figure(figsize=(8.0, height), dpi=120, layout="constrained")
    axes = figure.subplots(1 + len(panels), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=10)
    _draw_returns(axes[0], curves["reward"], plan, executed)
    for axis, names in zip(axes[1:], panels, strict=True):
        _draw_positive(axis, {label: curves[name] for name, label in names.items() if name in curves})
        what = "squared violation,\nsum over" if names is VIOLATIONS else "multiplier,\nmean over"
        axis.set_ylabel(f"{what} {horizon} time steps")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    axes[-1].set_xlabel("iteration of the planner")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _draw_returns(axis: Axes, reward: np.ndarray, plan: Plan, executed: Execution) -> None:
    """The planner's own return, between what the model predicts of the finished plan and what was achieved."""
    horizon, steps = plan.actions.shape[1], len(executed.rewards)
    own = "as the planner\nsees it" + ("" if plan.value is None else ", with\nthe terminal value")
    axis.plot(np.arange(1, len(reward) + 1), reward, ".-", markersize=3, label=own)
    predicted, achieved = float(tf.reduce_sum(plan.rewards[0])), executed.rewards.sum()
    axis.axhline(predicted, color="C1", linestyle="--", label=f"rolled out in\nthe model: {predicted:.2f}")
    early = "" if steps == horizon else f"\n(ended after {steps})"
    axis.axhline(achieved, color="C2", linestyle=":", label=f"achieved in the\nenvironment: {achieved:.2f}{early}")
    axis.set_ylabel(f"return,\nsum over {horizon} time steps")


def _draw_positive(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    """Curves on a logarithmic axis. It has no zero, so the legend says how often a curve is there."""
    for label, curve in curves.items():
        zeros = int(np.sum(curve <= 0))
        if zeros:
            often = "throughout" if zeros == len(curve) else f"in {zeros} of {len(curve)}\niterations, not drawn"
            label = f"{label},\n0 {often}"
        axis.plot(np.arange(1, len(curve) + 1), curve, ".-", markersize=3, label=label)
    if any(np.any(curve > 0) for curve in curves.values()):
        axis.set_yscale("log", nonpositive="mask")


def draw_frames(
    agent: "PlanningAgent", z0: tf.Tensor, plans: list[tuple[int, Plan]], executed: Execution, title: str
) -> Figure:
    """Plans decoded by the model, a row each with time from left to right, above the frames of the execution."""
    horizon = plans[-1][1].actions.shape[1]
    columns = np.unique(np.linspace(0, horizon, min(horizon + 1, COLUMNS)).round().astype(int))
    labels, rows = [], []
    for iteration, plan in plans:
        feat = tf.gather(tf.concat([z0[:, None], plan.states], 1), columns, axis=1)
        rows.append(models.postprocess(agent.model.decode(feat))[0].numpy())
        planned = float(tf.reduce_sum(agent.model.reward(plan.states)))
        labels.append(f"{'start' if iteration == 0 else f'iteration {iteration}'}\nreturn {planned:.2f}")
    blank = np.full([horizon + 1 - len(executed.frames), *models.IMAGE_SHAPE], 255, np.uint8)
    rows.append(np.concatenate([executed.frames, blank])[columns])
    labels.append(f"executed\nreturn {executed.rewards.sum():.2f}")

    figure, axis = draw_sheet(rows, labels, columns, {len(rows) - 1})
    axis.set_xlabel(
        f"time step (agent decisions after the start)\nReturns are sums over {horizon} time steps: of the reward model "
        f"at the states shown, and of the {len(executed.rewards)} executed steps"
    )
    figure.suptitle(title, fontsize=10)
    return figure


def draw_sheet(
    rows: list[np.ndarray], labels: list[str], columns: Sequence[int], apart: Collection[int]
) -> tuple[Figure, Axes]:
    """Frames, uint8 [C, 64, 64, 3] a row, below each other.

    Args:
        rows: the frames.
        labels: of the rows.
        columns: the C numbers below the columns.
        apart: the rows with more room above them.
    """
    sheet, centres = _sheet(rows, apart)
    figure = Figure(figsize=(1.6 + 0.9 * len(columns), 1.3 + 0.9 * len(rows)), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    axis.set_xticks((np.arange(len(columns)) + 0.5) * (models.IMAGE_SHAPE[1] + GAP) - GAP / 2 - 0.5, columns)
    axis.set_yticks(centres, labels, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure, axis


def _sheet(rows: list[np.ndarray], apart: Collection[int]) -> tuple[np.ndarray, list[float]]:
    """The rows on one white sheet, and their middles."""
    size, parts, centres, top = models.IMAGE_SHAPE[0], [], [], 0
    for index, frames in enumerate(rows):
        gap = 0 if index == 0 else 3 * GAP if index in apart else GAP
        padded = np.pad(frames, [(0, 0), (gap, 0), (0, GAP), (0, 0)], constant_values=255)
        parts.append(np.concatenate(list(padded), 1)[:, :-GAP])
        centres.append(top + gap + size / 2 - 0.5)
        top += gap + size
    return np.concatenate(parts, 0), centres


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run."""
    parser = Parser(
        prog="python plan_report.py",
        usage="%(prog)s --logdir DIR [--task NAME] [--out DIR] [--seed N] [--rows N ...] [--KEY VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--logdir", type=Path, required=True, metavar="DIR", help="log directory of a trained agent")
    parser.add_argument("--task", metavar="NAME", help="which of the run's tasks (default: the first)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the pictures (default: reports/ in --logdir)"
    )
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="seed of the episode and of the planner (default: 0)"
    )
    parser.add_argument(
        "--rows", type=count, nargs="+", default=ROWS, metavar="N",
        help="iterations after which the plan is shown, 0 for its start; the last one always is, and those beyond it "
        f"are left out (default: {' '.join(map(str, ROWS))})",
    )  # fmt: skip
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own: --planner cem")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 2 for bad input."""
    try:
        options, overrides = parse_options(sys.argv[1:] if argv is None else list(argv))
        out = options.out or options.logdir.expanduser() / "reports"
        numbers_of_plan = report(options.logdir, out, overrides, options.seed, options.rows, options.task)
        print(json.dumps(numbers_of_plan, allow_nan=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
