"""Shooting by gradient descent on the actions. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.first_order import FirstOrderPlanner, Terms
from planners.multipliers import scale_multipliers, squared_action_violation
from planners.trajectories import objective_rewards, rollout


class GD(FirstOrderPlanner):
    """Shooting by gradient descent: Adam on the actions through the rollout (LatCo ICML appendices B and D).

    The action bound is a squared penalty with one multiplier per step, updated as LatCo's (equation 10).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        eps_act: squared action violation of a step that counts as satisfied.
        dual_lr: alpha of the dual update.
        eta: keeps its logarithm finite.
        **options: those of `FirstOrderPlanner`.
    """

    DUALS = ("nu",)
    CURVES = ("reward", "action_violation", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 500,
        lr: float = 0.05,
        eps_act: float = 1e-4,
        dual_lr: float = 0.1,
        eta: float = 0.01,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        self.eps_act, self.dual_lr, self.eta = eps_act, dual_lr, eta

    def _variables(self, z0, actions):
        return (actions,)

    def _terms(self, z0, variables, duals):
        states = rollout(self.problem.step, z0, variables[0])
        rewards = objective_rewards(self.problem, states)
        violation = squared_action_violation(variables[0], self.problem.a_max)
        loss = tf.reduce_sum(duals["nu"] * violation - rewards, 1)
        return Terms(loss, rewards, states, {"nu": violation})

    def _meets_constraints(self, metrics):
        return metrics[:, 1] <= self.horizon * self.eps_act

    def _new_duals(self, duals, violations):
        return {"nu": scale_multipliers(duals["nu"], violations["nu"], self.eps_act, self.dual_lr, self.eta)}
