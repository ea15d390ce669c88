"""The interface of all trajectory optimizers: `LatentProblem`, `Planner` and `Plan`.

A planner is built once for a problem and a horizon and called as `planner(z0, seed) -> Plan`. One call is one compiled
`tf.function` that runs the whole optimization for a batch of B first states. Planners know nothing about world models,
agents or images. Their only state is the compiled function: all randomness comes from `seed`, and the caller passes
warm starts from one plan to the next (`Plan.warm_starts`, `WarmStart`).

The planners are in `planners/`. Some only evaluate the problem (`cem.py`: random shooting, CEM and MPPI; `icem.py`),
some use gradients (`gd.py`, `first_order_latco.py`, `image_collocation.py`, `grasp.py`), some linearizations (`gn.py`,
`ilqr.py`, `latco.py`, `gaussian_latco.py`). What several of them compute is there, too: rollouts and their returns
(`trajectories.py`), Jacobians (`linearization.py`), dual updates (`multipliers.py`).

Index convention: z_0 is given, and action t leads to state t + 1. Entry t of a plan's actions, states and rewards is
(a_t, z_{t+1}, r(z_{t+1})). Shapes: B plans, horizon H, state size n, action size m.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from planners.initial import best_initial, random_sequences
from planners.seeds import SCORES, fold_in, split_seed
from planners.stopping import iterate
from planners.trajectories import policy_noise, policy_rollout, rollout, sampled_return
from tools.errors import UserError


@dataclasses.dataclass(frozen=True)
class LatentProblem:
    """A world model as planners see it: callables on tensors with any leading dimensions.

    Attributes:
        step: (z [..., n], a [..., m]) -> mean of the next state [..., n].
        reward: z [..., n] -> mean reward [...] of being in that state.
        state_size: n.
        action_size: m.
        sample_step: (z [..., n], a [..., m], standard normal noise [..., noise_size]) -> a sample of the next state
            [..., n], or None where the dynamics have no noise.
        noise_size: normal numbers per sample.
        linearize: (z [N, n], a [N, m]) -> (mu [N, n], A [N, n, n], B [N, n, m]), the mean next state and its
            Jacobians by z and a; None for automatic differentiation of `step`.
        linearize_moments: (z [N, K, n], a [N, m], noise [N, K, noise_size]) -> (mean [N, n], std [N, n], A [N, n, n],
            B [N, n, m]) of the K sampled next states, where A and B are sample means of their Jacobians; None for
            automatic differentiation of `sample_step`.
        constraint: z [..., n] -> [..., c], which must be <= 0 in every planned state, or None.
        encode: images [N, ...] -> embeddings [N, E].
        filter: (z [..., n], a [..., m], embedding [..., E]) -> mean of the next state after seeing an image, [..., n].
        decode: z [N, n] -> mean images [N, ...].
        a_max: actions are bounded by |a| <= a_max.
        value: z [..., n] -> expected return [...] after z, or None. The objective of a plan is the sum of its rewards
            plus the value of its last state (ColloDreamer, equation 9).
        log_prob: (z [..., n], a [..., m], next z [..., n]) -> log density [...] of the transition, or None. With it,
            planners add ColloDreamer's augmented objective, which needs a value, or refuse (`planners.augmented`).
        old_log_prob: the same of older dynamics.
        value_steps: how many steps of reward a value stands for, 1 / (1 - gamma) with discount gamma. Second-order
            planners scale the value's residual with it (`planners.residuals.objective_residuals`).
        policy: (z [..., n], noise) -> an action [..., m] within the bounds, or None. The noise is standard normal
            [..., m], or None for the policy's mean. Planners may start from it and draw candidates from it.
    """

    step: Callable
    reward: Callable
    state_size: int
    action_size: int
    sample_step: Callable | None = None
    noise_size: int = 0
    linearize: Callable | None = None
    linearize_moments: Callable | None = None
    constraint: Callable | None = None
    encode: Callable | None = None
    filter: Callable | None = None
    decode: Callable | None = None
    a_max: float = 1.0
    value: Callable | None = None
    value_steps: float = 1.0
    log_prob: Callable | None = None
    old_log_prob: Callable | None = None
    policy: Callable | None = None


class WarmStart(NamedTuple):
    """Initial action sequences for the next plan: the last plan's `warm_starts`, shifted by the executed actions.

    Attributes:
        actions: [B, C, H, m].
        steps: int32 [B], how many leading actions of each sequence are valid; 0 for a cold start.
    """

    actions: tf.Tensor
    steps: tf.Tensor


class Plan(NamedTuple):
    """The result of planning for a batch of B first states.

    Attributes:
        actions: [B, H, m], within the bounds.
        states: [B, H, n], z_1 ... z_H as optimized; with collocation they may violate the dynamics.
        rewards: [B, H], predicted for `actions` rolled out through the mean dynamics, without the terminal value. This
            makes planners comparable.
        curves: name -> [B, iterations], the plan after each iteration. `reward` is the objective at the optimized
            states, terminal value included (sampling: the elites' mean return). Collocation adds `dynamics_violation`
            with its multiplier `lam`, planners with a penalty on the action bounds `action_violation` with `nu`, and a
            state constraint `constraint_violation` with `kappa`. Violations are squared and summed over time,
            multipliers are means over time. After an early stop the last value is held.
        iterations: int32 [B], iterations used.
        non_finite: int32 [B], iterates (sampling: candidates) that were rejected because they were not finite.
        warm_starts: [B, C, H, m], action sequences from which the next plan may start, the plan's own first.
        gains: [B, H, m, n], feedback around (states, actions), or None.
        value: [B], terminal value after `actions` under the mean dynamics, weighted as in the objective; None if the
            problem has no value.
        kept: [B, K, H, m], the actions of the K best restarts, the plan's own first, or None.
        kept_scores: [B, K], what the restarts were compared by, NaN where that is not known and where a plan breaks the
            state constraint, or None.
    """

    actions: tf.Tensor
    states: tf.Tensor
    rewards: tf.Tensor
    curves: dict[str, tf.Tensor]
    iterations: tf.Tensor
    non_finite: tf.Tensor
    warm_starts: tf.Tensor
    gains: tf.Tensor | None = None
    value: tf.Tensor | None = None
    kept: tf.Tensor | None = None
    kept_scores: tf.Tensor | None = None


class Planner(abc.ABC):
    """A trajectory optimizer: checks its inputs, compiles `_optimize` once and counts how often it was traced.

    Args:
        problem: the latent problem; the compiled function uses the current values of its variables.
        horizon: H, number of actions to plan.
        iterations: number of optimization steps.
        restarts: plans made in parallel for each first state, from different random initializations; the one with the
            best return under the model is returned, of those that break the state constraint least.
        restart_samples: compare restarts by the mean return of this many sampled rollouts; 0 compares them under the
            mean dynamics, as does a problem without noise.
        tolerance: stop a plan once its reward changed by less than this fraction of it (by less than this if it is
            below 1) in each of a few iterations in a row (`planners.stopping.PATIENCE`) and its constraints hold; 0
            always runs all iterations.
        policy_start: start from what the problem's policy does, instead of from the warm start.
        initial_candidates: start from the best of this many random action sequences under the mean dynamics. The warm
            start and the policy's actions compete with them.
        initial_correlation: correlation in time of those sequences (`planners.initial.random_sequences`).
        keep_plans: K of `Plan.kept`, at most `restarts`; 0 keeps none.
        jit_compile: compile with XLA.
    """

    CURVES: tuple[str, ...] = ("reward",)  # names of `Plan.curves`, in the order of a search's metrics [B, len(CURVES)]
    KEEPS_CONSTRAINTS = False  # whether the planner keeps the problem's `constraint`
    AUGMENTS = False  # whether it has ColloDreamer's augmented objective
    DRAWS_FROM_POLICY = False  # whether candidates may be samples of the problem's policy (`policy_candidates`)
    num_warm_starts = 1  # C of `Plan.warm_starts`
    finish_steps = 0  # how many of the last iterations improve a plan that already satisfies bounds and dynamics

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int,
        *,
        restarts: int = 1,
        restart_samples: int = 0,
        tolerance: float = 0.0,
        policy_start: bool = False,
        initial_candidates: int = 1,
        initial_correlation: float = 0.0,
        keep_plans: int = 0,
        jit_compile: bool = True,
    ):
        if problem.constraint is not None and not self.KEEPS_CONSTRAINTS:
            raise UserError(
                f"{type(self).__name__} cannot keep state constraints: use latco or gaussian_latco, or set cost_head "
                "to false."
            )
        if problem.log_prob is not None and not self.AUGMENTS:
            raise UserError(
                f"{type(self).__name__} has no Lagrangian to add augmented_objective to: use latco or gaussian_latco, "
                "or set it to false."
            )
        if policy_start and problem.policy is None:
            raise UserError(
                f"{type(self).__name__} is to start from a policy (warm_start), but its latent problem has none: pass "
                "one with a policy, or set warm_start to false."
            )
        self.problem, self.horizon, self.iterations = problem, horizon, iterations
        self.restarts, self.restart_samples, self.tolerance = restarts, restart_samples, tolerance
        self.policy_start, self.keep_plans = policy_start, keep_plans
        self.initial_candidates, self.initial_correlation = initial_candidates, initial_correlation
        self.traces = 0
        # A partial, since TensorFlow would take several planners, with the same code, for one that is traced each time.
        own = functools.partial(self._traced)
        self._compiled = tf.function(own, jit_compile=jit_compile, autograph=False)

    def __call__(
        self, z0: tf.Tensor, seed: tf.Tensor, warm: WarmStart | None = None, iterations: int | None = None
    ) -> Plan:
        """Plan from z0 [B, n].

        Args:
            z0: first states, float32 [B, n], or float64 for a plan in float64.
            seed: int32 [2], from which a seed is derived for each plan, or one seed per plan, [B, 2].
            warm: initial actions, None for random ones.
            iterations: stop after this many (at most the planner's own) without compiling again; 0 returns the initial
                plan.
        """
        z0 = tf.convert_to_tensor(z0)
        if warm is not None:
            warm = WarmStart(tf.convert_to_tensor(warm.actions, z0.dtype), tf.convert_to_tensor(warm.steps, tf.int32))
        limit = tf.constant(self.iterations if iterations is None else min(iterations, self.iterations))
        return self._compiled(z0, tf.convert_to_tensor(seed, tf.int32), warm, limit)

    def _traced(self, z0, seed, warm, limit):
        self.traces += 1  # runs in Python, so only while tracing
        if z0.shape.rank != 2 or z0.shape[0] is None or z0.shape[1] != self.problem.state_size:
            raise ValueError(f"Expected first states of shape [B, {self.problem.state_size}], got {z0.shape}.")
        seeds = seed if seed.shape.rank == 2 else split_seed(seed, z0.shape[0])
        if self.policy_start:
            warm = self._from_policy(z0, seeds)
        if self.restarts > 1:
            return self._best_restart(z0, seeds, warm, limit)
        plan = self._with_value(z0, self._plan_once(z0, seeds, warm, limit))
        if self.keep_plans:
            score = _score_within(self._score(z0, plan, seeds), self._excess(z0, plan))
            plan = plan._replace(kept=plan.actions[:, None], kept_scores=score[:, None])
        return plan

    def _from_policy(self, z0, seeds):
        """A warm start that is the policy's mean, then, where the planner takes several, samples of it."""
        B, C, problem = z0.shape[0], self.num_warm_starts, self.problem
        noise = policy_noise(problem, C * self.horizon, seeds, z0.dtype)
        noise = tf.reshape(noise, [B, C, self.horizon, problem.action_size])
        noise *= tf.cast(tf.range(C) > 0, z0.dtype)[:, None, None]
        actions, _ = policy_rollout(problem, tf.repeat(z0[:, None], C, 1), noise)
        return WarmStart(actions, tf.fill([B], self.horizon))

    def _plan_once(self, z0, seeds, warm, limit):
        """Plans without restarts, from the best initial actions."""
        if self.initial_candidates > 1 or self.initial_correlation > 0:
            warm = self._best_initial(z0, seeds, warm)
        return self._optimize(z0, seeds, warm, limit)

    def _best_initial(self, z0, seeds, warm):
        """A warm start for the whole horizon: the best of the random sequences and of `warm`."""
        count, dtype = max(self.initial_candidates, self.num_warm_starts), z0.dtype
        random = random_sequences(self.problem, count, self.horizon, seeds, dtype, self.initial_correlation)
        actions = best_initial(self.problem, z0, warm, random, self.num_warm_starts)
        return WarmStart(actions, tf.fill([z0.shape[0]], self.horizon))

    def _with_value(self, z0, plan):
        """Adds the terminal value of a plan's actions, if the problem has one."""
        if self.problem.value is None:
            return plan
        return plan._replace(value=self.problem.value(rollout(self.problem.step, z0, plan.actions)[:, -1]))

    def _best_restart(self, z0, seeds, warm, limit):
        """The best of `restarts` plans for each first state; only the first one uses the warm start."""
        B, R = z0.shape[0], self.restarts
        z0 = tf.repeat(z0, R, 0)
        seeds = tf.reshape(tf.map_fn(lambda seed: split_seed(seed, R), seeds), [B * R, 2])
        if warm is not None:
            first = tf.tile(tf.one_hot(0, R, dtype=tf.int32), [B])
            warm = WarmStart(tf.repeat(warm.actions, R, 0), tf.repeat(warm.steps, R) * first)
        plan = self._with_value(z0, self._plan_once(z0, seeds, warm, limit))
        score, excess = self._score(z0, plan, seeds), self._excess(z0, plan)
        order = self._ranked(tf.reshape(score, [B, R]), excess)
        score = tf.reshape(_score_within(score, excess), [B, R])
        rows = tf.range(B) * R + order[:, 0]
        chosen = tf.nest.map_structure(lambda x: None if x is None else tf.gather(x, rows), plan)
        if self.keep_plans:
            index = order[:, : self.keep_plans]
            kept = tf.gather(tf.reshape(plan.actions, [B, R, *plan.actions.shape[1:]]), index, batch_dims=1)
            chosen = chosen._replace(kept=kept, kept_scores=tf.gather(score, index, batch_dims=1))
        # Count the iterates rejected in all restarts.
        return chosen._replace(non_finite=tf.reduce_sum(tf.reshape(plan.non_finite, [B, R]), 1))

    @staticmethod
    def _ranked(score, excess):
        """The order of restarts with `score` [B, R], the best first, int32 [B, R]; equal ones keep theirs.

        Those with less `excess` [B R], if there is a constraint, come first.
        """
        known = tf.where(tf.math.is_finite(score), score, score.dtype.min)
        order = tf.argsort(known, direction="DESCENDING", stable=True)
        if excess is None:
            return order
        excess = tf.reshape(tf.where(tf.math.is_finite(excess), excess, excess.dtype.max), score.shape)
        return tf.gather(order, tf.argsort(tf.gather(excess, order, batch_dims=1), stable=True), batch_dims=1)

    def _excess(self, z0, plan):
        """By how much plans break the state constraint beyond its tolerance, [B]; None without one."""
        del z0, plan
        return None

    def _score(self, z0, plan, seeds):
        """Returns [B] that compare restarts: under the mean dynamics, or the mean over sampled rollouts."""
        if self.restart_samples and self.problem.sample_step is not None:
            return sampled_return(self.problem, z0, plan.actions, fold_in(seeds, SCORES), self.restart_samples)
        score = tf.reduce_sum(plan.rewards, 1)
        return score if plan.value is None else score + plan.value

    @abc.abstractmethod
    def _optimize(self, z0: tf.Tensor, seeds: tf.Tensor, warm: WarmStart | None, limit: tf.Tensor) -> Plan:
        """The planner's own part, traced into the compiled function.

        Args:
            z0: first states [B, n].
            seeds: one per plan, int32 [B, 2].
            warm: action sequences to start from, or None. Where the settings ask for a better start than the planner's
                own (`initial_candidates`, `policy_start`), it is in here.
            limit: scalar, after how many iterations to stop, at most `iterations`; 0 returns the initial plan.
        """

    def _meets_constraints(self, metrics):
        """Whether plans with these metrics [B, len(CURVES)] satisfy their constraints, bool [B]."""
        return tf.ones(metrics.shape[:1], tf.bool)

    def _is_rejected(self, after, before):
        """Whether an iteration undid its step, bool [B]: no change then does not mean that the search has converged."""
        del before
        return tf.zeros(after.metrics.shape[:1], tf.bool)

    def _loop(self, body, search, limit):
        """`planners.stopping.iterate` with this planner's iterations and tolerance."""
        return iterate(body, search, limit, self.iterations, self._is_stable if self.tolerance else None)

    def _is_stable(self, k, after, before):
        metrics, rejected = after.metrics, self._is_rejected(after, before)
        change = tf.abs(metrics[:, 0] - before.metrics[:, 0])
        small = change <= self.tolerance * tf.maximum(tf.abs(metrics[:, 0]), 1.0)
        return (k > 0) & small & ~rejected & self._meets_constraints(metrics)

    def _curves(self, history, count, final):
        """Curves from history [B, C, K], with entries from `count` [B] on replaced by `final` [B, C]."""
        known = tf.range(history.shape[-1]) < count[:, None, None]
        curves = tf.unstack(tf.where(known, history, final[:, :, None]), axis=1)
        return dict(zip(self.CURVES, curves, strict=True))

    def _lagged_curves(self, history, count, final):
        """`_curves` for iterations that record the metrics before their step; `final` is after the last step."""
        shifted = tf.concat([history[:, :, 1:], final[:, :, None]], -1)
        return self._curves(shifted, tf.maximum(count - 1, 0), final)


def _score_within(score, excess):
    """Scores [B], NaN for plans that break the state constraint: nothing should learn from them."""
    return score if excess is None else tf.where(excess > 0.0, tf.constant(math.nan, score.dtype), score)
