"""LatCo, Gaussian LatCo, GN and iLQR: constraints, uncertainty, and steps against slow references."""

import numpy as np
import pytest
import tensorflow as tf
from problems import (
    SEED,
    curved,
    edge,
    far,
    line,
    linear_quadratic,
    linear_quadratic_optimum,
    paper_gaussian_latco,
    paper_latco,
    root_residual,
    shifted_root,
)

from optimizers import LatentProblem, WarmStart
from planners.collocation_solvers import CROSSOVER, faster_solver
from planners.gaussian_latco import moments_by_tape
from planners.gn import GN
from planners.ilqr import ILQR
from planners.line_search import Search
from planners.linearization import linearize_by_tape
from planners.seeds import split_seed
from planners.trajectories import rollout

EAGER = {"jit_compile": False}


def test_both_solvers_end_at_the_same_plan():
    step, reward = lambda z, a: 0.9 * z + 0.3 * tf.tanh(a), lambda z: -tf.square(z[..., 0] - 0.15)
    problem = LatentProblem(step, reward, 1, 1)
    plans = [
        paper_latco(problem, 4, 150, solver, eps_dyn=1e-8, eps_act=1e-8, **EAGER)(np.array([[1.0]]), SEED)
        for solver in ("condensed", "block_tridiagonal")
    ]
    # Two steps at full speed (tanh(1) = 0.76) reach 0.376, from where the goal is within reach.
    for plan in plans:
        np.testing.assert_allclose(plan.actions[0, :2, 0], -1.0, atol=0.01)
        np.testing.assert_allclose(plan.rewards[0], [-(0.5215**2), -(0.2259**2), 0.0, 0.0], atol=5e-3)
    np.testing.assert_allclose(plans[0].rewards, plans[1].rewards, atol=3e-3)


def test_dual_update_by_hand():
    # log(2.99 + 0.01) = 1.0986; log10(2.9 + 0.1) = 0.4771; log10(0.1) = -1.
    multiplier = tf.constant([2.0, 2.0])
    paper = paper_latco(curved(), 1, 1, **EAGER)
    np.testing.assert_allclose(paper.dual_update(multiplier, tf.constant([2.99e-4, 0.0]), 1e-4), [2.2197, 1.079], 1e-4)
    code = paper_latco(curved(), 1, 1, eta=0.1, dual_log="10", **EAGER)
    np.testing.assert_allclose(code.dual_update(multiplier, tf.constant([2.9e-4, 0.0]), 1e-4), [2.0954, 1.8], rtol=1e-4)


def test_multipliers_that_do_not_learn_stay_what_they_were():
    planner = paper_latco(curved(), 4, 10, dual_lr=0.0, lam_init=8.0, nu_init=16.0, **EAGER)
    plan = planner(np.array([[0.1, 0.2]]), SEED)
    np.testing.assert_array_equal(plan.curves["lam"], np.full([1, 10], 8.0))
    np.testing.assert_array_equal(plan.curves["nu"], np.full([1, 10], 16.0))


@pytest.mark.parametrize("options", [{"lam_init": 0.0}, {"nu_init": 0.0, "eta": 0.0}])
def test_multipliers_may_start_at_zero(options):
    plan = paper_latco(far(), 4, 60, **options, **EAGER)(np.zeros([2, 1]), SEED)
    assert np.all(plan.non_finite == 0) and np.all(plan.curves["nu"] > 0.0)
    np.testing.assert_allclose(plan.actions, 1.0, atol=0.01)


def test_auto_takes_the_faster_solver():
    assert faster_solver(30, 230) == paper_latco(curved(), 4, 1).solver == "condensed"
    assert faster_solver(int(CROSSOVER * 2) + 1, 2) == paper_latco(curved(), 13, 1).solver == "block_tridiagonal"


@pytest.mark.parametrize("solver", ["condensed", "block_tridiagonal"])
def test_a_search_that_leaps_over_a_cliff_comes_back_and_goes_on(solver):
    # Beyond |x| = 1.2 the second problem's dynamics are not a number, and relaxed states leap there: the goal is at 1.
    def step(z, a):
        beyond = (tf.abs(z[..., :1]) > 1.2) & (z[..., 1:] > 0.5)
        x = tf.where(beyond, tf.constant(np.nan, z.dtype), z[..., :1] + 0.1 * a)
        return tf.concat([x, z[..., 1:]], -1)

    problem = LatentProblem(step, lambda z: -4 * tf.square(z[..., 0] - 1.0), 2, 1)
    plan = paper_latco(problem, 8, 100, solver, **EAGER)(np.array([[0.0, 0.0], [0.0, 1.0]]), SEED)
    best = -4 * sum((1 - 0.1 * t) ** 2 for t in range(1, 9))
    returns = tf.reduce_sum(plan.rewards, 1).numpy()
    assert returns[0] == pytest.approx(best, rel=1e-3) and plan.non_finite[0] == 0
    assert -32.0 < 1.5 * best < returns[1] and plan.non_finite[1] > 0  # -32 is the return of standing still
    assert all(np.all(np.isfinite(curve)) for curve in plan.curves.values())
    assert plan.curves["dynamics_violation"][1, -1] < 0.02


def test_multipliers_that_start_at_1e8_do_not_relax_the_dynamics_at_first():
    strict, relaxed = (paper_latco(far(), 5, 100, lam_init=x, **EAGER)(tf.zeros([1, 1]), SEED) for x in (1e8, 1.0))
    assert np.max(strict.curves["dynamics_violation"][0, :5]) < 1e-6 < 0.01 < relaxed.curves["dynamics_violation"][0, 0]
    np.testing.assert_allclose(strict.curves["lam"][0, 0], 1e8 * (1 + 0.1 * np.log(0.01)), rtol=1e-3)
    np.testing.assert_allclose(strict.actions[0, :, 0], 1.0, atol=0.05)


def test_the_problem_s_own_linearization_is_used():
    def linearize(z, a):
        calls.append(z.shape)
        return tuple(tf.stop_gradient(x) for x in linearize_by_tape(curved().step, z, a))

    calls, z0 = [], np.array([[0.1, 0.2], [1.0, -1.0]])
    plans = [paper_latco(curved(x), 4, 10, **EAGER)(z0, SEED) for x in (linearize, None)]
    assert calls == [(8, 2)]
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, rtol=1e-9)


@pytest.mark.parametrize("solver", ["condensed", "block_tridiagonal"])
def test_a_plan_stops_where_it_is_asked_to(solver):
    reward = lambda z: -tf.square(z[..., 0] - 1.0)
    shift = {"reward_residual": root_residual, "eps_con": 1e-6, **EAGER}
    problems = [line(reward, 0.1, 0.0, constraint=limit) for limit in (None, lambda z: z - 0.6)]
    free, asked = (paper_latco(x, 16, 150, solver, **shift)(np.zeros([1, 1]), SEED) for x in problems)
    assert "kappa" not in free.curves and float(free.states[0, -1, 0]) == pytest.approx(1.0, abs=0.02)
    assert np.max(asked.states) < 0.61 and float(asked.curves["constraint_violation"][0, -1]) < 1e-4
    np.testing.assert_allclose(asked.states[0, 8:, 0], 0.6, atol=0.02)
    np.testing.assert_allclose(asked.actions[0, :5, 0], 1.0, atol=0.1)
    assert float(asked.curves["kappa"][0, -1]) > 1.0


@pytest.mark.parametrize("planner", [paper_latco, paper_gaussian_latco])
def test_steps_that_lead_to_no_number_are_damped_more_and_more(planner):
    options = {"damping": 1e-12, "reward_residual": lambda reward: -reward, **EAGER}
    plan = planner(edge(), 1, 60, **options)(np.zeros([1, 1]), SEED, WarmStart(np.zeros([1, 1, 1, 1]), [1]))
    assert plan.non_finite[0] > 5 and 1.0 < plan.states[0, 0, 0] <= 2.0


# A point in the plane between 0 and its goal at (1, 0), and a disc on the way that costs nothing.
CENTER, RADIUS, GOAL = np.array([0.5, 0.02]), 0.3, np.array([1.0, 0.0])


def keep_out(constraint):
    def inside(z):
        depth = RADIUS - tf.norm(z - tf.constant(CENTER, z.dtype), axis=-1)
        return tf.stack([depth, -1.0 - z[..., 1]], -1)  # the second one never bites

    def reward(z):
        return -tf.reduce_sum(tf.square(z - tf.constant(GOAL, z.dtype)), -1)

    return LatentProblem(lambda z, a: z + 0.1 * a, reward, 2, 2, constraint=inside if constraint else None)


def test_a_region_that_is_never_punished_is_avoided_if_the_plan_is_asked_to():
    z0, options = np.zeros([8, 2]), {"reward_residual": root_residual, **EAGER}
    free, asked = (paper_latco(keep_out(constraint), 20, 150, **options)(z0, SEED) for constraint in (False, True))
    depth = lambda plan: np.max(RADIUS - np.linalg.norm(plan.states - CENTER, axis=-1), 1)
    assert np.mean(depth(free) > 0.03) > 0.5
    assert np.all(depth(asked) < 0.02) and np.all(asked.curves["constraint_violation"][:, -1] < 1e-3)
    assert asked.curves["kappa"].shape == (8, 150)
    reached = np.linalg.norm(asked.states[:, -1] - GOAL, axis=-1) < 0.1  # round it, not in front of it
    assert np.mean(reached) > 0.5


# The Lottery (LatCo ICML 5.5) with the true distribution of its outcome: z = (y, outcome), and the outcome is drawn at
# every step, +1 with 65% and -1 with 35%. Top, at y = 1, pays 1; Bottom, at y = -1, pays 20 or costs 40 in the paper.
def lottery(mean_outcome, prize=20.0, cost=40.0, width=0.5, sharpness=10.0):
    def step(z, a):
        y = z[..., :1] + 0.5 * a
        return tf.concat([y, tf.fill(tf.shape(y), tf.cast(mean_outcome, y.dtype))], -1)

    def sample_step(z, a, noise):
        y = z[..., :1] + 0.5 * a
        lucky = noise[..., :1] < 0.3853  # the 65% quantile of the normal distribution
        return tf.concat([y, tf.where(lucky, tf.ones_like(y), -tf.ones_like(y))], -1)

    def reward(z):
        near = lambda goal: tf.exp(-tf.square(z[..., 0] - goal) / (2 * width**2))
        # Of a Gaussian outcome between the two as well.
        bottom = -cost + (prize + cost) * tf.sigmoid(sharpness * z[..., 1])
        return near(1.0) + near(-1.0) * bottom

    return LatentProblem(step, reward, 2, 1, sample_step=sample_step, noise_size=1)


def test_gaussian_plans_decline_the_lottery_and_deterministic_plans_need_not():
    z0 = tf.zeros([8, 2])
    # Bottom pays 3 or costs 6: -0.15 in the mean, but 2.4 for the mean outcome, 0.65 - 0.35 = 0.3. Amounts close to
    # Top's 1 keep the squared residuals of Gauss-Newton in proportion: with the paper's, the plans depend on rounding.
    problem = lottery(0.3, prize=3.0, cost=6.0, width=0.7, sharpness=5.0)
    options = {"restarts": 16, "damping": 1.0, **EAGER}  # both goals attract; a planner takes the one it believes in
    sure = paper_gaussian_latco(problem, 4, 50, samples=200, **options)(z0, SEED)
    naive = paper_latco(problem, 4, 50, **options)(z0, SEED)
    assert np.all(rollout(problem.step, z0, sure.actions)[:, -1, 0] > 0.5)
    assert np.all(rollout(problem.step, z0, naive.actions)[:, -1, 0] < -0.25)
    np.testing.assert_allclose(sure.states[:, -1, 1], 0.3, atol=0.2)  # the mean of the mixture


def test_gaussian_plans_follow_the_moments_of_the_dynamics():
    # x' = 0.5 x + a + 0.2 noise: variance s' = 0.25 s + 0.04, known at every step; the reward leaves the mean free.
    step = lambda z, a: 0.5 * z + a
    problem = LatentProblem(
        step, lambda z: -tf.square(z[..., 0] - 0.5), 1, 1, lambda z, a, noise: step(z, a) + 0.2 * noise, 1
    )
    planner = paper_gaussian_latco(problem, 6, 60, samples=2000, eps_dyn=1e-6, **EAGER)
    plan = planner(np.array([[1.0]]), SEED)
    assert float(plan.curves["dynamics_violation"][0, -1]) < 1e-3
    noise = planner._noise(split_seed(tf.constant(SEED), 1), tf.float64)
    start = planner._start(tf.constant([[1.0]], tf.float64), split_seed(tf.constant(SEED), 1), None, noise)
    variance = [0.04]
    for _ in range(5):
        variance.append(0.25 * variance[-1] + 0.04)
    np.testing.assert_allclose(start[2][0, :, 0], np.sqrt(variance), rtol=0.05)
    predicted = planner._predict(tf.constant([[1.0]], tf.float64), start, noise)  # from the plan's own distributions
    np.testing.assert_allclose(planner._dynamics(start, predicted)[1], 0.0, atol=1e-20)
    # Standardized noise: a linear mean is followed exactly.
    z = 1.0
    for t in range(6):
        z = 0.5 * z + float(start[1][0, t, 0])
        assert float(start[0][0, t, 0]) == pytest.approx(z, abs=1e-6)


def test_gaussian_plans_are_compared_by_their_expected_return():
    planner = paper_gaussian_latco(lottery(0.3), 4, 1, samples=4000, **EAGER)
    z0, seeds = tf.zeros([2, 2]), split_seed(tf.constant(SEED), 2)
    # Two steps to a goal, three states there: Top pays 1 a step, Bottom 0.65 * 20 - 0.35 * 40 = -1 in the mean.
    actions = tf.constant([[[1.0], [1.0], [0.0], [0.0]], [[-1.0], [-1.0], [0.0], [0.0]]])
    plan = planner(z0, seeds)._replace(actions=actions)
    halfway = np.exp(-0.5)  # near(0.5) of both goals, and near(-1) is next to nothing
    far = np.exp(-(1.5**2) / (2 * 0.5**2))
    expected = 3.0 + halfway + np.array([-far - 3 * np.exp(-8), 0]) - np.array([0, 2 * (3 + halfway) - far])
    np.testing.assert_allclose(planner._score(z0, plan, seeds), expected, atol=1.5)


def test_moments_by_tape_are_averages_over_the_samples():
    rng = np.random.default_rng(0)
    z, a, noise = rng.normal(size=[3, 5, 2]), rng.normal(size=[3, 1]), rng.normal(size=[3, 5, 2])
    mean, std, A, B = moments_by_tape(curved().sample_step, *(tf.constant(x) for x in (z, a, noise)))
    for row in range(3):
        next_z = np.stack(
            [curved().sample_step(*(tf.constant(x) for x in (z[row, k], a[row], noise[row, k]))) for k in range(5)]
        )
        np.testing.assert_allclose(mean[row], next_z.mean(0))
        np.testing.assert_allclose(std[row], next_z.std(0))
        each = [
            linearize_by_tape(curved().step, tf.constant(z[row, k : k + 1]), tf.constant(a[row : row + 1]))
            for k in range(5)
        ]
        np.testing.assert_allclose(A[row], np.mean([x[1][0] for x in each], 0), atol=1e-12)
        np.testing.assert_allclose(B[row], np.mean([x[2][0] for x in each], 0), atol=1e-12)


def shooting_search(problem, z0, actions):
    states = [z0]
    for t in range(actions.shape[1]):
        states.append(problem.step(states[-1], tf.constant(actions[:, t])))
    ones = tf.ones(actions.shape[:2], tf.float64)
    return Search(tf.stack(states[1:], 1), tf.constant(actions), ones, tf.constant([1e-9]), None, None, None)


def test_a_step_of_gn_is_the_least_squares_step_of_the_rollout_s_jacobian():
    problem, z0 = curved(), tf.constant([[0.3, -0.4]], tf.float64)
    actions = np.array([[[0.3], [-1.4], [0.2]]])  # the second one exceeds its bound
    planner = GN(problem, 3, 1, damping=1e-9, **EAGER)

    def residuals(flat):
        z, rows = z0[0], []
        for t in range(3):
            z = problem.step(z, flat[t : t + 1])
            rows.append(tf.nn.softplus(-problem.reward(z)))
        return tf.stack(rows + tf.unstack(tf.nn.relu(tf.abs(flat) - 1.0)))

    flat = tf.constant(actions.ravel())
    with tf.GradientTape() as tape:
        tape.watch(flat)
        values = residuals(flat)
    J = tape.jacobian(values, flat).numpy()
    expected = -np.linalg.solve(J.T @ J + 1e-9 * np.eye(3), J.T @ values.numpy())
    _, proposed = planner._proposals(z0, shooting_search(problem, z0, actions))
    np.testing.assert_allclose(proposed[0, 0, :, 0] - actions[0, :, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(proposed[0, 1, :, 0] - actions[0, :, 0], 0.5 * expected, rtol=1e-5)


def test_ilqr_s_gains_are_those_of_dynamic_programming():
    # One scalar residual a step, linear in the state: sum (w^T z - c)^2, for which LQR is exact.
    w, c = np.array([1.0, 0.5, 0.3]), 0.2
    problem = linear_quadratic()
    reward = lambda z: -tf.linalg.matvec(z, tf.constant(w)) + c
    residual = lambda r: -r
    fields = {name: getattr(problem, name) for name in problem.__dataclass_fields__} | {"reward": reward}
    planner = ILQR(LatentProblem(**fields), 4, 1, damping=1e-6, reward_residual=residual, **EAGER)
    z0, actions = tf.constant([[0.5, 1.0, 0.0]], tf.float64), np.zeros([1, 4, 1])
    from problems import A, B

    search = shooting_search(problem, z0, actions)._replace(damping=tf.constant([1e-6], tf.float64))
    k, K = planner._backward(z0, search)
    V, v, states = np.zeros([3, 3]), np.zeros(3), search.states[0].numpy()
    for t in reversed(range(4)):
        V, v = V + np.outer(w, w), v + (w @ states[t] - c) * w
        quu = B.T @ V @ B + 1e-6
        np.testing.assert_allclose(K[0, t], -(B.T @ V @ A) / quu, rtol=1e-6)
        np.testing.assert_allclose(k[0, t], -(B.T @ v) / quu[0], rtol=1e-6)
        gain, feed = -(B.T @ V @ A) / quu, -(B.T @ v) / quu[0]
        quu = quu - 1e-6
        v_new = A.T @ v + gain.T @ (quu @ feed + B.T @ v) + (A.T @ V @ B) @ feed
        V = A.T @ V @ A + gain.T @ quu @ gain + gain.T @ B.T @ V @ A + (gain.T @ B.T @ V @ A).T
        v = v_new


def test_ilqr_returns_gains_only_if_asked():
    z0 = np.array([[0.1, 0.2]])
    assert ILQR(curved(), 4, 3, **EAGER)(z0, SEED).gains is None
    assert ILQR(curved(), 4, 3, feedback=True, **EAGER)(z0, SEED).gains.shape == (1, 4, 1, 2)


def test_a_step_never_makes_a_plan_worse():
    z0, options = np.array([[1.0, -1.0]]), {"reward_residual": root_residual, **EAGER}
    ilqr, gn = ILQR(curved(), 4, 30, **options)(z0, SEED), GN(curved(), 4, 30, dual_lr=0.0, **options)(z0, SEED)
    for merit in (-ilqr.curves["reward"][0], gn.curves["action_violation"][0] - gn.curves["reward"][0]):
        assert merit[-1] < merit[0] - 0.05 and np.all(np.diff(merit) <= 1e-9)


def test_the_shifted_residual_has_the_optimum_of_the_return():
    z0 = np.array([0.5, 1.0, 0.0])
    _, best = linear_quadratic_optimum(z0, 4)
    for residual in (shifted_root, tf.nn.softplus):
        found = GN(linear_quadratic(), 4, 60, reward_residual=residual, **EAGER)(z0[None], SEED)
        better = residual is shifted_root
        assert (float(tf.reduce_sum(found.rewards)) > best - 1e-3) == better


@pytest.mark.slow
def test_gaussian_restarts_are_compared_on_noise_that_they_have_not_seen():
    """The state is noise, and the mean reward over some samples of it depends on which they are."""
    reward = lambda z: z[..., 0] ** 3
    problem = LatentProblem(lambda z, a: 0.0 * a, reward, 1, 1, lambda z, a, noise: noise + 0.0 * a, noise_size=1)
    planner, seeds = paper_gaussian_latco(problem, 1, 1, samples=5, **EAGER), split_seed(tf.constant(SEED), 100)
    z0 = tf.zeros([100, 1], tf.float64)
    seen = tf.reduce_mean(reward(planner._noise(seeds, z0.dtype)[1][:, 0]), 1)
    compared = planner._score(z0, planner(z0, seeds), seeds)
    assert np.std(compared) > 0.1 and abs(np.corrcoef(seen, compared)[0, 1]) < 0.4  # four standard errors


def test_feedback_gains_do_not_shrink_once_the_search_has_converged():
    planner = ILQR(curved(), 4, 60, feedback=True, **EAGER)
    z0 = np.array([[1.0, -1.0]], np.float32)
    plan = planner(z0, SEED)
    end = Search(plan.states, plan.actions, None, tf.constant([planner.damping]), None, None, None)
    np.testing.assert_allclose(plan.gains, planner._backward(tf.constant(z0), end)[1], rtol=1e-3)
    assert np.abs(plan.gains).max() > 0.01


@pytest.mark.parametrize("planner", [GN, ILQR])
def test_a_search_that_finds_no_better_plan_stays_finite(planner):
    flat = LatentProblem(lambda z, a: z + a, lambda z: 0.0 * z[..., 0], 1, 1)
    plan = planner(flat, 4, 160, **EAGER)(np.zeros([1, 1], np.float32), SEED)
    assert plan.non_finite == [0] and plan.iterations == [160]
