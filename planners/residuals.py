"""The objective as least squares for second-order planners, and their damping."""

import math
from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem

# A failed step multiplies the damping by this factor, a successful one divides by it (Levenberg-Marquardt).
DAMPING_FACTOR = 10.0
# Steps as short as with this damping change nothing any more; without a bound it would leave float32's range.
LARGEST_DAMPING = 1e10


def softplus_residual(reward: tf.Tensor) -> tf.Tensor:
    """The residual whose square falls as the reward grows: ln(1 + exp(-r)) (LatCo ICML section 4)."""
    return tf.nn.softplus(-reward)


def objective_residuals(
    problem: LatentProblem, residual: Callable, rewards: tf.Tensor, value: tf.Tensor | None
) -> tf.Tensor:
    """The residuals of a plan's rewards and of its terminal value.

    A value sums many rewards, and softplus(-value) is flat for large values: at a value of 20 its gradient is e^-20,
    although the same return in rewards of 0.2 has large gradients. So a value counts as w = `value_steps` more rewards
    of value / w each: w residual(value / w)^2. It has a separate residual because it would change the curvature of the
    last reward's.

    Args:
        problem: for `value_steps`.
        residual: r [...] -> residual [...].
        rewards: [..., H].
        value: [...], or None.

    Returns:
        [..., H, 1], or with a value [..., H, 2], the second column zero at all states but the last.
    """
    columns = [residual(rewards)]
    if value is not None:
        last = math.sqrt(problem.value_steps) * residual(value / problem.value_steps)
        columns.append(tf.concat([tf.zeros_like(rewards[..., 1:]), last[..., None]], -1))
    return tf.stack(columns, -1)


def terminal_value(problem: LatentProblem, states: tf.Tensor) -> tf.Tensor | None:
    """The value [...] of the last of states [..., H, n], None where the problem has none."""
    return None if problem.value is None else problem.value(states[..., -1, :])


def state_residuals(problem: LatentProblem, residual: Callable, states: tf.Tensor) -> tf.Tensor:
    """`objective_residuals` [..., H, k] of states [..., H, n]."""
    return objective_residuals(problem, residual, problem.reward(states), terminal_value(problem, states))
