"""One minute from clone to a plan: LatCo and CEM plan from the same picture on a shipped model, and both are executed.

    python demo.py
    python demo.py --model pointmass_obstacle --seed 3

One picture and one video are written: each plan above its execution, and the rewards, returns and violations. Every
setting of the model's run can be overridden, except those that the weights depend on.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf

import envs
from agents import load_agent
from analysis.figures import save
from evaluation.files import check_writable
from evaluation.plan_optimization import execute
from evaluation.side_by_side import Side, draw_picture, draw_video, make_side
from optimizers import Plan
from tools.command_line import Parser, count
from tools.files import expanded, writing
from tools.logger import write_video
from tools.program import run_program

if TYPE_CHECKING:
    from planning_agent import PlanningAgent

PLANNERS = ("latco", "cem")
STAGES = 7  # numbers of iterations after which the video shows the plan, at most
FPS = 8


class Result(NamedTuple):
    """One planner's side of the pictures, and the seconds of its plan, compilation excluded."""

    side: Side
    seconds: float


def play(model: str, planner: str, overrides: Sequence[str], seed: int) -> Result:
    """Plans once from the first picture of an episode and executes the plan without feedback.

    The same model and seed give the same episode, the same first state and the same random numbers to every planner.
    """
    agent = load_agent(model, [*overrides, "--planner", planner, "--seed", str(seed)])
    print(f"{planner} plans ...", file=sys.stderr, flush=True)
    env = envs.make_vector_env(agent.config, 1, seed, envs.split_tasks(agent.config.task)[0])
    try:
        image = env.reset()[0]["image"].copy()
        z0 = agent.infer_first(image)
        plans, seconds = search(agent, z0)
        executed = execute(env, image[0], plans[-1][1].actions[0].numpy())
    finally:
        env.close()
    return Result(make_side(agent, z0, plans, executed), seconds)


def search(agent: "PlanningAgent", z0: tf.Tensor) -> tuple[list[tuple[int, Plan]], float]:
    """The plan from z0 [1, n] after some numbers of iterations, the last one finished, and the seconds that it took."""
    seed, plans, seconds = agent.rng.uniform_full_int([2], tf.int32), [], 0.0
    for number in stages(agent.planner.iterations):  # the first of these calls compiles
        start = time.perf_counter()
        plan = agent.plan_from(z0, seed, iterations=number)
        plans.append((int(plan.iterations[0]), plan))  # waits for the plan
        seconds = time.perf_counter() - start
    return plans, seconds


def stages(iterations: int) -> list[int]:
    """0 and some of the numbers up to `iterations`, dense at the beginning, where plans change most."""
    return [0, *np.unique(np.geomspace(1, iterations, STAGES - 1).round().astype(int)).tolist()]


def demonstrate(model: str, overrides: Sequence[str], seed: int, out: Path) -> tuple[list[Result], list[Path]]:
    """Lets both planners play; returns what came of it, and the picture and the video.

    Raises:
        UserError: there is no such model, an override is not valid, or the files cannot be written.
    """
    stem = out / f"{Path(model).name}_{seed}"
    picture, video = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.mp4")
    check_writable(picture, "choose another --out")
    results = []
    for planner in PLANNERS:
        results.append(play(model, planner, overrides, seed))
    print("drawing ...", file=sys.stderr, flush=True)
    sides = [result.side for result in results]
    title = f"{Path(model).name}, seed {seed}: one plan each from the same picture, executed without feedback"
    save(draw_picture(sides, title), picture)
    with writing(video, "choose another --out"):
        write_video(video, np.stack(list(draw_video(sides, f"{Path(model).name}, seed {seed}"))), FPS)
    return results, [picture, video if video.exists() else video.with_suffix(".gif")]


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the model's run."""
    parser = Parser(
        prog="python demo.py",
        usage="%(prog)s [--model NAME] [--seed N] [--out DIR] [--KEY VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        default="metaworld_reach",
        metavar="NAME",
        help="a shipped model, or the log directory of a trained agent (default: metaworld_reach)",
    )
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="of the episode and of the planners (default: 0)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("logdir/demo"),
        metavar="DIR",
        help="folder for the files (default: logdir/demo)",
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_demo, argv, lambda: "start the same command again")


def _demo(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    results, files = demonstrate(options.model, overrides, options.seed, expanded(options.out))
    print(report(results, files, options.model, options.seed))
    return 0


def report(results: Sequence[Result], files: Sequence[Path], model: str, seed: int) -> str:
    """What came of it, where the files are, and what to type next."""
    lines = [f"{'planner':10}{'seconds a plan':>16}{'predicted':>12}{'achieved':>12}{'success':>10}"]
    for side, seconds in results:
        success = {None: "-", True: "yes", False: "no"}[side.executed.success]
        predicted, achieved = side.predicted.sum(), side.executed.rewards.sum()
        lines.append(f"{side.name:10}{seconds:16.2f}{predicted:12.1f}{achieved:12.1f}{success:>10}")
    return "\n".join(
        [
            *lines,
            "Returns of one plan from one start, executed without feedback.",
            f"picture: {files[0]}",
            f"video:   {files[1]}",
            "Next:",
            f"    python demo.py --model {model} --seed {seed + 1}",
            f"    python evaluate.py --logdir {model} --episodes 10 --show 0   # whole episodes, with replanning",
            f"    python plan_report.py --logdir {model} --planner gd           # another planner",
            "    make train                                                    # a model of your own",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
