"""Where a search starts: random actions, a warm start, or the best of many random sequences under the model.

Gradients only lead to the nearest optimum. Independent random actions hardly leave the first state, so that all of them
start near the same one; correlated actions go somewhere. Conventions and shapes: optimizers.py. N sequences.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from planners.seeds import INITIAL, fold_in, per_plan
from planners.trajectories import candidate_returns

if TYPE_CHECKING:  # optimizers.py imports this module
    from optimizers import LatentProblem, WarmStart


def random_actions(problem: "LatentProblem", horizon: int, seeds: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return uniform actions [B, H, m] within the bounds, from one seed per plan, int32 [B, 2]."""
    bound, shape = problem.a_max, [horizon, problem.action_size]
    draw = lambda seed: tf.random.stateless_uniform(shape, seed, -bound, bound, dtype)
    return per_plan(draw, seeds, dtype)


def warm_actions(actions: tf.Tensor, warm: "WarmStart | None", choice: int = 0) -> tf.Tensor:
    """Return actions [B, H, m] whose leading entries are replaced by those of a warm start."""
    if warm is None:
        return actions
    known = tf.range(actions.shape[1]) < warm.steps[:, None]
    return tf.where(known[..., None], warm.actions[:, choice], actions)


def random_sequences(
    problem: "LatentProblem", count: int, horizon: int, seeds: tf.Tensor, dtype: tf.DType, correlation: float
) -> tf.Tensor:
    """Return action sequences [B, N, H, m], uniform within the bounds, from one seed per plan, int32 [B, 2].

    Actions are 2 Phi(x) - 1 of an autoregressive Gaussian x with the given correlation between successive steps; see
    `prefill_correlation` for the same in episodes.
    """
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    factor = tf.constant(np.linalg.cholesky(float(correlation) ** lag), dtype)
    shape = [count, horizon, problem.action_size]
    draw = lambda seed: tf.random.stateless_normal(shape, seed, dtype=dtype)
    gaussian = tf.einsum("ts,bnsm->bntm", factor, per_plan(draw, fold_in(seeds, INITIAL), dtype))
    return problem.a_max * tf.math.erf(gaussian / math.sqrt(2.0))


def best_initial(
    problem: "LatentProblem", z0: tf.Tensor, warm: "WarmStart | None", sequences: tf.Tensor, choices: int
) -> tf.Tensor:
    """The sequences [B, C, H, m] with the highest returns under the mean dynamics, best first.

    Args:
        problem: the latent problem.
        z0: first states [B, n].
        warm: more sequences [B, C, H, m], which take the actions that they lack from the first of the others, or None.
        sequences: [B, N, H, m].
        choices: C, at most N.
    """
    cold = 0
    if warm is not None:
        known = tf.range(sequences.shape[2]) < warm.steps[:, None]
        old = tf.where(known[:, None, :, None], warm.actions, sequences[:, : warm.actions.shape[1]])
        cold = warm.actions.shape[1] * tf.cast(warm.steps == 0, tf.int32)
        sequences = tf.concat([old, sequences], 1)
    returns = candidate_returns(problem, z0, sequences)
    # After a cold start the first ones are copies of the others.
    copies = tf.range(sequences.shape[1]) < tf.reshape(cold, [-1, 1])
    _, index = tf.math.top_k(tf.where(copies, returns.dtype.min, returns), choices)
    return tf.gather(sequences, index, batch_dims=1)
