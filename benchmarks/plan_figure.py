"""Draws the lines of `plan_quality.py --execute`: where planning loses, variant by variant."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures

# What a bar shows -> the entry of a line with its mean; the entry with its standard error has "_se" behind.
PLANS = {
    "best known": "return_best",
    "found, mean dynamics": "return_mean",
    "sampled dynamics": "return_sampled",
    "achieved, open loop": "achieved_open_loop",
}
EPISODES = {"predicted": "episode_predicted", "achieved": "episode_achieved"}
SUCCESS = {"success": "success"}
BLUE, ORANGE, _, GREY, _, _, _, _, _, PALE = matplotlib.color_sequences["petroff10"]
COLORS = dict(zip([*PLANS, *EPISODES, *SUCCESS], [GREY, BLUE, PALE, ORANGE, BLUE, ORANGE, BLUE], strict=True))
ERRORS = {"return_mean": "return_se"}  # named before there were others

Row = Mapping[str, Any]


def draw(rows: Sequence[Row]) -> Figure:
    """Plans beside whole episodes beside success where the simulator reports it; a group of bars for each line."""
    rows = [row for row in rows if row["variant"] != "best_known"] or list(rows)
    panels = [("first plan", "return over the horizon", PLANS)]
    if any("episode_predicted" in row for row in rows):
        panels.append(("whole episodes", "return", EPISODES))
    if any("success" in row for row in rows):
        panels.append(("whole episodes", "success", SUCCESS))
    horizons = len({row["horizon"] for row in rows}) > 1
    names = [f"{row['variant']} (H = {row['horizon']})" if horizons else row["variant"] for row in rows]
    figure, axes = figures.grid(1, len(panels), (3.4, 1.1 + 0.62 * len(rows)))
    for axis, (title, label, bars) in zip(axes[0], panels, strict=True):
        draw_panel(axis, rows, bars)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label, fontsize=10)
        axis.set_yticks(range(len(rows)), names if axis is axes[0, 0] else [])
        if bars is SUCCESS:
            axis.set_xlim(0, 1.03)
    entries = {name: COLORS[name] for *_, bars in panels[:2] for name in bars}
    squares = {"marker": "s", "markersize": 8, "linestyle": ""}
    figures.legend_below(
        figure,
        {name: squares | {"color": color} for name, color in entries.items()},
        f"{rows[0]['task']}, {rows[0]['starts']} starts, model after {rows[0]['updates']:,} updates, rewards in the "
        "model's units. Black lines: standard errors, of success Wilson's 95% interval.",
    )
    return figure


def draw_panel(axis: Axes, rows: Sequence[Row], bars: Mapping[str, str]) -> None:
    """A group of horizontal bars for each row, the first at the top."""
    height = 0.8 / len(bars) if len(bars) > 1 else 0.5
    for number, (name, key) in enumerate(bars.items()):
        shift = (number - (len(bars) - 1) / 2) * height
        for place, row in enumerate(rows):
            if row.get(key) is not None:
                mean, low, high = interval(row, key)
                axis.barh(place + shift, mean, height=0.92 * height, color=COLORS[name])
                axis.plot([low, high], [place + shift] * 2, color="black", linewidth=1.2, marker="|", markersize=5)
    figures.tidy(axis)
    axis.axvline(0.0, color="0.3", linewidth=0.8)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def interval(row: Row, key: str) -> tuple[float, float, float]:
    """Mean, lower and upper end of what is drawn."""
    if isinstance(row[key], Mapping):
        return row[key]["mean"], row[key]["low"], row[key]["high"]
    error = row.get(ERRORS.get(key, f"{key}_se"))
    error = np.nan if error is None else error
    return row[key], row[key] - error, row[key] + error
