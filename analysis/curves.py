"""Curves over environment steps: a panel for each task, a colour for each method."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis import figures
from analysis import runs as logs
from analysis.metrics import TITLES, is_success, title_of
from analysis.runs import Run
from analysis.statistics import SEEDS_FOR_BAND, align, interval_over_seeds
from tools.command_line import note
from tools.errors import UserError, unknown


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
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count


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
    end = max((run.metrics[metric].steps[-1] for run in having), default=0)
    bounds = (0.0, 1.0) if is_success(metric) else (-math.inf, math.inf)
    found = {}
    for method in sorted({run.method for run in having}):
        own = [run for run in having if run.method == method]
        steps, values = align([run.metrics[metric] for run in own], bins, end)
        estimates = interval_over_seeds(values, SEEDS_FOR_BAND, bounds)
        found[method] = Curve([run.seed for run in own], steps, values, *estimates, np.sum(~np.isnan(values), 0))
    return found


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
        title = figures.folded(task, figures.TITLE_WIDTH)
        axis.set_title(title if len(metrics) == 1 else f"{title}\n{title_of(metric)}", fontsize=10)
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
        marker: dict[str, Any] = {"marker": ".", "markersize": 5} if len(curve.steps) <= 25 else {}
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
