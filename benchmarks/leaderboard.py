"""Ranks every planner on one frozen model at equal compute: so many seconds a plan.

    python benchmarks/leaderboard.py --model logdir/metaworld_reach/latco/0 --out board.jsonl \\
        --figure board.png --table board.md
    python benchmarks/leaderboard.py --model logdir/metaworld_reach/latco/0 --out board.jsonl \\
        --planners cem latco --budgets 0.3 1 --execution blind          # a part of it, without whole episodes

Nothing else may run on the machine. Each planner has a process of its own. A call that is cut off goes on where it
stopped: lines that --out has already are not measured again, and --figure and --table show all of its lines.

**Equal time.** The size of a planner is its iterations (gradients) or its candidates (sampling). It is the largest one
of a few that were timed whose plan from one start takes the budget, to within 10%; `size` and `seconds` tell which. A
planner whose smallest plan takes longer has a line with `"fits": false` and no more.

**Equal tuning.** Settings are found by random search, `--trials` for each planner, over the lists in `equal_time.py`.
The first trial has the run's own settings. Each trial gets a size for `--tune_budget` seconds a plan, and its score is
the mean over `--tune_starts` other starts of what planners maximize, the return under the mean dynamics. The best
settings serve at all budgets; where their smallest plan takes longer than the budget, the run's own do. Horizon,
`mpc_steps` and `warm_start` are the run's for all planners.

One JSON line for each trial ("kind": "trial"), then one for each planner and budget ("kind": "result"). Of the latter:

`return_mean`, `return_sampled`: of the plans, under the mean dynamics and under sampled ones (20 rollouts a plan);
`return_blind`, `success_blind`: all actions of the plan in the environment, open loop (without feedback);
`return`, `success`, `predicted`: whole episodes in closed loop with the run's `mpc_steps`, `warm_start` and so on, and
    what plans predicted for them (not with --execution blind). `envs` environments plan together;
`seconds`: one plan after the compilation; `plans_per_second_1`, `plans_per_second_16`: one by one, 16 in a call;
`model_steps`, `model_jacobians`: what a plan asks of the dynamics, counted as `model_counter.py` says.

Each is a mean over the starts, with a 95% interval for all but the counts (Student's t; Wilson's for success;
`plans_per_second_16`: over `--repeats` calls). `per_start` has the single values, so that planners can be paired.
Starts are those of `evaluate.py --seed S` with S = `--start_seed`. `return_mean`, `return_sampled` and `predicted` are
in the units that the model learned, `return` and `return_blind` in the environment's. `peak_gflops` is a large matrix
product on the same machine, timed by this call. `weights` is a fingerprint of the model, wherever it lies; all lines of
a file are of one. `--table` ranks the planners of a budget by `return`, with --execution blind by `return_blind`.
"""

import checkout

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import envs
from agents import agent_class
from analysis import figures
from benchmarks.contestant import Contestant, result, trial
from benchmarks.equal_time import SPACES, Settings, trials
from benchmarks.leaderboard_report import draw, table
from benchmarks.own_lines import read_own_lines
from benchmarks.plan_losses import Starts, rounded, start_states
from benchmarks.planning import measure_peak
from evaluation.episodes import episode_seeds
from evaluation.files import check_writable
from tools.command_line import Parser, count, picture, place, positive, seconds
from tools.errors import UserError
from tools.files import append_json
from tools.memory import check_evaluation
from tools.program import run_program
from tools.revision import git_revision
from training.logdir import check_task
from training.weights import fingerprint

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds a plan
TUNE_SEED = 1_000_000  # is added to the seed of the starts

Line = dict[str, Any]


class Board:
    """The lines of a file: what was measured before, and what is measured now.

    Args:
        path: the file.
        head: fields that all of its lines share.
        tail: fields of the lines that are added.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], tail: Mapping[str, Any]):
        self.path, self.head, self.tail = path, dict(head), dict(tail)
        self.lines = read_own_lines(path, "leaderboard", ("trial", "result"))
        for line in self.lines:
            for key, value in self.head.items():
                if line.get(key) != value:
                    raise UserError(
                        f"{path} holds lines with {key} = {line.get(key)}, this command says {value}: choose another "
                        f"--out, or the same {key}."
                    )

    def find(self, **fields: Any) -> Line | None:
        """The line with these fields, None if there is none yet."""
        return next((line for line in self.lines if fields.items() <= line.items()), None)

    def add(self, line: Mapping[str, Any]) -> Line:
        """Writes and prints a line."""
        row = rounded({**self.head, **line, **self.tail})
        append_json(self.path, row)
        print(json.dumps(row), flush=True)
        self.lines.append(row)
        return row

    def results(self) -> list[Line]:
        """The lines about planners and budgets."""
        return [line for line in self.lines if line["kind"] == "result"]

    def times(self, planner: str, settings: Settings) -> dict[int, float]:
        """Size -> seconds of a planner's plans with these settings."""
        mine = [line for line in self.results() if line["planner"] == planner and line["settings"] == settings]
        return {line["size"]: line["seconds"]["mean"] for line in mine}


def compete(options: argparse.Namespace, overrides: Sequence[str]) -> Iterator[Board]:
    """The board of one planner, after each new line."""
    words = ["--seed", str(options.start_seed), *overrides]
    contestant = Contestant(options.model, options.planners[0], words, options.repeats)
    agent = contestant.agent
    task = check_task(agent.config, options.model, options.task or envs.split_tasks(agent.config.task)[0])
    c = agent.config
    head: Line = {"benchmark": "leaderboard", "task": task, "step": int(agent.step), "updates": int(agent.updates)}
    head["weights"] = fingerprint(agent.checkpointed)
    head |= {"horizon": c.planning_horizon, "mpc_steps": c.mpc_steps, "warm_start": c.warm_start}
    for key in ("starts", "start_seed", "execution", "trials", "tune_starts", "tune_budget"):
        head[key] = getattr(options, key)
    head |= {"state_size": contestant.problem.state_size, "words": list(overrides)}
    board = Board(options.out, head, {"peak_gflops": round(measure_peak() / 1e9), **git_revision()})
    yield board
    batch = envs.make_vector_env(c, min(options.envs, options.starts), options.start_seed, task)
    try:
        places = []
        for seed, number in (
            (options.start_seed, options.starts),
            (options.start_seed + TUNE_SEED, options.tune_starts),
        ):
            seeds = episode_seeds(seed, number)
            places.append(Starts(task, seed, seeds, start_states(agent, batch, seeds), batch, None))
        yield from rounds(board, contestant, places[0], places[1], options)
    finally:
        batch.close()


def rounds(
    board: Board, contestant: Contestant, starts: Starts, others: Starts, options: argparse.Namespace
) -> Iterator[Board]:
    """The trials of a planner from the other starts, then its results."""
    name = contestant.name
    for number, tuned in enumerate(trials(name, options.trials, options.start_seed)):
        if board.find(kind="trial", planner=name, trial=number):
            continue
        line = {"kind": "trial", "planner": name, "trial": number, "settings": tuned}
        z0 = contestant.agent.planner_start(others.features)
        board.add(line | trial(contestant, options.tune_budget, tuned, z0, others.seed))
        yield board
    tuned = best_settings(board.lines, name)
    for budget in options.budgets:
        if board.find(kind="result", planner=name, budget=budget):
            continue
        episodes = options.execution == "closed_loop"
        for settings in (tuned, {}) if tuned else ({},):
            times = board.times(name, settings)
            line = result(contestant, budget, settings, times, starts, episodes, options.envs)
            if line["fits"]:
                break
        board.add({"kind": "result", "planner": name, "budget": budget, "settings": settings} | line)
        yield board


def best_settings(lines: Sequence[Line], planner: str) -> Settings:
    """The settings of the trial with the best score, the run's own ({}) if none fitted into the time."""
    tried = [line for line in lines if line["kind"] == "trial" and line["planner"] == planner]
    scored = [line for line in tried if line["score"] is not None]
    return max(scored, key=lambda line: line["score"])["settings"] if scored else {}


def alone(argv: Sequence[str]) -> int:
    """The exit code of this program in a process of its own: compiled planners stay in one until it ends."""
    with subprocess.Popen([sys.executable, __file__, *argv]) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run. Raises UserError."""
    parser = Parser(
        prog="python benchmarks/leaderboard.py",
        description=__doc__,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME_OR_LOGDIR", help="a shipped model's name or a log directory")
    add("--out", type=place, required=True, metavar="FILE", help="lines are appended to it, and found in it")
    add("--planners", nargs="+", default=list(SPACES), metavar="NAME", help="default: all that search")
    add("--budgets", nargs="+", type=seconds, default=list(BUDGETS), metavar="S", help="default: 0.1 0.3 1 3 10")
    add("--starts", type=positive, default=20, metavar="N", help="starts, and episodes (default: 20)")
    add("--start_seed", type=count, default=0, metavar="S", help="default: 0")
    add(
        "--execution",
        choices=("closed_loop", "blind"),
        default="closed_loop",
        help="closed_loop (default): plans open loop, then whole episodes; blind: plans open loop only",
    )
    add("--trials", type=positive, default=6, metavar="N", help="settings tried for each planner (default: 6)")
    add("--tune_starts", type=positive, default=10, metavar="N", help="other starts (default: 10)")
    add("--tune_budget", type=seconds, default=1.0, metavar="S", help="seconds a plan in trials (default: 1)")
    add("--repeats", type=positive, default=3, metavar="N", help="of timings (default: 3)")
    add("--envs", type=positive, default=4, metavar="N", help="environments at a time (default: 4)")
    add("--task", metavar="NAME", help="which of the run's tasks (default: the first)")
    add("--figure", type=picture, metavar="FILE", help="a picture of return against seconds (.png, .pdf)")
    add("--table", type=place, metavar="FILE", help="the table in Markdown")
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml that evaluate.py may override")
    options, overrides = parser.parse_known_args(argv)
    instead = {"--planner": "--planners", "--logdir": "--model"}  # of settings that would have no effect
    for name in (word.partition("=")[0] for word in overrides):
        if name in instead:
            raise UserError(f"{name} has no place here: use {instead[name]}.")
    # As they are written, so that the same command finds its lines.
    options.budgets, options.tune_budget = rounded(options.budgets), rounded(options.tune_budget)
    check_evaluation(max(options.starts, options.tune_starts), options.envs)
    options.planners = list(dict.fromkeys(options.planners))
    for planner in options.planners:
        agent_class(planner)  # refuses an unknown one
        if planner not in SPACES:
            raise UserError(f"{planner} does not search, so that no time can be given to it: leave it out.")
    return options, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the lines that are new and returns the exit code, see `tools.program`."""
    return run_program(_rank, argv, lambda: "the same command goes on after the last line of --out")


def _rank(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    for path in filter(None, (options.out, options.figure, options.table)):
        check_writable(path)
    if len(options.planners) > 1:
        codes = (alone([*argv, "--planners", planner]) for planner in options.planners)
        return next((code for code in codes if code), 0)
    for board in compete(options, overrides):  # anew after each line: what was measured is not lost
        results = board.results()
        if results and options.figure:
            figures.save(draw(results), options.figure)
        if results and options.table:
            figures.save_text(table(results), options.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
