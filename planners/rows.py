"""Checks and choices for each plan of a batch, which is the first axis. Shapes: optimizers.py."""

from typing import Any

import tensorflow as tf


def all_finite(*tensors: tf.Tensor) -> tf.Tensor:
    """Whether all entries of a plan are finite, bool [B]."""
    checks = [tf.reduce_all(tf.math.is_finite(tf.reshape(x, [x.shape[0], -1])), -1) for x in tensors]
    return tf.reduce_all(tf.stack(checks), 0)


def where_rows(condition: tf.Tensor, yes: Any, no: Any) -> Any:
    """tf.where with a condition [B] per plan, for two tensors [B, ...] or two nests of such tensors."""
    choose = lambda a, b: tf.where(tf.reshape(condition, [-1] + [1] * (a.shape.rank - 1)), a, b)
    return tf.nest.map_structure(choose, yes, no)
