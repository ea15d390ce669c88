"""What sampling planners share.

Conventions and shapes: optimizers.py. J candidates, K elites.
"""

from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner
from planners.initial import warm_actions
from planners.seeds import CANDIDATES, fold_in
from planners.trajectories import candidate_returns, policy_noise, policy_rollout, rollout
from tools.errors import UserError


class Belief(NamedTuple):
    """State of a sampling planner between iterations: a Gaussian over actions, and the best sequences so far."""

    mean: tf.Tensor  # [B, H, m]
    std: tf.Tensor  # [B, H, m]
    best: tf.Tensor  # [B, K', H, m], the best sequences known; K' is up to the planner
    scores: tf.Tensor  # [B, K'], their returns, best first; the lowest number where there is none
    metrics: tf.Tensor  # [B, 1], mean return of the elites
    non_finite: tf.Tensor  # int32 [B]


class SamplingPlanner(Planner):
    """Evaluates candidates by their return; a candidate whose return is not finite counts as the worst there is.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of populations.
        candidates: action sequences in the first of them, for each plan.
        sample_states: evaluate candidates on sampled trajectories as PlaNet does; otherwise on the mean dynamics.
        policy_share: share of the candidates that are samples of the problem's policy along the mean dynamics, rounded
            down, but to no less than one. They are drawn once for a plan (TD-MPC2, arXiv 2310.16828). CEM and MPPI
            have them in every population.
        **options: those of `Planner`.
    """

    DRAWS_FROM_POLICY = True

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int,
        candidates: int,
        sample_states: bool = True,
        policy_share: float = 0.0,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        if sample_states and problem.sample_step is None:
            raise UserError(
                f"{type(self).__name__} with sample_states needs a problem with a sample_step; pass "
                "sample_states=False."
            )
        if policy_share and problem.policy is None:
            raise UserError(
                f"{type(self).__name__} is to draw candidates of a policy (policy_candidates), but its latent problem "
                "has none: pass one with a policy, or set policy_candidates to 0."
            )
        self.candidates, self.sample_states, self.policy_share = candidates, sample_states, policy_share

    def _first_belief(self, z0, warm, std, num_best):
        """The belief before the first population: the mean of a warm start or zero, and no best sequences."""
        B, shape = z0.shape[0], [z0.shape[0], self.horizon, self.problem.action_size]
        return Belief(
            mean=warm_actions(tf.zeros(shape, z0.dtype), warm),
            std=tf.fill(shape, tf.cast(std * self.problem.a_max, z0.dtype)),
            best=tf.zeros([B, num_best, *shape[1:]], z0.dtype),
            scores=tf.fill([B, num_best], z0.dtype.min),
            metrics=tf.zeros([B, 1], z0.dtype),
            non_finite=tf.zeros([B], tf.int32),
        )

    def _returns(self, z0, actions, seeds):
        """Return of each candidate [B, J], the lowest number where not finite, for actions [B, J, H, m]."""
        return candidate_returns(self.problem, z0, actions, seeds if self.sample_states else None)

    def _is_rejected(self, after, before):
        # Fewer than two candidates are finite: there was nothing to learn from.
        return self.candidates - (after.non_finite - before.non_finite) < 2

    def _policy_candidates(self, z0, seeds):
        """Samples [B, J', H, m] of the policy for a population of full size, or none."""
        count = self._policy_count(self.candidates)
        if not count:
            return None
        seeds, shape = fold_in(seeds, CANDIDATES), [z0.shape[0], count, self.horizon, self.problem.action_size]
        noise = tf.reshape(policy_noise(self.problem, count * self.horizon, seeds, z0.dtype), shape)
        return policy_rollout(self.problem, tf.repeat(z0[:, None], count, 1), noise)[0]

    def _policy_count(self, candidates):
        """How many of so many candidates are samples of the policy: at least one where the share is positive."""
        return max(int(self.policy_share * candidates), int(self.policy_share > 0.0))

    def _with_policy(self, actions, policy):
        """Candidates [B, J, H, m], of which the last ones, a share of `policy_share`, are replaced by the policy's."""
        J = actions.shape[1]
        count = 0 if policy is None else self._policy_count(J)
        return actions if not count else tf.concat([actions[:, : J - count], policy[:, :count]], 1)

    def _sample(self, belief, noise):
        """Candidates [B, J, H, m] from noise of that shape, clipped to the bounds."""
        bound = self.problem.a_max
        return tf.clip_by_value(belief.mean[:, None] + belief.std[:, None] * noise, -bound, bound)

    def _plan(self, z0, actions, belief, history, count, warm_starts):
        states = rollout(self.problem.step, z0, actions)
        curves = self._curves(history, count, belief.metrics)
        return Plan(actions, states, self.problem.reward(states), curves, count, belief.non_finite, warm_starts)


def refit(elites: tf.Tensor, scores: tf.Tensor, gamma: float = 0.0) -> tuple[tf.Tensor, ...]:
    """Fits the belief to elites [B, K, H, m] with returns [B, K], best first.

    Elites with the lowest possible return count as missing. The others have equal weights, or softmax(gamma return) in
    MPPI.

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


def count_non_finite(returns):
    """How many candidates of each plan are not finite, int32 [B]."""
    return tf.reduce_sum(tf.cast(returns == returns.dtype.min, tf.int32), 1)
