"""Problems whose rewards are weighted by a predicted survival probability, of which planners need not know."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem, Plan
from planners.linearization import values_and_gradients

# A predicted discount counts as at least this (see `discounted`): a reward beyond a terminal state weighs a thousandth,
# and its logarithm, which collocation has to meet to `eps_dyn`, falls by at most 7 per step.
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
    survival = _Survival(problem.state_size, discount)
    wrappers = {
        "step": survival.transition,
        "sample_step": survival.transition,
        "filter": survival.transition,
        "linearize": survival.linearize,
        "linearize_moments": survival.linearize_moments,
        "reward": survival.reward,
        "value": survival.value,
        "log_prob": survival.log_prob,
        "old_log_prob": survival.log_prob,
        "constraint": survival.of_z,
        "decode": survival.of_z,
        "policy": survival.of_z,
    }
    functions = {name: getattr(problem, name) for name in wrappers}
    changed = {name: function and wrappers[name](function) for name, function in functions.items()}
    return dataclasses.replace(problem, state_size=problem.state_size + 1, **changed)


@dataclasses.dataclass(frozen=True)
class _Survival:
    """Wraps functions of z as functions of x = (z, c), see `discounted`.

    Attributes:
        n: size of z.
        discount: z [..., n] -> [...].
    """

    n: int
    discount: Callable

    def log_discount(self, z):
        return tf.math.log(tf.maximum(self.discount(z), LEAST_DISCOUNT))

    def of_z(self, function):
        """A function that the survival does not change."""
        return lambda x, *inputs: function(x[..., : self.n], *inputs)

    def log_prob(self, function):
        return lambda x, a, after: function(x[..., : self.n], a, after[..., : self.n])

    def reward(self, function):
        return lambda x: function(x[..., : self.n]) * _weight(x[..., self.n])

    def value(self, function):
        return lambda x: function(x[..., : self.n]) * _weight(x[..., self.n] + self.log_discount(x[..., : self.n]))

    def transition(self, function):
        """A function of state and inputs that gives the next state."""
        after = lambda x: x[..., self.n :] + self.log_discount(x[..., : self.n])[..., None]
        return lambda x, *inputs: tf.concat([function(x[..., : self.n], *inputs), after(x)], -1)

    def linearize(self, function):
        def linearize(x, a):
            mu, *jacobians = function(x[:, : self.n], a)
            value, gradient = values_and_gradients(self.log_discount, x[:, : self.n])
            return tf.concat([mu, x[:, self.n :] + value[:, None]], -1), *_bordered(*jacobians, gradient)

        return linearize

    def linearize_moments(self, function):
        def linearize_moments(x, a, noise):
            mean, std, *jacobians = function(x[..., : self.n], a, noise)
            value, gradient = values_and_gradients(self.log_discount, x[..., : self.n])
            c = (x[..., self.n] + value)[..., None]
            mean = tf.concat([mean, tf.reduce_mean(c, 1)], -1)
            std = tf.concat([std, tf.math.reduce_std(c, 1)], -1)
            return mean, std, *_bordered(*jacobians, tf.reduce_mean(gradient, 1))

        return linearize_moments


def _weight(c):
    return tf.exp(-tf.nn.relu(-c))


def _bordered(jac_z, jac_a, gradient):
    """Jacobians [N, n + 1, n + 1], [N, n + 1, m] of (z, c) from those of z and dc'/dz [N, n]."""
    rows = tf.concat([jac_z, gradient[:, None]], 1)
    column = tf.pad(tf.ones_like(gradient[:, :1]), [[0, 0], [gradient.shape[-1], 0]])  # c moves c' alone
    return tf.concat([rows, column[..., None]], -1), tf.pad(jac_a, [[0, 0], [0, 1], [0, 0]])


def start_survival(z0: tf.Tensor) -> tf.Tensor:
    """First states [..., n + 1] of a `discounted` problem from those of the problem itself, [..., n]."""
    return tf.concat([z0, tf.zeros_like(z0[..., :1])], -1)


def strip_survival(plan: Plan) -> Plan:
    """A plan for a `discounted` problem with the states, and feedback on the states, of the problem itself."""
    gains = None if plan.gains is None else plan.gains[..., :-1]
    return plan._replace(states=plan.states[..., :-1], gains=gains)
