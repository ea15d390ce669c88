"""A policy as a planner: what it does in the model. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner, objective_rewards, policy_noise, policy_rollout


class PolicyRollout(Planner):
    """The actions that the problem's policy takes along the mean dynamics. Searches for nothing.

    Of several restarts the first follows the policy's mean and the others samples of it.

    Args:
        problem: the latent problem, with a policy.
        horizon: H.
        **options: those of `Planner`.
    """

    def __init__(self, problem: LatentProblem, horizon: int, **options):
        if problem.policy is None:
            raise ValueError("PolicyRollout needs a latent problem with a policy.")
        super().__init__(problem, horizon, 1, **options)

    def _optimize(self, z0, seeds, warm, limit):
        del warm
        noise = policy_noise(self.problem, self.horizon, seeds, z0.dtype)
        sampled = tf.cast(tf.range(z0.shape[0]) % self.restarts > 0, z0.dtype)
        actions, states = policy_rollout(self.problem, z0, noise * sampled[:, None, None])
        objective = tf.reduce_sum(objective_rewards(self.problem, states), 1, keepdims=True)
        finite = tf.math.is_finite(objective[:, 0])
        count = tf.fill([z0.shape[0]], tf.minimum(limit, 1))
        rewards = self.problem.reward(states)
        return Plan(
            actions, states, rewards, {"reward": objective}, count, 1 - tf.cast(finite, tf.int32), actions[:, None]
        )
