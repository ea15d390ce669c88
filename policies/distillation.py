"""The amortized policy: learned from plans, or from the actions of recorded episodes."""

from collections.abc import Callable

import tensorflow as tf

import models
from planners.trajectories import previous_states, rollout
from policies.actor import Actor
from tools.config import Config

# The largest weight of a plan, as in advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177).
MOST_WEIGHT = 20.0
# The standard deviation is fitted to the inverse tanh of actions. That is infinite at the bounds, so they are clipped.
MOST_ACTION = 0.999


def return_weights(returns: tf.Tensor, mask: tf.Tensor, beta: float) -> tf.Tensor:
    """Weights [N] that grow with the return: exp(beta (R_i - mean) / std), at most `MOST_WEIGHT`.

    Args:
        returns: R [N].
        mask: bool [N]; where it is false, the weight is 0, and the return is in neither mean nor std.
        beta: 0 gives all the same weight.
    """
    valid = tf.cast(mask, returns.dtype)
    number = tf.maximum(tf.reduce_sum(valid), 1.0)
    returns = tf.where(mask, returns, 0.0)
    deviation = (returns - tf.reduce_sum(returns) / number) * valid
    std = tf.sqrt(tf.reduce_sum(tf.square(deviation)) / number)
    # Equal returns differ by rounding alone.
    scale = tf.where(std > 1e-6 * (1.0 + tf.reduce_max(tf.abs(returns))), beta / tf.maximum(std, 1e-30), 0.0)
    return valid * tf.minimum(tf.exp(tf.minimum(scale * deviation, 10.0)), MOST_WEIGHT)


def mean_rewards(reward: tf.Tensor, follows: tf.Tensor, horizon: int) -> tf.Tensor:
    """The mean [B, T] of the up to `horizon` rewards that follow each entry in its episode, 0 where none does.

    Args:
        reward: [B, T].
        follows: bool [B, T], whether entry t came after entry t - 1.
        horizon: how many rewards count at most.
    """
    B, T = reward.shape
    total, number, alive = tf.zeros([B, T]), tf.zeros([B, T]), tf.ones([B, T])
    for k in range(1, min(horizon, T - 1) + 1):
        later = lambda x, k=k: tf.pad(x[:, k:], [[0, 0], [0, k]])
        alive *= later(tf.cast(follows, tf.float32))
        total, number = total + alive * later(reward), number + alive
    return tf.math.divide_no_nan(total, number)


class PlanMemory(tf.Module):
    """The newest (state, action) pairs of plans, each with the return of its plan. Older ones are overwritten."""

    def __init__(self, size: int, feat_size: int, action_size: int):
        super().__init__(name="plan_memory")
        self.size = size
        zeros = lambda *shape: tf.Variable(tf.zeros([size, *shape]), trainable=False)
        self.feat, self.action, self.score = zeros(feat_size), zeros(action_size), zeros()
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False, name="pairs")

    def add(self, feat: tf.Tensor, action: tf.Tensor, score: tf.Tensor, new: tf.Tensor) -> None:
        """Adds pairs that are finite: feat [N, n], action [N, m] and score [N], where `new`, bool [N]."""
        rows = tf.concat([feat, action, score[:, None]], 1)
        rows = tf.boolean_mask(rows, new & tf.reduce_all(tf.math.is_finite(rows), 1))[-self.size :]
        added = tf.shape(rows, tf.int64)[0]
        index = ((self.count + tf.range(added)) % self.size)[:, None]
        n, m = feat.shape[1], action.shape[1]
        for variable, part in zip((self.feat, self.action), tf.split(rows[:, :-1], [n, m], 1), strict=True):
            variable.scatter_nd_update(index, part)
        self.score.scatter_nd_update(index, rows[:, -1])
        self.count.assign_add(added)

    @property
    def filled(self) -> tf.Tensor:
        """How many pairs there are, int64."""
        return tf.minimum(self.count, self.size)


class Distiller:
    """Learns a policy from plans by weighted regression.

    Args:
        config: the settings of the policy.
        actor: the policy.
        step: the dynamics (z [..., n], a [..., m]) -> next state, which say in what states planned actions are taken.
        feat_size: n.
        action_size: m.

    Attributes:
        memory: what it learns from.
    """

    def __init__(self, config: Config, actor: Actor, step: Callable, feat_size: int, action_size: int):
        self.config, self.actor, self.step = config, actor, step
        self.memory = PlanMemory(config.policy_memory, feat_size, action_size)
        self.add = tf.function(self._add, autograph=False)
        self.learn = tf.function(self._learn, autograph=False)

    def _add(self, feat: tf.Tensor, plans: tf.Tensor, scores: tf.Tensor, planned: tf.Tensor) -> None:
        """Remembers the parts of plans that are executed before the next plan.

        What comes later is short-sighted: it pays for nothing beyond the horizon.

        Args:
            feat: first states of the plans [B, n].
            plans: actions of K plans from each, [B, K, H, m].
            scores: their returns [B, K].
            planned: bool [B], which of them are new.
        """
        B, K, _, m = plans.shape
        actions = tf.reshape(plans[:, :, : self.config.mpc_steps], [B * K, -1, m])
        feat, steps = tf.repeat(feat, K, 0), actions.shape[1]
        states = previous_states(feat, rollout(self.step, feat, actions))
        scores, new = (tf.repeat(tf.reshape(x, [-1]), steps) for x in (scores, tf.repeat(planned, K)))
        self.memory.add(tf.reshape(states, [-1, feat.shape[1]]), tf.reshape(actions, [-1, m]), scores, new)

    def _learn(self) -> models.Metrics:
        """One update on pairs drawn from the memory, weighted by the returns of their plans."""
        c, memory = self.config, self.memory
        weights = return_weights(memory.score, tf.range(memory.size, dtype=tf.int64) < memory.filled, c.policy_beta)
        uniform = tf.random.stateless_uniform([c.policy_batch], self.actor.seed, maxval=1.0)
        last = tf.maximum(memory.filled - 1, 0)
        index = tf.minimum(tf.cast(uniform * tf.cast(memory.filled, tf.float32), tf.int64), last)
        return self._regress(*(tf.gather(x, index) for x in (memory.feat, memory.action, weights)))

    def learn_from_episodes(
        self, feat: tf.Tensor, action: tf.Tensor, reward: tf.Tensor, follows: tf.Tensor
    ) -> models.Metrics:
        """One update on recorded actions, each weighted by the mean of the next `planning_horizon` rewards.

        Rewards beyond the end of a chunk or an episode are not known, hence a mean and not a sum.

        Args:
            feat: features of filtered states [B, T, n].
            action: [B, T, m]; entry t + 1 was taken in state t.
            reward: [B, T], as the model learns them.
            follows: bool [B, T], whether entry t came after entry t - 1.
        """
        returns = mean_rewards(reward, follows, self.config.planning_horizon)[:, :-1]
        weights = return_weights(tf.reshape(returns, [-1]), tf.reshape(follows[:, 1:], [-1]), self.config.policy_beta)
        feat, action = (tf.reshape(x, [-1, x.shape[-1]]) for x in (feat[:, :-1], action[:, 1:]))
        return self._regress(feat, action, weights)

    def _regress(self, feat: tf.Tensor, action: tf.Tensor, weights: tf.Tensor) -> models.Metrics:
        """One Adam step of the weighted regression of actions [N, m] on features [N, n], with weights [N].

        The mean minimizes the weighted squared error of tanh(mean), the standard deviation the weighted negative
        log-likelihood around that mean as a constant. Both losses train the hidden layers, which the two share.
        """
        feat, action, weights = (tf.stop_gradient(x) for x in (feat, action, weights))
        weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights))[:, None]
        u = tf.atanh(tf.clip_by_value(action, -MOST_ACTION, MOST_ACTION))
        with tf.GradientTape() as tape:
            mean, std = self.actor.net.stats(feat)
            error = tf.reduce_sum(weights * tf.square(tf.tanh(mean) - action))
            spread = tf.square((u - tf.stop_gradient(mean)) / std)
            loss = 0.5 * error + tf.reduce_sum(weights * (0.5 * spread + tf.math.log(std)))
            scaled = loss * self.actor.loss_scale
        self.actor.step(tape.gradient(scaled, self.actor.net.trainable_variables))
        return {"policy_loss": error, "policy_std": tf.reduce_mean(std)}
