"""Plans as the model imagines them, above the frames of their execution (LatCo ICML figure 5)."""

import numpy as np
import tensorflow as tf

import models


def spread(last: int, most: int) -> np.ndarray:
    """At most so many whole numbers from 0 to `last`, both among them, evenly spread."""
    return np.unique(np.linspace(0, last, min(last + 1, most)).round().astype(int))


def decode(model: models.WorldModel, feat: np.ndarray | tf.Tensor) -> np.ndarray:
    """The images, uint8 [T, 64, 64, 3], of features [T, n]."""
    return models.postprocess(model.decode(feat[None])[0]).numpy()


def plan_above_execution(
    model: models.WorldModel, feat: np.ndarray | tf.Tensor, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A plan and its execution as two rows of frames, uint8 [T, 64, 64, 3] each.

    Args:
        model: decodes the plan.
        feat: the planned states as features [T, n].
        frames: uint8 [at most T, 64, 64, 3], executed at the same times. White follows where they end early.
    """
    white = np.full([len(feat) - len(frames), *models.IMAGE_SHAPE], 255, np.uint8)
    return decode(model, feat), np.concatenate([frames, white])
