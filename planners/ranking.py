"""Which of several plans is the better one: first by what is left of the state constraint, then by their returns.

*Score* is a return, and *excess* by how much a plan breaks the state constraint, 0 where it keeps it. B first states, R
plans for each.
"""

import math

import tensorflow as tf


def ranked(score: tf.Tensor, excess: tf.Tensor | None) -> tf.Tensor:
    """The order of plans with `score` [B, R], the best first, int32 [B, R]; equal ones keep theirs.

    Those with less `excess` [B R], if there is a constraint, come first.
    """
    known = tf.where(tf.math.is_finite(score), score, score.dtype.min)
    order = tf.argsort(known, direction="DESCENDING", stable=True)
    if excess is None:
        return order
    excess = tf.reshape(tf.where(tf.math.is_finite(excess), excess, excess.dtype.max), score.shape)
    return tf.gather(order, tf.argsort(tf.gather(excess, order, batch_dims=1), stable=True), batch_dims=1)


def beats(score: tf.Tensor, excess: tf.Tensor, other_score: tf.Tensor, other_excess: tf.Tensor) -> tf.Tensor:
    """Whether plans are better than other ones, bool [B]: with less excess or, at the same, a higher score."""
    return tf.where(excess == other_excess, score > other_score, excess < other_excess)


def score_within(score: tf.Tensor, excess: tf.Tensor | None) -> tf.Tensor:
    """Scores [B], NaN for plans that break the state constraint: nothing should learn from them."""
    return score if excess is None else tf.where(excess > 0.0, tf.constant(math.nan, score.dtype), score)
