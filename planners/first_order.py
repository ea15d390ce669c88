"""The base class of planners that use Adam.

A subclass defines the variables (actions; states and actions; images and actions) and the objective, one method each.
Conventions and shapes: optimizers.py.
"""

import abc
from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner
from planners.initial import random_actions, warm_actions
from planners.rows import all_finite, where_rows
from planners.trajectories import best_finite, rollout

BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


class Terms(NamedTuple):
    """What a planner computes from its variables."""

    loss: tf.Tensor  # [B], whose gradient is followed
    rewards: tf.Tensor  # [B, H], the terminal value added to the last one
    states: tf.Tensor  # [B, H, n]
    violations: dict[str, tf.Tensor]  # multiplier's name -> squared violation [B, H]


class Search(NamedTuple):
    """State of the optimization between iterations."""

    variables: tuple[tf.Tensor, ...]  # [B, ...] each, the actions last
    last_finite: tuple[tf.Tensor, ...]  # the last variables with finite loss and gradients
    first: tuple[tf.Tensor, ...]  # Adam's moments of the gradient
    second: tuple[tf.Tensor, ...]
    age: tf.Tensor  # int32 [B], gradients in the moments
    duals: dict[str, tf.Tensor]  # multiplier's name -> [B, H]
    scale: tf.Tensor  # [B], of the learning rate
    metrics: tf.Tensor  # [B, len(CURVES)]
    non_finite: tf.Tensor  # int32 [B]


class FirstOrderPlanner(Planner):
    """Adam on the variables, dual ascent on the multipliers every `dual_every` steps.

    A step that leads to non-finite numbers is undone and retried with half the learning rate and Adam's moments reset,
    since the same step would fail again.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        dual_every: steps between updates of the multipliers.
        **options: those of `Planner`.
    """

    DUALS: tuple[str, ...] = ()

    def __init__(
        self, problem: LatentProblem, horizon: int, iterations: int, lr: float, dual_every: int = 5, **options
    ):
        super().__init__(problem, horizon, iterations, **options)
        self.lr, self.dual_every = lr, dual_every

    @abc.abstractmethod
    def _variables(self, z0: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The variables to start from, the actions last."""

    @abc.abstractmethod
    def _terms(self, z0: tf.Tensor, variables: tuple[tf.Tensor, ...], duals: dict[str, tf.Tensor]) -> Terms:
        """Loss, rewards, states and violations."""

    def _new_duals(self, duals, violations):
        return duals

    def _first_duals(self, shape, dtype):
        return {name: tf.ones(shape, dtype) for name in self.DUALS}

    def _project(self, k, z0, seeds, variables):
        """Projects or perturbs the variables after a step."""
        del k, z0, seeds
        return variables

    def _after_early_stop(self, z0, variables, early):
        """The variables to end with, where plans stopped `early`, bool [B]."""
        del z0, early
        return variables

    def _optimize(self, z0, seeds, warm, limit):
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
        start = self._variables(z0, actions)
        B, zeros = z0.shape[0], tuple(tf.zeros_like(x) for x in start)
        search = Search(
            variables=start,
            last_finite=start,
            first=zeros,
            second=zeros,
            age=tf.zeros([B], tf.int32),
            duals=self._first_duals([B, self.horizon], z0.dtype),
            scale=tf.ones([B], z0.dtype),
            metrics=tf.zeros([B, len(self.CURVES)], z0.dtype),
            non_finite=tf.zeros([B], tf.int32),
        )
        body = lambda k, search: self._iterate(k, z0, seeds, search)
        search, history, count = self._loop(body, search, limit)
        if self.tolerance:
            search = search._replace(variables=self._after_early_stop(z0, search.variables, count < limit))
        terms = self._terms(z0, search.variables, search.duals)
        finite = all_finite(terms.rewards, terms.states)
        final = where_rows(finite, self._metrics(terms, search.duals), search.metrics)
        old_states = self._terms(z0, search.last_finite, search.duals).states
        old_actions = search.last_finite[-1]
        candidates = [
            (where_rows(finite, terms.states, old_states), where_rows(finite, search.variables[-1], old_actions)),
            (old_states, old_actions),
            (rollout(self.problem.step, z0, actions), actions),
        ]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        curves = self._lagged_curves(history, count, final)
        non_finite = search.non_finite + tf.cast(~finite, tf.int32)
        return Plan(actions, states, rewards, curves, count, non_finite, actions[:, None])

    def _iterate(self, k, z0, seeds, search):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(search.variables)
            terms = self._terms(z0, search.variables, search.duals)
            loss = tf.reduce_sum(terms.loss)  # plans share no terms, so their gradients are independent
        gradients = tape.gradient(loss, search.variables)
        finite = all_finite(terms.loss, *gradients)
        first = self._moments(search.first, gradients, BETAS[0])
        second = self._moments(search.second, [tf.square(x) for x in gradients], BETAS[1])
        age = search.age + 1
        moved = self._adam(age, search, first, second)
        due = (k > 0) & (k % self.dual_every == 0)
        duals = where_rows(finite & due, self._new_duals(search.duals, terms.violations), search.duals)
        zeros = tuple(tf.zeros_like(x) for x in first)
        return Search(
            variables=where_rows(finite, self._project(k, z0, seeds, moved), search.last_finite),
            last_finite=where_rows(finite, search.variables, search.last_finite),
            first=where_rows(finite, first, zeros),
            second=where_rows(finite, second, zeros),
            age=tf.where(finite, age, 0),
            duals=duals,
            scale=tf.where(finite, search.scale, search.scale / 2),
            metrics=where_rows(finite, self._metrics(terms, duals), search.metrics),
            non_finite=search.non_finite + tf.cast(~finite, tf.int32),
        )

    def _is_rejected(self, after, before):
        return after.non_finite > before.non_finite

    @staticmethod
    def _moments(old, new, beta):
        return tuple(beta * a + (1 - beta) * b for a, b in zip(old, new, strict=True))

    def _adam(self, age, search, first, second):
        """Adam's step (Kingma & Ba, algorithm 1) with a learning rate and a number of steps, `age`, per plan."""
        step = tf.cast(age, search.scale.dtype)
        correction = tf.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
        lr = self.lr * correction * search.scale
        rows = lambda x: tf.reshape(lr, [-1] + [1] * (x.shape.rank - 1))
        return tuple(
            x - rows(x) * a / (tf.sqrt(b) + ADAM_EPS) for x, a, b in zip(search.variables, first, second, strict=True)
        )

    def _metrics(self, terms, duals):
        sums = [tf.reduce_sum(terms.rewards, 1)] + [tf.reduce_sum(terms.violations[name], 1) for name in self.DUALS]
        return tf.stack(sums + [tf.reduce_mean(duals[name], 1) for name in self.DUALS], -1)
