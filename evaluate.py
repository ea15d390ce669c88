"""Evaluates a trained agent: episodes without exploration noise from fixed starts, in numbers, tables and pictures.

    python evaluate.py --logdir logdir/metaworld_reach/latco/0
    python evaluate.py --logdir logdir/metaworld_reach/latco/0 --planner cem --episodes 100 --envs 8 --show 0 1

The newest checkpoint plays `--episodes` episodes, `--envs` of them at a time. Every evaluation (each task has its own)
prints a line of JSON, appends it to evaluations.jsonl in the log directory, and makes a folder in evaluations/:

    episodes.csv              a row for each episode; the standard error output shows the main columns
    episodes.mp4              the first episodes side by side
    success_by_distance.png   where the suite knows the distance to the goal (LatCo, ICML 2021, figure 4)
    episode_000_plans.png     for each episode of `--show`: every plan, decoded, above its execution (figure 5)
    episode_000_plans.mp4     the same as a video, the plan beside its execution

The start of episode k depends on `--seed` and k alone, so that planners are compared on the same starts. The number of
environments changes only the random numbers of the planner and of the posterior's samples, and the rounding of sums
(and the models of dmc_lqr, which are drawn once per environment). Every setting of the run can be overridden, presets
included, except those that an evaluation shares with its run (`python planning_agent.py --help` marks them).

Intervals are 95% intervals: Student's t of means, Wilson's of shares of successes.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs
from agents import load_agent
from evaluation.episodes import episode_seeds, run_episodes
from evaluation.files import find_places, new_folder, show_table, write_pictures, write_table
from evaluation.numbers import describe, model_age, summarize
from evaluation.pictures import GRID
from tools.command_line import Parser, count, nonempty, place, positive
from tools.errors import UserError
from tools.files import append_json, expanded
from tools.memory import check_evaluation
from tools.program import run_program
from tools.revision import git_revision
from training.agent import Agent
from training.logdir import check_task, find_logdir, method_of, read_config


@dataclass(frozen=True)
class Choices:
    """What to evaluate.

    Attributes:
        episodes: how many.
        num_envs: how many of them at a time.
        seed: of the starts and of the planner.
        show: numbers of the episodes whose plans are drawn.
        method: the name of the evaluation, None for the run's own (see `method_name`).
    """

    episodes: int = 20
    num_envs: int = 4
    seed: int = 0
    show: Sequence[int] = ()
    method: str | None = None


def evaluate(
    logdir: Path,
    overrides: Sequence[str] = (),
    choices: Choices | None = None,
    task: str | None = None,
    out: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Evaluates the newest checkpoint of a run, writes the files and yields the line of each task.

    Args:
        logdir: log directory of the run, or the name of a shipped model.
        overrides: words of a command line that change the run's settings.
        choices: what to evaluate.
        task: which of the run's tasks, all of them unless given.
        out: another file for the lines; in a read-only log directory, the only one (`evaluation.files.find_places`).

    Raises:
        UserError: see `agents.load_agent`; or the run has no such task, or nothing can be written.
    """
    logdir, choices = find_logdir(logdir), choices or Choices()
    check_evaluation(choices.episodes, choices.num_envs)
    agent = load_agent(logdir, [*overrides, "--seed", str(choices.seed)])
    tasks = envs.split_tasks(agent.config.task)
    chosen = [check_task(agent.config, logdir, task)] if task else tasks
    places = find_places(logdir, out)
    method = choices.method or method_name(logdir, agent.config.planner)
    seeds = episode_seeds(choices.seed, choices.episodes)
    for name in chosen:
        episodes, plan_seconds = run_episodes(agent, name, seeds, choices.num_envs, range(GRID), choices.show)
        rows = [describe(episode, seeds, name) for episode in episodes]
        words = [method, str(model_age(agent)[0]), str(choices.seed)]
        folder = new_folder(places.folder, "_".join(words if len(tasks) == 1 else [name, *words]))
        line = {
            **header(agent, name, method, logdir, choices),
            **summarize(rows),
            "plan_seconds": plan_seconds,
            "overrides": list(overrides),
            **git_revision(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "folder": str(folder),
        }
        write_table(folder, rows, name)
        for file in places.files:
            append_json(file, line)
        # Last: numbers take hours, and pictures can fail.
        write_pictures(folder, agent, line, episodes, choices.show)
        show_table(rows, f"{name}, {method}")
        yield line


def header(agent: Agent, task: str, method: str, logdir: Path, choices: Choices) -> dict[str, Any]:
    """The first entries of a line: what is evaluated."""
    return {
        "task": task,
        "planner": agent.config.planner,
        "method": method,
        "logdir": str(logdir),
        "checkpoint_step": int(agent.step),
        "updates": int(agent.updates),
        "seed": choices.seed,
        "envs": min(choices.num_envs, choices.episodes),
    }


def method_name(logdir: Path, planner: str) -> str:
    """The name of an evaluation: the run's method (`training.logdir.method_of`), or a planner that is not the run's."""
    saved = read_config(logdir)
    return method_of(logdir.resolve(), saved) if planner == saved.planner else planner


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run.

    Raises:
        UserError: an option is not valid, or an episode to show is beyond the last one.
    """
    parser = Parser(
        prog="python evaluate.py",
        usage="%(prog)s --logdir DIR [--episodes N] [--envs N] [--seed N] [--task NAME] [--show N ...] [--method NAME] "
        "[--out FILE] [--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
    )
    parser.add_argument(
        "--logdir",
        type=place,
        required=True,
        metavar="DIR",
        help="log directory of a trained agent, or the name of a shipped model",
    )
    parser.add_argument("--episodes", type=positive, default=20, metavar="N", help="episodes of a task (default: 20)")
    parser.add_argument("--envs", type=positive, default=4, metavar="N", help="environments at a time (default: 4)")
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="seed of the starts and of the planner (default: 0)"
    )
    parser.add_argument("--task", type=nonempty, metavar="NAME", help="which of the run's tasks (default: all)")
    parser.add_argument(
        "--show", type=count, nargs="+", default=(), metavar="N", help="episodes, from 0, whose plans are drawn"
    )
    parser.add_argument(
        "--method",
        type=nonempty,
        metavar="NAME",
        help="name of the evaluation for plots (default: the name of the folder above the "
        "run's, if that is named after its seed, or the planner)",
    )
    parser.add_argument(
        "--out",
        type=place,
        metavar="FILE",
        help="another file to append the lines of JSON to; where --logdir is read-only, all files go beside it",
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own: --planner cem")
    options, overrides = parser.parse_known_args(argv)
    if options.show and max(options.show) >= options.episodes:
        raise UserError(
            f"--show {max(options.show)} is beyond the last episode, {options.episodes - 1}: raise --episodes, or "
            "choose another one to show."
        )
    return options, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_evaluate, argv, lambda: "evaluations that were finished are in evaluations.jsonl")


def _evaluate(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    choices = Choices(options.episodes, options.envs, options.seed, options.show, options.method)
    out = options.out and expanded(options.out)
    for line in evaluate(options.logdir, overrides, choices, options.task, out):
        print(json.dumps(line, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
