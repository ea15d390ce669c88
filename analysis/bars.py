"""Pictures of a table of planners: bars, and success over the distance to the goal."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.evaluations import Row, labels
from analysis.statistics import Estimate

LABEL_WIDTH = 34  # letters of a line beside a bar


def draw_bars(rows: Sequence[Row]) -> Figure:
    """A panel for each task, a bar for each planner: success where there is any, else the return."""
    names, tasks = labels(rows), sorted({row.task for row in rows})
    order, style = sorted(set(names)), figures.styles(names)
    shape = figures.wrapped(len(tasks), 4)
    shown = [textwrap.fill(name, LABEL_WIDTH, subsequent_indent="  ") for name in order]
    lines = max(name.count("\n") + 1 for name in shown)
    figure, axes = figures.grid(*shape, size=(3.4, 0.9 + (0.12 + 0.16 * lines) * len(order)))
    # Only the first column has labels, and its panel must not shrink for them.
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
        axis.set_title(figures.folded(task, figures.TITLE_WIDTH), fontsize=10)
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
        axis.set_title(figures.folded(task, figures.TITLE_WIDTH), fontsize=10)
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
