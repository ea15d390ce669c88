"""From log directories to figures and tables: curves over training, aggregates over tasks, tables of planners.

    python plot.py curves logdir
    python plot.py curves logdir/metaworld_reach logdir/metaworld_push --metric eval/success --bins 30
    python plot.py aggregate logdir --metric eval/return --normalize 'dmc_*=0,1000'
    python plot.py table logdir

`curves` draws every run at or below the folders, a panel for each task and a colour for each method: the mean over
seeds with 95% intervals. `aggregate` sums up tasks and seeds by the interquartile mean with bootstrap intervals
(Agarwal et al., NeurIPS 2021, through rliable), at the last common step and over the steps. `table` turns what
evaluate.py appended to evaluations.jsonl into a Markdown table, bars, and success over the distance to the goal (LatCo,
ICML 2021, table 1 and figure 4).

Every figure is a PNG and a PDF, and beside it is a JSON file with the numbers that it draws. A method is called after
the folder above a log directory that is named like its seed, otherwise after the planner. Runs may still be going on.
"""

import argparse
import contextlib
import fnmatch
import math
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy import stats

from analysis import figures
from analysis import runs as logs
from analysis.runs import Run, Series
from tools.command_line import Parser, positive
from tools.config import Config
from tools.errors import UserError, unknown

LABEL_WIDTH = 34  # letters of a line beside a bar
CONFIDENCE = 0.95
SEEDS_FOR_BAND = 3  # with two, Student's t has 12.7 standard errors; the seeds themselves say more
CURVE_POINTS = 100  # at most, where each has to be bootstrapped
TITLES = {
    "train/return": "return (training)",
    "train/success": "success (training)",
    "eval/return": "return (evaluation)",
    "eval/success": "success (evaluation)",
}
# The first that every run has is what `aggregate` is about: success needs no range, evaluations have no exploration.
SCORES = ("eval/success", "train/success", "eval/return", "train/return")


class Curve(NamedTuple):
    """A metric of the seeds of one method in one task, at the same S steps.

    Attributes:
        seeds: of the n runs.
        steps: [S], environment steps.
        values: [n, S], NaN before the first and after the last value of a seed.
        mean: [S], over the seeds that have a value.
        low: [S], 95% interval of the mean (Student t over seeds), NaN where fewer than `SEEDS_FOR_BAND` have a value.
        high: [S].
        count: [S], how many seeds have a value.
    """

    seeds: list[int]
    steps: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


class Estimate(NamedTuple):
    """A mean with its 95% interval, NaN where there is none."""

    mean: float
    low: float
    high: float


class Row(NamedTuple):
    """What one planner achieved in one task, over the seeds (log directories) of one method of training.

    Attributes:
        model: the method that trained the world model.
        method: how the evaluation is called; the model, where it is the run as it was trained.
        settings: what the evaluation changed besides the planner, as words of a command line.
        seeds: how many log directories.
        episodes: of all of them.
        success: None where the simulator reports none.
        seconds: of a planning call; the mean over seeds of their medians, NaN where unknown.
        distances: success by distance to the goal, a list of (low, high, episodes, Estimate).
    """

    task: str
    model: str
    method: str
    planner: str
    settings: str
    seeds: int
    episodes: int
    score: Estimate
    success: Estimate | None
    seconds: float
    distances: list[tuple[float, float, int, Estimate]]


def note(text: str) -> None:
    """Tells the user something that is no reason to stop."""
    print(f"note: {text}", file=sys.stderr)


# --- curves


def curves(directories: Sequence[Path], metrics: Sequence[str] | None, bins: int | None, out: Path) -> list[str]:
    """Draws metrics over environment steps and returns the paths of the files.

    Args:
        directories: at or below which runs are looked for.
        metrics: their names; those of `TITLES` that any run has unless given.
        bins: see `align`.
        out: folder for the files.

    Raises:
        UserError: see `runs.read_runs`; or no run has such a metric, a task has none of the metrics, or a file cannot
            be written.
    """
    runs = logs.read_runs(directories)
    unit = logs.common_unit(runs)
    chosen = choose_metrics(runs, metrics)
    tasks = sorted({run.task for run in runs})
    panels = {(task, metric): task_curves(runs, task, metric, bins) for task in tasks for metric in chosen}
    for task in tasks:
        if not any(panels[task, metric] for metric in chosen):
            raise UserError(
                f"{task} has no value of {', '.join(chosen)} yet: leave its runs out, wait, or choose another --metric."
            )
    _note_missing(runs, chosen)
    numbers = {
        metric: {
            task: {method: curve._asdict() for method, curve in panels[task, metric].items()}
            for task in tasks
            if panels[task, metric]
        }
        for metric in chosen
    }
    return figures.save_all(draw_curves(panels, tasks, chosen, unit), out / "curves", numbers)


def choose_metrics(runs: Sequence[Run], wanted: Sequence[str] | None) -> list[str]:
    """The metrics to draw. Raises UserError for one that no run has."""
    names = logs.metric_names(runs)
    if wanted:
        for name in wanted:
            if name not in names:
                raise unknown("metric", name, names)
        return list(dict.fromkeys(wanted))
    default = [name for name in TITLES if name in names]
    if not default:
        raise UserError(f"no run has a value of {', '.join(TITLES)} yet: wait, or choose another --metric.")
    return default


def _note_missing(runs: Sequence[Run], metrics: Sequence[str]) -> None:
    for run in runs:
        if not any(metric in run.metrics for metric in metrics):
            note(f"{run.logdir} has no value of {', '.join(metrics)} yet and is left out.")


def task_curves(runs: Sequence[Run], task: str, metric: str, bins: int | None) -> dict[str, Curve]:
    """The curve of every method that has the metric in a task."""
    having = [run for run in runs if run.task == task and metric in run.metrics]
    width = max(run.metrics[metric].steps[-1] for run in having) / bins if bins and having else None
    bounds = (0.0, 1.0) if is_success(metric) else (-math.inf, math.inf)
    found = {}
    for method in sorted({run.method for run in having}):
        own = [run for run in having if run.method == method]
        steps, values = align([run.metrics[metric] for run in own], width)
        estimates = mean_interval(values, SEEDS_FOR_BAND, bounds)
        found[method] = Curve([run.seed for run in own], steps, values, *estimates, np.sum(~np.isnan(values), 0))
    return found


def is_success(metric: str) -> bool:
    """Whether a metric is a rate of success, which lies between 0 and 1."""
    return metric.rpartition("/")[2].startswith("success")


def align(series: Sequence[Series], width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Brings n seeds to the same steps [S]: values [n, S], in which each seed counts once, however often it logged.

    The steps are all those at which any of the seeds has a value; between its own ones a seed is interpolated linearly,
    before its first and after its last one it is NaN. With a width, each seed is averaged over bins (0, width],
    (width, 2 width], ... before, each of which then stands for its middle.
    """
    if width:
        series = [bin_means(each, width) for each in series]
    steps = np.unique(np.concatenate([each.steps for each in series]))
    return steps, np.stack([np.interp(steps, *each, left=np.nan, right=np.nan) for each in series])


def bin_means(series: Series, width: float) -> Series:
    """The mean of every bin of steps that has values, at the middle of the bin."""
    index = np.maximum(np.ceil(series.steps / width).astype(int) - 1, 0)
    filled, inverse = np.unique(index, return_inverse=True)
    return Series((filled + 0.5) * width, np.bincount(inverse, series.values) / np.bincount(inverse))


def mean_interval(
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
    half = stats.t.ppf((1 + CONFIDENCE) / 2, free) * std / np.sqrt(count)
    half = np.where(count < max(least, 2), np.nan, half)
    return mean, np.maximum(mean - half, bounds[0]), np.minimum(mean + half, bounds[1])


def draw_curves(
    panels: Mapping[tuple[str, str], Mapping[str, Curve]],
    tasks: Sequence[str],
    metrics: Sequence[str],
    unit: str = "environment steps",
) -> Figure:
    """A panel for each task; of several metrics a column each."""
    style = figures.styles({method for panel in panels.values() for method in panel})
    rows, columns = figures.wrapped(len(tasks), 4) if len(metrics) == 1 else (len(tasks), len(metrics))
    figure, axes = figures.grid(rows, columns, size=(3.6, 2.7))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for index, (axis, (task, metric)) in enumerate(zip(axes.flat, panels, strict=False)):
        draw_panel(axis, panels[task, metric], style)
        if is_success(metric):
            axis.set_ylim(-0.05, 1.05)
        last = max(curve.steps[-1] for other in metrics for curve in panels[task, other].values())
        axis.set_xlim(0, 1.02 * max(last, 1))
        axis.set_title(task if len(metrics) == 1 else f"{task}\n{title_of(metric)}", fontsize=10)
        if index + columns >= len(panels):
            axis.set_xlabel(unit, fontsize=10)
        if len(metrics) == 1 and index % columns == 0:
            axis.set_ylabel(title_of(metric), fontsize=10)
    entries = {f"{name}, {_seeds(panels.values(), name)}": style[name] for name in sorted(style)}
    figures.legend_below(figure, entries, _explain(panels.values()))
    return figure


def draw_panel(axis: Axes, methods: Mapping[str, Curve], style: Mapping[str, Mapping[str, Any]]) -> None:
    """One task: means, dotted where not all seeds have a value; bands, or the seeds where they are few."""
    for method, curve in methods.items():
        color, seeds = style[method]["color"], len(curve.seeds)
        marker = {"marker": ".", "markersize": 5} if len(curve.steps) <= 25 else {}
        if 1 < seeds < SEEDS_FOR_BAND:
            for values in curve.values:
                axis.plot(curve.steps, values, color=color, linewidth=0.8, alpha=0.6)
        axis.plot(curve.steps, curve.mean, color=color, linewidth=1.4, linestyle=":")
        complete = np.ma.masked_where(curve.count < seeds, curve.mean)
        axis.plot(curve.steps, complete, linewidth=1.8, **style[method], **marker)
        axis.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    figures.tidy(axis)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not methods:
        axis.text(0.5, 0.5, "no values", ha="center", va="center", transform=axis.transAxes, color="0.5")
        axis.set_yticks([])


def title_of(metric: str) -> str:
    """How a metric is called in a figure."""
    return TITLES.get(metric, metric)


def _seeds(panels: Any, method: str) -> str:
    """How many seeds a method has, over all panels."""
    counts = sorted({len(panel[method].seeds) for panel in panels if method in panel})
    return "1 seed" if counts == [1] else f"{'-'.join(map(str, counts[:: max(len(counts) - 1, 1)]))} seeds"


def _explain(panels: Any) -> str:
    """What lines and bands mean, where there are such."""
    drawn = [curve for panel in panels for curve in panel.values()]
    parts = []
    if any(len(curve.seeds) > 1 for curve in drawn):
        parts.append("Lines: means over seeds.")
    if any(np.isfinite(curve.low).any() for curve in drawn):
        parts.append("Bands: 95% intervals (Student t over seeds).")
    if any(1 < len(curve.seeds) < SEEDS_FOR_BAND for curve in drawn):
        parts.append("Thin: single seeds.")
    if any(np.any(curve.count < len(curve.seeds)) for curve in drawn):
        parts.append("Dotted: not of all seeds.")
    return " ".join(parts)


# --- aggregate


def aggregate(
    directories: Sequence[Path],
    metric: str | None,
    ranges: Mapping[str, tuple[float, float]],
    bins: int | None,
    repetitions: int,
    out: Path,
) -> tuple[str, list[str]]:
    """Sums up tasks and seeds by rliable's interquartile mean with intervals from a stratified bootstrap.

    Args:
        directories: at or below which runs are looked for.
        metric: the score; unless given the first of `SCORES` that every run has.
        ranges: pattern of task names -> the scores that become 0 and 1.
        bins: see `align`.
        repetitions: of the bootstrap.
        out: folder for the files.

    Returns:
        the numbers at the last common step as a Markdown table, and the paths of the files.

    Raises:
        UserError: see `runs.read_runs`; or a run lacks the metric, a method has not as many runs of each task, no step
            is common to all, scores of several tasks would be mixed without a range, or a file cannot be written.
    """
    runs = logs.read_runs(directories)
    metric = choose_score(runs, metric)
    tasks = check_balance(runs)
    scale = score_ranges(tasks, metric, ranges)
    steps, scores = score_matrices(runs, tasks, metric, scale, bins)
    last, curve = bootstrap(scores, repetitions)
    numbers = {
        "metric": metric,
        "unit": logs.common_unit(runs),
        "tasks": tasks,
        "ranges": scale,
        "step": steps[-1],
        "repetitions": repetitions,
        "last": {
            method: {
                "IQM": dict(zip(("value", "low", "high"), last[method][:, 0], strict=True)),
                "mean": dict(zip(("value", "low", "high"), last[method][:, 1], strict=True)),
                "runs": len(scores[method]),
                "scores": scores[method][..., -1],
            }
            for method in scores
        },
        "curve": {
            method: dict(zip(("steps", "IQM", "low", "high"), (steps, *curve[method]), strict=True))
            for method in scores
        },
    }
    label = ("normalized " if scale else "") + title_of(metric)
    files = draw_aggregate(last, curve, steps, label, out, numbers)
    return aggregate_table(last, scores, label, steps[-1]), files


def choose_score(runs: Sequence[Run], wanted: str | None) -> str:
    """The metric to sum up. Raises UserError unless every run has it."""
    names = logs.metric_names(runs)
    if wanted and wanted not in names:
        raise unknown("metric", wanted, names)
    candidates = [wanted] if wanted else SCORES
    for name in candidates:
        if all(name in run.metrics for run in runs):
            return name
    lacking = next(run for run in runs if candidates[-1] not in run.metrics)
    raise UserError(
        f"{lacking.logdir} has no value of {candidates[-1]} for {lacking.task}: leave it out, wait, or choose another "
        "--metric."
    )


def check_balance(runs: Sequence[Run]) -> list[str]:
    """The tasks. Raises UserError unless each method has as many runs of every one of them."""
    tasks = sorted({run.task for run in runs})
    for method in sorted({run.method for run in runs}):
        counts = {task: sum((run.method, run.task) == (method, task) for run in runs) for task in tasks}
        fewest, most = min(tasks, key=counts.get), max(tasks, key=counts.get)
        if counts[fewest] != counts[most]:
            raise UserError(
                f"{method} has {counts[fewest]} runs of {fewest} but {counts[most]} of {most}, and a stratified "
                "bootstrap needs as many of every task: give the folders of as many runs of each."
            )
    return tasks


def score_ranges(
    tasks: Sequence[str], metric: str, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Task -> the scores that become 0 and 1; empty where scores stay as they are.

    Success and scores of a single task need no range.

    Raises:
        UserError: a pattern fits no task, or scores of different tasks would be mixed as they are.
    """
    for pattern in ranges:
        if not fnmatch.filter(tasks, pattern):
            raise unknown("task in --normalize", pattern, tasks)
    found = {}
    for task in tasks:
        fitting = [scale for pattern, scale in ranges.items() if fnmatch.fnmatchcase(task, pattern)]
        if fitting:
            found[task] = fitting[-1]
    missing = [task for task in tasks if task not in found]
    if missing and (found or (len(tasks) > 1 and not is_success(metric))):
        raise UserError(
            f"{metric} of different tasks cannot be mixed as it is: give the scores of {missing[0]} that count as 0 "
            f"and 1 by --normalize {missing[0]}=LOW,HIGH (* stands for any letters)."
        )
    return found


def score_matrices(
    runs: Sequence[Run],
    tasks: Sequence[str],
    metric: str,
    scale: Mapping[str, tuple[float, float]],
    bins: int | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The steps [S] that all runs have in common, and method -> scores [runs, tasks, S]. Raises UserError."""
    width = max(run.metrics[metric].steps[-1] for run in runs) / bins if bins else None
    steps, values = align([run.metrics[metric] for run in runs], width)
    common = ~np.isnan(values).any(0)
    if not common.any():
        ends = [(run.metrics[metric].steps[-1], str(run.logdir)) for run in runs]
        raise UserError(f"{min(ends)[1]} ends at step {min(ends)[0]}, before another run has a value of {metric}.")
    reached = [run.metrics[metric].steps[-1] for run in runs]
    if min(reached) < max(reached):
        shortest = runs[int(np.argmin(reached))].logdir
        note(
            f"scores are compared up to step {min(reached):,}, where {shortest} ends; the longest has {max(reached):,}."
        )
    kept = np.flatnonzero(common)
    kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(CURVE_POINTS, len(kept))).round().astype(int))]
    for row, run in enumerate(runs):
        low, high = scale.get(run.task, (0.0, 1.0))
        values[row] = (values[row] - low) / (high - low)
    matrices = {
        method: np.stack(
            [
                [values[row] for row, run in enumerate(runs) if (run.method, run.task) == (method, task)]
                for task in tasks
            ],
            axis=1,
        )[..., kept]
        for method in sorted({run.method for run in runs})
    }
    return steps[kept], matrices


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
    """Same numbers every time: rliable 1.2 draws from numpy's global generator, whatever it is told."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def draw_aggregate(
    last: Mapping[str, np.ndarray],
    curve: Mapping[str, np.ndarray],
    steps: np.ndarray,
    label: str,
    out: Path,
    numbers: Any,
) -> list[str]:
    """Two figures: intervals at the last common step, and interquartile means over the steps. Returns the files."""
    matplotlib.use("Agg")  # rliable makes figures by pyplot
    from matplotlib import pyplot
    from rliable import plot_utils

    style = figures.styles(list(last))
    colors = {method: style[method]["color"] for method in last}
    # Without an interval the bar has no width, and only the line of the value is seen.
    interval = {method: np.where(np.isnan(found[1:]), found[:1], found[1:]) for method, found in last.items()}
    bars, panels = plot_utils.plot_interval_estimates(
        {method: found[0] for method, found in last.items()},
        interval,
        metric_names=["IQM", "mean"],
        algorithms=sorted(last, reverse=True),
        colors=colors,
        xlabel=f"{label} at step {steps[-1]:,.0f}",
        max_ticks=3,
        xlabel_y_coordinate=-1.5 / len(last),  # of the height, which rows of text do not share
    )
    if is_success(numbers["metric"]):
        for panel in panels:
            panel.set_xlim(0, 1)
    figure, axes = figures.grid(1, 1, size=(5.6, 3.6))
    plot_utils.plot_sample_efficiency_curve(
        steps,
        {method: found[0] for method, found in curve.items()},
        {method: found[1:] for method, found in curve.items()},
        algorithms=sorted(curve),
        colors=colors,
        xlabel=numbers["unit"],
        ylabel=f"IQM of\n{label}",
        ax=axes[0, 0],
        labelsize=11,
        ticklabelsize=9,
        marker="." if len(steps) <= 25 else "",
    )
    axes[0, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    figures.legend_below(figure, {method: {"color": colors[method]} for method in sorted(colors)})
    final = {name: value for name, value in numbers.items() if name != "curve"}
    files = figures.save_all(bars, out / "aggregate", final, bbox_inches="tight", dpi=figures.DPI)
    pyplot.close(bars)
    general = {name: value for name, value in numbers.items() if name not in ("curve", "last", "step")}
    return files + figures.save_all(figure, out / "sample_efficiency", general | numbers["curve"])


def aggregate_table(last: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], label: str, step: float) -> str:
    """The estimates at the last common step in Markdown."""
    head = ["method", f"IQM of {label} at step {step:,.0f}", "mean", "runs x tasks"]
    rows = [
        [
            method,
            *(with_interval(Estimate(*last[method][:, i])) for i in (0, 1)),
            f"{matrix.shape[0]} x {matrix.shape[1]}",
        ]
        for method, matrix in scores.items()
    ]
    return markdown(head, rows)


# --- table


def table(sources: Sequence[Path], out: Path) -> tuple[str, list[str]]:
    """Turns evaluations into tables and figures.

    Args:
        sources: files of evaluations, or folders at or below which they are looked for.
        out: folder for the files.

    Returns:
        the text of table.md, and the paths of all files.

    Raises:
        UserError: there are no evaluations, a line is none, or a file cannot be written.
    """
    rows = table_rows(newest(read_evaluations(sources)))
    text = table_text(rows)
    files = [figures.save_text(text, out / "table.md")]
    files += figures.save_all(draw_bars(rows), out / "table", [_row_numbers(row) for row in rows])
    if any(row.distances for row in rows):
        numbers = [_row_numbers(row) for row in rows if row.distances]
        files += figures.save_all(draw_distances(rows), out / "distance", numbers)
    return text, files


def read_evaluations(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of all files, as they follow each other, each file once. Raises UserError."""
    paths: dict[str, Path] = {}
    for source in sources:
        found = [source] if source.is_file() else list(logs.find_files(source, logs.EVALUATIONS_FILE))
        if not found:
            raise UserError(f"{source} holds no {logs.EVALUATIONS_FILE}: evaluate its runs first, by evaluate.py.")
        for path in found:
            paths.setdefault(os.path.realpath(path), path)
    lines = [
        _checked(line, f"line {number} of {path}") for path in paths.values() for number, line in logs.read_lines(path)
    ]
    if not lines:
        raise UserError(f"{', '.join(map(str, sources))}: no evaluation has ended yet.")
    return lines


def _checked(line: dict[str, Any], place: str) -> dict[str, Any]:
    """The line itself. Raises UserError unless it is that of an evaluation."""
    for key in ("task", "method", "planner", "logdir", "episodes", "return"):
        if key not in line:
            raise UserError(f"{place} has no {key!r}, so it is no evaluation: give what evaluate.py has written.")
    bins = line.get("by_distance") or []
    for key, value in [*line.items(), *(("success", bin.get("success")) for bin in bins)]:
        if key in ("return", "success") and not (value is None or isinstance(value, dict) and "mean" in value):
            raise UserError(f"{place}: {key!r} must have a mean, a low and a high end, as evaluate.py writes them.")
    if any(not bin.keys() >= {"low", "high", "episodes", "success"} for bin in bins):
        raise UserError(f"{place}: each bin of 'by_distance' must have 'low', 'high', 'episodes' and 'success'.")
    return line


def newest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each task, method, planner, log directory and overrides; notes what was done differently."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        key = (*_group(line), os.path.abspath(line["logdir"]))
        other = [name for name in ("seed", "episodes", "updates") if found.get(key, line).get(name) != line.get(name)]
        if other:
            note(f"{' '.join(_group(line)).strip()}: the last of several evaluations, with another {', '.join(other)}.")
        found[key] = line
    return list(found.values())


def _group(line: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """What a row of the table stands for: task, model, method, planner, other settings."""
    model, method, overrides = _model(line), line["method"], line.get("overrides") or []
    settings = _settings(overrides)
    if method == model and len(settings) < len(shlex.join(overrides)):
        method = line["planner"]  # not the run as it was trained
    return line["task"], model, method, line["planner"], settings


def _model(line: Mapping[str, Any]) -> str:
    """The method of the run that an evaluation is of, which may lie on another machine."""
    logdir = Path(line["logdir"])
    if (logdir / "config.yaml").is_file():
        return logs.method_of(logdir, Config.load(logdir / "config.yaml"))
    return logdir.parent.name if logdir.name.isdecimal() else line["method"]


def _settings(overrides: Sequence[str]) -> str:
    """Overrides without the planner, which has a column of its own."""
    words, kept = list(overrides), []
    while words:
        word = words.pop(0)
        if word == "--planner":
            words[:1] = []
        elif not word.startswith("--planner="):
            kept.append(word)
    return shlex.join(kept)


def table_rows(lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each task, method, planner and settings, by their names; several log directories are its seeds."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_group(line), []).append(line)
    rows = []
    for group in sorted(groups):
        own = groups[group]
        success = [line["success"] for line in own if line.get("success") is not None]
        rows.append(
            Row(
                *group,
                seeds=len(own),
                episodes=sum(line["episodes"] for line in own),
                score=over_seeds([line["return"] or {} for line in own]),
                success=over_seeds(success, (0.0, 1.0)) if success else None,
                seconds=_mean([line.get("plan_seconds") for line in own]),
                distances=_distances(group, own),
            )
        )
    return rows


def over_seeds(estimates: Sequence[Mapping[str, Any]], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean over seeds, each counted once, with a t interval; for a single one its own interval over episodes."""
    known = [estimate for estimate in estimates if estimate.get("mean") is not None]
    if len(known) <= 1:
        only = known[0] if known else {}
        return Estimate(*(math.nan if only.get(key) is None else float(only[key]) for key in Estimate._fields))
    return Estimate(*map(float, mean_interval(np.array([each["mean"] for each in known], float), 2, bounds)))


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _distances(group: tuple[str, ...], lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, int, Estimate]]:
    """Success by distance over the seeds of a row, by distance; empty where seeds have other bins."""
    binned = [bins for line in lines if (bins := line.get("by_distance"))]
    edges = [sorted((bin["low"], bin["high"]) for bin in bins) for bins in binned]
    if any(each != edges[0] for each in edges):
        note(f"{' '.join(group).strip()}: seeds have different bins of distance, so they are not drawn by distance.")
        return []
    found = []
    for low, high in edges[0] if edges else []:
        same = [bin for bins in binned for bin in bins if (bin["low"], bin["high"]) == (low, high) and bin["success"]]
        if same:
            estimate = over_seeds([bin["success"] for bin in same], (0.0, 1.0))
            found.append((low, high, sum(bin["episodes"] for bin in same), estimate))
    return [each for each in found if not math.isnan(each[-1].mean)]


def labels(rows: Sequence[Row]) -> list[str]:
    """How rows are called in a figure: method, model where several were evaluated, settings where they are changed."""
    several = len({row.model for row in rows}) > 1
    models = [f" (model: {row.model})" if several and row.method != row.model else "" for row in rows]
    names = [f"{row.method}{model} {row.settings}".strip() for row, model in zip(rows, models, strict=True)]
    planners: dict[tuple[str, str], set[str]] = {}
    for row, name in zip(rows, names, strict=True):
        planners.setdefault((row.task, name), set()).add(row.planner)
    return [
        f"{name} ({row.planner})" if len(planners[row.task, name]) > 1 else name
        for row, name in zip(rows, names, strict=True)
    ]


def table_text(rows: Sequence[Row]) -> str:
    """The rows in Markdown; of several tasks first their scores side by side, as in LatCo's table 1."""
    head = [
        "task",
        "model of",
        "method",
        "planner",
        "settings",
        "return",
        "success, %",
        "seeds",
        "episodes",
        "planning, s",
    ]
    cells = [
        [
            row.task, row.model, row.method if row.method not in (row.model, row.planner) else "", row.planner,
            row.settings, with_interval(row.score),
            with_interval(row.success, percent) if row.success else "",
            str(row.seeds), str(row.episodes), "" if math.isnan(row.seconds) else number(row.seconds),
        ]
        for row in rows
    ]  # fmt: skip
    filled = [
        column for column, name in enumerate(head) if name in ("task", "planner") or any(row[column] for row in cells)
    ]
    text = markdown([head[column] for column in filled], [[row[column] for column in filled] for row in cells])
    text += (
        "\nIn brackets: 95% intervals, over seeds (Student t) where there are several, else over the episodes of the "
        "evaluation. Episodes are those of all seeds together, planning is the time of one call.\n"
    )
    return (side_by_side(rows) + "\n" if len({row.task for row in rows}) > 1 else "") + text


def side_by_side(rows: Sequence[Row]) -> str:
    """Planners by tasks in Markdown: success in percent where there is any, else the return."""
    tasks, names = sorted({row.task for row in rows}), labels(rows)
    cells = {
        (name, row.task): f"{with_interval(row.success, percent)} %" if row.success else with_interval(row.score)
        for name, row in zip(names, rows, strict=True)
    }
    body = [[name, *(cells.get((name, task), "") for task in tasks)] for name in dict.fromkeys(sorted(names))]
    return markdown(["method", *tasks], body)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def number(value: float, largest: float | None = None) -> str:
    """A number with as many decimals as suit the largest one beside it."""
    size = abs(value if largest is None else largest)
    decimals = 3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:.{decimals}f}"


def percent(value: float, largest: float | None = None) -> str:
    """A rate in percent, whatever is beside it."""
    return f"{100 * value:.0f}"


def with_interval(estimate: Estimate, form: Callable[..., str] = number) -> str:
    """mean [low, high], or less where that is unknown."""
    if math.isnan(estimate.mean):
        return ""
    largest = max(abs(value) for value in estimate if not math.isnan(value))
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return form(estimate.mean, largest)
    return f"{form(estimate.mean, largest)} [{form(estimate.low, largest)}, {form(estimate.high, largest)}]"


def draw_bars(rows: Sequence[Row]) -> Figure:
    """A panel for each task, a bar for each planner: success where there is any, else the return."""
    names, tasks = labels(rows), sorted({row.task for row in rows})
    order, style = sorted(set(names)), figures.styles(names)
    shape = figures.wrapped(len(tasks), 4)
    shown = [textwrap.fill(name, LABEL_WIDTH, subsequent_indent="  ") for name in order]
    lines = max(name.count("\n") + 1 for name in shown)
    figure, axes = figures.grid(*shape, size=(3.4, 0.9 + (0.12 + 0.16 * lines) * len(order)))
    # The labels stand at the first column only, and its panel shall not pay for them.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 0.075 * max(len(line) for name in shown for line in name.split("\n")), height)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for index, (axis, task) in enumerate(zip(axes.flat, tasks, strict=False)):
        own = [(name, row) for name, row in zip(names, rows, strict=True) if row.task == task]
        has_success = any(row.success for _, row in own)
        for name, row in own:
            estimate = row.success if has_success else row.score
            if estimate:
                _bar(axis, order.index(name), estimate, style[name]["color"])
        figures.tidy(axis)
        axis.set_yticks(range(len(order)), shown if index % shape[1] == 0 else [])
        axis.set_ylim(len(order) - 0.5, -0.5)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("success" if has_success else "return", fontsize=10)
        if has_success:
            axis.set_xlim(0, 1.03)
    return figure


def _bar(axis: Axes, position: int, estimate: Estimate, color: Any) -> None:
    axis.barh(position, estimate.mean, height=0.7, color=color)
    if not math.isnan(estimate.low + estimate.high):
        axis.plot([estimate.low, estimate.high], [position] * 2, color="black", linewidth=1.2, marker="|", markersize=6)


def draw_distances(rows: Sequence[Row]) -> Figure:
    """Success by distance to the goal, a panel for each task and a line for each planner (LatCo ICML figure 4)."""
    pairs = [(name, row) for name, row in zip(labels(rows), rows, strict=True) if row.distances]
    style = figures.styles({name for name, _ in pairs})
    tasks = sorted({row.task for _, row in pairs})
    figure, axes = figures.grid(*figures.wrapped(len(tasks), 4), size=(3.6, 2.7))
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("success", fontsize=10)
    for axis, task in zip(axes.flat, tasks, strict=False):
        own = [(name, row) for name, row in pairs if row.task == task]
        for index, (name, row) in enumerate(own):
            draw_distance(axis, row, style[name], (index - (len(own) - 1) / 2) / max(len(own), 8))
        axis.set_ylim(-0.05, 1.05)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("distance to the goal", fontsize=10)
        figures.tidy(axis)
    explanation = "Points: middles of bins, moved apart a little. Bars: 95% intervals."
    figures.legend_below(figure, {name: style[name] for name in sorted(style)}, explanation)
    return figure


def draw_distance(axis: Axes, row: Row, style: Mapping[str, Any], shift: float) -> None:
    """One planner: points at the middles of the bins, moved by a part of the bin so that bars can be told apart."""
    low, high, _, estimates = zip(*row.distances, strict=True)
    mean, lower, upper = np.array(estimates).T
    x = (np.array(low) + np.array(high)) / 2 + 0.6 * shift * (np.array(high) - np.array(low))
    axis.plot(x, mean, marker="o", markersize=4, linewidth=1.6, **style)
    axis.vlines(x, lower, upper, color=style["color"], linewidth=1.2, alpha=0.7)


def _row_numbers(row: Row) -> dict[str, Any]:
    """A row as it is written to JSON."""
    return {
        **{key: getattr(row, key) for key in ("task", "model", "method", "planner", "settings", "seeds", "episodes")},
        "return": row.score._asdict(),
        "success": row.success._asdict() if row.success else None,
        "plan_seconds": row.seconds,
        "by_distance": [
            {"low": low, "high": high, "episodes": episodes, "success": estimate._asdict()}
            for low, high, episodes, estimate in row.distances
        ],
    }


# --- command line


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """task=low,high"""
    task, _, numbers = text.partition("=")
    try:
        low, high = map(float, numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=LOW,HIGH with two numbers") from None
    if not -math.inf < low < high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} needs a low number below a high one")
    return task, (low, high)


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of this program. Raises UserError."""
    parser = Parser(prog="python plot.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--out", type=Path, default=Path("plots"), metavar="DIR", help="folder for the files (default: plots)"
    )
    steps = argparse.ArgumentParser(add_help=False)
    steps.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="folder at or below which there are runs")
    steps.add_argument(
        "--bins", type=positive, metavar="N",
        help="average each seed over N equal parts of the steps first (default: all values, interpolated between)",
    )  # fmt: skip
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
        "--normalize", type=_range, nargs="+", action="extend", default=[], metavar="TASK=LOW,HIGH",
        help="scores that become 0 and 1; TASK may have * in it, and of several that fit the last counts",
    )  # fmt: skip
    command.add_argument(
        "--repetitions", type=positive, default=2000, metavar="N", help="of the bootstrap (default: 2000)"
    )
    command = commands.add_parser("table", parents=[shared], help="planners on trained models")
    command.add_argument(
        "sources", type=Path, nargs="+", metavar="DIR_OR_JSONL", help="evaluations.jsonl, or a folder above such files"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 2 for bad input."""
    try:
        options = parse_options(sys.argv[1:] if argv is None else list(argv))
        out, text = options.out.expanduser(), ""
        if options.command == "curves":
            files = curves(options.dirs, options.metric, options.bins, out)
        elif options.command == "aggregate":
            ranges = dict(options.normalize)
            text, files = aggregate(options.dirs, options.metric, ranges, options.bins, options.repetitions, out)
        else:
            text, files = table(options.sources, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    # The table alone is on the standard output, so that it can go into a document.
    print("\n".join(files), file=sys.stderr if text else sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
