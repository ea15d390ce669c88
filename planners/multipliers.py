"""Multipliers, and the violations of action bounds and state constraints. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem

# Multipliers change by factors, so over hundreds of iterations they would leave float32's range (0.54^200 is 1e-54,
# 2.4^200 is 1e76), and zero could never grow again. At the lower bound a constraint hardly counts beside the rewards,
# whose weight is 1, and shrinking further would only delay recovery. At the upper one it holds to float32's precision.
# The paper's ablation without relaxation starts from 1e8, well inside.
MULTIPLIER_RANGE = (1e-6, 1e10)


def scale_multipliers(multiplier: tf.Tensor, violation: tf.Tensor, eps: float, rate: float, eta: float) -> tf.Tensor:
    """LatCo's dual update, ICML equation 10: multiplier + alpha log(violation / eps + eta) multiplier.

    Args:
        multiplier: any shape.
        violation: squared violation of the same shape.
        eps: the squared violation that counts as satisfied.
        rate: alpha; 0 keeps the multipliers fixed.
        eta: keeps the logarithm finite.

    Returns:
        the new multipliers, clipped to `MULTIPLIER_RANGE`.
    """
    if not rate:
        return multiplier
    multiplier = tf.maximum(multiplier, MULTIPLIER_RANGE[0])  # zero could never grow
    updated = multiplier + rate * tf.math.log(violation / eps + eta) * multiplier
    return tf.clip_by_value(updated, *MULTIPLIER_RANGE)


def action_residuals(actions: tf.Tensor, a_max: float) -> tuple[tf.Tensor, tf.Tensor]:
    """By how much actions exceed their bounds, v = max(0, |a| - a_max) [..., m], and V = dv/da of the same shape."""
    v = tf.nn.relu(tf.abs(actions) - a_max)
    return v, tf.sign(actions) * tf.cast(v > 0, v.dtype)


def squared_action_violation(actions: tf.Tensor, a_max: float) -> tf.Tensor:
    """|v|^2 [...] of actions [..., m]."""
    return tf.reduce_sum(tf.square(action_residuals(actions, a_max)[0]), -1)


def squared_constraint_violation(problem: LatentProblem, states: tf.Tensor) -> tf.Tensor:
    """The squared violation [...] of the state constraint by states [..., H, n], summed over time; 0 without one."""
    if problem.constraint is None:
        return tf.zeros(states.shape[:-2], states.dtype)
    return tf.reduce_sum(tf.square(tf.nn.relu(problem.constraint(states))), [-2, -1])
