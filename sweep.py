"""Trains every task with every planner and seed, or the rows of an experiment file, on one machine or a Ray cluster.

    python sweep.py --tasks metaworld_reach metaworld_push --planners latco cem --seeds 0 1 2 \\
        --out logdir/sweep --configs defaults metaworld small
    python sweep.py --experiment reproduce/latco_table1.yaml --rows latco --seeds 0 1 2 \\
        --out logdir/table1 --address auto

An experiment file is YAML: the name of a row, then a list of command lines of planning_agent.py without seed and log
directory. A run's folder is <out>/<task>/<planner or row>/<seed>; in it, sweep.log has what the program printed and
done.json says that the run is complete. The same command again skips complete runs and goes on with the others.

On a cluster this program runs on one of the nodes, and all nodes see the checkout, its Python and <out> at the same
paths (a shared file system): so a run whose node died continues on another one.
"""

if __name__ == "__main__":
    import tools.startup

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sweeps import supervisor
from sweeps.display import Display
from sweeps.experiment import PROGRAM, Run, check_starts, check_tasks, experiment_lines, make_runs, product_lines
from sweeps.runner import Sweep, connected
from sweeps.status import Status
from tools.command_line import Parser, amount, count, place
from tools.errors import UserError
from tools.files import append_json, expanded, writing
from tools.program import run_program
from tools.revision import git_revision
from tools.signals import terminable

REFRESH_SECONDS = 1.0


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that are settings of every run."""
    parser = Parser(
        prog="python sweep.py",
        usage="%(prog)s (--tasks TASK ... --planners NAME ... | --experiment FILE [--rows ROW ...]) --seeds N ... "
        "--out DIR [--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
    )
    which = parser.add_argument_group("which runs")
    which.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="tasks to train on; commas join those that one agent learns"
    )
    which.add_argument("--planners", nargs="+", metavar="NAME", help="planners to train each task with")
    which.add_argument(
        "--experiment", type=place, metavar="FILE", help="rows of command lines, in place of the two above"
    )
    which.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows of the experiment (default: all)")
    which.add_argument("--seeds", nargs="+", type=count, required=True, metavar="N", help="seeds of each run")
    which.add_argument("--out", type=place, required=True, metavar="DIR", help="folder for the runs")
    which.add_argument("--list", action="store_true", help="print the command of every run and stop")
    where = parser.add_argument_group("where and how")
    where.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="a Ray cluster that this machine is part of (default: only this one)",
    )
    where.add_argument("--cpus", type=amount, default=2, metavar="N", help="processors of a run (default: 2)")
    where.add_argument("--gpus", type=amount, default=0, metavar="N", help="GPUs of a run; 0.5 shares one (default: 0)")
    where.add_argument("--parallel", type=count, metavar="N", help="runs at a time at most (default: what fits)")
    where.add_argument(
        "--retries", type=count, default=2, metavar="N", help="how often a crashed run is resumed (default: 2)"
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml for every run, and --configs with presets")
    options, settings = parser.parse_known_args(argv)
    _check(options)
    return options, settings


def _check(options: argparse.Namespace) -> None:
    """Raises UserError for options that contradict each other or are out of range."""
    by_product = bool(options.tasks and options.planners)
    if by_product == bool(options.experiment) or (options.experiment and (options.tasks or options.planners)):
        raise UserError("Say which runs: --tasks with --planners, or --experiment.")
    if options.rows and not options.experiment:
        raise UserError("--rows are those of an experiment file: add --experiment FILE.")
    if not options.cpus:
        raise UserError("--cpus must be more than 0.")
    if options.gpus > 1 and options.gpus != int(options.gpus):
        raise UserError("--gpus must be a whole number, or a part of 1.")
    if options.address == "":
        raise UserError("--address is empty: name a Ray cluster, or leave it out for this machine alone.")
    if options.parallel == 0:
        raise UserError("--parallel must be at least 1.")


def conduct(
    statuses: Sequence[Status],
    options: argparse.Namespace,
    program: Path,
    lock_seconds: float,
    begin: Callable[[], None],
) -> None:
    """Brings all runs to an end, done or failed. Ctrl-C and SIGTERM end them where they are.

    `begin` is called when nothing can be refused any more.
    """
    # Ray has a handler of its own for SIGTERM, which comes too late here.
    with connected(options), terminable(), Display(statuses) as display:
        begin()
        sweep = Sweep(statuses, options, program, lock_seconds)
        try:
            while sweep.advance(REFRESH_SECONDS):
                display.update()
            display.update()
        finally:
            sweep.stop()


def _save(out: Path, argv: Sequence[str], runs: Sequence[Run]) -> None:
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["sweep.py", *argv],
        **git_revision(),
        "runs": len(runs),
    }
    with writing(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
        append_json(out / "sweep.jsonl", line)


def _report(statuses: Sequence[Status], before: int) -> int:
    """Prints what failed and how many are done, and returns the exit code."""
    failed = [status for status in statuses if status.state == "failed"]
    for status in failed:
        print(
            f"failed: {status.run.name}, {status.message} (see {status.run.folder / supervisor.LOG_FILE})",
            file=sys.stderr,
        )
    done = sum(status.state == "done" for status in statuses)
    print(f"{done} of {len(statuses)} runs are done, {before} of them from before; {len(failed)} failed.")
    return 1 if failed else 0


def main(
    argv: Sequence[str] | None = None, program: Path = PROGRAM, lock_seconds: float = supervisor.LOCK_SECONDS
) -> int:
    """Runs the program and returns its exit code, see `tools.program`; 1 where some runs failed."""
    statuses: list[Status] = []

    def advice() -> str:
        done = sum(status.state == "done" for status in statuses)
        return f"{done} of {len(statuses)} runs are done, the same command goes on with the others"

    return run_program(lambda words: _sweep(words, statuses, program, lock_seconds), argv, advice)


def _sweep(argv: Sequence[str], statuses: list[Status], program: Path, lock_seconds: float) -> int:
    """Fills the list of statuses as soon as they are known."""
    options, settings = parse_options(argv)
    if options.experiment:
        lines = experiment_lines(options.experiment, options.rows, settings)
    else:
        lines = product_lines(options.tasks, options.planners, settings)
    runs = make_runs(lines, options.seeds, expanded(options.out).absolute())
    if options.list:
        for run in runs:
            print(shlex.join(["python", PROGRAM.name, *run.arguments]))
        return 0
    statuses += [Status(run, "done" if run.complete else "waiting") for run in runs]
    before = sum(status.state == "done" for status in statuses)
    if before < len(runs):
        due = [status.run for status in statuses if status.state != "done"]
        check_starts(due)
        check_tasks(due)
        conduct(statuses, options, program, lock_seconds, lambda: _save(expanded(options.out), argv, runs))
    return _report(statuses, before)


if __name__ == "__main__":
    sys.exit(main())
