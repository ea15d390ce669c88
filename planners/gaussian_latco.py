"""Gaussian LatCo: means and standard deviations of the states beside the actions. Conventions: optimizers.py."""

from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem
from planners.finish import Finished
from planners.latco import LatCo
from planners.multipliers import squared_constraint_violation
from planners.seeds import SCORES, fold_in, per_plan
from planners.trajectories import previous_states, return_under_noise
from tools.errors import UserError


class GaussianLatCo(LatCo):
    """Latent collocation with Gaussian plans q(z_t) = N(mu_t, sigma_t^2) (LatCo ICML 3.4, appendix C, algorithms 2, 3).

    Mean and standard deviation of q(z_{t+1}) are constrained to those of `samples` sampled predictions from q(z_t); the
    reward is the samples' mean. The random numbers are drawn once per plan, with mean 0 and variance 1 over the samples
    exactly, and shared by all iterations: the problem that is solved does not change under the solver.

    sigma_{t+1} receives gradients from its own constraint only (appendix C), and no other term moves it, so its
    Levenberg-Marquardt step is that constraint's residual whatever its multiplier: sigma_{t+1} becomes the standard
    deviation of the prediction. What is left is LatCo's step for the means and actions, with the sample means of the
    Jacobians in the place of the Jacobians; both solvers apply as they are.

    Args:
        problem: the latent problem; needs a sample_step.
        horizon: H.
        iterations: number of primal steps.
        solver: as for `LatCo`.
        samples: K of algorithm 3.
        **options: those of `LatCo`; eps_dyn bounds the squared errors of mean and standard deviation together.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 50,
        solver: str = "auto",
        samples: int = 50,
        eps_dyn: float = 1e-2,
        finish: int = 10,
        **options,
    ):
        if problem.sample_step is None:
            raise UserError("Gaussian LatCo needs a latent problem with a sample_step.")
        # Its finish only makes a plan follow the dynamics, for which one step is enough.
        super().__init__(problem, horizon, iterations, solver, eps_dyn=eps_dyn, finish=min(finish, 1), **options)
        self.samples = samples

    def _noise(self, seeds, dtype):
        """Normal numbers for the states z_1 ... z_H, [B, H, K, n], and for the transitions, [B, H, K, noise_size]."""
        draws = []
        for stream, size in enumerate((self.problem.state_size, self.problem.noise_size)):
            shape = [self.horizon, self.samples, size]
            draw = lambda seed, shape=shape: tf.random.stateless_normal(shape, seed, dtype=dtype)
            draws.append(_standardize(per_plan(draw, fold_in(seeds, stream + 1), dtype)))
        return tuple(draws)

    def _particles(self, z0, variables, noise):
        """Samples [B, H, K, n] of the states that the actions act on; z_0 is known, so all of its samples are equal."""
        states, _, std = variables
        spread = tf.pad((std[:, :, None] * noise[0])[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])
        return previous_states(z0, states)[:, :, None] + spread

    def _rollout(self, z0, actions, noise):
        """The plan of `actions` [B, H, m] that follows the moments of the dynamics."""
        inputs = [tf.transpose(x, [1, 0, *range(2, x.shape.rank)]) for x in (actions, *noise)]

        def step(moments, x):
            action, state_noise, step_noise = x
            mean, std, spread = moments
            z = mean[:, None] + std[:, None] * spread
            mean, std = _moments(self.problem.sample_step(z, _for_samples(action, self.samples), step_noise))
            return mean, std, state_noise

        start = (z0, tf.zeros_like(z0), tf.zeros_like(noise[0][:, 0]))
        mean, std, _ = tf.scan(step, inputs, start)
        return tf.transpose(mean, [1, 0, 2]), actions, tf.transpose(std, [1, 0, 2])

    def _run_finish(self, z0, actions, noise, steps):
        del steps
        bound = self.problem.a_max
        variables = self._rollout(z0, tf.clip_by_value(actions, -bound, bound), noise)
        states, actions, _ = variables
        rewards, value = self._rewards_and_value(states, variables, noise)
        score = tf.reduce_sum(rewards, 1) + (0.0 if value is None else value)
        violation = squared_constraint_violation(self.problem, states)
        return Finished(states, actions, score, violation, damping=tf.zeros_like(score)), score[:, None]

    def _linearize(self, z0, variables, noise):
        z = self._particles(z0, variables, noise)
        lead, flat = z.shape[:2], [tf.reshape(x, [-1, *x.shape[2:]]) for x in (z, variables[1], noise[1])]
        if self.problem.linearize_moments is not None:
            found = self.problem.linearize_moments(*flat)
        else:
            found = moments_by_tape(self.problem.sample_step, *flat)
        mean, std, A, B = (tf.reshape(x, [*lead, *x.shape[1:]]) for x in found)
        return (mean, std), A, B

    def _predict(self, z0, variables, noise):
        z = self._particles(z0, variables, noise)
        return _moments(self.problem.sample_step(z, _for_samples(variables[1], self.samples), noise[1]))

    def _apply_step(self, variables, dz, da, moments):
        return variables[0] + dz, variables[1] + da, moments[1]

    def _rewards_and_value(self, states, variables, noise):
        samples = states[:, :, None] + variables[2][:, :, None] * noise[0]  # [B, H, K, n]
        rewards = tf.reduce_mean(self.problem.reward(samples), 2)
        return rewards, None if self.problem.value is None else tf.reduce_mean(self.problem.value(samples[:, -1]), 1)

    def _dynamics(self, variables, moments):
        e, e_std = variables[0] - moments[0], variables[2] - moments[1]
        return e, tf.reduce_sum(tf.square(e) + tf.square(e_std), -1)

    def _score(self, z0, plan, seeds):
        """Mean return [B] of sampled rollouts: this planner does not trust the mean dynamics."""
        noise = self._noise(fold_in(seeds, SCORES), z0.dtype)[1]  # not that on which the plan was optimized
        return return_under_noise(self.problem, z0, plan.actions, tf.transpose(noise, [0, 2, 1, 3]))


def moments_by_tape(sample_step: Callable, z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Mean and std [N, n] of the sampled next states of z [N, K, n], and the mean's Jacobians by a shift of all samples
    [N, n, n] and by the action [N, n, m], by automatic differentiation."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        inputs = tf.concat([tf.zeros_like(z[:, 0]), a], -1)
        tape.watch(inputs)
        shifted = z + inputs[:, None, : z.shape[-1]]
        mean, std = _moments(sample_step(shifted, _for_samples(inputs[:, z.shape[-1] :], z.shape[1]), noise))
    jacobian = tape.batch_jacobian(mean, inputs)
    return mean, std, jacobian[..., : z.shape[-1]], jacobian[..., z.shape[-1] :]


def _moments(samples):
    """Mean and standard deviation over the samples, the last axis but one."""
    mean = tf.reduce_mean(samples, -2)
    return mean, tf.sqrt(tf.reduce_mean(tf.square(samples - mean[..., None, :]), -2))


def _standardize(noise):
    """The same noise [..., K, q] with mean 0 and variance 1 over its K samples."""
    mean, std = _moments(noise)
    return (noise - mean[..., None, :]) / std[..., None, :]


def _for_samples(x, count):
    """x [..., m] repeated for every sample, [..., count, m]."""
    return tf.repeat(x[..., None, :], count, -2)
