"""Sampling now and then in the middle of collocation. Conventions and shapes: optimizers.py."""

from typing import TYPE_CHECKING

import tensorflow as tf

from planners.sampling import refit
from planners.seeds import SYNC, fold_in, per_plan
from planners.trajectories import candidate_returns

if TYPE_CHECKING:  # optimizers.py imports this folder
    from optimizers import LatentProblem

ELITES = 0.1


def resampled(
    problem: "LatentProblem", z0: tf.Tensor, actions: tf.Tensor, violation: tf.Tensor, seeds: tf.Tensor, count: int
) -> tf.Tensor:
    """One refit of CEM around a plan that breaks the dynamics: actions [B, H, m] that do well when rolled out.

    Candidates differ from the plan's actions by Gaussian noise. At each step its standard deviation is the plan's
    distance from the dynamics there, at most a_max: where the plan follows them there is nothing to search for. The
    plan's own actions are a candidate, too.

    Args:
        problem: the latent problem.
        z0: first states [B, n].
        actions: [B, H, m].
        violation: squared distance from the dynamics of each step, [B, H].
        seeds: one per plan, int32 [B, 2].
        count: number of candidates.
    """
    bound, shape = problem.a_max, [count, *actions.shape[1:]]
    draw = lambda seed: tf.random.stateless_normal(shape, seed, dtype=actions.dtype)
    noise = per_plan(draw, fold_in(seeds, SYNC), actions.dtype) * tf.cast(tf.range(count) > 0, z0.dtype)[:, None, None]
    std = tf.minimum(tf.sqrt(violation), bound)[:, None, :, None]
    candidates = tf.clip_by_value(actions[:, None] + std * noise, -bound, bound)
    scores, index = tf.math.top_k(candidate_returns(problem, z0, candidates), max(2, int(ELITES * count)))
    mean, _, _, enough = refit(tf.gather(candidates, index, batch_dims=1), scores)
    return tf.where(enough, mean, actions)
