"""Means over seeds and their intervals, and what brings seeds to the same steps."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from analysis.runs import Series
from tools.command_line import note

CONFIDENCE = 0.95
SEEDS_FOR_BAND = 3  # with two, Student's t has 12.7 standard errors; the seeds themselves say more


class Estimate(NamedTuple):
    """A mean with its 95% interval, NaN where there is none."""

    mean: float
    low: float
    high: float


def align(series: Sequence[Series], bins: int | None = None, end: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Brings n seeds to the same steps [S]: values [n, S], in which each seed counts once, however often it logged.

    The steps are all those at which any of the seeds has a value; between its own ones a seed is interpolated linearly,
    before its first and after its last one it is NaN. With bins, each seed is averaged before over so many equal parts
    of (0, end], each of which then stands for its middle.
    """
    if bins and end > 0:
        series = [bin_means(each, bins, end) for each in series]
    steps = np.unique(np.concatenate([each.steps for each in series]))
    return steps, np.stack([np.interp(steps, *each, left=np.nan, right=np.nan) for each in series])


def bin_means(series: Series, bins: int, end: float) -> Series:
    """The mean of every bin of steps that has values, at the middle of the bin; see `align`."""
    # Not divided by a width, whose rounding would push a step at the end of a bin into the next one.
    index = np.maximum(np.ceil(series.steps * bins / end).astype(int) - 1, 0)
    filled, inverse = np.unique(index, return_inverse=True)
    return Series((filled + 0.5) * (end / bins), np.bincount(inverse, series.values) / np.bincount(inverse))


def interval_over_seeds(
    values: np.ndarray, least: int = 2, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its 95% interval by Student's t.

    Args:
        values: [n, ...], NaN where a seed has no value; every column has at least one.
        least: seeds that an interval needs; NaN where there are fewer.
        bounds: between which values can lie, so that intervals end there.

    Returns:
        mean, low and high, [...] each.
    """
    known = ~np.isnan(values)
    count = known.sum(0)
    mean = np.where(known, values, 0.0).sum(0) / count
    free = np.maximum(count - 1, 1)
    std = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(0) / free)
    half = np.where(count < max(least, 2), np.nan, half_width(std, free + 1))
    return mean, np.maximum(mean - half, bounds[0]), np.minimum(mean + half, bounds[1])


def half_width(std: np.ndarray | float, count: np.ndarray | int) -> np.ndarray | float:
    """Of Student's t interval of a mean, from the standard deviation of `count` >= 2 values."""
    return stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * std / np.sqrt(count)


def share(hits: int, count: int) -> Estimate:
    """hits of count, with Wilson's interval."""
    interval = stats.binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / count, float(interval.low), float(interval.high))


def bootstrap(
    scores: Mapping[str, np.ndarray], repetitions: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """rliable's estimates for scores [runs, tasks, S] of methods.

    Returns:
        method -> (value, low, high) of the interquartile mean and of the mean at the last step, [3, 2]; and method ->
        the same of the interquartile mean at every step, [3, S]. Low and high are NaN for a single run of each task.
    """
    from rliable import library, metrics  # seconds to import, which the other figures do not need

    def estimates(matrix: np.ndarray) -> np.ndarray:
        # metrics.aggregate_iqm is this for a single step; one by one, the steps would take minutes.
        iqm = stats.trim_mean(matrix.reshape(-1, matrix.shape[-1]), 0.25, axis=0)
        return np.append(iqm, metrics.aggregate_mean(matrix[..., -1]))

    with _seeded():
        points, intervals = library.get_interval_estimates(dict(scores), estimates, reps=repetitions)
    found = {method: np.stack([points[method], *intervals[method]]) for method in scores}
    for method, matrix in scores.items():
        if len(matrix) == 1:
            note(f"{method} has one run of each task: there is nothing to draw other samples from, hence no interval.")
            found[method][1:] = np.nan
    return (
        {method: estimated[:, -2:] for method, estimated in found.items()},
        {method: estimated[:, :-1] for method, estimated in found.items()},
    )


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Makes rliable reproducible: version 1.2 draws from numpy's global generator and ignores the one it is given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def over_seeds(estimates: Sequence[Mapping[str, Any]], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean over seeds, each counted once, with a 95% interval.

    Args:
        estimates: of each seed its mean over episodes, and the ends of that mean's interval; NaN or None if unknown.
        bounds: between which means can lie.

    Returns:
        of three seeds or more with Student's t interval over seeds. That of two says nothing (see `SEEDS_FOR_BAND`), so
        theirs is over the episodes and holds for these seeds alone. Its ends are the means of theirs, as if their
        episodes erred together: they mostly have the same starts.
    """
    values = np.array([[_known(each.get(key)) for key in Estimate._fields] for each in estimates]).reshape(-1, 3)
    mean, low, high = values[~np.isnan(values[:, 0])].T
    if not len(mean):
        return Estimate(math.nan, math.nan, math.nan)
    if len(mean) >= SEEDS_FOR_BAND:
        return Estimate(*map(float, interval_over_seeds(mean, SEEDS_FOR_BAND, bounds)))
    return Estimate(float(mean.mean()), float(low.mean()), float(high.mean()))


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
