"""The pictures of open_loop.py: predicted frames, and errors over the horizon."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import models
from benchmarks.open_loop_data import Data
from benchmarks.open_loop_errors import Errors, Result, typical
from world_model.open_loop import CONTEXT

# How the kinds of errors are drawn, in this order.
STYLES: dict[str, tuple[Any, str]] = {
    "mean_dynamics": ("-", "mean dynamics"),
    "sampled_average": ("--", "average of sampled rollouts"),
    "posterior": (":", "filtered (floor)"),
}
SIZE, GAP = models.IMAGE_SHAPE[0], 4  # pixels of a frame and between frames
COLUMNS = 7  # predicted steps shown at most


def draw_frames(data: Data, results: Sequence[Result]) -> Figure:
    """Truth, model and error of one held-out chunk, three rows for each variant, time from left to right."""
    chunk = typical(results[0].image["repeat_last"])
    truth = models.preprocess(data.chunks["image"][chunk]).numpy()
    predicted = len(truth) - CONTEXT
    steps = np.unique(np.linspace(1, predicted, min(predicted, COLUMNS)).round().astype(int))
    steps = np.concatenate([[1 - CONTEXT, 0], steps])  # the first and the last frame of the context
    lefts, tops = _places([2, len(steps) - 2]), _places([3] * len(results))
    sheet = np.full([tops[-1] + SIZE, lefts[-1] + SIZE, 3], 255, np.uint8)
    labels = []
    for row, result in enumerate(results):
        error = (result.shown - truth) / 2.0
        for top, frames in zip(tops[3 * row :], (truth, result.shown, error), strict=False):
            frames = models.postprocess(frames[steps + CONTEXT - 1]).numpy()
            for left, frame in zip(lefts, frames, strict=True):
                sheet[top : top + SIZE, left : left + SIZE] = frame
        score = f"{result.image['mean_dynamics'][chunk].mean():.2g}"
        labels += ["truth", f"{result.label}\n{result.updates} updates", f"error\nmean square {score}"]

    figure = Figure(figsize=(1.9 + 0.9 * len(lefts), 1.3 + 0.9 * len(tops)), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    axis.set_xticks(np.array(lefts) + SIZE / 2 - 0.5, [f"{step:+d}" if step else "0" for step in steps])
    axis.set_yticks(np.array(tops) + SIZE / 2 - 0.5, labels, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for left, right, text in ((0, 1, "context, filtered"), (2, -1, "predicted from the actions alone")):
        axis.text((lefts[left] + lefts[right] + SIZE) / 2, -2 * GAP, text, ha="center", va="bottom", fontsize=9)
    axis.axvline((lefts[1] + SIZE + lefts[2]) / 2 - 0.5, color="C3", linewidth=2)
    axis.set_xlabel("time step (agent decisions after the context); an error of zero is grey")
    figure.suptitle(f"{data.name}: held-out chunk {chunk}, mean dynamics", fontsize=10)
    return figure


def _places(groups: Sequence[int]) -> list[int]:
    """First pixels of frames in a row, in groups that stand apart."""
    places, start = [], 0
    for count in groups:
        places += [start + i * (SIZE + GAP) for i in range(count)]
        start = places[-1] + SIZE + 3 * GAP
    return places


def draw_curves(results: dict[str, list[Result]]) -> Figure:
    """Errors over the horizon, a column of two panels for each data set."""
    figure = Figure(figsize=(1.0 + 4.6 * len(results), 7.4), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(results), sharex="col", squeeze=False)
    for column, (name, variants) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(name, fontsize=10)
        for axis, quantity in zip(column, ("image", "reward"), strict=True):
            _draw_errors(axis, {result.label: getattr(result, quantity) for result in variants})
        column[1].set_xlabel("predicted step (agent decisions)")
    axes[0, 0].set_ylabel("squared error of the image,\nmean over pixels in [0, 1]")
    axes[1, 0].set_ylabel("squared error of the reward")
    labels = list(dict.fromkeys(result.label for variants in results.values() for result in variants))
    handles = [Line2D([], [], color=f"C{i}", linewidth=3, label=label) for i, label in enumerate(labels)]
    handles += [Line2D([], [], color="0.3", linestyle=line, label=text) for line, text in STYLES.values()]
    handles.append(Line2D([], [], color="0.6", linestyle="-.", label="last frame repeated"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * min(len(results), 2), fontsize=8)
    return figure


def _draw_errors(axis: Axes, variants: dict[str, Errors]) -> None:
    """Means over the chunks of label -> kind -> errors [N, K]; repeat_last is the same for all."""
    baseline = next(iter(variants.values()))["repeat_last"].mean(0)
    steps = np.arange(1, len(baseline) + 1)
    axis.plot(steps, baseline, color="0.6", linestyle="-.")
    for index, errors in enumerate(variants.values()):
        for kind in errors.keys() & STYLES.keys():
            axis.plot(steps, errors[kind].mean(0), color=f"C{index}", linestyle=STYLES[kind][0])
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.3)
