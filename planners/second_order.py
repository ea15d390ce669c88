"""Planners that solve linearized problems: LatCo and Gaussian LatCo (states and actions), GN and iLQR (actions).

The linear algebra of their steps is in least_squares.py. Conventions and shapes: optimizers.py.
"""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from optimizers import (
    LatentProblem,
    Plan,
    Planner,
    action_violation,
    all_finite,
    before,
    best_finite,
    fold_in,
    linearize,
    own_gradient,
    payoffs,
    per_plan,
    random_actions,
    rollout,
    scale_multipliers,
    warm_actions,
    where_all,
    where_rows,
)
from planners.least_squares import block_tridiagonal_step, condensed_step, shooting_step
from tools.errors import UserError, unknown

SOLVERS = {"condensed": condensed_step, "block_tridiagonal": block_tridiagonal_step}
XLA_SOLVERS = ("condensed",)  # XLA expands float64 Cholesky factorizations of 230 x 230 into slow loops on CPU

# A plan whose step led to non-finite numbers goes back and damps its next step more, and less again after a success, as
# Levenberg and Marquardt do; without it, the same step would fail again.
DAMPING_FACTOR = 10.0


def softplus_residual(reward: tf.Tensor) -> tf.Tensor:
    """The residual whose square falls as the reward grows: ln(1 + exp(-r)) (LatCo ICML section 4)."""
    return tf.nn.softplus(-reward)


def objective_residuals(
    problem: LatentProblem, residual: Callable, rewards: tf.Tensor, value: tf.Tensor | None
) -> tf.Tensor:
    """The residuals of a plan's rewards and of its terminal value.

    A value is the sum of many rewards, and where it is large softplus(-value) is flat: at a value of 20 its gradient is
    e^-20, although the same return in rewards of 0.2 has plenty. So it counts as what it stands for, w = `value_steps`
    more rewards of value / w each, w residual(value / w)^2. It is a residual of its own: as a part of the last reward's
    it would change that one's curvature.

    Args:
        problem: for `value_steps`.
        residual: r [...] -> residual [...].
        rewards: [..., H].
        value: [...], or None.

    Returns:
        [..., H, 1], or with a value [..., H, 2], the second column zero at all states but the last.
    """
    columns = [residual(rewards)]
    if value is not None:
        last = math.sqrt(problem.value_steps) * residual(value / problem.value_steps)
        columns.append(tf.concat([tf.zeros_like(rewards[..., 1:]), last[..., None]], -1))
    return tf.stack(columns, -1)


def terminal_value(problem: LatentProblem, states: tf.Tensor) -> tf.Tensor | None:
    """The value [...] of the last of states [..., H, n], None where the problem has none."""
    return None if problem.value is None else problem.value(states[..., -1, :])


class Search(NamedTuple):
    """What a collocation search carries from one iteration to the next."""

    plan: tuple[tf.Tensor, ...]  # states [B, H, n], actions [B, H, m] and, for Gaussian plans, std [B, H, n]
    kept: tuple[tf.Tensor, ...]  # the last plan known to be finite in all that was computed from it
    duals: dict[str, tf.Tensor]  # lam and nu [B, H], kappa [B, H, c]
    damping: tf.Tensor  # [B], in units of the mean of lam
    record: tf.Tensor  # [B, len(CURVES)]
    rejected: tf.Tensor  # int32 [B]


class Residuals(NamedTuple):
    """Residuals of a plan and their derivatives, in the order and with the names of least_squares.py."""

    e: tf.Tensor  # [B, H, n]
    v: tf.Tensor  # [B, H, m]
    V: tf.Tensor  # [B, H, m]
    rho: tf.Tensor  # [B, H, k + c]: `objective_residuals`, then the constraints without their multipliers
    g: tf.Tensor  # [B, H, k + c, n]
    promised: tf.Tensor  # [B], sum of the rewards and the terminal value
    dynamics: tf.Tensor  # [B, H], squared violation of all dynamics constraints of a step


class LatCo(Planner):
    """Latent collocation with deterministic plans (LatCo, ICML 2021: algorithm 1, section 4 and appendix B).

    State constraints of the problem, `constraint(z) <= 0`, become residuals max(0, constraint(z)) with multipliers
    kappa of their own, which follow the same dual update. (The papers name state constraints as future work.)

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of primal steps, each followed by an update of the multipliers.
        solver: "condensed", "block_tridiagonal" (see least_squares.py), or "auto" for the faster one.
        damping: Levenberg-Marquardt damping, in units of the mean of the plan's dynamics multipliers. This is what
            normalizing the objective by that mean amounts to. Where steps leave the region in which the linearization
            holds, violations stay, multipliers grow and so does the damping; an absolute damping of the same 1e-3
            diverges on random RSSMs.
        eps_dyn: threshold on the squared dynamics violation of a time step.
        eps_act: threshold on the squared action violation of a time step.
        eps_con: threshold on the squared violation of a state constraint at a time step.
        eta: keeps the logarithm of the dual update finite.
        dual_lr: alpha of the dual update; 0 keeps the multipliers fixed.
        dual_log: "e" for the paper's natural logarithm, "10" for the base of the authors' code.
        lam_init: first multipliers of the dynamics.
        nu_init: first multipliers of the action bounds.
        kappa_init: first multipliers of the state constraints.
        reward_residual: r [...] -> residual [...]; maximizing the reward is minimizing its square.
        jit_compile: compile with XLA where the solver allows it.
        **options: those of `Planner`.
    """

    CURVES = ("reward", "dynamics_violation", "action_violation", "lam", "nu")
    KEEPS_CONSTRAINTS = True

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 200,
        solver: str = "auto",
        *,
        damping: float = 1e-3,
        eps_dyn: float = 1e-4,
        eps_act: float = 1e-4,
        eps_con: float = 1e-4,
        eta: float = 0.01,
        dual_lr: float = 0.1,
        dual_log: str = "e",
        lam_init: float = 1.0,
        nu_init: float = 1.0,
        kappa_init: float = 1.0,
        reward_residual: Callable = softplus_residual,
        jit_compile: bool = True,
        **options,
    ):
        if solver != "auto" and solver not in SOLVERS:
            raise unknown("collocation solver", solver, ["auto", *SOLVERS])
        if dual_log not in ("e", "10"):
            raise UserError(f"The logarithm of the dual update is 'e' or '10', not {dual_log!r}.")
        if damping <= 0:
            raise UserError(f"The damping of LatCo must be positive, not {damping}.")
        self.solver = faster_solver(horizon, problem.state_size) if solver == "auto" else solver
        super().__init__(
            problem, horizon, iterations, jit_compile=jit_compile and self.solver in XLA_SOLVERS, **options
        )
        self.damping, self.eta, self.reward_residual = damping, eta, reward_residual
        self.eps = {"lam": eps_dyn, "nu": eps_act, "kappa": eps_con}
        self.first_duals = {"lam": lam_init, "nu": nu_init, "kappa": kappa_init}
        self.log_lr = dual_lr if dual_log == "e" else dual_lr / math.log(10)
        if problem.constraint is not None:
            self.CURVES = (*LatCo.CURVES, "constraint_violation", "kappa")

    def dual_update(self, multiplier: tf.Tensor, violation: tf.Tensor, eps: float) -> tf.Tensor:
        """ICML equation 10 with this planner's alpha and eta; see `optimizers.scale_multipliers`."""
        return scale_multipliers(multiplier, violation, eps, self.log_lr, self.eta)

    def _optimize(self, z0, seeds, warm, limit):
        noise = self._noise(seeds, z0.dtype)
        start = self._start(z0, seeds, warm, noise)
        search = Search(
            plan=start,
            kept=start,
            duals=self._start_duals(z0),
            damping=tf.fill([z0.shape[0]], tf.cast(self.damping, z0.dtype)),
            record=tf.zeros([z0.shape[0], len(self.CURVES)], z0.dtype),
            rejected=tf.zeros([z0.shape[0]], tf.int32),
        )
        search, records, count = self._loop(lambda k, s: self._iterate(k, z0, noise, s), search, limit)
        residuals = self._residuals(search.plan, self._predict(z0, search.plan, noise), noise)
        finite, search = self._after_step(count, residuals, search)
        curves = self._lagged_curves(records, count, search.record)
        candidates = [plan[:2] for plan in (where_all(finite, search.plan, search.kept), search.kept, start)]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        rejected = search.rejected + tf.cast(~finite, tf.int32)
        return Plan(actions, states, rewards, curves, count, rejected, actions[:, None])

    def _iterate(self, k, z0, noise, search):
        """Update the multipliers for the present plan and take step k + 1 from it.

        A plan is kept once its residuals, Jacobians and step have turned out finite; where they have not, the search
        goes back to the one before and damps the next step more.
        """
        moments, A, B = self._expand(z0, search.plan, noise)
        residuals = self._residuals(search.plan, moments, noise)
        finite, search = self._after_step(tf.fill([z0.shape[0]], k), residuals, search)
        rho, g = self._weighted(residuals, search.duals)
        damping = search.damping * tf.reduce_mean(search.duals["lam"], 1)
        e, v, V = residuals[:3]
        dz, da = self.solve(A, B, e, v, V, rho, g, search.duals["lam"], search.duals["nu"], damping)
        finite &= all_finite(dz, da)
        return search._replace(
            plan=where_all(finite, self._moved(search.plan, dz, da, moments), search.kept),
            kept=where_all(finite, search.plan, search.kept),
            damping=tf.where(
                finite, tf.maximum(search.damping / DAMPING_FACTOR, self.damping), search.damping * DAMPING_FACTOR
            ),
            rejected=search.rejected + tf.cast(~finite, tf.int32),
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
        """The scalar residuals and their gradients with the constraints' multipliers multiplied in."""
        if "kappa" not in duals:
            return residuals.rho, residuals.g
        count = duals["kappa"].shape[-1]
        weight = tf.concat([tf.ones_like(residuals.rho[..., :-count]), tf.sqrt(duals["kappa"])], -1)
        return residuals.rho * weight, residuals.g * weight[..., None]

    # What a plan is made of; a Gaussian plan overrides these.

    def _noise(self, seeds, dtype):
        """Random numbers that all iterations share; deterministic plans need none."""
        return ()

    def _start(self, z0, seeds, warm, noise):
        """The first plan: random or warm actions and their rollout."""
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
        return rollout(self.problem.step, z0, actions), actions

    def _expand(self, z0, plan, noise):
        """What the model predicts along a plan, and its Jacobians A [B, H, n, n], B [B, H, n, m]."""
        mu, A, B = linearize(self.problem, z0, *plan)
        return (mu,), A, B

    def _predict(self, z0, plan, noise):
        """What the model predicts along a plan."""
        return (self.problem.step(before(z0, plan[0]), plan[1]),)

    def _moved(self, plan, dz, da, moments):
        return plan[0] + dz, plan[1] + da

    def _promise(self, states, plan, noise):
        """Mean rewards [B, H] and terminal value [B] (or None) of a plan whose states are moved to `states`."""
        return self.problem.reward(states), terminal_value(self.problem, states)

    def _dynamics(self, plan, moments):
        """The dynamics residuals [B, H, n] and the squared violation of all dynamics constraints [B, H]."""
        e = plan[0] - moments[0]
        return e, tf.reduce_sum(tf.square(e), -1)

    def _residuals(self, plan, moments, noise):
        """The Residuals of a plan along which the model predicts `moments`."""
        states, actions = plan[:2]
        v = action_violation(actions, self.problem.a_max)

        def scalars(states):
            rewards, value = self._promise(states, plan, noise)
            promised.append(tf.reduce_sum(rewards, 1) + (0.0 if value is None else value))
            rows = [objective_residuals(self.problem, self.reward_residual, rewards, value)]
            if self.problem.constraint is not None:
                rows.append(tf.nn.relu(self.problem.constraint(states)))
            return tf.concat(rows, -1)

        promised = []
        rho, g = own_gradient(scalars, states)
        e, dynamics = self._dynamics(plan, moments)
        return Residuals(e, v, tf.sign(actions) * tf.cast(v > 0, v.dtype), rho, g, promised[0], dynamics)

    def _after_step(self, k, residuals, search):
        """Whether the residuals after step k [B] are finite, bool [B], and the search with its multipliers updated.

        Step 0 is the start, which updates no multipliers. A plan that is not finite leaves them and its record as
        they are.
        """
        finite = all_finite(residuals.e, residuals.rho, residuals.g)
        violations = {"lam": residuals.dynamics, "nu": tf.reduce_sum(tf.square(residuals.v), -1)}
        if "kappa" in search.duals:
            violations["kappa"] = tf.square(residuals.rho[..., -search.duals["kappa"].shape[-1] :])
        updated = {name: self.dual_update(search.duals[name], x, self.eps[name]) for name, x in violations.items()}
        duals = where_all(finite & (k > 0), updated, search.duals)
        record = [residuals.promised]
        for names in (("lam", "nu"), tuple(x for x in duals if x == "kappa")):
            record += [_total(violations[name]) for name in names]
            record += [tf.reduce_mean(tf.reshape(duals[name], [residuals.e.shape[0], -1]), 1) for name in names]
        record = where_rows(finite, tf.stack(record, -1), search.record)
        return finite, search._replace(duals=duals, record=record)

    def _settled(self, record):
        entry = dict(zip(self.CURVES, tf.unstack(record, axis=-1), strict=True))
        limits = {"dynamics_violation": "lam", "action_violation": "nu", "constraint_violation": "kappa"}
        met = [entry[key] <= self.horizon * self.eps[name] for key, name in limits.items() if key in entry]
        return tf.reduce_all(tf.stack(met), 0)


class GaussianLatCo(LatCo):
    """Latent collocation with Gaussian plans q(z_t) = N(mu_t, sigma_t^2) (LatCo ICML 3.4, appendix C, algorithms 2, 3).

    Mean and standard deviation of q(z_{t+1}) are constrained to those of `samples` sampled predictions from q(z_t); the
    reward is the samples' mean. The random numbers are drawn once a plan, with mean 0 and variance 1 over the samples
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
        **options,
    ):
        if problem.sample_step is None:
            raise UserError("Gaussian LatCo needs a latent problem with a sample_step.")
        if samples < 2:
            raise UserError(f"Gaussian LatCo needs at least 2 samples, not {samples}.")
        super().__init__(problem, horizon, iterations, solver, eps_dyn=eps_dyn, **options)
        self.samples = samples

    def _noise(self, seeds, dtype):
        """Normal numbers for the states z_1 ... z_H, [B, H, K, n], and for the transitions, [B, H, K, noise_size]."""
        draws = []
        for stream, size in enumerate((self.problem.state_size, self.problem.noise_size)):
            shape = [self.horizon, self.samples, size]
            draw = lambda seed, shape=shape: tf.random.stateless_normal(shape, seed, dtype=dtype)  # noqa: E731
            draws.append(_standardize(per_plan(draw, fold_in(seeds, stream + 1), dtype)))
        return tuple(draws)

    def _particles(self, z0, plan, noise):
        """Samples [B, H, K, n] of the states that the actions act on; z_0 is known, so all of its samples are equal."""
        states, _, std = plan
        spread = tf.pad((std[:, :, None] * noise[0])[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])
        return before(z0, states)[:, :, None] + spread

    def _start(self, z0, seeds, warm, noise):
        """Random or warm actions, and the moments that they lead to."""
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
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

    def _expand(self, z0, plan, noise):
        z = self._particles(z0, plan, noise)
        lead, flat = z.shape[:2], [tf.reshape(x, [-1, *x.shape[2:]]) for x in (z, plan[1], noise[1])]
        if self.problem.linearize_moments is not None:
            found = self.problem.linearize_moments(*flat)
        else:
            found = moments_by_tape(self.problem.sample_step, *flat)
        mean, std, A, B = (tf.reshape(x, [*lead, *x.shape[1:]]) for x in found)
        return (mean, std), A, B

    def _predict(self, z0, plan, noise):
        z = self._particles(z0, plan, noise)
        return _moments(self.problem.sample_step(z, _for_samples(plan[1], self.samples), noise[1]))

    def _moved(self, plan, dz, da, moments):
        return plan[0] + dz, plan[1] + da, moments[1]

    def _promise(self, states, plan, noise):
        samples = states[:, :, None] + plan[2][:, :, None] * noise[0]  # [B, H, K, n]
        rewards = tf.reduce_mean(self.problem.reward(samples), 2)
        return rewards, None if self.problem.value is None else tf.reduce_mean(self.problem.value(samples[:, -1]), 1)

    def _dynamics(self, plan, moments):
        e, e_std = plan[0] - moments[0], plan[2] - moments[1]
        return e, tf.reduce_sum(tf.square(e) + tf.square(e_std), -1)

    def _score(self, z0, plan, seeds):
        """Mean return [B] of sampled rollouts: what the mean dynamics promise is what this planner mistrusts."""
        noise = self._noise(seeds, z0.dtype)[1]
        inputs = [tf.transpose(x, [1, 0, *range(2, x.shape.rank)]) for x in (plan.actions, noise)]
        step = lambda z, x: self.problem.sample_step(z, _for_samples(x[0], self.samples), x[1])  # noqa: E731
        states = tf.scan(step, inputs, _for_samples(z0, self.samples))
        promised = payoffs(self.problem, tf.transpose(states, [1, 2, 0, 3]))
        return tf.reduce_mean(tf.reduce_sum(promised, 2), 1)


class Shooting(NamedTuple):
    """What a second-order shooting search carries from one iteration to the next."""

    states: tf.Tensor  # [B, H, n], the rollout of the actions
    actions: tf.Tensor  # [B, H, m]
    nu: tf.Tensor  # [B, H], multipliers of the action bounds
    damping: tf.Tensor  # [B]
    record: tf.Tensor  # [B, len(CURVES)]
    rejected: tf.Tensor  # int32 [B]


class SecondOrderShooting(Planner):
    """Steps of a linearized problem in the actions, with a line search and a damping that follows its success.

    Each iteration rolls out all step sizes of `STEP_SIZES` at once and takes the one with the smallest merit, the sum
    of the squared residuals, if it is finite and smaller than before; otherwise the plan stays and the damping grows.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of steps.
        damping: first and smallest damping.
        reward_residual: r [...] -> residual [...]; maximizing the reward is minimizing its square.
        **options: those of `Planner`.
    """

    STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.03)
    FACTOR = DAMPING_FACTOR

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 100,
        damping: float = 1e-3,
        reward_residual: Callable = softplus_residual,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        if damping <= 0:
            raise UserError(f"The damping of {type(self).__name__} must be positive, not {damping}.")
        self.damping, self.reward_residual = damping, reward_residual

    @abc.abstractmethod
    def _proposals(self, z0: tf.Tensor, search: Shooting) -> tuple[tf.Tensor, tf.Tensor]:
        """States [B, L, H, n] and actions [B, L, H, m] for each of the L step sizes."""

    @abc.abstractmethod
    def _merit(self, states: tf.Tensor, actions: tf.Tensor, nu: tf.Tensor) -> tf.Tensor:
        """What a step shall make smaller, [...], for states [..., H, n], actions [..., H, m] and nu [..., H]."""

    def _update(self, search):
        """The search with its multipliers updated."""
        return search

    def _residuals(self, states):
        """Those of rewards and terminal value, [..., H, k], for states [..., H, n]."""
        rewards, value = self.problem.reward(states), terminal_value(self.problem, states)
        return objective_residuals(self.problem, self.reward_residual, rewards, value)

    def _record(self, search):
        return tf.reduce_sum(payoffs(self.problem, search.states), 1, keepdims=True)

    def _plan(self, z0, search, records, count, gains=None):
        candidates = [(search.states, search.actions)]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        curves = self._curves(records, count, search.record)
        return Plan(actions, states, rewards, curves, count, search.rejected, actions[:, None], gains)

    def _search(self, z0, seeds, warm, limit):
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
        B = z0.shape[0]
        search = Shooting(
            states=rollout(self.problem.step, z0, actions),
            actions=actions,
            nu=tf.ones([B, self.horizon], z0.dtype),
            damping=tf.fill([B], tf.cast(self.damping, z0.dtype)),
            record=tf.zeros([B, len(self.CURVES)], z0.dtype),
            rejected=tf.zeros([B], tf.int32),
        )
        search = search._replace(record=self._record(search))
        return self._loop(lambda k, search: self._iterate(z0, search), search, limit)

    def _iterate(self, z0, search):
        states, actions = self._proposals(z0, search)
        nu = tf.repeat(search.nu[:, None], actions.shape[1], 1)
        now, merits = self._merit(search.states, search.actions, search.nu), self._merit(states, actions, nu)
        finite = tf.math.is_finite(merits) & tf.reduce_all(tf.math.is_finite(states), [-2, -1])
        merits = tf.where(finite, merits, merits.dtype.max)
        best = tf.argmin(merits, 1, tf.int32)
        better = ~(tf.gather(merits, best, batch_dims=1) >= now)  # also where the present merit is no number
        better &= tf.reduce_any(finite, 1)
        moved = [tf.gather(x, best, batch_dims=1) for x in (states, actions)]
        search = search._replace(
            states=where_rows(better, moved[0], search.states),
            actions=where_rows(better, moved[1], search.actions),
            damping=tf.where(
                better, tf.maximum(search.damping / self.FACTOR, self.damping), search.damping * self.FACTOR
            ),
            rejected=search.rejected + tf.cast(tf.reduce_any(~finite, 1), tf.int32),
        )
        search = self._update(search)
        return search._replace(record=self._record(search))


class GN(SecondOrderShooting):
    """Shooting by Gauss-Newton on the actions (LatCo ICML appendix D), damped.

    The Jacobian of the rollout comes from the same adjoints as collocation's condensed step. The action bound is a
    residual with multipliers nu that follow LatCo's dual update.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of steps.
        eps_act: squared action violation of a step that counts as satisfied.
        dual_lr: alpha of the dual update.
        eta: keeps its logarithm finite.
        **options: those of `SecondOrderShooting`.
    """

    CURVES = ("reward", "action_violation", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 100,
        eps_act: float = 1e-4,
        dual_lr: float = 0.1,
        eta: float = 0.01,
        **options,
    ):
        super().__init__(problem, horizon, iterations, **options)
        self.eps_act, self.dual_lr, self.eta = eps_act, dual_lr, eta

    def _optimize(self, z0, seeds, warm, limit):
        return self._plan(z0, *self._search(z0, seeds, warm, limit))

    def _proposals(self, z0, search):
        _, A, B = linearize(self.problem, z0, search.states, search.actions)
        rho, g = own_gradient(self._residuals, search.states)
        v = action_violation(search.actions, self.problem.a_max)
        V = tf.sign(search.actions) * tf.cast(v > 0, v.dtype)
        step = shooting_step(A, B, v, V, rho, g, search.nu, search.damping)
        sizes = tf.constant(self.STEP_SIZES, step.dtype)[:, None, None]
        actions = search.actions[:, None] + sizes * step[:, None]
        return rollout(self.problem.step, tf.repeat(z0[:, None], len(self.STEP_SIZES), 1), actions), actions

    def _merit(self, states, actions, nu):
        bound = tf.reduce_sum(tf.square(action_violation(actions, self.problem.a_max)), -1)
        return tf.reduce_sum(tf.reduce_sum(tf.square(self._residuals(states)), -1) + nu * bound, -1)

    def _violation(self, search):
        return tf.reduce_sum(tf.square(action_violation(search.actions, self.problem.a_max)), -1)

    def _update(self, search):
        nu = scale_multipliers(search.nu, self._violation(search), self.eps_act, self.dual_lr, self.eta)
        return search._replace(nu=nu)

    def _record(self, search):
        terms = [payoffs(self.problem, search.states), self._violation(search)]
        return tf.stack([tf.reduce_sum(x, 1) for x in terms] + [tf.reduce_mean(search.nu, 1)], -1)


class ILQR(SecondOrderShooting):
    """Iterative LQR (Tassa et al. 2012, as in LatCo ICML appendix D), with Gauss-Newton curvature.

    The reward head has rectified units, so its second derivative is zero almost everywhere; the squared residual's
    Gauss-Newton curvature g g^T takes its place. The regularizer mu is added to Q_uu; it doubles where Q_uu fails to be
    positive definite or no step size helps, and halves after a success. Actions are clipped to their bounds in the
    forward pass.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of backward and forward passes.
        feedback: return the gains around the plan; the papers execute the open-loop actions.
        **options: those of `SecondOrderShooting`.
    """

    FACTOR = 2.0

    def __init__(self, problem: LatentProblem, horizon: int, iterations: int = 100, feedback: bool = False, **options):
        super().__init__(problem, horizon, iterations, **options)
        self.feedback = feedback

    def _optimize(self, z0, seeds, warm, limit):
        found = self._search(z0, seeds, warm, limit)
        gains = self._backward(z0, found[0])[1] if self.feedback else None
        plan = self._plan(z0, *found, gains)
        if gains is not None:  # gains that are no numbers would spoil a plan that is fine
            plan = plan._replace(gains=where_rows(all_finite(gains), gains, tf.zeros_like(gains)))
        return plan

    def _backward(self, z0, search):
        """Feedforward steps [B, H, m] and gains [B, H, m, n] (Tassa et al., equations 6, 10 and 11)."""
        _, A, B = linearize(self.problem, z0, search.states, search.actions)
        rho, g = own_gradient(self._residuals, search.states)
        mu = search.damping[:, None, None] * tf.eye(B.shape[-1], dtype=B.dtype)
        H, m, n = self.horizon, B.shape[-1], B.shape[-2]

        def body(t, vx, vxx, history):
            at, bt, gt = (tf.gather(x, t, axis=1) for x in (A, B, g))
            vx = (vx + tf.linalg.matvec(gt, tf.gather(rho, t, axis=1), transpose_a=True))[..., None]
            vxx = vxx + tf.matmul(gt, gt, transpose_a=True)
            qx, qu = tf.matmul(at, vx, transpose_a=True), tf.matmul(bt, vx, transpose_a=True)
            va, vb = vxx @ at, vxx @ bt
            qxx, quu = tf.matmul(at, va, transpose_a=True), tf.matmul(bt, vb, transpose_a=True)
            qux = tf.matmul(bt, va, transpose_a=True)
            gain = -tf.linalg.cholesky_solve(tf.linalg.cholesky(quu + mu), tf.concat([qu, qux], -1))
            k, K = gain[..., :1], gain[..., 1:]
            vx = qx + tf.matmul(K, quu @ k + qu, transpose_a=True) + tf.matmul(qux, k, transpose_a=True)
            cross = tf.matmul(K, qux, transpose_a=True)
            vxx = qxx + tf.matmul(K, quu @ K, transpose_a=True) + cross + tf.linalg.matrix_transpose(cross)
            return t - 1, vx[..., 0], vxx, history.write(t, gain)

        history = tf.TensorArray(B.dtype, H, element_shape=[B.shape[0], m, 1 + n])
        start = (H - 1, tf.zeros_like(g[:, 0, 0]), tf.zeros([B.shape[0], n, n], B.dtype), history)
        loop = tf.while_loop(lambda t, *_: t >= 0, body, start, maximum_iterations=H)
        gains = tf.transpose(loop[-1].stack(), [1, 0, 2, 3])
        return gains[..., 0], gains[..., 1:]

    def _proposals(self, z0, search):
        k, K = self._backward(z0, search)
        L, bound = len(self.STEP_SIZES), self.problem.a_max
        sizes = tf.constant(self.STEP_SIZES, k.dtype)[:, None]
        old = before(z0, search.states)

        def body(t, z, states, actions):
            deviation = (z - tf.gather(old, t, axis=1)[:, None])[..., None]
            feedback = (tf.gather(K, t, axis=1)[:, None] @ deviation)[..., 0]
            action = tf.gather(search.actions, t, axis=1)[:, None] + sizes * tf.gather(k, t, axis=1)[:, None] + feedback
            action = tf.clip_by_value(action, -bound, bound)
            z = self.problem.step(z, action)
            return t + 1, z, states.write(t, z), actions.write(t, action)

        start = tf.repeat(z0[:, None], L, 1)
        arrays = [
            tf.TensorArray(k.dtype, self.horizon, element_shape=[*start.shape[:2], size])
            for size in (start.shape[-1], k.shape[-1])
        ]
        loop = tf.while_loop(lambda t, *_: t < self.horizon, body, (0, start, *arrays), maximum_iterations=self.horizon)
        return tuple(tf.transpose(x.stack(), [1, 2, 0, 3]) for x in loop[2:])

    def _merit(self, states, actions, nu):
        return tf.reduce_sum(tf.square(self._residuals(states)), [-2, -1])


# The condensed step costs O(H^2 n^2 + H^3) in float32, the block-tridiagonal one O(H n^3) in float64: at n = 32 the
# curves cross at a horizon of about 190, at n = 230 well beyond 200 (README, "Measured").
CROSSOVER = 6.0


def faster_solver(horizon: int, state_size: int) -> str:
    """The faster solver of a collocation step: condensed up to a horizon of `CROSSOVER` times the state size."""
    return "condensed" if horizon <= CROSSOVER * state_size else "block_tridiagonal"


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


def _total(violation):
    return tf.reduce_sum(tf.reshape(violation, [violation.shape[0], -1]), 1)
