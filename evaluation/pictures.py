"""Episodes side by side, and success by the distance to the goal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

GRID = 8  # episodes in the video
GRID_COLUMNS = 4


def grid(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos, uint8 [T_i, 64, 64, 3], in a grid on white; the last frame of a shorter one stays."""
    length = max(map(len, videos))
    held = [np.concatenate([video, np.repeat(video[-1:], length - len(video), 0)]) for video in videos]
    columns = min(GRID_COLUMNS, len(videos))
    held += [np.full_like(held[0], 255)] * (-len(held) % columns)
    framed = [np.pad(video, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=255) for video in held]
    rows = [np.concatenate(framed[start : start + columns], 2) for start in range(0, len(framed), columns)]
    return np.concatenate(rows, 1)


def draw_by_distance(bins: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Success with its interval over the distance to the goal (LatCo ICML figure 4), and the width of each bin."""
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axis = figure.subplots()
    for entry in bins:
        middle, success = (entry["low"] + entry["high"]) / 2, entry["success"]
        reach = [[success["mean"] - success["low"]], [success["high"] - success["mean"]]]
        axis.errorbar(
            [middle],
            [success["mean"]],
            yerr=np.maximum(reach, 0.0),
            xerr=(entry["high"] - entry["low"]) / 2,
            fmt="o",
            color="C0",
            capsize=3,
        )
        axis.annotate(f"{entry['episodes']}", (middle, success["mean"]), (4, 4), textcoords="offset points", fontsize=8)
    axis.set_ylim(-0.05, 1.1)
    axis.set_xlabel("distance to the goal at the start\n(beside a point: its episodes; bars: the bin, Wilson's 95%)")
    axis.set_ylabel("success")
    axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure
