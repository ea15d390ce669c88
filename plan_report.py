"""Shows one plan of a trained agent: its optimization, what the model imagines, and its execution.

    python plan_report.py --logdir logdir/metaworld_reach/latco/0
    python plan_report.py --logdir logdir/metaworld_reach/latco/0 --planner cem --sampling_iterations 20 --rows 0 1 5 20

The planner plans once, from the first state of an episode. Two pictures are written:

    plan_<planner>_<seed>_curves.png    return, violations and multipliers over the iterations (LatCo ICML 2021,
                                        figures 6 and 11)
    plan_<planner>_<seed>_frames.png    the plan decoded after some iterations, above the frames of executing the last
                                        one open loop (figure 1)

One line of JSON on the standard output has the numbers. Settings of the run can be overridden as in evaluate.py, so one
model may serve all planners.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

import envs
from agents import load_agent
from analysis.figures import save
from evaluation.files import check_writable
from evaluation.numbers import model_age
from evaluation.plan_optimization import MULTIPLIERS, VIOLATIONS, Execution, draw_curves, draw_frames, execute
from optimizers import Plan
from tools.command_line import Parser, count, nonempty, place
from tools.files import expanded
from tools.program import run_program
from tools.revision import git_revision
from training.logdir import check_task, find_logdir

if TYPE_CHECKING:
    from planning_agent import PlanningAgent

ROWS = (0, 2, 5, 10, 50, 200)  # iterations after which the plan is shown


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
    task = check_task(agent.config, logdir, task or tasks[0])
    planner = agent.config.planner
    stem = f"plan_{planner}_{seed}" if len(tasks) == 1 else f"plan_{task}_{planner}_{seed}"
    paths = {name: out / f"{stem}_{name}.png" for name in ("curves", "frames")}
    for path in paths.values():
        check_writable(path, "choose another --out")
    env = envs.make_vector_env(agent.config, 1, seed, task)
    try:
        image = env.reset()[0]["image"].copy()
        z0 = agent.infer_first(image)
        plans = plans_after(agent, z0, rows)
        iterations, plan = plans[-1]
        executed = execute(agent, env, image[0], plan.actions[0].numpy())
    finally:
        env.close()
    age, unit = model_age(agent)
    title = f"{task}, {planner}, seed {seed}, model after {age:,} {unit}"
    figures = {
        "curves": draw_curves(plan, iterations, executed, title),
        "frames": draw_frames(agent, z0, plans, executed, title),
    }
    files = [save(figure, paths[name]) for name, figure in figures.items()]
    return {"task": task} | numbers(agent, plan, executed) | {"seed": seed, "logdir": str(logdir), "files": files}


def plans_after(agent: "PlanningAgent", z0: tf.Tensor, rows: Sequence[int]) -> list[tuple[int, Plan]]:
    """The plan from z0 [1, n] after each number of iterations in `rows` that it reaches, and the finished one."""
    seed = agent.rng.uniform_full_int([2], tf.int32)
    finished = agent.plan_from(z0, seed)
    last = int(finished.iterations[0])
    plans = [(row, agent.plan_from(z0, seed, iterations=row)) for row in sorted(set(rows)) if row < last]
    return [*plans, (last, finished)]


def numbers(agent: "PlanningAgent", plan: Plan, executed: Execution) -> dict[str, Any]:
    """The report in numbers: the last iteration of the plan, its predicted and its achieved return.

    Returns are in the units that the model learned, and discounted where plans are.
    """
    last = {name: _finite(curve[0, -1]) for name, curve in plan.curves.items()}
    return {
        "planner": agent.config.planner,
        "return_predicted": _finite(tf.reduce_sum(plan.rewards[0])),
        "return_planned": last["reward"],
        **({} if plan.value is None else {"value": _finite(plan.value[0])}),
        "return_achieved": _finite(executed.discounted),
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
    """A number for JSON, rounded to the precision of float32; None for infinities and NaN."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run."""
    parser = Parser(
        prog="python plan_report.py",
        usage="%(prog)s --logdir DIR [--task NAME] [--out DIR] [--seed N] [--rows N ...] "
        "[--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
    )
    parser.add_argument(
        "--logdir",
        type=place,
        required=True,
        metavar="DIR",
        help="log directory of a trained agent, or the name of a shipped model",
    )
    parser.add_argument("--task", type=nonempty, metavar="NAME", help="which of the run's tasks (default: the first)")
    parser.add_argument(
        "--out", type=place, metavar="DIR", help="folder for the pictures (default: reports/ in --logdir)"
    )
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="seed of the episode and of the planner (default: 0)"
    )
    parser.add_argument(
        "--rows",
        type=count,
        nargs="+",
        default=ROWS,
        metavar="N",
        help="iterations after which the plan is shown, 0 for its start; the last one always is, and those beyond it "
        f"are left out (default: {' '.join(map(str, ROWS))})",
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own: --planner cem")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_report, argv, lambda: "start the same command again")


def _report(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    logdir = find_logdir(options.logdir)
    out = expanded(options.out or logdir / "reports")
    numbers_of_plan = report(logdir, out, overrides, options.seed, options.rows, options.task)
    print(json.dumps(numbers_of_plan, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
