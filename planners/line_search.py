"""What GN and iLQR share: a line search on steps in the actions. Conventions and shapes: optimizers.py."""

import abc
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner
from planners.initial import random_actions, warm_actions
from planners.residuals import DAMPING_FACTOR, LARGEST_DAMPING, softplus_residual, state_residuals
from planners.rows import where_rows
from planners.trajectories import best_finite, objective_rewards, rollout


class Search(NamedTuple):
    """State of the optimization between iterations."""

    states: tf.Tensor  # [B, H, n], the rollout of the actions
    actions: tf.Tensor  # [B, H, m]
    nu: tf.Tensor  # [B, H], multipliers of the action bounds
    damping: tf.Tensor  # [B]
    rejected: tf.Tensor  # bool [B], whether all step sizes made the plan worse, by more than the tolerance
    metrics: tf.Tensor  # [B, len(CURVES)]
    non_finite: tf.Tensor  # int32 [B]


class SecondOrderShooting(Planner):
    """Steps of a linearized problem in the actions, with a line search and a damping that follows its success.

    Each iteration rolls out all step sizes of `STEP_SIZES` at once and takes the one with the smallest merit, the sum
    of the squared residuals, if it is finite and smaller than before; otherwise the plan stays and the damping grows.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of steps.
        damping: first and smallest damping.
        reward_residual: r [...] -> residual [...]; maximizing the reward is minimizing its square.
        **options: those of `Planner`.
    """

    STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.03)
    FACTOR = DAMPING_FACTOR

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int,
        damping: float = 1e-3,
        reward_residual: Callable = softplus_residual,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        self.damping, self.reward_residual = damping, reward_residual

    @abc.abstractmethod
    def _proposals(self, z0: tf.Tensor, search: Search) -> tuple[tf.Tensor, tf.Tensor]:
        """States [B, L, H, n] and actions [B, L, H, m] for each of the L step sizes."""

    @abc.abstractmethod
    def _merit(self, states: tf.Tensor, actions: tf.Tensor, nu: tf.Tensor) -> tf.Tensor:
        """The merit [...] that a step must reduce, for states [..., H, n], actions [..., H, m] and nu [..., H]."""

    def _update_duals(self, search):
        """The search with its multipliers updated."""
        return search

    def _residuals(self, states):
        """Those of rewards and terminal value, [..., H, k], for states [..., H, n]."""
        return state_residuals(self.problem, self.reward_residual, states)

    def _is_rejected(self, after, before):
        return after.rejected

    def _metrics(self, search):
        return tf.reduce_sum(objective_rewards(self.problem, search.states), 1, keepdims=True)

    def _plan(self, z0, search, history, count, gains=None):
        candidates = [(search.states, search.actions)]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        curves = self._curves(history, count, search.metrics)
        return Plan(actions, states, rewards, curves, count, search.non_finite, actions[:, None], gains)

    def _search(self, z0, seeds, warm, limit):
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
        B = z0.shape[0]
        search = Search(
            states=rollout(self.problem.step, z0, actions),
            actions=actions,
            nu=tf.ones([B, self.horizon], z0.dtype),
            damping=tf.fill([B], tf.cast(self.damping, z0.dtype)),
            rejected=tf.zeros([B], tf.bool),
            metrics=tf.zeros([B, len(self.CURVES)], z0.dtype),
            non_finite=tf.zeros([B], tf.int32),
        )
        search = search._replace(metrics=self._metrics(search))
        return self._loop(lambda k, search: self._iterate(z0, search), search, limit)

    def _iterate(self, z0, search):
        states, actions = self._proposals(z0, search)
        nu = tf.repeat(search.nu[:, None], actions.shape[1], 1)
        now, merits = self._merit(search.states, search.actions, search.nu), self._merit(states, actions, nu)
        finite = tf.math.is_finite(merits) & tf.reduce_all(tf.math.is_finite(states), [-2, -1])
        merits = tf.where(finite, merits, merits.dtype.max)
        best = tf.argmin(merits, 1, tf.int32)
        lowest = tf.gather(merits, best, batch_dims=1)
        better = ~(lowest >= now)  # also where the current merit is NaN
        better &= tf.reduce_any(finite, 1)
        # At the optimum no step is better either, but the best one is hardly worse.
        close = lowest - now <= self.tolerance * tf.maximum(now, 1.0)
        moved = [tf.gather(x, best, batch_dims=1) for x in (states, actions)]
        less = tf.maximum(search.damping / self.FACTOR, self.damping)
        more = tf.minimum(search.damping * self.FACTOR, LARGEST_DAMPING)
        search = search._replace(
            states=where_rows(better, moved[0], search.states),
            actions=where_rows(better, moved[1], search.actions),
            damping=tf.where(better, less, more),
            rejected=~better & ~close,
            non_finite=search.non_finite + tf.cast(tf.reduce_any(~finite, 1), tf.int32),
        )
        search = self._update_duals(search)
        return search._replace(metrics=self._metrics(search))
