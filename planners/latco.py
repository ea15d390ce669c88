"""LatCo: Levenberg-Marquardt on states and actions, with multipliers on the dynamics and the action bounds.

The linear system of a step is solved in least_squares.py. Conventions and shapes: optimizers.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem, Plan, Planner
from planners.augmented import augmented_residuals
from planners.collocation_solvers import SOLVERS, XLA_SOLVERS, faster_solver
from planners.finish import better_of_pairs, finish_plans, finished_curves
from planners.initial import random_actions, warm_actions
from planners.linearization import linearize, values_and_gradients
from planners.multipliers import MULTIPLIER_RANGE, action_residuals, scale_multipliers, squared_constraint_violation
from planners.residuals import (
    DAMPING_FACTOR,
    LARGEST_DAMPING,
    objective_residuals,
    softplus_residual,
    state_residuals,
    terminal_value,
)
from planners.rows import all_finite, where_rows
from planners.trajectories import best_finite, previous_states, rollout
from tools.errors import UserError, unknown

# The multiplier of each constraint, by the curve that shows its violation.
MULTIPLIERS = {"dynamics_violation": "lam", "action_violation": "nu", "constraint_violation": "kappa"}


class Search(NamedTuple):
    """State of the optimization between iterations."""

    variables: tuple[tf.Tensor, ...]  # states [B, H, n], actions [B, H, m] and, for Gaussian plans, std [B, H, n]
    last_finite: tuple[tf.Tensor, ...]  # the last variables with finite residuals, Jacobians and step
    duals: dict[str, tf.Tensor]  # lam and nu [B, H], kappa [B, H, c]
    damping: tf.Tensor  # [B], in units of the mean of lam
    failed: tf.Tensor  # bool [B], whether the search has just gone back to `last_finite`
    metrics: tf.Tensor  # [B, len(CURVES)]
    non_finite: tf.Tensor  # int32 [B]


class Residuals(NamedTuple):
    """Residuals of a plan and their derivatives, named and ordered as in least_squares.py."""

    e: tf.Tensor  # [B, H, n]
    v: tf.Tensor  # [B, H, m]
    V: tf.Tensor  # [B, H, m]
    rho: tf.Tensor  # [B, H, k + c]: `objective_residuals`, then the constraints without their multipliers
    g: tf.Tensor  # [B, H, k + c, n]
    objective: tf.Tensor  # [B], sum of the rewards and the terminal value
    dynamics: tf.Tensor  # [B, H], squared violation of all dynamics constraints of a step


class LatCo(Planner):
    """Latent collocation with deterministic plans (LatCo, ICML 2021: algorithm 1, section 4 and appendix B).

    State constraints of the problem, `constraint(z) <= 0`, become residuals max(0, constraint(z)). Their multipliers
    kappa follow the same dual update. (The papers leave state constraints to future work.)

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of primal steps, each followed by a dual update.
        solver: "condensed", "block_tridiagonal" (see least_squares.py), or "auto" for the faster one.
        damping: Levenberg-Marquardt damping, relative to the mean of the plan's dynamics multipliers (equivalent to
            normalizing the objective by that mean). If steps leave the region where the linearization is valid,
            violations remain, multipliers grow, and the damping grows with them. An absolute damping of 1e-3 diverges
            on random RSSMs.
        eps_dyn: threshold on the squared dynamics violation of a time step.
        eps_act: threshold on the squared action violation of a time step.
        eps_con: threshold on the squared violation of a state constraint at a time step.
        eta: keeps the logarithm of the dual update finite.
        dual_lr: alpha of the dual update; 0 keeps the multipliers fixed.
        dual_log: base of its logarithm, "e" as in the paper or "10" as in the authors' code.
        lam_init: initial multipliers of the dynamics.
        nu_init: initial multipliers of the action bounds.
        kappa_init: initial multipliers of the state constraints.
        finish: additional steps at the end, on plans that satisfy the bounds and the dynamics (finish.py). With 0, the
            actions of the last iterate are only clipped.
        keep_start: also finish the actions that the search started from, and keep the better plan under the model;
            needs a finish.
        reward_residual: r [...] -> residual [...]; maximizing the reward is minimizing its square.
        jit_compile: compile with XLA where the solver allows it.
        **options: those of `Planner`.
    """

    CURVES: tuple[str, ...] = ("reward", "dynamics_violation", "action_violation", "lam", "nu")
    KEEPS_CONSTRAINTS = True
    AUGMENTS = True

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 200,
        solver: str = "auto",
        *,
        damping: float = 1e-5,
        eps_dyn: float = 1e-4,
        eps_act: float = 1e-4,
        eps_con: float = 1e-4,
        eta: float = 0.01,
        dual_lr: float = 0.1,
        dual_log: str = "e",
        lam_init: float = 1.0,
        nu_init: float = 1.0,
        kappa_init: float = 1.0,
        finish: int = 10,
        keep_start: bool = False,
        reward_residual: Callable = softplus_residual,
        jit_compile: bool = True,
        **options,
    ):
        if solver != "auto" and solver not in SOLVERS:
            raise unknown("collocation solver", solver, ["auto", *SOLVERS])
        if keep_start and not finish:
            raise UserError("latco_keep_start needs a finish: raise latco_finish, or set latco_keep_start to false.")
        self.solver = faster_solver(horizon, problem.state_size) if solver == "auto" else solver
        super().__init__(
            problem, horizon, iterations + finish, jit_compile=jit_compile and self.solver in XLA_SOLVERS, **options
        )
        self.finish_steps, self.keep_start = finish, keep_start
        self.damping, self.eta, self.reward_residual = damping, eta, reward_residual
        self.eps = {"lam": eps_dyn, "nu": eps_act, "kappa": eps_con}
        self.first_duals = {"lam": lam_init, "nu": nu_init, "kappa": kappa_init}
        self.dual_lr = dual_lr if dual_log == "e" else dual_lr / math.log(10)  # of the natural logarithm
        if problem.constraint is not None:
            self.CURVES = (*LatCo.CURVES, "constraint_violation", "kappa")

    def dual_update(self, multiplier: tf.Tensor, violation: tf.Tensor, eps: float) -> tf.Tensor:
        """ICML equation 10 with this planner's alpha and eta; see `planners.multipliers.scale_multipliers`."""
        return scale_multipliers(multiplier, violation, eps, self.dual_lr, self.eta)

    def _optimize(self, z0, seeds, warm, limit):
        noise = self._noise(seeds, z0.dtype)
        start = self._start(z0, seeds, warm, noise)
        search = Search(
            variables=start,
            last_finite=start,
            duals=self._start_duals(z0),
            damping=tf.fill([z0.shape[0]], tf.cast(self.damping, z0.dtype)),
            failed=tf.zeros([z0.shape[0]], tf.bool),
            metrics=tf.zeros([z0.shape[0], len(self.CURVES)], z0.dtype),
            non_finite=tf.zeros([z0.shape[0]], tf.int32),
        )
        search_limit = tf.minimum(limit, self.iterations - self.finish_steps)
        search, history, count = self._loop(lambda k, s: self._iterate(k, z0, noise, s), search, search_limit)
        residuals = self._residuals(search.variables, self._predict(z0, search.variables, noise), noise)
        finite, search = self._update_duals(count, residuals, search)
        curves = self._lagged_curves(history, count, search.metrics)
        last = where_rows(finite, search.variables, search.last_finite)
        candidates = [variables[:2] for variables in (last, search.last_finite, start)]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        non_finite = search.non_finite + tf.cast(~finite, tf.int32)
        plan = Plan(actions, states, rewards, curves, count, non_finite, actions[:, None])
        return self._with_finish(z0, plan, start[1], noise, limit) if self.finish_steps else plan

    def _with_finish(self, z0, plan, start, noise, limit):
        """The plan after its finish, or unchanged if `limit` ends the search before it.

        `start` [B, H, m] are the actions that the search started from.
        """
        steps = tf.maximum(limit - (self.iterations - self.finish_steps), 0)
        if self.keep_start:
            end, scores = self._better_finish(z0, plan.actions, start, noise, steps)
        else:
            end, scores = self._run_finish(z0, plan.actions, noise, steps)
        rewards = self.problem.reward(rollout(self.problem.step, z0, end.actions))
        curves = finished_curves(plan, end, scores)
        finished = (end.actions, end.states, rewards, curves, plan.iterations + steps, plan.non_finite)
        finished = Plan(*finished, warm_starts=end.actions[:, None])
        better = (steps > 0) & all_finite(end.actions, end.states, end.score, rewards)
        choose = lambda new, old: None if new is None else where_rows(better, new, old)
        return tf.nest.map_structure(choose, finished, plan)

    def _better_finish(self, z0, actions, start, noise, steps):
        """As `_run_finish`, for the better one of two plans. They are finished as one batch."""
        twice = lambda x: tf.concat([x, x], 0)
        both = tf.concat([actions, start], 0)
        ends = self._run_finish(twice(z0), both, tf.nest.map_structure(twice, noise), steps)
        return better_of_pairs(*ends, self._above_tolerance(ends[0].violation))

    def _run_finish(self, z0, actions, noise, steps):
        """Finishes the plan with `actions` [B, H, m]; also returns its score after each step [B, finish_steps]."""
        residuals = lambda states: state_residuals(self.problem, self.reward_residual, states)
        return finish_plans(self.problem, z0, actions, self.finish_steps, steps, residuals)

    def _iterate(self, k, z0, noise, search):
        """Update the multipliers for the current plan, then take step k + 1 from it.

        If residuals, Jacobians or the step are not finite, the search goes back to the last plan for which they were
        finite and increases the damping, which decreases again once a step has led to a finite plan.
        """
        moments, A, B = self._linearize(z0, search.variables, noise)
        residuals = self._residuals(search.variables, moments, noise)
        finite, search = self._update_duals(tf.fill([z0.shape[0]], k), residuals, search)
        rho, g = self._weighted(residuals, search.duals)
        if self.problem.log_prob is not None:
            rho, g = self._augmented(z0, search, rho, g)
        damping = search.damping * tf.maximum(tf.reduce_mean(search.duals["lam"], 1), MULTIPLIER_RANGE[0])
        e, v, V = residuals[:3]
        dz, da = self.solve(A, B, e, v, V, rho, g, search.duals["lam"], search.duals["nu"], damping)
        finite &= all_finite(dz, da)
        lower = tf.maximum(search.damping / DAMPING_FACTOR, self.damping)
        higher = tf.minimum(search.damping * DAMPING_FACTOR, LARGEST_DAMPING)
        return search._replace(
            variables=where_rows(finite, self._apply_step(search.variables, dz, da, moments), search.last_finite),
            last_finite=where_rows(finite, search.variables, search.last_finite),
            damping=tf.where(finite, tf.where(search.failed, search.damping, lower), higher),
            failed=~finite,
            non_finite=search.non_finite + tf.cast(~finite, tf.int32),
        )

    @property
    def solve(self) -> Callable:
        """The linear solver of a step (see least_squares.py)."""
        return SOLVERS[self.solver]

    def _start_duals(self, z0):
        shape = [z0.shape[0], self.horizon]
        duals = {name: tf.fill(shape, tf.cast(self.first_duals[name], z0.dtype)) for name in ("lam", "nu")}
        if self.problem.constraint is not None:
            value = self.problem.constraint(z0)  # for its number of columns
            kappa = tf.cast(self.first_duals["kappa"], z0.dtype)
            duals["kappa"] = tf.fill([*shape, value.shape[-1]], kappa)
        return duals

    def _weighted(self, residuals, duals):
        """The scalar residuals and their gradients, those of state constraints scaled by sqrt(kappa)."""
        if "kappa" not in duals:
            return residuals.rho, residuals.g
        count = duals["kappa"].shape[-1]
        weight = tf.concat([tf.ones_like(residuals.rho[..., :-count]), tf.sqrt(duals["kappa"])], -1)
        return residuals.rho * weight, residuals.g * weight[..., None]

    def _augmented(self, z0, search, rho, g):
        """The scalar residuals and their gradients with those of ColloDreamer's augmented objective."""
        states, actions = search.variables[:2]
        more = augmented_residuals(self.problem, z0, states, actions, search.duals["lam"], self.reward_residual)
        return tf.concat([rho, more[0]], -1), tf.concat([g, more[1]], -2)

    # The parts that depend on the variables of a plan: here states and actions. GaussianLatCo overrides them.

    def _noise(self, seeds, dtype):
        """Random numbers shared by all iterations; deterministic plans need none."""
        return ()

    def _start(self, z0, seeds, warm, noise):
        """The initial plan: random or warm-started actions and their rollout."""
        return self._rollout(z0, warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm), noise)

    def _rollout(self, z0, actions, noise):
        """The variables of the plan of `actions` [B, H, m] that follows the dynamics."""
        return rollout(self.problem.step, z0, actions), actions

    def _linearize(self, z0, variables, noise):
        """The model's predictions along a plan, and its Jacobians A [B, H, n, n], B [B, H, n, m]."""
        mu, A, B = linearize(self.problem, z0, *variables)
        return (mu,), A, B

    def _predict(self, z0, variables, noise):
        """The model's predictions along a plan."""
        return (self.problem.step(previous_states(z0, variables[0]), variables[1]),)

    def _apply_step(self, variables, dz, da, moments):
        """The variables after a step (dz, da) from those with the predictions `moments`."""
        return variables[0] + dz, variables[1] + da

    def _rewards_and_value(self, states, variables, noise):
        """Mean rewards [B, H] and terminal value [B] (or None) of a plan with its states replaced by `states`."""
        return self.problem.reward(states), terminal_value(self.problem, states)

    def _dynamics(self, variables, moments):
        """The dynamics residuals [B, H, n] and the squared violation of all dynamics constraints [B, H]."""
        e = variables[0] - moments[0]
        return e, tf.reduce_sum(tf.square(e), -1)

    def _residuals(self, variables, moments, noise):
        """The `Residuals` of a plan, given the model's predictions `moments` along it."""
        states, actions = variables[:2]
        v, V = action_residuals(actions, self.problem.a_max)

        def scalars(states):
            rewards, value = self._rewards_and_value(states, variables, noise)
            objectives.append(tf.reduce_sum(rewards, 1) + (0.0 if value is None else value))
            rows = [objective_residuals(self.problem, self.reward_residual, rewards, value)]
            if self.problem.constraint is not None:
                rows.append(tf.nn.relu(self.problem.constraint(states)))
            return tf.concat(rows, -1)

        objectives: list[tf.Tensor] = []  # filled by the one call of `scalars`, so that no reward is predicted twice
        rho, g = values_and_gradients(scalars, states)
        e, dynamics = self._dynamics(variables, moments)
        return Residuals(e, v, V, rho, g, objectives[0], dynamics)

    def _update_duals(self, k, residuals, search):
        """Dual update after step k [B]. Returns whether the residuals are finite, bool [B], and the new search.

        There is no update at step 0, the initial plan. A plan that is not finite keeps its multipliers and metrics.
        """
        finite = all_finite(residuals.e, residuals.rho, residuals.g)
        violations = {"lam": residuals.dynamics, "nu": tf.reduce_sum(tf.square(residuals.v), -1)}
        if "kappa" in search.duals:
            violations["kappa"] = tf.square(residuals.rho[..., -search.duals["kappa"].shape[-1] :])
        updated = {name: self.dual_update(search.duals[name], x, self.eps[name]) for name, x in violations.items()}
        duals = where_rows(finite & (k > 0), updated, search.duals)
        curves = {"reward": residuals.objective}
        for curve, name in MULTIPLIERS.items():
            if name in duals:
                curves[curve] = tf.reduce_sum(_flat(violations[name]), 1)
                curves[name] = tf.reduce_mean(_flat(duals[name]), 1)
        metrics = tf.stack([curves[name] for name in self.CURVES], -1)
        return finite, search._replace(duals=duals, metrics=where_rows(finite, metrics, search.metrics))

    def _is_rejected(self, after, before):
        return after.failed

    def _excess(self, z0, plan):
        if self.problem.constraint is None:
            return None
        states = rollout(self.problem.step, z0, plan.actions)
        return self._above_tolerance(squared_constraint_violation(self.problem, states))

    def _above_tolerance(self, violation):
        """What is left of squared violations [B] of the state constraint: eps_con per step satisfies it."""
        return tf.nn.relu(violation - self.horizon * self.eps["kappa"])

    def _meets_constraints(self, metrics):
        entry = dict(zip(self.CURVES, tf.unstack(metrics, axis=-1), strict=True))
        met = [entry[curve] <= self.horizon * self.eps[name] for curve, name in MULTIPLIERS.items() if curve in entry]
        return tf.reduce_all(tf.stack(met), 0)


def _flat(x):
    """[B, ...] as [B, k]."""
    return tf.reshape(x, [x.shape[0], -1])
