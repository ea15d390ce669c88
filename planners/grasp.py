"""GRASP: lifted states under a soft dynamics penalty, by gradients. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.first_order import FirstOrderPlanner, Terms
from planners.rows import all_finite, where_rows
from planners.seeds import fold_in, per_plan
from planners.trajectories import objective_rewards, previous_states, rollout


class GRASP(FirstOrderPlanner):
    """Gradient relaxed stochastic planner (Psenka et al. 2026, arXiv 2602.00475), for rewards instead of goals.

    The nearest relative of collocation: lifted states under a soft dynamics penalty, in which the dynamics pass
    gradients to the actions only,

        sum_t lam |mu(sg(z_t), a_t) - z_{t+1}|^2 - r(z_{t+1}) - r(mu(sg(z_t), a_t)),

    Gaussian noise on the states after every step, decaying linearly to zero, and, every `sync_every` steps and after
    the last one, a refinement: `sync_steps` gradient steps on the actions through the full rollout, which then replaces
    the states. A call with fewer iterations ends without one. The paper reaches goals: there the last state is fixed to
    the goal and every prediction is pulled to it; here the lifted states are paid their reward and so is every
    prediction. Actions are clipped to their bounds.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate, for states and actions.
        lam: weight of the dynamics penalty.
        noise: first standard deviation of the noise on the states.
        sync_every: steps between refinements.
        sync_steps: gradient steps of a refinement, each of length sync_lr along the normalized gradient.
        sync_lr: that length, in units of a_max per action on average.
        **options: those of `Planner`.
    """

    CURVES = ("reward", "dynamics_violation")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 500,
        lr: float = 0.05,
        lam: float = 8.0,
        noise: float = 0.1,
        sync_every: int = 100,
        sync_steps: int = 20,
        sync_lr: float = 0.05,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        self.lam, self.noise = lam, noise
        self.sync_every, self.sync_steps, self.sync_lr = sync_every, sync_steps, sync_lr

    def _variables(self, z0, actions):
        return rollout(self.problem.step, z0, actions), actions

    def _terms(self, z0, variables, duals):
        states, actions = variables
        predicted = self.problem.step(tf.stop_gradient(previous_states(z0, states)), actions)
        violation = tf.reduce_sum(tf.square(predicted - states), -1)
        rewards = objective_rewards(self.problem, states)
        loss = tf.reduce_sum(self.lam * violation - rewards - objective_rewards(self.problem, predicted), 1)
        return Terms(loss, rewards, states, {"dynamics": violation})

    def _metrics(self, terms, duals):
        return tf.stack([tf.reduce_sum(terms.rewards, 1), tf.reduce_sum(terms.violations["dynamics"], 1)], -1)

    def _project(self, k, z0, seeds, variables):
        states, actions = variables
        last = k + 1 == self.iterations
        std = tf.cast(self.noise * (1 - (k + 1) / self.iterations), states.dtype)
        draw = lambda seed: tf.random.stateless_normal(states.shape[1:], seed, dtype=states.dtype)
        states += std * per_plan(draw, fold_in(seeds, k), states.dtype)
        actions = tf.clip_by_value(actions, -self.problem.a_max, self.problem.a_max)
        due = last | ((k + 1) % self.sync_every == 0)
        return tf.cond(due, lambda: self._sync(z0, actions), lambda: (states, actions))

    def _after_early_stop(self, z0, variables, early):
        synced = lambda: where_rows(early, self._sync(z0, variables[1]), variables)
        return tf.cond(tf.reduce_any(early), synced, lambda: variables)

    def _sync(self, z0, actions):
        """Gradient ascent on the actions through the full rollout; the best iterate and its rollout are kept."""
        bound, B = self.problem.a_max, z0.shape[0]

        def body(i, actions, best, score):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(actions)
                returns = tf.reduce_sum(objective_rewards(self.problem, rollout(self.problem.step, z0, actions)), 1)
            gradient = tape.gradient(returns, actions)
            better = returns > score  # false where the return is NaN
            best, score = where_rows(better, actions, best), tf.where(better, returns, score)
            size = tf.sqrt(tf.reduce_mean(tf.square(gradient), [1, 2], keepdims=True))
            step = self.sync_lr * bound * tf.math.divide_no_nan(gradient, size)
            step = where_rows(all_finite(step), step, tf.zeros_like(step))
            return i + 1, tf.clip_by_value(actions + step, -bound, bound), best, score

        start = (0, actions, actions, tf.fill([B], actions.dtype.min))
        turns = self.sync_steps + 1  # the last one only judges the last step
        best = tf.while_loop(lambda i, *_: i < turns, body, start, maximum_iterations=turns)[2]
        return rollout(self.problem.step, z0, best), best
