"""Improved CEM: coloured noise, kept elites, momentum. Conventions and shapes: optimizers.py."""

import math

import numpy as np
import tensorflow as tf

from optimizers import LatentProblem
from planners.initial import warm_actions
from planners.rows import where_rows
from planners.sampling import Belief, SamplingPlanner, count_non_finite, refit
from planners.seeds import RETURNS, fold_in, per_plan
from tools.errors import UserError


class ICEM(SamplingPlanner):
    """Improved CEM (Pinneri et al. 2020, arXiv 2008.06389, algorithm 1).

    Noise with a power spectral density of 1/f^beta along the horizon, populations that shrink by `decay` (down to twice
    the elites), a fraction of the elites kept from one iteration to the next and, shifted, from one plan to the next (a
    warm start), refits with momentum, the mean as a candidate of the last population, and the best sequence found as
    the plan. Kept elites keep their returns. A policy's samples are candidates of the first population only; the best
    of them stay as elites.

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
        **options: those of `SamplingPlanner`.
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
        if not 2 <= elites <= candidates // 2:
            raise UserError(
                f"iCEM needs two elites and twice as many candidates, not elites={elites}, candidates={candidates}."
            )
        self.elites, self.num_kept, self.momentum, self.std = elites, int(keep * elites), momentum, std
        self.num_warm_starts = 1 + elites
        self.populations = [max(2 * elites, int(candidates / decay**k)) for k in range(iterations)]
        self.basis = colored_noise_basis(horizon, beta)

    def _optimize(self, z0, seeds, warm, limit):
        belief, policy = self._first_belief(z0, warm, self.std, self.elites), self._policy_candidates(z0, seeds)
        history, count = [], tf.minimum(limit, self.iterations) * tf.ones([z0.shape[0]], tf.int32)
        best, score = belief.best[:, 0], belief.scores[:, 0]
        judge = self._judge_mean(z0, seeds)
        mean = judge.nothing(belief) if judge else None
        for k, population in enumerate(self.populations):
            after = self._iterate(k, population, z0, fold_in(seeds, k), warm, belief, policy if k == 0 else None)
            belief = tf.nest.map_structure(lambda new, old, k=k: tf.where(k < limit, new, old), after, belief)
            # Without kept elites a population may have none as good as those before.
            best = where_rows(belief.scores[:, 0] > score, belief.best[:, 0], best)
            score = tf.maximum(score, belief.scores[:, 0])
            history.append(belief.metrics)
            mean = judge.watch(k, belief, mean, limit) if judge else None
        actions = where_rows(score > z0.dtype.min, best, belief.mean)
        warm_starts = tf.concat([belief.mean[:, None], belief.best], 1)
        plan = self._plan(z0, actions, belief, tf.stack(history, -1), count, warm_starts)
        return judge.choose(plan, mean) if judge else plan

    def _iterate(self, k, population, z0, seeds, warm, belief, policy):
        """One population of new candidates beside the elites that are kept."""
        actions = self._with_policy(self._sample(belief, self._noise(seeds, population, z0.dtype)), policy)
        if k == self.iterations - 1:
            actions = tf.concat([belief.mean[:, None], actions[:, 1:]], 1)
        if k == 0 and warm is not None and self.num_kept:  # the last plan's elites, each with a random end
            shifted = [warm_actions(actions[:, 1 + j], warm, 1 + j) for j in range(self.num_kept)]
            actions = tf.concat([actions[:, :1], tf.stack(shifted, 1), actions[:, 1 + self.num_kept :]], 1)
        returns = self._returns(z0, actions, fold_in(seeds, RETURNS))
        pool = tf.concat([belief.best[:, : self.num_kept], actions], 1)
        scores, index = tf.math.top_k(tf.concat([belief.scores[:, : self.num_kept], returns], 1), self.elites)
        best = tf.gather(pool, index, batch_dims=1)
        mean, std, score, enough = refit(best, scores)
        mix = lambda old, new: tf.where(enough, self.momentum * old + (1 - self.momentum) * new, old)
        return Belief(
            mean=mix(belief.mean, mean),
            std=mix(belief.std, std),
            best=best,
            scores=scores,
            metrics=score[:, None],
            non_finite=belief.non_finite + count_non_finite(returns),
        )

    def _noise(self, seeds, population, dtype):
        """Noise [B, population, H, m] of variance one, coloured along the horizon."""
        shape = [population, self.problem.action_size, self.basis.shape[0]]
        white = per_plan(lambda seed: tf.random.stateless_normal(shape, seed, dtype=dtype), seeds, dtype)
        return tf.einsum("bjmf,fh->bjhm", white, tf.constant(self.basis, dtype))


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
