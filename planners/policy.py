"""A policy as a planner: what it does in the model. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner
from planners.initial import random_actions
from planners.rows import all_finite, where_rows
from planners.trajectories import objective_rewards, policy_noise, policy_rollout, rollout


class PolicyRollout(Planner):
    """The actions that the problem's policy takes along the mean dynamics. Searches for nothing.

    Of several restarts the first follows the policy's mean and the others samples of it. Plans that are not finite are
    replaced by random actions.

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
        finite = all_finite(actions, states, objective_rewards(self.problem, states))
        actions = where_rows(finite, actions, random_actions(self.problem, self.horizon, seeds, z0.dtype))
        states = rollout(self.problem.step, z0, actions)
        curves = {"reward": tf.reduce_sum(objective_rewards(self.problem, states), 1, keepdims=True)}
        count, non_finite = tf.fill([z0.shape[0]], tf.minimum(limit, 1)), 1 - tf.cast(finite, tf.int32)
        return Plan(actions, states, self.problem.reward(states), curves, count, non_finite, actions[:, None])
