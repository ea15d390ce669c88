"""Shooting by Gauss-Newton. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.least_squares import shooting_step
from planners.line_search import SecondOrderShooting
from planners.linearization import linearize, values_and_gradients
from planners.multipliers import action_residuals, scale_multipliers, squared_action_violation
from planners.trajectories import objective_rewards, rollout


class GN(SecondOrderShooting):
    """Shooting by Gauss-Newton on the actions (LatCo ICML appendix D), damped.

    The Jacobian of the rollout comes from the same adjoints as collocation's condensed step. The action bound is a
    residual with multipliers nu that follow LatCo's dual update.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of steps.
        eps_act: squared action violation of a step that counts as satisfied.
        dual_lr: alpha of the dual update.
        eta: keeps its logarithm finite.
        **options: those of `SecondOrderShooting`.
    """

    CURVES = ("reward", "action_violation", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 100,
        eps_act: float = 1e-4,
        dual_lr: float = 0.1,
        eta: float = 0.01,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        self.eps_act, self.dual_lr, self.eta = eps_act, dual_lr, eta

    def _optimize(self, z0, seeds, warm, limit):
        return self._plan(z0, *self._search(z0, seeds, warm, limit))

    def _proposals(self, z0, search):
        _, A, B = linearize(self.problem, z0, search.states, search.actions)
        rho, g = values_and_gradients(self._residuals, search.states)
        v, V = action_residuals(search.actions, self.problem.a_max)
        step = shooting_step(A, B, v, V, rho, g, search.nu, search.damping)
        sizes = tf.constant(self.STEP_SIZES, step.dtype)[:, None, None]
        actions = search.actions[:, None] + sizes * step[:, None]
        return rollout(self.problem.step, tf.repeat(z0[:, None], len(self.STEP_SIZES), 1), actions), actions

    def _merit(self, states, actions, nu):
        bound = squared_action_violation(actions, self.problem.a_max)
        return tf.reduce_sum(tf.reduce_sum(tf.square(self._residuals(states)), -1) + nu * bound, -1)

    def _violation(self, search):
        return squared_action_violation(search.actions, self.problem.a_max)

    def _update_duals(self, search):
        nu = scale_multipliers(search.nu, self._violation(search), self.eps_act, self.dual_lr, self.eta)
        return search._replace(nu=nu)

    def _meets_constraints(self, metrics):
        return metrics[:, 1] <= self.horizon * self.eps_act

    def _metrics(self, search):
        terms = [objective_rewards(self.problem, search.states), self._violation(search)]
        return tf.stack([tf.reduce_sum(x, 1) for x in terms] + [tf.reduce_mean(search.nu, 1)], -1)
