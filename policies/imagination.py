"""Dreamer: actor and critic learned in imagination (Hafner et al. 2020, arXiv 1912.01603, algorithm 1).

The actor's gradient flows through the learned dynamics, straight through the samples of categorical latents, or is a
REINFORCE gradient, or a mixture of both (DreamerV2, arXiv 2010.02193, equation 6). Shapes: N trajectories, horizon H.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

import models
from optimizers import LatentProblem
from policies.actor import Actor, log_prob
from tools.config import Config
from world_model.value import ValueLearner, lambda_returns


class Imagined(NamedTuple):
    """Trajectories of the policy in the latent space.

    Attributes:
        feat: z_0 ... z_H, [N, H + 1, n].
        log_prob: of the actions a_0 ... a_{H-1} as constants, [N, H].
        entropy: estimates of the policy's entropy in z_0 ... z_{H-1}, [N, H].
    """

    feat: tf.Tensor
    log_prob: tf.Tensor
    entropy: tf.Tensor


def imagine(problem: LatentProblem, actor: Actor, start: tf.Tensor, noise: tf.Tensor, seed: tf.Tensor) -> Imagined:
    """Follows the policy from features [N, n], with gradients by its weights through actions and dynamics.

    A state that the policy sees is a constant to it, so that no gradient runs through the policy in time.

    Args:
        problem: the world model; samples its next states, if it has noise.
        actor: the policy.
        start: z_0.
        noise: standard normal [N, H, m] of the actions.
        seed: int32 [2], for that of the states.
    """
    state_noise = tf.random.stateless_normal([noise.shape[1], noise.shape[0], problem.noise_size], seed)

    def step(before, noise):
        z = before[0]
        action_noise, state_noise = noise
        mean, std = actor.net.stats(tf.stop_gradient(z))
        u = mean + std * action_noise
        action = problem.a_max * tf.tanh(u)
        z = problem.sample_step(z, action, state_noise) if problem.noise_size else problem.step(z, action)
        return z, log_prob(tf.stop_gradient(u), mean, std), -log_prob(u, mean, std)

    zeros = tf.zeros_like(start[:, 0])
    feat, chosen, entropy = tf.scan(step, (tf.transpose(noise, [1, 0, 2]), state_noise), (start, zeros, zeros))
    feat = tf.concat([start[:, None], tf.transpose(feat, [1, 0, 2])], 1)
    return Imagined(feat, tf.transpose(chosen), tf.transpose(entropy))


def step_weights(start: tf.Tensor, discount: tf.Tensor) -> tf.Tensor:
    """How much the states z_0 ... z_{H-1} of a trajectory count: what is left of it there, discount included.

    Args:
        start: [N], the weight of z_0; 0 where a trajectory starts in padding or a terminal state.
        discount: [N, H + 1], of what comes after each state.

    Returns:
        [N, H], start_i times the product of the discounts of z_1 ... z_k, without a gradient.
    """
    factors = tf.concat([start[:, None], discount[:, 1:-1]], 1)
    return tf.stop_gradient(tf.math.cumprod(factors, 1))


def actor_loss(
    returns: tf.Tensor, value: tf.Tensor, weights: tf.Tensor, imagined: Imagined, reinforce: float, entropy: float
) -> tf.Tensor:
    """The actor's loss (Dreamer equation 7, DreamerV2 equation 6), a scalar.

        -(1 / (H sum_i w_i0)) sum_ik w_ik ((1 - rho) G_ik + rho log p(a_ik | z_ik) sg(G_ik - v_ik) + eta h_ik)

    Args:
        returns: lambda-returns G [N, H], with gradients through the dynamics.
        value: v [N, H], the baseline.
        weights: w [N, H], see `step_weights`.
        imagined: the log-probabilities and entropies h.
        reinforce: rho, the share of the REINFORCE gradient.
        entropy: eta, the weight of the entropy.
    """
    objective = tf.zeros_like(returns)
    if reinforce < 1.0:
        objective += (1.0 - reinforce) * returns
    if reinforce > 0.0:
        objective += reinforce * imagined.log_prob * tf.stop_gradient(returns - value)
    if entropy > 0.0:
        objective += entropy * imagined.entropy
    return -_mean(objective, weights)


def _mean(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The weighted mean of x [N, H]; weights that fall along a trajectory do not make up for it."""
    return tf.math.divide_no_nan(tf.reduce_sum(weights * x), weights.shape[1] * tf.reduce_sum(weights[:, 0]))


class ActorCritic:
    """Updates of an actor and its critic.

    Args:
        config: the settings of the imagination.
        problem: the world model: `sample_step` or `step`, `reward`, sizes. Its weights do not change.
        discount: z [..., n] -> factor [...] on what comes after z, gamma included.
        actor: the policy.
        value: the critic. Its target network bootstraps the returns.
        jit_compile: compile imagination and its gradients with XLA.
    """

    def __init__(
        self,
        config: Config,
        problem: LatentProblem,
        discount: Callable,
        actor: Actor,
        value: ValueLearner,
        jit_compile: bool = True,
    ):
        self.config, self.problem, self.discount, self.actor, self.value = config, problem, discount, actor, value
        self.learn = tf.function(self._learn, autograph=False)
        self._imagined_gradients = tf.function(self._gradients, autograph=False, jit_compile=jit_compile)

    def _learn(self, start: tf.Tensor, counts: tf.Tensor) -> models.Metrics:
        """One update of both, on trajectories that start in features [N, n].

        Args:
            start: z_0, constants.
            counts: [N], weights of the trajectories.

        Returns:
            actor_loss, actor_return (the mean lambda-return), actor_entropy, value_loss and value; NaN for the critic's
            where numbers were not finite and its step was skipped.
        """
        grads, feat, returns, weights, metrics = self._imagined_gradients(start, counts, self.actor.seed)
        self.actor.step(grads)
        return metrics | self.value.regress(feat, returns, weights)

    def _gradients(self, start: tf.Tensor, counts: tf.Tensor, seed: tf.Tensor) -> tuple:
        """The actor's gradients, the states z_0 ... z_{H-1} with their returns and weights, and metrics."""
        c, seeds = self.config, tf.random.split(seed, 2)
        start = tf.stop_gradient(start)
        noise = tf.random.stateless_normal([start.shape[0], c.imagination_horizon, self.problem.action_size], seeds[0])
        with tf.GradientTape() as tape:
            imagined = imagine(self.problem, self.actor, start, noise, seeds[1])
            reward, discount = self.problem.reward(imagined.feat), self.discount(imagined.feat)
            value = self.value.bootstrap(imagined.feat)
            follows = tf.ones(reward.shape, tf.bool)
            returns = lambda_returns(reward, value, discount, follows, c.value_lambda)[:, :-1]
            weights = step_weights(counts, discount)
            loss = actor_loss(returns, value[:, :-1], weights, imagined, c.reinforce_share, c.actor_entropy)
            scaled = loss * self.actor.loss_scale
        grads = tape.gradient(scaled, self.actor.net.trainable_variables)
        metrics = {"actor_loss": loss, "actor_return": _mean(returns, weights)}
        metrics["actor_entropy"] = _mean(imagined.entropy, weights)
        return grads, imagined.feat[:, :-1], returns, weights, metrics
