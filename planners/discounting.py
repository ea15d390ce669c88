"""Problems whose rewards are discounted by a predicted chance to get that far, for planners that know of none."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem, Plan
from planners.linearization import own_gradient

# A predicted discount counts as at least this (see `discounted`): a reward beyond a terminal state weighs a thousandth,
# and its logarithm, which collocation has to meet to `eps_dyn`, falls by at most 7 a step.
LEAST_DISCOUNT = 1e-3


def discounted(problem: LatentProblem, discount: Callable) -> LatentProblem:
    """The same problem with every reward weighted by the chance that the episode gets that far.

    The state gets one more entry, the logarithm of the survival so far, and is (z, c) for any planner:

        c_0 = 0 (`start_survival`), c_{t+1} = c_t + log discount(z_t), reward(z, c) = r(z) exp(min(c, 0)),

    so that the reward of z_{t+1} is weighted by the discounts of z_0 ... z_t, and a reward that comes with a terminal
    state counts in full. Along a rollout c never exceeds 0; the minimum is for collocation, whose relaxed states would
    otherwise multiply their rewards by exp(c), up to overflow. At c = 0 it has no gradient, so that a problem in which
    nothing ends is planned for as without this. A terminal value counts from the reward after z_H on, and so is
    weighted as that reward would be, by the discounts of z_0 ... z_H (ColloDreamer, equation 10).

    A logarithm, because collocation relaxes it: an error of 0.01 (the square root of LatCo's threshold 1e-4) is then 1%
    of the weight, whatever the weight, and to pass a terminal state for a living one takes an error of
    -log `LEAST_DISCOUNT` = 6.9, whose square is half a million thresholds.

    Args:
        problem: over states z [..., n].
        discount: z [..., n] -> [...], from 0 to 1; below `LEAST_DISCOUNT` it counts as that, without a gradient.

    Returns:
        a problem over states [..., n + 1] that offers what the given one does. Constraint and images are of z only.
    """
    n = problem.state_size

    def log_discount(z):
        return tf.math.log(tf.maximum(discount(z), LEAST_DISCOUNT))

    def weight(c):
        return tf.exp(-tf.nn.relu(-c))

    def value(x):
        return problem.value(x[..., :n]) * weight(x[..., n] + log_discount(x[..., :n]))

    def transition(function):
        """A function of state and inputs that gives the next state."""
        after = lambda x: x[..., n:] + log_discount(x[..., :n])[..., None]
        return function and (lambda x, *inputs: tf.concat([function(x[..., :n], *inputs), after(x)], -1))

    def of_transition(function):
        return function and (lambda x, a, after: function(x[..., :n], a, after[..., :n]))

    def of_z(function):
        return function and (lambda x: function(x[..., :n]))

    def bordered(jac_z, jac_a, gradient):
        """Jacobians [N, n + 1, n + 1], [N, n + 1, m] of (z, c) from those of z and dc'/dz [N, n]."""
        rows = tf.concat([jac_z, gradient[:, None]], 1)
        column = tf.pad(tf.ones_like(gradient[:, :1]), [[0, 0], [n, 0]])  # c moves c' alone
        return tf.concat([rows, column[..., None]], -1), tf.pad(jac_a, [[0, 0], [0, 1], [0, 0]])

    def linearize(x, a):
        mu, *jacobians = problem.linearize(x[:, :n], a)
        value, gradient = own_gradient(log_discount, x[:, :n])
        return tf.concat([mu, x[:, n:] + value[:, None]], -1), *bordered(*jacobians, gradient)

    def linearize_moments(x, a, noise):
        mean, std, *jacobians = problem.linearize_moments(x[..., :n], a, noise)
        value, gradient = own_gradient(log_discount, x[..., :n])
        c = (x[..., n] + value)[..., None]
        mean = tf.concat([mean, tf.reduce_mean(c, 1)], -1)
        std = tf.concat([std, tf.math.reduce_std(c, 1)], -1)
        return mean, std, *bordered(*jacobians, tf.reduce_mean(gradient, 1))

    return dataclasses.replace(
        problem,
        state_size=n + 1,
        step=transition(problem.step),
        sample_step=transition(problem.sample_step),
        filter=transition(problem.filter),
        reward=lambda x: problem.reward(x[..., :n]) * weight(x[..., n]),
        value=problem.value and value,
        linearize=problem.linearize and linearize,
        linearize_moments=problem.linearize_moments and linearize_moments,
        log_prob=of_transition(problem.log_prob),
        old_log_prob=of_transition(problem.old_log_prob),
        constraint=of_z(problem.constraint),
        decode=of_z(problem.decode),
        policy=problem.policy and (lambda x, noise=None: problem.policy(x[..., :n], noise)),
    )


def start_survival(z0: tf.Tensor) -> tf.Tensor:
    """First states [..., n + 1] of a `discounted` problem from those of the problem itself, [..., n]."""
    return tf.concat([z0, tf.zeros_like(z0[..., :1])], -1)


def strip_survival(plan: Plan) -> Plan:
    """A plan for a `discounted` problem with the states, and feedback on the states, of the problem itself."""
    gains = None if plan.gains is None else plan.gains[..., :-1]
    return plan._replace(states=plan.states[..., :-1], gains=gains)
