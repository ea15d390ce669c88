"""Evaluates a trained agent: episodes without exploration noise from fixed starts, in numbers, tables and pictures.

    python evaluate.py --logdir logdir/metaworld_reach/latco/0
    python evaluate.py --logdir logdir/metaworld_reach/latco/0 --planner cem --episodes 100 --envs 8 --show 0 1

The newest checkpoint plays `--episodes` episodes, `--envs` of them at a time. Of every evaluation (of several tasks
each has its own) one line of JSON goes to the standard output and to evaluations.jsonl in the log directory, and a
folder in evaluations/ holds

    episodes.csv              a line for each episode (the same table is shown on the standard error output)
    episodes.mp4              the first episodes side by side
    success_by_distance.png   where the suite knows the distance to the goal (LatCo, ICML 2021, figure 4)
    episode_000_plans.png     for each episode of `--show`: every plan, decoded, above its execution (figure 5)
    episode_000_plans.mp4     the same as a video, what was planned beside what came of it

Episode k starts from a seed of its own that follows from `--seed` and k alone, so planners are compared on the same
starts. Another number of environments changes nothing but the random numbers of the planner and of the posterior's
samples, and the rounding of sums; only dmc_lqr, which draws its model when it is made, has other models then. Every
setting of the run can be overridden (`python planning_agent.py --help` lists them), presets included, except those that
the weights depend on.

Intervals hold with 95%: of a mean by Student's t, of a share of successes by Wilson.
"""

import tools.tensorflow_setup

import argparse
import csv
import json
import math
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from matplotlib.figure import Figure
from scipy import stats

import envs
import models
import plan_report
from agents import load_agent
from analysis.figures import save
from analysis.runs import method_of
from analysis.statistics import CONFIDENCE, half_width
from base_agent import BaseAgent, PolicyState
from envs.distance import goal_distance
from tools.command_line import Parser, count, positive
from tools.config import Config
from tools.errors import UserError
from tools.files import append_json
from tools.logger import write_video
from tools.progress import ProgressLine
from tools.revision import git_revision
from training.collector import EVAL_SEED
from training.driver import Driver, Episode

BINS = 5  # of the distance to the goal, at most
LEAST_IN_BIN = 4  # episodes of a bin, at least
GRID = 8  # episodes in the video
GRID_COLUMNS = 4
COLUMNS = 10  # frames of a plan in a picture, its start among them
PLANS_ON_PAGE = 6
# Columns of a row in the table on the standard error output, and what they are called there.
TABLE = {
    "episode": "episode", "return": "return", "success": "success", "success_final": "at the end", "cost": "cost",
    "length": "length", "predicted_return": "predicted", "distance": "distance", "dynamics_violation": "violation",
}  # fmt: skip
PLAN_EXTRAS = ("plan_start", "plan_states")

Row = dict[str, float | int]


@dataclass(frozen=True)
class Choices:
    """What to evaluate.

    Attributes:
        episodes: how many.
        num_envs: how many of them at a time.
        seed: decides the starts and the random numbers of the planner.
        show: numbers of the episodes whose plans are drawn.
        method: the name of the evaluation, None for the run's own (see `method_name`).
    """

    episodes: int = 20
    num_envs: int = 4
    seed: int = 0
    show: Sequence[int] = ()
    method: str | None = None


class Policy:
    """An agent without exploration noise, as the driver of its environments wants it.

    Attributes:
        plan_seconds: of every call of the planner but those that compiled.
    """

    def __init__(self, agent: BaseAgent, driver: Driver, plans: bool):
        self._agent, self._driver, self._plans = agent, driver, plans
        self.plan_seconds: list[float] = []

    def __call__(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: PolicyState | None
    ) -> tuple[np.ndarray, PolicyState, dict]:
        """See `training.driver.Driver`."""
        # Environments that wait need no plans: each call of the planner takes time and random numbers.
        idle = self._driver.waiting
        action, state, extras = self._agent.policy(obs, is_first, state, explore=False, idle=idle)
        seconds = extras["metrics"]["speed/plan_seconds"][extras["planned"]]
        self.plan_seconds += [float(value) for value in seconds[:1] if np.isfinite(value)]
        if self._plans:
            start = models.get_feat(state.latent).numpy()
            extras = extras | {"plan_start": start, "plan_states": self._agent.planned_states(state)}
        return action, state, extras


def evaluate(
    logdir: Path, overrides: Sequence[str] = (), choices: Choices | None = None, task: str | None = None
) -> Iterator[dict[str, Any]]:
    """Evaluates the newest checkpoint of a run, writes the files and yields the line of each task.

    Args:
        logdir: log directory of the run.
        overrides: words of a command line that change the run's settings.
        choices: what to evaluate.
        task: which of the run's tasks, all of them unless given.

    Raises:
        UserError: see `agents.load_agent`; or the run has no such task, or the log directory cannot be written.
    """
    logdir, choices = logdir.expanduser(), choices or Choices()
    agent = load_agent(logdir, [*overrides, "--seed", str(choices.seed)])
    tasks = envs.split_tasks(agent.config.task)
    chosen = [plan_report.task_of_run(agent, logdir, task)] if task else tasks
    check_writable(logdir / "evaluations.jsonl", logdir / "evaluations")
    method = choices.method or method_name(logdir, agent.config.planner)
    seeds = episode_seeds(choices.seed, choices.episodes)
    for name in chosen:
        episodes, plan_seconds = run_episodes(agent, name, seeds, choices.num_envs, choices.show)
        rows = [describe(episode, seeds, name) for episode in episodes]
        # A run that collects nothing is counted in updates.
        words = [method, str(int(agent.step if agent.config.steps else agent.updates)), str(choices.seed)]
        folder = new_folder(logdir / "evaluations", "_".join(words if len(tasks) == 1 else [name, *words]))
        line = {
            "task": name,
            "planner": agent.config.planner,
            "method": method,
            "logdir": str(logdir),
            "checkpoint_step": int(agent.step),
            "updates": int(agent.updates),
            "seed": choices.seed,
            "envs": min(choices.num_envs, choices.episodes),
            **summarize(rows),
            "plan_seconds": plan_seconds,
            "overrides": list(overrides),
            **git_revision(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "folder": str(folder),
        }
        write_files(folder, agent, line, rows, episodes, choices.show)
        append_json(logdir / "evaluations.jsonl", line)
        show_table(rows, f"{name}, {method}")
        yield line


def episode_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the starts, the first `count` of a sequence that no training run starts its environments from."""
    return [envs.stream_seed(EVAL_SEED + seed, number) for number in range(count)]


def method_name(logdir: Path, planner: str) -> str:
    """How an evaluation is called: like the folder above the run's, if that is named after the run's seed.

    Otherwise, and if the evaluated planner is not the run's own, like the planner.
    """
    saved = Config.load(logdir / "config.yaml")
    return method_of(logdir.resolve(), saved) if planner == saved.planner else planner


def run_episodes(
    agent: BaseAgent, task: str, seeds: Sequence[int], num_envs: int, show: Collection[int] = ()
) -> tuple[list[Episode], float | None]:
    """Episodes of a task without exploration noise, one from each seed, in this order.

    Pictures are kept of the first `GRID` and of those in `show`, plans ('plan_states' [T, H, n] and 'plan_start' [T, n]
    among the extras) of those in `show`.

    Returns:
        the episodes, and the median seconds of a call of the planner, which plans for all environments at once; None if
        only the one that compiled was needed.
    """
    count = min(num_envs, len(seeds))
    driver = Driver(envs.make_vector_env(agent.config, count, agent.config.seed, task))
    policy = Policy(agent, driver, plans=bool(show))
    agent.rng.reset_from_seed(agent.config.seed)  # so that no task depends on those before it
    episodes: list[Episode] = []
    try:
        driver.restart(seeds)
        with ProgressLine(len(seeds), "episodes", rich.console.Console(stderr=True)) as progress:
            while len(episodes) < len(seeds):
                episodes += [_lean(episode, show) for episode in driver.step(policy)]
                progress.update(len(episodes))
    finally:
        driver.close()
    seconds = float(np.median(policy.plan_seconds)) if policy.plan_seconds else None
    return sorted(episodes, key=lambda episode: episode.number), seconds


def _lean(episode: Episode, show: Collection[int]) -> Episode:
    """An episode without the pictures and plans that nobody will look at."""
    shown = episode.number in show
    dropped = () if shown else PLAN_EXTRAS if episode.number < GRID else (*PLAN_EXTRAS, "image")
    data, extras = ({k: v for k, v in part.items() if k not in dropped} for part in (episode.data, episode.extras))
    return replace(episode, data=data, extras=extras)


# Numbers


def describe(episode: Episode, seeds: Sequence[int], task: str) -> Row:
    """The line of one episode: what came of it, what its plans promised, and how they were (means over the plans).

    The predicted return is the sum of the rewards that the model predicted of the executed actions, in the units that
    it learned (`reward_normalization` and `reward_transform` change them).
    """
    summary, extras = episode.summary(), episode.extras
    row: Row = {"episode": episode.number, "seed": seeds[episode.number], **summary}
    row["predicted_return"] = float(extras["predicted_reward"].sum())
    states = episode.data.get("state")
    distance = goal_distance(task, None if states is None else states[0])
    if distance is not None:
        row["distance"] = distance
    planned = extras["planned"].astype(bool)
    row["plans"] = int(planned.sum())
    for name, values in extras["metrics"].items():
        if name.startswith("plan/"):  # "model/" and "speed/" are about other things
            known = values[planned & np.isfinite(values)]
            row[name.removeprefix("plan/")] = float(known.mean()) if known.size else math.nan
    return row


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows of all episodes say together: the part of an evaluation's line that depends on them."""
    column = lambda name: [row[name] for row in rows]  # noqa: E731
    summary = {"episodes": len(rows), "return": mean_interval(column("return"))}
    for name in ("success", "success_final"):
        if name in rows[0]:
            summary[name] = share_interval(column(name))
    summary["length"] = float(np.mean(column("length")))
    if "cost" in rows[0]:
        summary["cost"] = mean_interval(column("cost"))
    summary["predicted_return"] = mean_interval(column("predicted_return"))
    if "distance" in rows[0] and "success" in rows[0]:
        summary["by_distance"] = by_distance(column("distance"), column("success"))
    return summary


def mean_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean with Student's t interval, and standard deviation; of a single value only the mean is known."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2 or not math.isfinite(mean):
        return {"mean": _known(mean), "low": None, "high": None, "std": None}
    std = float(np.std(values, ddof=1))
    half = float(half_width(std, count))
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": std}


def share_interval(values: Sequence[float]) -> dict[str, float]:
    """Share of the values above 0, with Wilson's interval."""
    hits = int(np.count_nonzero(np.asarray(values) > 0))
    interval = stats.binomtest(hits, len(values)).proportion_ci(CONFIDENCE, method="wilson")
    return {"mean": hits / len(values), "low": float(interval.low), "high": float(interval.high)}


def _known(value: float) -> float | None:
    """The number, None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def by_distance(distances: Sequence[float], successes: Sequence[float]) -> list[dict[str, Any]]:
    """Success by the distance to the goal at the start: bins between quantiles, so that each has as many episodes.

    There are as many bins as have `LEAST_IN_BIN` episodes each, at most `BINS`; equal distances are in one bin.
    """
    distances, successes = np.asarray(distances), np.asarray(successes)
    count = max(1, min(BINS, len(distances) // LEAST_IN_BIN))
    edges = np.quantile(distances, np.linspace(0.0, 1.0, count + 1))
    bins = np.searchsorted(edges[1:-1], distances, side="right")
    return [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "episodes": int(np.count_nonzero(bins == index)),
            "success": share_interval(successes[bins == index]),
        }
        for index in np.unique(bins)
    ]


# Files


def check_writable(file: Path, folder: Path | None = None) -> None:
    """Makes a file and a folder where they are missing: better before an evaluation than after it.

    Raises:
        UserError: they cannot be written.
    """
    path = file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
        if folder:
            path = folder
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose a place where you can write.") from error


def new_folder(parent: Path, name: str) -> Path:
    """A folder of this name, or with the next free number behind it: no evaluation replaces an earlier one."""
    plain, number = re.sub(r"[^\w.,-]+", "-", name), 1
    while True:
        folder = parent / (plain if number == 1 else f"{plain}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def write_files(
    folder: Path,
    agent: BaseAgent,
    line: Mapping[str, Any],
    rows: Sequence[Row],
    episodes: Sequence[Episode],
    show: Collection[int],
) -> None:
    """Everything that the head of this module lists; with `media` off the table and what was asked for with `show`."""
    with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    age = f"{line['checkpoint_step']:,} environment steps" if agent.config.steps else f"{line['updates']:,} updates"
    title = f"{line['task']}, {line['planner']}, model after {age}"
    if agent.config.media:
        write_video(folder / "episodes.mp4", grid([episode.data["image"] for episode in episodes[:GRID]]), fps=20)
        if "by_distance" in line:
            save(draw_by_distance(line["by_distance"], title), folder / "success_by_distance.png")
    for number in sorted(set(show)):
        write_plans(folder, agent, episodes[number], f"{title}, episode {number}")


def show_table(rows: Sequence[Row], title: str) -> None:
    """The most important columns on the standard error output."""
    table = rich.table.Table(title=title, box=None, header_style="bold")
    names = [name for name in TABLE if name in rows[0]]
    for name in names:
        table.add_column(TABLE[name], justify="right")
    for row in rows:
        table.add_row(*(f"{row[name]:.4g}" for name in names))
    rich.console.Console(stderr=True).print(table)


# Pictures


def grid(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos, uint8 [T_i, 64, 64, 3], beside and below each other on white; the last frame of a shorter one stays."""
    length = max(map(len, videos))
    held = [np.concatenate([video, np.repeat(video[-1:], length - len(video), 0)]) for video in videos]
    columns = min(GRID_COLUMNS, len(videos))
    held += [np.full_like(held[0], 255)] * (-len(held) % columns)
    framed = [np.pad(video, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=255) for video in held]
    rows = [np.concatenate(framed[start : start + columns], 2) for start in range(0, len(framed), columns)]
    return np.concatenate(rows, 1)


def draw_by_distance(bins: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Success with its interval over the distance to the goal (LatCo ICML figure 4), a bin as wide as it is."""
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axis = figure.subplots()
    for entry in bins:
        middle, success = (entry["low"] + entry["high"]) / 2, entry["success"]
        reach = [[success["mean"] - success["low"]], [success["high"] - success["mean"]]]
        axis.errorbar(
            [middle], [success["mean"]], yerr=np.maximum(reach, 0.0), xerr=(entry["high"] - entry["low"]) / 2,
            fmt="o", color="C0", capsize=3,
        )  # fmt: skip
        axis.annotate(f"{entry['episodes']}", (middle, success["mean"]), (4, 4), textcoords="offset points", fontsize=8)
    axis.set_ylim(-0.05, 1.1)
    axis.set_xlabel("distance to the goal at the start\n(beside a point: its episodes; bars: the bin, Wilson's 95%)")
    axis.set_ylabel("success")
    axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure


class ExecutedPlan:
    """One plan of an episode with what came of it.

    Attributes:
        time: decisions of the episode before it was made.
        decoded: uint8 [H + 1, 64, 64, 3], its start first.
        frames: uint8 [at most H + 1, 64, 64, 3], the episode from there on.
        executed: actions of it that were executed.
        predicted: sum of the rewards that were predicted of these actions.
        achieved: the rewards that these actions brought, in the same units.
    """

    def __init__(self, agent: BaseAgent, episode: Episode, time: int, end: int):
        extras, rewards = episode.extras, episode.data["reward"]
        feat = np.concatenate([extras["plan_start"][time][None], extras["plan_states"][time]])
        self.time, self.executed = time, end - time
        self.decoded = models.postprocess(agent.model.decode(tf.constant(feat)[None]))[0].numpy()
        self.frames = episode.data["image"][time : time + len(feat)]
        self.predicted = float(extras["predicted_reward"][time:end].sum())
        # In the units that the model learned.
        self.achieved = float(tf.reduce_sum(agent.rewards(tf.constant(rewards[time + 1 : end + 1]))))

    def rows(self, columns: np.ndarray) -> list[np.ndarray]:
        """The plan and its execution at some of the H + 1 times: paler where another plan was executed already."""
        blank = np.full([len(self.decoded) - len(self.frames), *models.IMAGE_SHAPE], 255, np.uint8)
        frames = np.concatenate([self.frames, blank])
        later = np.arange(len(frames)) > self.executed
        frames[later] = 255 - (255 - frames[later]) // 3
        return [self.decoded[columns], frames[columns]]


def executed_plans(agent: BaseAgent, episode: Episode) -> list[ExecutedPlan]:
    """Every plan of an episode whose plans were kept."""
    times = np.flatnonzero(episode.extras["planned"])
    ends = [*times[1:], episode.length]
    return [ExecutedPlan(agent, episode, int(time), int(end)) for time, end in zip(times, ends, strict=True)]


def write_plans(folder: Path, agent: BaseAgent, episode: Episode, title: str) -> None:
    """Pictures and the video of all plans of an episode; of many plans each page has some."""
    plans, stem = executed_plans(agent, episode), f"episode_{episode.number:03d}_plans"
    pages = [plans[start : start + PLANS_ON_PAGE] for start in range(0, len(plans), PLANS_ON_PAGE)]
    for number, page in enumerate(pages, 1):
        name = f"{stem}.png" if len(pages) == 1 else f"{stem}_{number:02d}.png"
        save(draw_plans(page, title), folder / name)
    write_video(folder / f"{stem}.mp4", plan_video(plans), fps=10)


def draw_plans(plans: Sequence[ExecutedPlan], title: str) -> Figure:
    """Plans, each above its execution, with time from left to right (LatCo ICML figure 5)."""
    horizon = len(plans[0].decoded) - 1
    columns = np.unique(np.linspace(0, horizon, min(horizon + 1, COLUMNS)).round().astype(int))
    rows = [row for plan in plans for row in plan.rows(columns)]
    labels = []
    for plan in plans:
        labels += [f"plan at {plan.time}\npredicted {plan.predicted:.2f}", f"execution\nachieved {plan.achieved:.2f}"]
    figure, axis = plan_report.draw_sheet(rows, labels, columns, range(0, len(rows), 2))
    lines = [f"agent decisions after the plan was made; rewards are sums over the first {plans[0].executed}"]
    if any(plan.executed < horizon for plan in plans):
        lines.append("or fewer, as many as were executed before the next plan (paler) or the end of the episode")
    axis.set_xlabel("\n".join(lines))
    figure.suptitle(title, fontsize=10)
    return figure


def plan_video(plans: Sequence[ExecutedPlan]) -> np.ndarray:
    """What was planned, left, beside what came of it, for every decision: uint8 [T, 64, 64 + gap + 64, 3]."""
    sides = []
    for side in ("decoded", "frames"):
        sides.append(np.concatenate([getattr(plan, side)[1 : plan.executed + 1] for plan in plans]))
    gap = np.full([*sides[0].shape[:2], plan_report.GAP, 3], 255, np.uint8)
    return np.concatenate([sides[0], gap, sides[1]], 2)


# Command line


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--logdir", type=Path, required=True, metavar="DIR", help="log directory of a trained agent")
    parser.add_argument("--episodes", type=positive, default=20, metavar="N", help="episodes of a task (default: 20)")
    parser.add_argument("--envs", type=positive, default=4, metavar="N", help="environments at a time (default: 4)")
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="seed of the starts and of the planner "
        "(default: 0)",
    )  # fmt: skip
    parser.add_argument("--task", metavar="NAME", help="which of the run's tasks (default: all)")
    parser.add_argument(
        "--show", type=count, nargs="+", default=(), metavar="N",
        help="episodes, from 0, whose plans are drawn",
    )  # fmt: skip
    parser.add_argument(
        "--method", metavar="NAME", help="name of the evaluation for plots (default: the name of the folder above the "
        "run's, if that is named after its seed, or the planner)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="another file to append the lines of JSON to")
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own: --planner cem")
    options, overrides = parser.parse_known_args(argv)
    if options.show and max(options.show) >= options.episodes:
        raise UserError(
            f"--show {max(options.show)} is beyond the last episode, {options.episodes - 1}: raise --episodes, or "
            "choose another one to show."
        )
    return options, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 2 for bad input."""
    try:
        options, overrides = parse_options(sys.argv[1:] if argv is None else list(argv))
        choices = Choices(options.episodes, options.envs, options.seed, options.show, options.method)
        if options.out:
            check_writable(options.out)
        for line in evaluate(options.logdir, overrides, choices, options.task):
            if options.out:
                append_json(options.out, line)
            print(json.dumps(line, allow_nan=False), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: evaluations that were finished are in evaluations.jsonl", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
