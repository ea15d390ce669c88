"""Residuals of the objective, whose squares second-order planners make small, and their damping."""

import math
from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem

# A plan whose step led to non-finite numbers goes back and damps its next step more, and less again after a success, as
# Levenberg and Marquardt do; without it, the same step would fail again.
DAMPING_FACTOR = 10.0


def softplus_residual(reward: tf.Tensor) -> tf.Tensor:
    """The residual whose square falls as the reward grows: ln(1 + exp(-r)) (LatCo ICML section 4)."""
    return tf.nn.softplus(-reward)


def objective_residuals(
    problem: LatentProblem, residual: Callable, rewards: tf.Tensor, value: tf.Tensor | None
) -> tf.Tensor:
    """The residuals of a plan's rewards and of its terminal value.

    A value is the sum of many rewards, and where it is large softplus(-value) is flat: at a value of 20 its gradient is
    e^-20, although the same return in rewards of 0.2 has plenty. So it counts as what it stands for, w = `value_steps`
    more rewards of value / w each, w residual(value / w)^2. It is a residual of its own: as a part of the last reward's
    it would change that one's curvature.

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
