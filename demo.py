"""LatCo and CEM act from the same start on a shipped model, in about a minute.

    python demo.py
    python demo.py --model metaworld_reach --seed 3

Both make a new plan from the camera's picture every few decisions, with the settings of the preset closed_loop and the
planning horizon of the model's run. One picture and one video are written: the search for the first plan, where each
later plan ends, the execution below, and the rewards, returns and violations. All settings of the model's run but the
planner can be overridden as in evaluate.py.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf

import envs
from agents import load_agent
from analysis.figures import save
from evaluation.episodes import EvaluationPolicy
from evaluation.files import check_writable
from evaluation.side_by_side import Side, draw_picture, draw_video, make_side
from optimizers import Plan
from planners.plan_state import cold_start
from tools.command_line import Parser, count, place
from tools.config import keys_given, load_config
from tools.errors import UserError
from tools.files import expanded, writing
from tools.logger import write_video
from tools.program import run_program
from training.driver import Driver
from training.driver import play as play_episodes
from training.logdir import find_logdir, read_config, shipped_models

if TYPE_CHECKING:
    from planning_agent import PlanningAgent

PLANNERS = ("latco", "cem")
PRESET = "closed_loop"
STAGES = 7  # numbers of iterations after which the video shows the plan, at most
FPS = 8


class Result(NamedTuple):
    """One planner's side of the pictures, and the median seconds of a plan, None if the only one compiled."""

    side: Side
    seconds: float | None


def play(agent: "PlanningAgent", seed: int) -> Result:
    """Plays one episode in closed loop, and searches for its first plan again to see how that came about.

    The same model and seed give the same start, the same first state and the same random numbers to every planner.
    """
    print(f"{agent.config.planner} acts ...", file=sys.stderr, flush=True)
    driver = Driver(envs.make_vector_env(agent.config, 1, seed, envs.split_tasks(agent.config.task)[0]))
    policy = EvaluationPolicy(agent, driver, keep_plans=True)
    agent.rng.reset_from_seed(seed)
    try:
        episode = next(play_episodes(driver, policy))
    finally:
        driver.close()
    seconds = float(np.median(policy.plan_seconds)) if policy.plan_seconds else None
    return Result(make_side(agent, *search(agent, episode.data["image"][:1], seed), episode), seconds)


def closed_loop(model: str, overrides: Sequence[str]) -> list[str]:
    """Words that set the preset closed_loop, with the planning horizon that the model's run had.

    They come before the overrides. What these set, by presets too, is left to them.
    """
    given, saved = keys_given(overrides), read_config(find_logdir(model))
    config = load_config(["--configs", PRESET, *overrides], saved=saved)
    horizon = config.planning_horizon if "planning_horizon" in given else load_config([], saved=saved).planning_horizon
    own = {"planning_horizon": horizon, "mpc_steps": min(config.mpc_steps, horizon)}
    if not config.latco_finish:
        own["latco_keep_start"] = "false"  # which needs a finish
    words = [word for key, value in own.items() if key not in given for word in (f"--{key}", str(value))]
    return ["--configs", PRESET, *words]


def search(agent: "PlanningAgent", image: np.ndarray, seed: int) -> tuple[tf.Tensor, list[tuple[int, Plan]]]:
    """The first state [1, n] of an episode and its first plan after some numbers of iterations, the last one finished.

    Args:
        agent: plays the episode with the random numbers of `seed`, which are drawn here in the same order.
        image: uint8 [1, 64, 64, 3], the first one of the episode.
        seed: as for `play`.
    """
    agent.rng.reset_from_seed(seed)
    z0 = agent.infer_first(image)
    key = agent.rng.uniform_full_int([2], tf.int32)
    warm = cold_start(1, agent.planner) if agent.config.warm_start is True else None
    plans = [agent.plan_from(z0, key, warm, iterations=number) for number in stages(agent.planner.iterations)]
    return z0, [(int(plan.iterations[0]), plan) for plan in plans]


def stages(iterations: int) -> list[int]:
    """0 and some of the numbers up to `iterations`, dense at the beginning, where plans change most."""
    return [0, *np.unique(np.geomspace(1, iterations, STAGES - 1).round().astype(int)).tolist()]


def name_of(model: str) -> str:
    """What a model's files are named after: a shipped model's name, or all folders of a log directory.

    The last folder alone is often a seed, which models have in common.
    """
    if model in shipped_models():
        return model
    folder, here = Path(os.path.abspath(find_logdir(model))), Path.cwd()
    parts = folder.relative_to(here).parts if here in folder.parents else folder.parts[1:]
    return "-".join(parts)


def demonstrate(model: str, overrides: Sequence[str], seed: int, out: Path) -> tuple[list[Result], list[Path]]:
    """Lets both planners play; returns what came of it, and the picture and the video.

    Raises:
        UserError: there is no such model, an override is not valid, or the files cannot be written.
    """
    stem = out / f"{name_of(model)}_{seed}"
    picture, video = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.mp4")
    check_writable(picture, "choose another --out")
    words = [*closed_loop(model, overrides), *overrides, "--seed", str(seed)]
    # All of them first: a setting that one planner refuses is refused before another one has acted.
    agents = [load_agent(model, [*words, "--planner", planner]) for planner in PLANNERS]
    results = [play(agent, seed) for agent in agents]
    print("drawing ...", file=sys.stderr, flush=True)
    sides = [result.side for result in results]
    title = f"{envs.split_tasks(agents[0].config.task)[0]}, seed {seed}"
    save(draw_picture(sides, f"{title}: one episode each from the same start, replanned from pictures"), picture)
    with writing(video, "choose another --out"):
        write_video(video, np.stack(list(draw_video(sides, title))), FPS)
    return results, [picture, video if video.exists() else video.with_suffix(".gif")]


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the model's run."""
    parser = Parser(
        prog="python demo.py",
        usage="%(prog)s [--model NAME] [--seed N] [--out DIR] [--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
    )
    parser.add_argument(
        "--model",
        "--logdir",  # as in other programs, and in messages that ask for another model
        type=place,
        default=Path("pointmass_obstacle"),
        metavar="NAME",
        help="a shipped model, or the log directory of a trained agent (default: pointmass_obstacle)",
    )
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="of the episode and of the planners (default: 0)"
    )
    parser.add_argument(
        "--out",
        type=place,
        default=Path("logdir/demo"),
        metavar="DIR",
        help="folder for the files (default: logdir/demo)",
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml but the planner, instead of the run's own")
    options, overrides = parser.parse_known_args(argv)
    if any(word.partition("=")[0] == "--planner" for word in overrides):
        raise UserError(
            f"--planner has no place here, where {' and '.join(PLANNERS)} act: leave it out, or see evaluate.py --show."
        )
    return options, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_demo, argv, lambda: "start the same command again")


def _demo(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    results, files = demonstrate(str(options.model), overrides, options.seed, expanded(options.out))
    print(report(results, files, str(options.model), options.seed))
    return 0


def report(results: Sequence[Result], files: Sequence[Path], model: str, seed: int) -> str:
    """What came of it, where the files are, and what to type next."""
    lines = [f"{'planner':10}{'seconds a plan':>16}{'predicted':>12}{'achieved':>12}{'success':>10}"]
    for side, seconds in results:
        success = {None: "-", True: "yes", False: "no"}[side.executed.success]
        predicted, achieved = side.predicted.sum(), side.executed.rewards.sum()
        took = "-" if seconds is None else f"{seconds:.2f}"
        lines.append(f"{side.name:10}{took:>16}{predicted:12.1f}{achieved:12.1f}{success:>10}")
    return "\n".join(
        [
            *lines,
            "Returns of one episode from one start, in the units that the model learned; predicted are the rewards of",
            "the executed actions.",
            f"picture: {files[0]}",
            f"video:   {files[1]}",
            "Next:",
            f"    python demo.py --model {model} --seed {seed + 1}",
            f"    python evaluate.py --logdir {model} --episodes 10 --show 0   # more starts, and every plan",
            f"    python plan_report.py --logdir {model} --planner gd           # another planner",
            "    make train                                                    # a model of your own",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
