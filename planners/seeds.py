"""Random seeds of planners: one seed per plan, so that a plan's random numbers do not depend on its batch."""

from collections.abc import Callable

import tensorflow as tf

# The numbers that name the streams of a plan's random numbers, for `fold_in`. Populations of sampling planners and the
# steps of GRASP have those from 0 on, which they would share with a stream of such a number.
RETURNS = -1  # sampled trajectories of candidates; of a population's seed
CANDIDATES = -2  # candidates that are samples of a policy
SCORES = -3  # rollouts that compare restarts
POLICY = -4  # actions that are sampled from a policy
# Not negative, since that would change all plans of the preset closed_loop and with them its recorded results. Only a
# search of more than 12 populations or steps shares these numbers, in one of them, where they do not favor any plan.
INITIAL = 12  # random sequences, of which the best begins the search


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
