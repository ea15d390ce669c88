"""Two evaluations of the same starts, start by start: what one solves and the other does not."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.markdown import markdown, number, percent, with_interval
from analysis.runs import is_number
from analysis.statistics import Estimate, interval_over_seeds, share
from tools.command_line import note
from tools.errors import UserError
from training.logdir import EPISODES_FILE

HEAD = ["", "episodes", "first", "second", "second - first", "first alone", "second alone", "p"]


class Score(NamedTuple):
    """What an episode brought; success is NaN where the simulator reports none."""

    reward: float
    success: float


def pairs(first: Sequence[Path], second: Sequence[Path]) -> str:
    """Compares evaluations start by start; several of each side, such as those of seeds, are put together.

    Args:
        first: tables of episodes that evaluate.py wrote (episodes.csv), or their folders.
        second: the same of the other side, in the same order.

    Returns:
        success and return in Markdown. p is that of the exact paired test (McNemar's): under equal chances each start
        that only one side solves is a fair coin's.

    Raises:
        UserError: a file is no such table, the sides differ in number, or two evaluations share no start.
    """
    if len(first) != len(second):
        raise UserError(
            f"--first has {len(first)} evaluations and --second {len(second)}: each needs one to be compared with."
        )
    scores = [pair for files in zip(first, second, strict=True) for pair in _paired(*files)]
    rows = [_return_row(np.array([[score.reward for score in pair] for pair in scores]))]
    success = np.array([[score.success for score in pair] for pair in scores])
    if not np.isnan(success).any():
        rows.insert(0, _success_row(success > 0))
    text = markdown(HEAD, [[row[0], str(len(scores)), *row[1:]] for row in rows])
    return text + "\nIn brackets: 95% intervals, Wilson's of success, Student's of returns and their differences.\n"


def _success_row(success: np.ndarray) -> list[str]:
    """[N, 2]"""
    shares = [share(int(column.sum()), len(column)) for column in success.T]
    alone = [int((side & ~other).sum()) for side, other in (success.T, success.T[::-1])]
    p = stats.binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    difference = percent(shares[1].mean - shares[0].mean)
    return ["success, %", *(with_interval(each, percent) for each in shares), difference, *map(str, alone), f"{p:.2g}"]


def _return_row(returns: np.ndarray) -> list[str]:
    """[N, 2]"""
    columns = [*returns.T, returns[:, 1] - returns[:, 0]]
    return [
        "return",
        *(with_interval(Estimate(*map(float, interval_over_seeds(column))), number) for column in columns),
        "",
        "",
        "",
    ]


def _paired(first: Path, second: Path) -> list[tuple[Score, Score]]:
    """The scores of every start that both have, in the order of the first."""
    one, other = _read(first), _read(second)
    common = [seed for seed in one if seed in other]
    if not common:
        raise UserError(f"{first} and {second} have no start in common: evaluate both with the same --task and --seed.")
    alone = len(one.keys() ^ other.keys())
    if alone:
        note(f"{first} and {second}: {alone} starts that only one of them has are left out.")
    return [(one[seed], other[seed]) for seed in common]


def _read(path: Path) -> Mapping[str, Score]:
    """Seed of the start -> score."""
    file = path / EPISODES_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} is not a file: give an {EPISODES_FILE} that evaluate.py has written, or its folder.")
    try:
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        found = {row["seed"]: Score(float(row["return"]), float(row.get("success", "nan"))) for row in rows}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        found = {}
    if not found or len(found) < len(rows) or not all(is_number(score.reward) for score in found.values()):
        raise UserError(f"{file} is not a table of episodes with a seed and a return each, as evaluate.py writes it.")
    return found
