"""Checks and choices for each plan of a batch, which is the first axis. Shapes: optimizers.py."""

import tensorflow as tf


def all_finite(*tensors: tf.Tensor) -> tf.Tensor:
    """Whether all entries of a plan are finite, bool [B]."""
    checks = [tf.reduce_all(tf.math.is_finite(tf.reshape(x, [x.shape[0], -1])), -1) for x in tensors]
    return tf.reduce_all(tf.stack(checks), 0)


def where_rows(condition: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    """tf.where with a condition [B] per plan."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (yes.shape.rank - 1)), yes, no)


def where_all(condition: tf.Tensor, yes, no):
    """`where_rows` for every tensor of two nests with the same structure."""
    return tf.nest.map_structure(lambda a, b: where_rows(condition, a, b), yes, no)
