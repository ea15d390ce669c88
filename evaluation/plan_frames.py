"""Plans decoded to frames, and helpers for pictures of plans."""

from collections.abc import Collection

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import models

GAP = 4  # pixels between frames


def spread(last: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced integers from 0 to `last`, both included."""
    return np.unique(np.linspace(0, last, min(last + 1, most)).round().astype(int))


def decode(model: models.WorldModel, feat: np.ndarray | tf.Tensor) -> np.ndarray:
    """The images, uint8 [T, 64, 64, 3], of features [T, n]."""
    return models.postprocess(model.decode(feat[None])[0]).numpy()


def fill_up(frames: np.ndarray, length: int) -> np.ndarray:
    """Frames [T, 64, 64, 3], followed by white ones up to a length."""
    return np.concatenate([frames, np.full([length - len(frames), *models.IMAGE_SHAPE], 255, np.uint8)])


def plan_above_execution(
    model: models.WorldModel, feat: np.ndarray | tf.Tensor, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A plan and its execution as two rows of frames, uint8 [T, 64, 64, 3] each.

    Args:
        model: decodes the plan.
        feat: the planned states as features [T, n].
        frames: uint8 [at most T, 64, 64, 3], executed at the same times; white follows where they end.
    """
    return decode(model, feat), fill_up(frames, len(feat))


def draw_sheet(
    rows: list[np.ndarray], labels: list[str], columns: np.ndarray, apart: Collection[int]
) -> tuple[Figure, Axes]:
    """Frames, uint8 [C, 64, 64, 3] a row, below each other.

    Args:
        rows: the frames.
        labels: of the rows.
        columns: the C numbers below the columns.
        apart: the rows with more room above them.
    """
    figure = Figure(figsize=(1.6 + 0.9 * len(columns), 1.3 + 0.9 * len(rows)), dpi=120, layout="constrained")
    axis = figure.subplots()
    show_sheet(axis, rows, labels, columns, apart)
    return figure, axis


def show_sheet(
    axis: Axes, rows: list[np.ndarray], labels: list[str], columns: np.ndarray, apart: Collection[int]
) -> None:
    """`draw_sheet` on axes that are there already."""
    sheet, centres = _sheet(rows, apart)
    axis.imshow(sheet, interpolation="nearest")
    middles = (np.arange(len(columns)) + 0.5) * (models.IMAGE_SHAPE[1] + GAP) - GAP / 2 - 0.5
    axis.set_xticks(middles, list(map(str, columns)))
    axis.set_yticks(centres, labels, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _sheet(rows: list[np.ndarray], apart: Collection[int]) -> tuple[np.ndarray, list[float]]:
    """The rows on one white sheet, and their middles."""
    size, parts, centres, top = models.IMAGE_SHAPE[0], [], [], 0
    for index, frames in enumerate(rows):
        gap = 0 if index == 0 else 3 * GAP if index in apart else GAP
        padded = np.pad(frames, [(0, 0), (gap, 0), (0, GAP), (0, 0)], constant_values=255)
        parts.append(np.concatenate(list(padded), 1)[:, :-GAP])
        centres.append(top + gap + size / 2 - 0.5)
        top += gap + size
    return np.concatenate(parts, 0), centres
