"""Planners that sample action sequences and keep the good ones: random shooting, CEM, MPPI and iCEM.

Conventions and shapes: optimizers.py. J candidates, K elites.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner, fold_in, per_plan, random_actions, rollout, warm_actions
from tools.errors import UserError


class Belief(NamedTuple):
    """What a sampling planner carries from one iteration to the next."""

    mean: tf.Tensor  # [B, H, m]
    std: tf.Tensor  # [B, H, m]
    best: tf.Tensor  # [B, K', H, m], the best sequences known; K' as the planner keeps
    scores: tf.Tensor  # [B, K'], their returns, best first; the lowest number where there is none
    record: tf.Tensor  # [B, 1], mean return of the elites
    non_finite: tf.Tensor  # int32 [B]


class SamplingPlanner(Planner):
    """Evaluates candidates by their return; a candidate whose return is not finite counts as the worst there is.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of populations.
        candidates: action sequences in the first of them, for each plan.
        sample_states: evaluate candidates on sampled trajectories as PlaNet does; otherwise on the mean dynamics.
        **options: those of `Planner`.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int,
        candidates: int,
        sample_states: bool = True,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        if sample_states and problem.sample_step is None:
            raise UserError(
                f"{type(self).__name__} with sample_states needs a problem with a sample_step; pass "
                "sample_states=False."
            )
        self.candidates, self.sample_states = candidates, sample_states

    def _first_belief(self, z0, warm, std, kept):
        """The belief before the first population: zero mean where no warm start says otherwise, nothing known."""
        B, shape = z0.shape[0], [z0.shape[0], self.horizon, self.problem.action_size]
        return Belief(
            mean=warm_actions(tf.zeros(shape, z0.dtype), warm),
            std=tf.fill(shape, tf.cast(std * self.problem.a_max, z0.dtype)),
            best=tf.zeros([B, kept, *shape[1:]], z0.dtype),
            scores=tf.fill([B, kept], z0.dtype.min),
            record=tf.zeros([B, 1], z0.dtype),
            non_finite=tf.zeros([B], tf.int32),
        )

    def _returns(self, z0, actions, seeds):
        """Return of each candidate [B, J], the lowest number where not finite, for actions [B, J, H, m]."""
        problem, (B, J) = self.problem, actions.shape[:2]
        start = tf.repeat(z0, J, axis=0)  # [B J, n]
        actions = tf.transpose(tf.reshape(actions, [B * J, *actions.shape[2:]]), [1, 0, 2])

        def body(t, z, total):
            if self.sample_states:
                draw = lambda seed: tf.random.stateless_normal([J, problem.noise_size], seed, dtype=z0.dtype)  # noqa: E731
                noise = tf.reshape(per_plan(draw, fold_in(seeds, t), z0.dtype), [B * J, problem.noise_size])
                z = problem.sample_step(z, actions[t], noise)
            else:
                z = problem.step(z, actions[t])
            return t + 1, z, total + problem.reward(z)

        start = (0, start, tf.zeros(start.shape[:1], z0.dtype))
        _, z, total = tf.while_loop(lambda t, *_: t < self.horizon, body, start, maximum_iterations=self.horizon)
        if problem.value is not None:
            total += problem.value(z)
        total = tf.reshape(total, [B, J])
        return tf.where(tf.math.is_finite(total), total, total.dtype.min)

    def _sample(self, belief, noise):
        """Candidates [B, J, H, m] from noise of that shape, clipped to the bounds."""
        bound = self.problem.a_max
        return tf.clip_by_value(belief.mean[:, None] + belief.std[:, None] * noise, -bound, bound)

    def _plan(self, z0, actions, belief, records, count, kept):
        states = rollout(self.problem.step, z0, actions)
        curves = self._curves(records, count, belief.record)
        return Plan(actions, states, self.problem.reward(states), curves, count, belief.non_finite, kept)


class RandomShooting(SamplingPlanner):
    """Uniformly random action sequences; the plan is the best of them (PlaNet section 3 names it the simplest planner).

    With `iterations` populations, so that it can be given CEM's budget. The warm start is one candidate.
    """

    def _optimize(self, z0, seeds, warm, limit):
        def body(k, belief):
            now = fold_in(seeds, k)
            flat = random_actions(self.problem, self.candidates * self.horizon, now, z0.dtype)
            actions = tf.reshape(flat, [z0.shape[0], self.candidates, *belief.mean.shape[1:]])
            # The first candidate is the best one so far, or the warm start: the mean of the first belief.
            known = tf.where((belief.scores > z0.dtype.min)[..., None, None], belief.best, belief.mean[:, None])
            actions = tf.concat([known, actions[:, 1:]], 1)
            returns = self._returns(z0, actions, fold_in(now, -1))
            score, index = tf.math.top_k(returns, 1)
            better = score > belief.scores
            return belief._replace(
                best=tf.where(better[..., None, None], tf.gather(actions, index, batch_dims=1), belief.best),
                scores=tf.maximum(score, belief.scores),
                record=tf.maximum(score, belief.scores),
                non_finite=belief.non_finite + _thrown(returns),
            )

        start = self._first_belief(z0, warm, 1.0, 1)
        if warm is None:
            start = start._replace(mean=random_actions(self.problem, self.horizon, seeds, z0.dtype))
        belief, records, count = self._loop(body, start, limit)
        known = belief.scores[:, 0] > z0.dtype.min
        actions = tf.where(known[:, None, None], belief.best[:, 0], belief.mean)
        return self._plan(z0, actions, belief, records, count, actions[:, None])


class CEM(SamplingPlanner):
    """Cross-entropy method over action sequences (PlaNet, algorithm 2), and MPPI.

    The belief starts as Normal(0, a_max^2), candidates are clipped to the bounds, and the belief is refit to the
    elites' mean and standard deviation (PlaNet's text writes the mean absolute deviation, LatCo's appendix D the
    standard deviation; the latter is what matches a Gaussian). The plan is the final mean. Where fewer than two elites
    are finite the belief stays.

    MPPI as LatCo's appendix D describes it differs in one number: elites weigh softmax(gamma return) in the refit.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of refits.
        candidates: action sequences a refit, for each plan.
        elites: how many of them the belief is refit to.
        sample_states: evaluate candidates on sampled trajectories as PlaNet does; otherwise on the mean dynamics.
        gamma: 0 for CEM, MPPI's temperature otherwise.
        **options: those of `Planner`.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 10,
        candidates: int = 1000,
        elites: int = 100,
        sample_states: bool = True,
        gamma: float = 0.0,
        **options,
    ):
        super().__init__(problem, horizon, iterations, candidates, sample_states, **options)
        if not 2 <= elites <= candidates:
            raise UserError(f"CEM needs 2 <= elites <= candidates, not elites={elites}, candidates={candidates}.")
        if gamma < 0:
            raise UserError(f"The temperature gamma of MPPI must not be negative, but it is {gamma}.")
        self.elites, self.gamma = elites, gamma

    def _optimize(self, z0, seeds, warm, limit):
        def body(k, belief):
            now = fold_in(seeds, k)
            shape = [self.candidates, *belief.mean.shape[1:]]
            draw = lambda seed: tf.random.stateless_normal(shape, seed, dtype=z0.dtype)  # noqa: E731
            actions = self._sample(belief, per_plan(draw, now, z0.dtype))
            scores, index = tf.math.top_k(returns := self._returns(z0, actions, fold_in(now, -1)), self.elites)
            mean, std, score, enough = refit(tf.gather(actions, index, batch_dims=1), scores, self.gamma)
            return belief._replace(
                mean=tf.where(enough, mean, belief.mean),
                std=tf.where(enough, std, belief.std),
                record=score[:, None],
                non_finite=belief.non_finite + _thrown(returns),
            )

        belief, records, count = self._loop(body, self._first_belief(z0, warm, 1.0, 0), limit)
        return self._plan(z0, belief.mean, belief, records, count, belief.mean[:, None])


class ICEM(SamplingPlanner):
    """Improved CEM (Pinneri et al. 2020, arXiv 2008.06389, algorithm 1).

    Noise with a power spectral density of 1/f^beta along the horizon, populations that shrink by `decay` (down to twice
    the elites), a fraction of the elites kept from one iteration to the next and, shifted, from one plan to the next (a
    warm start), refits with momentum, the mean as a candidate of the last population, and the best sequence found as
    the plan. Kept elites keep their returns.

    Populations have different sizes, so this loop is unrolled in the compiled function: it is meant for a handful of
    iterations, and always runs them all.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of populations.
        candidates: action sequences in the first of them, for each plan.
        elites: how many sequences the belief is refit to.
        sample_states: evaluate candidates on sampled trajectories; otherwise on the mean dynamics.
        beta: exponent of the noise; 0 is white, 2 a random walk.
        decay: factor by which each population is smaller than the one before.
        keep: fraction of the elites that is kept.
        momentum: weight of the old belief in a refit.
        std: first standard deviation, in units of a_max.
        **options: those of `Planner`.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 5,
        candidates: int = 1000,
        elites: int = 10,
        sample_states: bool = True,
        beta: float = 2.5,
        decay: float = 1.25,
        keep: float = 0.3,
        momentum: float = 0.1,
        std: float = 0.5,
        **options,
    ):
        super().__init__(problem, horizon, iterations, candidates, sample_states, **options)
        if not 2 <= 2 * elites <= candidates:
            raise UserError(f"iCEM needs candidates >= 2 elites, not elites={elites}, candidates={candidates}.")
        if decay < 1 or not 0 <= keep <= 1 or not 0 <= momentum < 1 or beta < 0 or std <= 0:
            raise UserError(
                "iCEM needs decay >= 1, 0 <= keep <= 1, 0 <= momentum < 1, beta >= 0 and std > 0, not "
                f"decay={decay}, keep={keep}, momentum={momentum}, beta={beta}, std={std}."
            )
        self.elites, self.kept, self.momentum, self.std = elites, int(keep * elites), momentum, std
        self.sequences = 1 + elites
        self.populations = [max(2 * elites, int(candidates / decay**k)) for k in range(iterations)]
        self.basis = colored_noise_basis(horizon, beta)

    def _optimize(self, z0, seeds, warm, limit):
        belief = self._first_belief(z0, warm, self.std, self.elites)
        records, count = [], tf.minimum(limit, self.iterations) * tf.ones([z0.shape[0]], tf.int32)
        for k, population in enumerate(self.populations):
            after = self._iterate(k, population, z0, fold_in(seeds, k), warm, belief)
            belief = tf.nest.map_structure(lambda new, old, k=k: tf.where(k < limit, new, old), after, belief)
            records.append(belief.record)
        known = belief.scores[:, 0] > z0.dtype.min
        actions = tf.where(known[:, None, None], belief.best[:, 0], belief.mean)
        kept = tf.concat([belief.mean[:, None], belief.best], 1)
        return self._plan(z0, actions, belief, tf.stack(records, -1), count, kept)

    def _iterate(self, k, population, z0, seeds, warm, belief):
        """One population of new candidates beside the elites that are kept."""
        actions = self._sample(belief, self._noise(seeds, population, z0.dtype))
        if k == self.iterations - 1:
            actions = tf.concat([belief.mean[:, None], actions[:, 1:]], 1)
        if k == 0 and warm is not None and self.kept:  # the last plan's elites, each with a random end
            shifted = [warm_actions(actions[:, 1 + j], warm, 1 + j) for j in range(self.kept)]
            actions = tf.concat([actions[:, :1], tf.stack(shifted, 1), actions[:, 1 + self.kept :]], 1)
        returns = self._returns(z0, actions, fold_in(seeds, -1))
        pool = tf.concat([belief.best[:, : self.kept], actions], 1)
        scores, index = tf.math.top_k(tf.concat([belief.scores[:, : self.kept], returns], 1), self.elites)
        best = tf.gather(pool, index, batch_dims=1)
        mean, std, score, enough = refit(best, scores)
        mix = lambda old, new: tf.where(enough, self.momentum * old + (1 - self.momentum) * new, old)  # noqa: E731
        return Belief(
            mean=mix(belief.mean, mean),
            std=mix(belief.std, std),
            best=best,
            scores=scores,
            record=score[:, None],
            non_finite=belief.non_finite + _thrown(returns),
        )

    def _noise(self, seeds, population, dtype):
        """Noise [B, population, H, m] of variance one, coloured along the horizon."""
        shape = [population, self.problem.action_size, self.basis.shape[0]]
        white = per_plan(lambda seed: tf.random.stateless_normal(shape, seed, dtype=dtype), seeds, dtype)
        return tf.einsum("bjmf,fh->bjhm", white, tf.constant(self.basis, dtype))


def refit(elites: tf.Tensor, scores: tf.Tensor, gamma: float = 0.0) -> tuple[tf.Tensor, ...]:
    """The belief that elites [B, K, H, m] with returns [B, K], best first, speak for.

    Elites whose return is the lowest number are none. Those that are weigh the same, or softmax(gamma return) (MPPI).

    Returns:
        mean and standard deviation [B, H, m], mean return [B], whether there are two elites or more, bool [B, 1, 1].
    """
    finite = scores > scores.dtype.min
    weight = tf.cast(finite, scores.dtype)
    enough = tf.reduce_sum(weight, 1)[:, None, None] >= 2
    if gamma:
        weight *= tf.exp(gamma * (scores - scores[:, :1]))
    weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, 1, keepdims=True))
    mean = tf.einsum("bk,bkhm->bhm", weight, elites)
    variance = tf.einsum("bk,bkhm->bhm", weight, tf.square(elites - mean[:, None]))
    return mean, tf.sqrt(variance), tf.reduce_sum(tf.where(finite, weight * scores, 0.0), 1), enough


def colored_noise_basis(length: int, beta: float) -> np.ndarray:
    """A matrix [F, length] that turns F white normal numbers into noise of variance one and spectrum 1/f^beta.

    Independent normal Fourier coefficients with the wanted spectrum (Timmer & Koenig 1995); frequencies below 1/length
    count as 1/length.
    """
    if length == 1:
        return np.ones([1, 1])
    frequencies = np.fft.rfftfreq(length)
    scale = np.maximum(frequencies, 1.0 / length) ** (-beta / 2)
    real, imaginary = np.diag(scale).astype(complex), 1j * np.diag(scale)
    edges = [0, length // 2] if length % 2 == 0 else [0]  # no imaginary part at these
    real[edges] *= math.sqrt(2)
    imaginary = np.delete(imaginary, edges, 0)
    basis = np.fft.irfft(np.concatenate([real, imaginary]), length, axis=1)
    return basis / np.sqrt(np.mean(np.sum(basis**2, 0)))


def _thrown(returns):
    """How many candidates of each plan are not finite, int32 [B]."""
    return tf.reduce_sum(tf.cast(returns == returns.dtype.min, tf.int32), 1)
