"""Iterations that a plan of a batch leaves early, once it has converged. Shapes: optimizers.py."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from planners.rows import where_rows

# A plan has converged after this many iterations in a row that changed its reward by less than the tolerance. A single
# one can happen by chance, for example before a multiplier has grown.
PATIENCE = 5


def iterate(
    body: Callable, search: Any, limit: tf.Tensor, iterations: int, is_stable: Callable | None
) -> tuple[Any, tf.Tensor, tf.Tensor]:
    """Repeats `search = body(k, search)`; plans that have converged stop changing.

    Args:
        body: (k, search) -> search.
        search: a NamedTuple of tensors [B, ...] (or nests of them) with a field `metrics` [B, C], the current values of
            C curves.
        limit: scalar, how often at most, unless that is more than `iterations`.
        iterations: a limit that is known before.
        is_stable: (k, search after, search before) -> bool [B], whether iteration k changed little; None runs all.

    Returns:
        (search, history [B, C, iterations], count [B]): the metrics after each iteration, and the number of iterations
        of each plan.
    """
    B = search.metrics.shape[0]
    history = tf.TensorArray(search.metrics.dtype, iterations, element_shape=search.metrics.shape)

    def step(k, search, stable, count, history):
        after = body(k, search)
        if is_stable is not None:
            running = stable < PATIENCE
            unchanged = running & is_stable(k, after, search)
            after = where_rows(running, after, search)
            stable = tf.where(unchanged, stable + 1, stable * _int(~running))
            count += _int(running)
        else:
            count += 1
        return k + 1, after, stable, count, history.write(k, after.metrics)

    def unfinished(k, search, stable, count, history):
        del search, count, history
        return (k < limit) & tf.reduce_any(stable < PATIENCE)

    zeros = tf.zeros([B], tf.int32)
    start = (0, search, zeros, zeros, history)
    end = tf.while_loop(unfinished, step, start, maximum_iterations=iterations, parallel_iterations=1)
    _, search, _, count, history = end
    return search, tf.transpose(history.stack(), [1, 2, 0]), count


def _int(flags):
    return tf.cast(flags, tf.int32)
