"""Two evaluations of the same starts, start by start: what one solves and the other does not."""

import csv
import math
from collections.abc import Callable, Sequence
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


class Start(NamedTuple):
    """Where an episode starts; the task is None in tables from before they named it."""

    task: str | None
    seed: str


class Score(NamedTuple):
    """What an episode brought; success is NaN where the simulator reports none."""

    reward: float
    success: float


def pairs(first: Sequence[Path], second: Sequence[Path]) -> str:
    """Compares evaluations start by start; several of each side, such as those of seeds, are put together.

    Several evaluations of one start depend on each other. So each start counts once, by its mean over evaluations.

    Args:
        first: tables of episodes that evaluate.py wrote (episodes.csv), or their folders.
        second: the same of the other side, in the same order.

    Returns:
        success and return in Markdown. p is that of the exact sign test over starts (McNemar's, if each start is in one
        evaluation): under equal chances each start that goes better for one side is a fair coin's.

    Raises:
        UserError: a file is no such table, the sides differ in number, or two evaluations share no start.
    """
    if len(first) != len(second):
        raise UserError(
            f"--first has {len(first)} evaluations and --second {len(second)}: each needs one to be compared with."
        )
    starts: dict[Start, list[tuple[Score, Score]]] = {}
    for files in zip(first, second, strict=True):
        for start, scores in _paired(*files):
            starts.setdefault(start, []).append(scores)
    episodes = sum(map(len, starts.values()))
    returns, success = (
        [np.array([[score[index] for score in pair] for pair in own]) for own in starts.values()] for index in range(2)
    )
    rows = [["return", *_intervals(np.array([own.mean(0) for own in returns]), number), "", "", ""]]
    if not np.isnan(np.concatenate(success)).any():
        rows.insert(0, _success_row([own > 0 for own in success]))
    text = markdown(HEAD, [[row[0], str(episodes), *row[1:]] for row in rows])
    return text + (
        f"\nIn brackets: 95% intervals over {len(starts)} starts, Student's; Wilson's of success if each start has one "
        "episode.\n"
    )


def _success_row(starts: Sequence[np.ndarray]) -> list[str]:
    """Of each start [evaluations, 2]."""
    episodes, solved = np.concatenate(starts), np.array([own.sum(0) for own in starts])
    better = [int((side > other).sum()) for side, other in (solved.T, solved.T[::-1])]
    alone = [int((side & ~other).sum()) for side, other in (episodes.T, episodes.T[::-1])]
    cells = _intervals(np.array([own.mean(0) for own in starts]), percent, (0.0, 1.0))
    if len(episodes) == len(starts):
        cells[:2] = [with_interval(share(int(column.sum()), len(column)), percent) for column in episodes.T]
    p = stats.binomtest(better[0], sum(better)).pvalue if sum(better) else 1.0
    return ["success, %", *cells, *map(str, alone), f"{p:.2g}"]


def _intervals(
    means: np.ndarray, form: Callable[[float], str], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> list[str]:
    """Both sides and what the second has more, from the means [K, 2] of the starts."""
    width = bounds[1] - bounds[0]
    difference = interval_over_seeds(means[:, 1] - means[:, 0], bounds=(-width, width))
    estimates = [*(interval_over_seeds(column, bounds=bounds) for column in means.T), difference]
    return [with_interval(Estimate(*map(float, each)), form) for each in estimates]


def _paired(first: Path, second: Path) -> list[tuple[Start, tuple[Score, Score]]]:
    """The scores of every start that both have, in the order of the first."""
    one, other = _read(first), _read(second)
    if any(start.task is None for start in (*one, *other)):
        one, other = ({start._replace(task=None): score for start, score in side.items()} for side in (one, other))
    common = [start for start in one if start in other]
    if not common:
        raise UserError(f"{first} and {second} have no start in common: evaluate both with the same --task and --seed.")
    alone = len(one.keys() ^ other.keys())
    if alone:
        note(f"{first} and {second}: {alone} starts that only one of them has are left out.")
    return [(start, (one[start], other[start])) for start in common]


def _read(path: Path) -> dict[Start, Score]:
    """What the episodes of a table brought."""
    file = path / EPISODES_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} is not a file: give an {EPISODES_FILE} that evaluate.py has written, or its folder.")
    try:
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        found = {
            Start(row.get("task"), row["seed"]): Score(float(row["return"]), float(row.get("success", "nan")))
            for row in rows
        }
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        found = {}
    if not found or len(found) < len(rows) or not all(is_number(score.reward) for score in found.values()):
        raise UserError(f"{file} is not a table of episodes with a seed and a return each, as evaluate.py writes it.")
    return found
