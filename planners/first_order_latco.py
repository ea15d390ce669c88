"""LatCo by gradients: states and actions, with multipliers. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.first_order import FirstOrderPlanner, Terms
from planners.multipliers import MULTIPLIER_RANGE, squared_action_violation
from planners.trajectories import objective_rewards, previous_states, rollout


class FirstOrderLatCo(FirstOrderPlanner):
    """LatCo without second-order optimization (ICML 5.4 and appendix B): Adam on states and actions.

    The Lagrangian is equation 8 as it stands; the multipliers follow its gradient, lambda += dual_lr (violation - eps).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        eps_dyn: threshold on the squared dynamics violation of a time step.
        eps_act: threshold on the squared action violation of a time step.
        dual_lr: learning rate of the multipliers.
        **options: those of `FirstOrderPlanner`.
    """

    DUALS = ("lam", "nu")
    CURVES = ("reward", "dynamics_violation", "action_violation", "lam", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 5000,
        lr: float = 0.05,
        eps_dyn: float = 1e-4,
        eps_act: float = 1e-4,
        dual_lr: float = 1.5,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        self.eps = {"lam": eps_dyn, "nu": eps_act}
        self.dual_lr = dual_lr

    def _variables(self, z0, actions):
        return rollout(self.problem.step, z0, actions), actions

    def _terms(self, z0, variables, duals):
        states, actions = variables
        dynamics = tf.reduce_sum(tf.square(states - self.problem.step(previous_states(z0, states), actions)), -1)
        return self._lagrangian(states, actions, dynamics, duals)

    def _lagrangian(self, states, actions, dynamics, duals):
        rewards = objective_rewards(self.problem, states)
        bound = squared_action_violation(actions, self.problem.a_max)
        loss = tf.reduce_sum(duals["lam"] * dynamics + duals["nu"] * bound - rewards, 1)
        return Terms(loss, rewards, states, {"lam": dynamics, "nu": bound})

    def _new_duals(self, duals, violations):
        return {
            name: tf.clip_by_value(
                duals[name] + self.dual_lr * (violations[name] - self.eps[name]), 0.0, MULTIPLIER_RANGE[1]
            )
            for name in self.DUALS
        }

    def _meets_constraints(self, metrics):
        return (metrics[:, 1] <= self.horizon * self.eps["lam"]) & (metrics[:, 2] <= self.horizon * self.eps["nu"])
