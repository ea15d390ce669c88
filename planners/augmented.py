"""ColloDreamer's augmented latent objective: likelier transitions where the value rises (section 6, equation 11).

The paper does not say what its objective changes. Here it changes plans: one more term of the Lagrangian at each step.
"""

from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem
from planners.linearization import values_and_gradients
from planners.trajectories import previous_states

# Where relaxed states are far from both predictions, a ratio of densities leaves float32's range.
MAX_RATIO = 10.0


def advantages(problem: LatentProblem, states: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """A(t) = r(z_t, a_t) + V(q(z_{t+1} | z_t, a_t)) - V(z_t) of planned states z_1 ... z_H, [B, H].

    The reward of (z_t, a_t) is that of the predicted next state, as everywhere here. No action follows z_H: A(H) = 0.
    """
    after = problem.step(states[:, :-1], actions[:, 1:])
    rise = problem.reward(after) + problem.value(after) - problem.value(states[:, :-1])
    return tf.pad(rise, [[0, 0], [0, 1]])


def augmented_residuals(
    problem: LatentProblem, z0: tf.Tensor, states: tf.Tensor, actions: tf.Tensor, lam: tf.Tensor, residual: Callable
) -> tuple[tf.Tensor, tf.Tensor]:
    """Residuals of J(t) = m(t) A(t) / lambda, and their gradients by the states z_t that they belong to.

    m(t) = q(z_t | z_{t-1}, a_{t-1}) q(z_{t-1} | z_{t-2}, a_{t-2}) over the same of q_old, clipped to [1 / MAX_RATIO,
    MAX_RATIO]; the factors of the known z_0 are 1. Constants, as in TRPO and PPO, are A, q_old and lambda, the mean of
    the plan's multipliers. So are the states and actions before z_t: the term of a step moves the state of that step
    alone, dJ(t) / dz_t = J(t) d log q(z_t | z_{t-1}, a_{t-1}) / dz_t.

    Args:
        problem: with `log_prob`, `old_log_prob` and `value`.
        z0: first states [B, n].
        states: [B, H, n].
        actions: [B, H, m].
        lam: multipliers of the dynamics [B, H].
        residual: objective [...] -> residual [...], whose square falls as the objective grows.

    Returns:
        [B, H, 1] and [B, H, 1, n].
    """
    before = previous_states(z0, states)
    weight = 1.0 / tf.reduce_mean(lam, 1, keepdims=True)
    gain = tf.stop_gradient(weight * advantages(problem, states, actions))
    constants = tf.stop_gradient(before), tf.stop_gradient(actions)
    old = tf.stop_gradient(problem.old_log_prob(*constants, states))
    limit = tf.math.log(tf.constant(MAX_RATIO, states.dtype))

    def term(states):
        own = problem.log_prob(*constants, states) - old
        earlier = tf.stop_gradient(tf.pad(own[:, :-1], [[0, 0], [1, 0]]))
        return residual(tf.exp(tf.clip_by_value(own + earlier, -limit, limit)) * gain)

    rho, g = values_and_gradients(term, states)
    return rho[..., None], g[..., None, :]
