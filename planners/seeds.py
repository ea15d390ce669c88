"""Random seeds of planners: one seed per plan, so that a plan's random numbers do not depend on its batch."""

from collections.abc import Callable

import tensorflow as tf


def per_plan(draw: Callable, seeds: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return draw(seed) for each seed of [B, 2], stacked, so that a plan's draws do not depend on its batch."""
    if seeds.shape[0] == 1:
        return draw(seeds[0])[None]
    return tf.map_fn(draw, seeds, fn_output_signature=dtype)


def split_seed(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` independent seeds, int32 [count, 2], from one seed, int32 [2]."""
    return tf.random.split(seed, count)


def fold_in(seeds: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Return new seeds, int32 [B, 2], derived from the old ones and a number."""
    return per_plan(lambda seed: tf.random.fold_in(seed, tf.cast(number, tf.int32)), seeds, tf.int32)
