"""One number for all tasks and seeds: rliable's interquartile mean with bootstrap intervals."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analysis import figures
from analysis import runs as logs
from analysis.markdown import markdown, with_interval
from analysis.metrics import SCORES, is_success, title_of
from analysis.runs import Run
from analysis.statistics import Estimate, align, bootstrap
from tools.command_line import note
from tools.errors import UserError, unknown

CURVE_POINTS = 100  # at most, where each has to be bootstrapped


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
    end = max(run.metrics[metric].steps[-1] for run in runs)
    steps, values = align([run.metrics[metric] for run in runs], bins, end)
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

    style = figures.styles(list(last))
    colors = {method: style[method]["color"] for method in last}
    shares = is_success(numbers["metric"]) and not numbers["ranges"]  # normalized ones may be beyond 0 and 1
    bars = _draw_intervals(last, f"{label} at step {steps[-1]:,.0f}", colors, shares)
    figure = _draw_curve(curve, steps, numbers["unit"], f"IQM of\n{label}", colors)
    final = {name: value for name, value in numbers.items() if name != "curve"}
    files = figures.save_all(bars, out / "aggregate", final, bbox_inches="tight", dpi=figures.DPI)
    pyplot.close(bars)
    general = {name: value for name, value in numbers.items() if name not in ("curve", "last", "step")}
    return files + figures.save_all(figure, out / "sample_efficiency", general | numbers["curve"])


def _draw_intervals(last: Mapping[str, np.ndarray], label: str, colors: Mapping[str, Any], shares: bool) -> Figure:
    """A pyplot figure of the estimates of each method; shares are between 0 and 1."""
    from rliable import plot_utils

    # Without an interval the bar has no width, and only the line of the value is seen.
    interval = {method: np.where(np.isnan(found[1:]), found[:1], found[1:]) for method, found in last.items()}
    bars, panels = plot_utils.plot_interval_estimates(
        {method: found[0] for method, found in last.items()},
        interval,
        metric_names=["IQM", "mean"],
        algorithms=sorted(last, reverse=True),
        colors=colors,
        xlabel=label,
        max_ticks=3,
        xlabel_y_coordinate=-1.5 / len(last),  # of the height, which rows of text do not share
    )
    if shares:
        for panel in panels:
            panel.set_xlim(0, 1)
    return bars


def _draw_curve(
    curve: Mapping[str, np.ndarray], steps: np.ndarray, unit: str, label: str, colors: Mapping[str, Any]
) -> Figure:
    """A figure of the estimates of each method over the steps."""
    from rliable import plot_utils

    figure, axes = figures.grid(1, 1, size=(5.6, 3.6))
    plot_utils.plot_sample_efficiency_curve(
        steps,
        {method: found[0] for method, found in curve.items()},
        {method: found[1:] for method, found in curve.items()},
        algorithms=sorted(curve),
        colors=colors,
        xlabel=unit,
        ylabel=label,
        ax=axes[0, 0],
        labelsize=11,
        ticklabelsize=9,
        marker="." if len(steps) <= 25 else "",
    )
    axes[0, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    figures.legend_below(figure, {method: {"color": colors[method]} for method in sorted(colors)})
    return figure


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
