"""Random shooting, and the cross-entropy method with MPPI as a variant. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.initial import random_actions
from planners.sampling import SamplingPlanner, count_non_finite, refit
from planners.seeds import RETURNS, fold_in, per_plan
from tools.errors import UserError


class RandomShooting(SamplingPlanner):
    """Uniformly random action sequences; the plan is the best of them (PlaNet figure 5).

    With `iterations` populations, so that it can be given CEM's budget. The warm start is one candidate.
    """

    DRAWS_FROM_POLICY = False

    def _optimize(self, z0, seeds, warm, limit):
        def body(k, belief):
            now = fold_in(seeds, k)
            flat = random_actions(self.problem, self.candidates * self.horizon, now, z0.dtype)
            actions = tf.reshape(flat, [z0.shape[0], self.candidates, *belief.mean.shape[1:]])
            # The first candidate is the best one so far, or the warm start: the mean of the first belief.
            known = tf.where((belief.scores > z0.dtype.min)[..., None, None], belief.best, belief.mean[:, None])
            actions = tf.concat([known, actions[:, 1:]], 1)
            returns = self._returns(z0, actions, fold_in(now, RETURNS))
            score, index = tf.math.top_k(returns, 1)
            better = score > belief.scores
            return belief._replace(
                best=tf.where(better[..., None, None], tf.gather(actions, index, batch_dims=1), belief.best),
                scores=tf.maximum(score, belief.scores),
                metrics=tf.maximum(score, belief.scores),
                non_finite=belief.non_finite + count_non_finite(returns),
            )

        start = self._first_belief(z0, warm, 1.0, 1)
        if warm is None:
            start = start._replace(mean=random_actions(self.problem, self.horizon, seeds, z0.dtype))
        belief, history, count = self._loop(body, start, limit)
        known = belief.scores[:, 0] > z0.dtype.min
        actions = tf.where(known[:, None, None], belief.best[:, 0], belief.mean)
        return self._plan(z0, actions, belief, history, count, actions[:, None])


class CEM(SamplingPlanner):
    """Cross-entropy method over action sequences (PlaNet, algorithm 2), and MPPI.

    The belief starts as Normal(0, a_max^2), candidates are clipped to the bounds, and the belief is refit to the
    elites' mean and standard deviation (PlaNet's text writes the mean absolute deviation, LatCo's appendix D the
    standard deviation; the latter is what matches a Gaussian). The plan is the final mean. Where fewer than two elites
    are finite the belief stays.

    MPPI as in LatCo's appendix D differs in one thing: the refit weights elites by softmax(gamma return).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of refits.
        candidates: action sequences per refit and plan.
        elites: how many of them the belief is refit to.
        sample_states: evaluate candidates on sampled trajectories as PlaNet does; otherwise on the mean dynamics.
        gamma: 0 for CEM, MPPI's temperature otherwise.
        **options: those of `SamplingPlanner`.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 100,
        candidates: int = 10000,
        elites: int = 100,
        sample_states: bool = True,
        gamma: float = 0.0,
        **options,
    ):
        super().__init__(problem, horizon, iterations, candidates, sample_states, **options)
        if not 2 <= elites <= candidates:
            raise UserError(f"CEM needs 2 <= elites <= candidates, not elites={elites}, candidates={candidates}.")
        self.elites, self.gamma = elites, gamma

    def _optimize(self, z0, seeds, warm, limit):
        policy = self._policy_candidates(z0, seeds)

        def body(k, belief):
            now = fold_in(seeds, k)
            shape = [self.candidates, *belief.mean.shape[1:]]
            draw = lambda seed: tf.random.stateless_normal(shape, seed, dtype=z0.dtype)
            actions = self._with_policy(self._sample(belief, per_plan(draw, now, z0.dtype)), policy)
            scores, index = tf.math.top_k(returns := self._returns(z0, actions, fold_in(now, RETURNS)), self.elites)
            mean, std, score, enough = refit(tf.gather(actions, index, batch_dims=1), scores, self.gamma)
            return belief._replace(
                mean=tf.where(enough, mean, belief.mean),
                std=tf.where(enough, std, belief.std),
                metrics=score[:, None],
                non_finite=belief.non_finite + count_non_finite(returns),
            )

        belief, history, count = self._loop(body, self._first_belief(z0, warm, 1.0, 0), limit)
        return self._plan(z0, belief.mean, belief, history, count, belief.mean[:, None])
