"""Trajectory optimizers over a latent problem: plain callables in, a plan out.

Every planner is an object built once for a problem and a horizon and called as `planner(z0, seed) -> Plan`. One call is
one compiled `tf.function` that runs the whole optimization for a batch of B first states. Planners know nothing of
world models, agents or images, and hold no state besides their compiled function: all randomness comes from `seed`.

Index convention: from the first state z_0 (given), action t leads to state t + 1, so that entry t of a plan's actions,
states and rewards is (a_t, z_{t+1}, r(z_{t+1})). Shapes: B plans, horizon H, state size n, action size m.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from errors import UserError, unknown
from least_squares import block_tridiagonal_step, condensed_step

# Multipliers grow and shrink by factors, so over hundreds of iterations they would leave float32 in both directions
# (0.54^200 is 1e-54, 2.4^200 is 1e76) and zero could never grow again. Below the lower bound a multiplier is lost in
# the damping (it enters the step as lambda + damping), so that shrinking further would only delay its recovery; above
# the upper bound the constraint is met to float32's precision, and the float64 normal equations of the
# block-tridiagonal solver (condition about multiplier / damping) are still solvable. The paper's ablation without
# relaxation starts from 1e8, well inside.
MULTIPLIER_RANGE = (1e-6, 1e10)

# A plan whose step led to non-finite numbers goes back and damps its next step more, and less again after a success, as
# Levenberg and Marquardt do; without it, the same step would fail again.
DAMPING_FACTOR = 10.0


@dataclasses.dataclass(frozen=True)
class LatentProblem:
    """What a planner needs to know of a world model: plain callables of tensors with any leading dimensions.

    Attributes:
        step: (z [..., n], a [..., m]) -> mean of the next state [..., n].
        reward: z [..., n] -> mean reward [...] of being in that state.
        state_size: n.
        action_size: m.
        sample_step: (z [..., n], a [..., m], seed int32 [2]) -> a sample of the next state [..., n], or None where
            the dynamics have no noise.
        linearize: (z [N, n], a [N, m]) -> (mu [N, n], A [N, n, n], B [N, n, m]), the mean next state and its
            Jacobians by z and a; None falls back on automatic differentiation of `step`.
        a_max: actions are bounded by |a| <= a_max.
    """

    step: Callable
    reward: Callable
    state_size: int
    action_size: int
    sample_step: Callable | None = None
    linearize: Callable | None = None
    a_max: float = 1.0


class Plan(NamedTuple):
    """The result of planning for a batch of B first states.

    Attributes:
        actions: [B, H, m], within the bounds.
        states: [B, H, n], z_1 ... z_H as the planner itself sees them; for collocation they may violate the dynamics.
        rewards: [B, H], predicted for `actions` rolled out through the mean dynamics: one yardstick for all planners.
        curves: name -> [B, iterations], the plan after each iteration. `reward`: summed over the planner's own states
            (CEM: mean return of the elites); collocation adds `dynamics_violation` and `action_violation` (squared,
            summed over time) and `lam`, `nu` (multipliers, mean over time).
        non_finite: int32 [B], how many iterates (CEM: candidates) were thrown away as not finite.
    """

    actions: tf.Tensor
    states: tf.Tensor
    rewards: tf.Tensor
    curves: dict[str, tf.Tensor]
    non_finite: tf.Tensor


def rollout(step: Callable, z0: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Return the states [..., H, n] that actions [..., H, m] lead to from z0 [..., n] under `step`."""
    time_first = tf.transpose(actions, [actions.shape.rank - 2, *range(actions.shape.rank - 2), actions.shape.rank - 1])
    states = tf.scan(step, time_first, z0)
    return tf.transpose(states, [*range(1, actions.shape.rank - 1), 0, actions.shape.rank - 1])


def linearize_by_tape(step: Callable, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (mu [N, n], A [N, n, n], B [N, n, m]) of `step` at z [N, n], a [N, m] by automatic differentiation."""
    with tf.GradientTape() as tape:
        inputs = tf.concat([z, a], -1)
        tape.watch(inputs)
        mu = step(inputs[:, : z.shape[-1]], inputs[:, z.shape[-1] :])
    jacobian = tape.batch_jacobian(mu, inputs)
    return mu, jacobian[..., : z.shape[-1]], jacobian[..., z.shape[-1] :]


class Planner(abc.ABC):
    """A trajectory optimizer: checks its inputs, compiles `_optimize` once and counts how often it was traced.

    Args:
        problem: the latent problem; its callables are traced into the compiled function, variables stay variables.
        horizon: H, number of actions to plan.
        jit_compile: compile with XLA.
    """

    def __init__(self, problem: LatentProblem, horizon: int, jit_compile: bool = True):
        if horizon < 1:
            raise UserError(f"The planning horizon must be at least 1, not {horizon}.")
        self.problem = problem
        self.horizon = horizon
        self.traces = 0
        self._compiled = tf.function(self._traced, jit_compile=jit_compile, autograph=False)

    def __call__(self, z0: tf.Tensor, seed: tf.Tensor) -> Plan:
        """Plan from z0 [B, n].

        Args:
            z0: the first states, float32 [B, n] (or float64, then the plan is).
            seed: int32 [2], from which a seed for each plan is derived, or these seeds themselves, [B, 2].
        """
        return self._compiled(tf.convert_to_tensor(z0), tf.convert_to_tensor(seed, tf.int32))

    def _traced(self, z0, seed):
        self.traces += 1  # runs in Python, so only while tracing
        if z0.shape.rank != 2 or z0.shape[0] is None or z0.shape[1] != self.problem.state_size:
            raise ValueError(f"Expected first states of shape [B, {self.problem.state_size}], got {z0.shape}.")
        seeds = seed if seed.shape.rank == 2 else split_seed(seed, z0.shape[0])
        return self._optimize(z0, seeds)

    @abc.abstractmethod
    def _optimize(self, z0: tf.Tensor, seeds: tf.Tensor) -> Plan:
        """Plan from z0 [B, n] with one seed a plan, int32 [B, 2]; traced into the compiled function."""


class CEM(Planner):
    """Cross-entropy method over action sequences (PlaNet, algorithm 2).

    The belief starts as Normal(0, a_max^2), candidates are clipped to the bounds, and the belief is refit to the
    elites' mean and standard deviation (PlaNet's text writes the mean absolute deviation, LatCo's appendix D the
    standard deviation; the latter is what matches a Gaussian). The plan is the final mean. A candidate whose return is
    not finite is never an elite; where fewer than two elites are left the belief stays.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of refits.
        candidates: action sequences a refit, for each plan.
        elites: how many of them the belief is refit to.
        sample_states: evaluate candidates on sampled trajectories as PlaNet does; otherwise on the mean dynamics.
        jit_compile: compile with XLA.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 10,
        candidates: int = 1000,
        elites: int = 100,
        sample_states: bool = True,
        jit_compile: bool = True,
    ):
        super().__init__(problem, horizon, jit_compile)
        if not 2 <= elites <= candidates:
            raise UserError(f"CEM needs 2 <= elites <= candidates, not elites={elites}, candidates={candidates}.")
        if sample_states and problem.sample_step is None:
            raise UserError("CEM with sample_states needs a problem with a sample_step; pass sample_states=False.")
        self.iterations, self.candidates, self.elites = iterations, candidates, elites
        self.sample_states = sample_states

    def _optimize(self, z0, seeds):
        B, shape = z0.shape[0], [z0.shape[0], self.horizon, self.problem.action_size]
        curve = tf.TensorArray(z0.dtype, self.iterations, element_shape=[B])

        def body(k, mean, std, curve, non_finite):
            seeds_k = tf.map_fn(lambda seed: _fold_in(seed, k), seeds)
            mean, std, score, thrown = self._refit(z0, mean, std, seeds_k)
            return k + 1, mean, std, curve.write(k, score), non_finite + thrown

        start = (
            0,
            tf.zeros(shape, z0.dtype),
            self.problem.a_max * tf.ones(shape, z0.dtype),
            curve,
            tf.zeros([B], tf.int32),
        )
        _, mean, _, curve, non_finite = tf.while_loop(
            lambda k, *_: k < self.iterations, body, start, maximum_iterations=self.iterations
        )
        curves = {"reward": tf.transpose(curve.stack())}
        states = rollout(self.problem.step, z0, mean)
        return Plan(mean, states, self.problem.reward(states), curves, non_finite)

    def _refit(self, z0, mean, std, seeds):
        """One iteration: the new mean and std [B, H, m], mean return of the elites [B], non-finite candidates [B]."""
        shape = [self.candidates, self.horizon, self.problem.action_size]
        noise = tf.map_fn(
            lambda seed: tf.random.stateless_normal(shape, seed, dtype=z0.dtype), seeds, fn_output_signature=z0.dtype
        )
        bound = self.problem.a_max
        actions = tf.clip_by_value(mean[:, None] + std[:, None] * noise, -bound, bound)
        returns = self._returns(z0, actions, _fold_in(seeds[0], 1))
        finite = tf.math.is_finite(returns)
        scores, elites = tf.math.top_k(tf.where(finite, returns, returns.dtype.min), self.elites)
        elites = tf.gather(actions, elites, batch_dims=1)
        # [B, K, 1, 1], zero for an elite that is only there because too few candidates are finite.
        weight = tf.cast(scores > scores.dtype.min, z0.dtype)[..., None, None]
        count = tf.reduce_sum(weight, 1)
        new_mean = tf.math.divide_no_nan(tf.reduce_sum(weight * elites, 1), count)
        variance = tf.math.divide_no_nan(tf.reduce_sum(weight * tf.square(elites - new_mean[:, None]), 1), count)
        enough = count >= 2
        score = tf.math.divide_no_nan(tf.reduce_sum(weight[..., 0, 0] * scores, 1), count[:, 0, 0])
        thrown = self.candidates - tf.reduce_sum(tf.cast(finite, tf.int32), 1)
        return tf.where(enough, new_mean, mean), tf.where(enough, tf.sqrt(variance), std), score, thrown

    def _returns(self, z0, actions, seed):
        """Return of each candidate [B, J] for actions [B, J, H, m]."""
        problem = self.problem
        start = tf.repeat(z0, self.candidates, axis=0)  # [B * J, n]
        actions = tf.transpose(tf.reshape(actions, [-1, *actions.shape[2:]]), [1, 0, 2])

        def body(t, z, total):
            if self.sample_states:
                z = problem.sample_step(z, actions[t], _fold_in(seed, t))
            else:
                z = problem.step(z, actions[t])
            return t + 1, z, total + problem.reward(z)

        start = (0, start, tf.zeros(start.shape[:1], z0.dtype))
        total = tf.while_loop(lambda t, *_: t < self.horizon, body, start, maximum_iterations=self.horizon)[-1]
        return tf.reshape(total, [-1, self.candidates])


SOLVERS = {"condensed": condensed_step, "block_tridiagonal": block_tridiagonal_step}
XLA_SOLVERS = ("condensed",)  # XLA expands float64 Cholesky factorizations of 230 x 230 into slow loops on CPU


class LatCo(Planner):
    """Latent collocation with deterministic plans (LatCo, ICML 2021: algorithm 1, section 4 and appendix B).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of primal steps, each followed by an update of the multipliers.
        solver: "condensed" or "block_tridiagonal" (see least_squares.py).
        damping: Levenberg-Marquardt damping, in units of the mean of the plan's dynamics multipliers. This is what
            normalizing the objective by that mean amounts to. Where steps leave the region in which the linearization
            holds, violations stay, multipliers grow and so does the damping; an absolute damping of the same 1e-3
            diverges on random RSSMs.
        eps_dyn: threshold on the squared dynamics violation of a time step.
        eps_act: threshold on the squared action violation of a time step.
        eta: keeps the logarithm of the dual update finite.
        dual_lr: alpha of the dual update.
        dual_log: "e" for the paper's natural logarithm, "10" for the base of the authors' code.
        lam_init: first multipliers of the dynamics.
        nu_init: first multipliers of the action bounds.
        reward_residual: r [...] -> residual [...]; maximizing the reward is minimizing its square.
        jit_compile: compile with XLA where the solver allows it.
    """

    CURVES = ("reward", "dynamics_violation", "action_violation", "lam", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 200,
        solver: str = "condensed",
        damping: float = 1e-3,
        eps_dyn: float = 1e-4,
        eps_act: float = 1e-4,
        eta: float = 0.01,
        dual_lr: float = 0.1,
        dual_log: str = "e",
        lam_init: float = 1.0,
        nu_init: float = 1.0,
        reward_residual: Callable = lambda reward: tf.nn.softplus(-reward),
        jit_compile: bool = True,
    ):
        if solver not in SOLVERS:
            raise unknown("collocation solver", solver, SOLVERS)
        if dual_log not in ("e", "10"):
            raise UserError(f"The logarithm of the dual update is 'e' or '10', not {dual_log!r}.")
        if damping <= 0:
            raise UserError(f"The damping of LatCo must be positive, not {damping}.")
        super().__init__(problem, horizon, jit_compile and solver in XLA_SOLVERS)
        self.iterations, self.solve, self.damping = iterations, SOLVERS[solver], damping
        self.eps_dyn, self.eps_act, self.eta = eps_dyn, eps_act, eta
        self.log_lr = dual_lr if dual_log == "e" else dual_lr / math.log(10)
        self.lam_init, self.nu_init = lam_init, nu_init
        self.reward_residual = reward_residual

    def dual_update(self, multiplier: tf.Tensor, violation: tf.Tensor, eps: float) -> tf.Tensor:
        """ICML equation 10: multiplier + alpha log(violation / eps + eta) multiplier, kept in MULTIPLIER_RANGE."""
        updated = multiplier + self.log_lr * tf.math.log(violation / eps + self.eta) * multiplier
        return tf.clip_by_value(updated, *MULTIPLIER_RANGE)

    def _optimize(self, z0, seeds):
        B, start = z0.shape[0], self._start(z0, seeds)
        search = Search(
            plan=start,
            kept=start,
            duals=tuple(tf.fill([B, self.horizon], tf.cast(x, z0.dtype)) for x in (self.lam_init, self.nu_init)),
            damping=tf.fill([B], tf.cast(self.damping, z0.dtype)),
            record=tf.zeros([B, len(self.CURVES)], z0.dtype),
            rejected=tf.zeros([B], tf.int32),
        )
        # Entry k is the plan after k steps; entry 0, the start, is no part of the curves.
        curve = tf.TensorArray(z0.dtype, self.iterations + 1, element_shape=search.record.shape)

        def body(k, search, curve):
            search = self._iterate(k, z0, search)
            return k + 1, search, curve.write(k, search.record)

        _, search, curve = tf.while_loop(
            lambda k, *_: k < self.iterations, body, (0, search, curve), maximum_iterations=self.iterations
        )
        mu = self.problem.step(_before(z0, search.plan[0]), search.plan[1])
        finite, search = self._after_step(self.iterations, self._residuals(search.plan, mu), search)
        curves = tf.transpose(curve.write(self.iterations, search.record).stack()[1:], [2, 1, 0])
        curves = dict(zip(self.CURVES, tf.unstack(curves), strict=True))
        candidates = [_where(finite, search.plan, search.kept), search.kept, start]
        return _best_finite(self.problem, z0, candidates, curves, search.rejected + tf.cast(~finite, tf.int32))

    def _iterate(self, k, z0, search):
        """Update the multipliers for the present plan and take step k + 1 from it.

        A plan is kept once its residuals, Jacobians and step have turned out finite; where they have not, the search
        goes back to the one before and damps the next step more.
        """
        mu, A, B = self._linearize(z0, search.plan)
        residuals = self._residuals(search.plan, mu)
        finite, search = self._after_step(k, residuals, search)
        damping = search.damping * tf.reduce_mean(search.duals[0], 1)
        step = self.solve(A, B, *residuals[:5], *search.duals, damping)
        finite &= _all_finite(*step)
        moved = tuple(x + dx for x, dx in zip(search.plan, step, strict=True))
        return search._replace(
            plan=_where(finite, moved, search.kept),
            kept=_where(finite, search.plan, search.kept),
            damping=tf.where(
                finite, tf.maximum(search.damping / DAMPING_FACTOR, self.damping), search.damping * DAMPING_FACTOR
            ),
            rejected=search.rejected + tf.cast(~finite, tf.int32),
        )

    def _start(self, z0, seeds):
        """First states [B, H, n] and actions [B, H, m]: random actions and their rollout through the mean dynamics."""
        bound, shape = self.problem.a_max, [self.horizon, self.problem.action_size]
        actions = tf.map_fn(
            lambda seed: tf.random.stateless_uniform(shape, seed, -bound, bound, z0.dtype),
            seeds,
            fn_output_signature=z0.dtype,
        )
        return rollout(self.problem.step, z0, actions), actions

    def _linearize(self, z0, plan):
        """Mean next states mu [B, H, n] and Jacobians A [B, H, n, n], B [B, H, n, m] along a plan."""
        states, actions = plan
        linearize = self.problem.linearize or functools.partial(linearize_by_tape, self.problem.step)
        flat = linearize(*(tf.reshape(x, [-1, x.shape[-1]]) for x in (_before(z0, states), actions)))
        return [tf.reshape(x, [*states.shape[:2], *x.shape[1:]]) for x in flat]

    def _residuals(self, plan, mu):
        """The Residuals of a plan whose mean next states are mu [B, H, n]."""
        states, actions = plan
        v = tf.nn.relu(tf.abs(actions) - self.problem.a_max)
        with tf.GradientTape() as tape:
            tape.watch(states)
            rewards = self.problem.reward(states)
            rho = self.reward_residual(rewards)
        g = tape.gradient(rho, states)  # every residual depends on its own state only
        return Residuals(states - mu, v, tf.sign(actions) * tf.cast(v > 0, v.dtype), rho, g, rewards)

    def _after_step(self, k, residuals, search):
        """Whether the residuals after step k are finite, bool [B], and the search with its multipliers updated.

        Step 0 is the start, which updates no multipliers. A plan that is not finite leaves them and its record as
        they are.
        """
        finite = _all_finite(residuals.e, residuals.rho)
        dynamics, bound = (tf.reduce_sum(tf.square(x), -1) for x in (residuals.e, residuals.v))
        lam = self.dual_update(search.duals[0], dynamics, self.eps_dyn)
        nu = self.dual_update(search.duals[1], bound, self.eps_act)
        duals = _where(finite & (k > 0), (lam, nu), search.duals)
        sums = [tf.reduce_sum(x, 1) for x in (residuals.rewards, dynamics, bound)]
        record = tf.stack(sums + [tf.reduce_mean(x, 1) for x in duals], -1)
        return finite, search._replace(duals=duals, record=tf.where(finite[:, None], record, search.record))


class Search(NamedTuple):
    """What a collocation search carries from one iteration to the next."""

    plan: tuple[tf.Tensor, tf.Tensor]  # states [B, H, n] and actions [B, H, m]
    kept: tuple[tf.Tensor, tf.Tensor]  # the last plan known to be finite in all that was computed from it
    duals: tuple[tf.Tensor, tf.Tensor]  # lam and nu [B, H]
    damping: tf.Tensor  # [B], in units of the mean of lam
    record: tf.Tensor  # [B, 5], the present entry of LatCo.CURVES
    rejected: tf.Tensor  # int32 [B]


class Residuals(NamedTuple):
    """Residuals of a plan and their derivatives, in the order and with the names of least_squares.py."""

    e: tf.Tensor  # [B, H, n]
    v: tf.Tensor  # [B, H, m]
    V: tf.Tensor  # [B, H, m]
    rho: tf.Tensor  # [B, H]
    g: tf.Tensor  # [B, H, n]
    rewards: tf.Tensor  # [B, H]


def _best_finite(problem, z0, candidates, curves, non_finite) -> Plan:
    """The first of the candidates (states, actions) that is finite and has a finite predicted return."""
    bound = problem.a_max
    states, actions = (tf.stack(x, 1) for x in zip(*candidates, strict=True))  # [B, C, H, ...]
    actions = tf.clip_by_value(actions, -bound, bound)
    rewards = problem.reward(rollout(problem.step, tf.repeat(z0[:, None], len(candidates), 1), actions))
    finite = tf.reduce_all(tf.math.is_finite(rewards), -1) & tf.reduce_all(tf.math.is_finite(states), [-2, -1])
    best = tf.argmax(tf.cast(finite, tf.int32), 1, tf.int32)  # the first maximum; the last resort is candidate 0
    return Plan(*(tf.gather(x, best, batch_dims=1) for x in (actions, states, rewards)), curves, non_finite)


def split_seed(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` independent seeds, int32 [count, 2], from one seed, int32 [2]."""
    return tf.random.split(seed, count)


def _fold_in(seed, number):
    return tf.random.fold_in(seed, tf.cast(number, tf.int32))


def _before(z0, states):
    """The states [B, H, n] that the actions act on: z_0 ... z_{H-1}."""
    return tf.concat([z0[:, None], states[:, :-1]], 1)


def _all_finite(*tensors):
    """Whether everything is finite in each plan, bool [B]."""
    checks = [tf.reduce_all(tf.math.is_finite(tf.reshape(x, [x.shape[0], -1])), -1) for x in tensors]
    return tf.reduce_all(tf.stack(checks), 0)


def _where(condition, yes, no):
    """tf.where for tuples of tensors with one condition [B] a plan."""
    rows = lambda x: tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1))  # noqa: E731
    return tuple(tf.where(rows(a), a, b) for a, b in zip(yes, no, strict=True))
