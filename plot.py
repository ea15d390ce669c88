"""From log directories to figures and tables: curves over training, aggregates over tasks, tables of planners, pairs.

    python plot.py curves logdir
    python plot.py curves logdir/metaworld_reach logdir/metaworld_push --metric eval/success --bins 30
    python plot.py aggregate logdir --metric eval/return --normalize 'dmc_*=0,1000'
    python plot.py table logdir
    python plot.py pairs --first results/own_data/window-close_gd.csv --second results/own_data/window-close_latco.csv

`curves` draws every run at or below the folders, a panel for each task and a colour for each method: the mean over
seeds with 95% intervals. `aggregate` sums up tasks and seeds by the interquartile mean with bootstrap intervals
(Agarwal et al., NeurIPS 2021, through rliable), at the last common step and over the steps. `table` turns what
evaluate.py appended to evaluations.jsonl into a Markdown table, bars, and success over the distance to the goal (LatCo,
ICML 2021, table 1 and figure 4). `pairs` compares two evaluations of the same starts: who solves what the other one
does not.

Every figure is a PNG and a PDF, and beside it is a JSON file with the numbers that it draws. A run's method is the
name of the folder above its log directory, if that is named after the seed, otherwise its planner. Runs may still be
in progress.
"""

if __name__ == "__main__":
    import tools.startup

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.aggregates import aggregate
from analysis.curves import curves
from analysis.metrics import SCORES, TITLES
from analysis.pairs import pairs
from analysis.runs import LARGEST
from analysis.tables import table
from tools.command_line import Parser, place, positive
from tools.files import expanded
from tools.program import run_program


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """task=low,high"""
    task, _, numbers = text.partition("=")
    try:
        low, high = map(float, numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=LOW,HIGH with two numbers") from None
    if not (-LARGEST <= low < high <= LARGEST and high - low >= 1 / LARGEST):
        raise argparse.ArgumentTypeError(f"{text!r} needs a low number below a high one, neither beyond {LARGEST:g}")
    return task, (low, high)


def _in_order(given: Sequence[tuple[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """The ranges by pattern, in the order in which they were given last."""
    ranges: dict[str, tuple[float, float]] = {}
    for pattern, scale in given:
        ranges.pop(pattern, None)
        ranges[pattern] = scale
    return ranges


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of this program. Raises UserError."""
    parser = Parser(prog="python plot.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = Parser(add_help=False)
    shared.add_argument(
        "--out", type=place, default=Path("plots"), metavar="DIR", help="folder for the files (default: plots)"
    )
    steps = Parser(add_help=False)
    steps.add_argument("dirs", type=place, nargs="+", metavar="DIR", help="folder at or below which there are runs")
    steps.add_argument(
        "--bins",
        type=positive,
        metavar="N",
        help="average each seed over N equal parts of the steps first (default: all values, interpolated between)",
    )
    command = commands.add_parser("curves", parents=[steps, shared], help="metrics over environment steps")
    command.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        help=f"names in metrics.jsonl (default: what there is of {' '.join(TITLES)})",
    )
    command = commands.add_parser("aggregate", parents=[steps, shared], help="one number for all tasks and seeds")
    command.add_argument(
        "--metric", metavar="NAME", help=f"the score (default: the first that every run has of {' '.join(SCORES)})"
    )
    command.add_argument(
        "--normalize",
        type=_range,
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK=LOW,HIGH",
        help="scores that become 0 and 1; TASK may have * in it, and of several that fit the last counts",
    )
    command.add_argument(
        "--repetitions", type=positive, default=2000, metavar="N", help="of the bootstrap (default: 2000)"
    )
    command = commands.add_parser("table", parents=[shared], help="planners on trained models")
    command.add_argument(
        "sources", type=place, nargs="+", metavar="DIR_OR_JSONL", help="evaluations.jsonl, or a folder above such files"
    )
    command = commands.add_parser("pairs", help="two evaluations of the same starts")
    for side in ("--first", "--second"):
        command.add_argument(
            side,
            type=place,
            nargs="+",
            required=True,
            metavar="DIR_OR_CSV",
            help="episodes.csv of an evaluation, or its folder; several are put together, in the other side's order",
        )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_draw, argv, lambda: "start the same command again")


def _draw(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    if options.command == "pairs":
        print(pairs(options.first, options.second), end="")
        return 0
    out, text = expanded(options.out), ""
    if options.command == "curves":
        files = curves(options.dirs, options.metric, options.bins, out)
    elif options.command == "aggregate":
        ranges = _in_order(options.normalize)
        text, files = aggregate(options.dirs, options.metric, ranges, options.bins, options.repetitions, out)
    else:
        text, files = table(options.sources, out)
    print(text, end="")
    # The table alone is on the standard output, so that it can go into a document.
    print("\n".join(files), file=sys.stderr if text else sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
