"""Planners against problems whose answer is known: linear-quadratic ones, a bounded race, and problems that break."""

import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from optimizers import CEM, MULTIPLIER_RANGE, LatCo, LatentProblem, linearize_by_tape, rollout, split_seed

SEED = [3, 4]
HORIZON = 4
# State (x, last action), so that a reward of the state can charge for the action.
A = np.array([[0.9, 0.2, 0.0], [-0.1, 0.8, 0.0], [0.0, 0.0, 0.0]])
B = np.array([[0.3], [0.7], [1.0]])
WEIGHTS = np.array([1.0, 0.5, 0.3])
TARGET = np.array([0.4, -0.2, 0.0])


def linear_step(z, a):
    return tf.linalg.matvec(tf.constant(A, z.dtype), z) + tf.linalg.matvec(tf.constant(B, z.dtype), a)


def quadratic_reward(z):
    return -tf.reduce_sum(tf.constant(WEIGHTS, z.dtype) * tf.square(z - tf.constant(TARGET, z.dtype)), -1)


def linear_quadratic():
    return LatentProblem(linear_step, quadratic_reward, 3, 1, a_max=10.0)


def linear_quadratic_optimum(z0):
    """Actions [H] and return of the optimum, by the normal equations of the stacked problem."""
    powers = [np.linalg.matrix_power(A, k) for k in range(HORIZON + 1)]
    rows = [np.concatenate([powers[t - k] @ B if k <= t else 0 * B for k in range(HORIZON)], 1) for t in range(HORIZON)]
    free = np.concatenate([powers[t + 1] @ z0 - TARGET for t in range(HORIZON)])
    scale = np.sqrt(np.tile(WEIGHTS, HORIZON))
    M = scale[:, None] * np.concatenate(rows)
    actions = np.linalg.lstsq(M, -scale * free, rcond=None)[0]
    return actions, -np.sum((M @ actions + scale * free) ** 2)


def shifted_root(reward):
    # sum of squares = H c - sum of rewards: the same optimum as the sum of rewards (LatCo section 4, "shifting").
    return tf.sqrt(20.0 - reward)


def curved_problem(linearize=None):
    step = lambda z, a: 0.9 * z + 0.3 * tf.tanh(tf.concat([a, a * z[..., :1]], -1))  # noqa: E731
    reward = lambda z: -tf.reduce_sum(tf.square(z - 0.3), -1)  # noqa: E731
    sample = lambda z, a, seed: step(z, a) + 0.01 * tf.random.stateless_normal(tf.shape(z), seed)  # noqa: E731
    return LatentProblem(step, reward, 2, 1, sample_step=sample, linearize=linearize)


@pytest.mark.parametrize("solver", ["condensed", "block_tridiagonal"])
def test_latco_reaches_the_linear_quadratic_optimum(solver):
    z0 = np.array([0.5, 1.0, 0.0])
    actions, best = linear_quadratic_optimum(z0)
    planner = LatCo(
        linear_quadratic(), HORIZON, 150, solver, eps_dyn=1e-10, reward_residual=shifted_root, jit_compile=False
    )
    plan = planner(z0[None], SEED)
    assert float(tf.reduce_sum(plan.rewards)) == pytest.approx(best, abs=1e-3)
    np.testing.assert_allclose(plan.actions[0, :, 0], actions, atol=0.02)
    assert float(plan.curves["dynamics_violation"][0, -1]) < 1e-8


def test_cem_reaches_the_linear_quadratic_optimum():
    z0 = np.array([0.5, 1.0, 0.0], np.float32)
    actions, best = linear_quadratic_optimum(z0)
    plan = CEM(linear_quadratic(), HORIZON, 30, 500, 50, sample_states=False)(z0[None], SEED)
    assert float(tf.reduce_sum(plan.rewards)) == pytest.approx(best, abs=1e-2)
    np.testing.assert_allclose(plan.actions[0, :, 0], actions, atol=0.1)


@pytest.mark.parametrize("name", ["cem", "latco"])
def test_full_speed_ahead_where_the_goal_is_far(name):
    step, reward = lambda z, a: z + 0.1 * a, lambda z: -tf.square(z[..., 0] - 5.0)
    problem = LatentProblem(step, reward, 1, 1)
    planner = CEM(problem, 5, 20, 300, 30, False) if name == "cem" else LatCo(problem, 5, 100, eps_act=1e-6)
    plan = planner(tf.zeros([1, 1]), SEED)
    np.testing.assert_allclose(plan.actions[0, :, 0], 1.0, atol=0.02)
    np.testing.assert_allclose(plan.rewards[0], [-((5 - 0.1 * t) ** 2) for t in range(1, 6)], rtol=2e-3)


def planners(jit_compile=False):
    problem = curved_problem()
    return {
        "cem": CEM(problem, 4, 3, 40, 8, sample_states=False, jit_compile=jit_compile),
        "latco": LatCo(problem, 4, 20, jit_compile=jit_compile),
    }


@pytest.mark.parametrize("name", ["cem", "latco"])
def test_a_batch_gives_what_single_calls_give(name):
    # float64, because hundreds of steps amplify the rounding of differently grouped sums.
    z0 = np.array([[0.1, 0.2], [1.0, -1.0], [-0.5, 0.3]])
    planner, seeds = planners()[name], split_seed(tf.constant(SEED), 3)
    together = planner(z0, seeds)
    for row in range(3):
        alone = planner(z0[row : row + 1], seeds[row : row + 1])
        np.testing.assert_allclose(together.actions[row], alone.actions[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together.rewards[row], alone.rewards[0], rtol=1e-4, atol=1e-5)
        for key, curve in together.curves.items():
            np.testing.assert_allclose(curve[row], alone.curves[key][0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["cem", "latco"])
def test_compiled_plans_say_what_they_are_and_are_traced_once(name):
    planner = planners(jit_compile=True)[name]
    z0 = np.array([[0.1, 0.2], [1.0, -1.0]], np.float32)
    plan = planner(z0, SEED)
    for seed in ([1, 2], [5, 6]):
        planner(z0 + 0.1, seed)
    assert planner.traces == 1
    planner(z0[:1], SEED)
    assert planner.traces == 2
    assert plan.actions.shape == (2, 4, 1) and plan.states.shape == (2, 4, 2) and plan.rewards.shape == (2, 4)
    assert np.abs(plan.actions).max() <= 1.0 and plan.non_finite.numpy().tolist() == [0, 0]
    assert all(curve.shape == (2, 3 if name == "cem" else 20) for curve in plan.curves.values())
    state, problem = tf.constant(z0), curved_problem()
    for t in range(4):
        state = problem.step(state, plan.actions[:, t])
        np.testing.assert_allclose(plan.rewards[:, t], problem.reward(state), rtol=1e-4, atol=1e-5)
    if name == "latco":
        own = tf.reduce_sum(problem.reward(plan.states), 1)
        np.testing.assert_allclose(plan.curves["reward"][:, -1], own, rtol=1e-4)


def test_sampled_rollouts_follow_the_seed():
    planner = CEM(curved_problem(), 4, 3, 40, 8, sample_states=True, jit_compile=False)
    z0 = np.array([[0.1, 0.2]], np.float32)
    first, again, other = planner(z0, [1, 2]), planner(z0, [1, 2]), planner(z0, [1, 3])
    np.testing.assert_array_equal(first.actions, again.actions)
    assert np.any(first.actions.numpy() != other.actions.numpy())


def test_both_solvers_end_at_the_same_plan():
    step, reward = lambda z, a: 0.9 * z + 0.3 * tf.tanh(a), lambda z: -tf.square(z[..., 0] - 0.15)
    problem = LatentProblem(step, reward, 1, 1)
    plans = [
        LatCo(problem, 4, 150, solver, eps_dyn=1e-8, eps_act=1e-8, jit_compile=False)(np.array([[1.0]]), SEED)
        for solver in ("condensed", "block_tridiagonal")
    ]
    # Two steps at full speed (tanh(1) = 0.76) reach 0.376, from where the goal is within reach.
    for plan in plans:
        np.testing.assert_allclose(plan.actions[0, :2, 0], -1.0, atol=0.01)
        np.testing.assert_allclose(plan.rewards[0], [-(0.5215**2), -(0.2259**2), 0.0, 0.0], atol=5e-3)
    np.testing.assert_allclose(plans[0].rewards, plans[1].rewards, atol=3e-3)


def test_dual_update_by_hand():
    # log(2.99 + 0.01) = 1.0986; log(0.01) = -4.6052; log10(2.9 + 0.1) = 0.4771; log10(0.1) = -1.
    problem = linear_quadratic()
    paper = LatCo(problem, 1, 1, jit_compile=False)
    multiplier, violation = tf.constant([2.0, 2.0]), tf.constant([2.99e-4, 0.0])
    np.testing.assert_allclose(paper.dual_update(multiplier, violation, 1e-4), [2.2197, 1.0790], rtol=1e-4)
    code = LatCo(problem, 1, 1, eta=0.1, dual_log="10", jit_compile=False)
    violation = tf.constant([2.9e-4, 0.0])
    np.testing.assert_allclose(code.dual_update(multiplier, violation, 1e-4), [2.0954, 1.8], rtol=1e-4)
    extreme = paper.dual_update(tf.constant([1e-6, 1e10]), tf.constant([0.0, 1e9]), 1e-4)
    np.testing.assert_allclose(extreme, MULTIPLIER_RANGE)


def test_linearization_by_tape_equals_the_jacobian_by_hand():
    z, a = np.array([[0.3, -0.4], [1.0, 2.0]]), np.array([[0.2], [-0.7]])
    mu, jac_z, jac_a = linearize_by_tape(curved_problem().step, tf.constant(z), tf.constant(a))
    product = a[:, 0] * z[:, 0]
    slope, slope_product = 1 - np.tanh(a[:, 0]) ** 2, 1 - np.tanh(product) ** 2
    np.testing.assert_allclose(mu, 0.9 * z + 0.3 * np.tanh(np.stack([a[:, 0], product], -1)))
    for row in range(2):
        expected = [[0.9, 0.0], [0.3 * slope_product[row] * a[row, 0], 0.9]]
        np.testing.assert_allclose(jac_z[row], expected)
        np.testing.assert_allclose(jac_a[row, :, 0], [0.3 * slope[row], 0.3 * slope_product[row] * z[row, 0]])


def test_rollout_equals_a_loop():
    actions = np.random.default_rng(0).normal(size=[2, 3, 5, 1])
    z0 = np.random.default_rng(1).normal(size=[2, 3, 2])
    states, state, step = (
        rollout(curved_problem().step, tf.constant(z0), tf.constant(actions)),
        z0,
        curved_problem().step,
    )
    for t in range(5):
        state = step(tf.constant(state), tf.constant(actions[:, :, t])).numpy()
        np.testing.assert_allclose(states[:, :, t], state)


@pytest.mark.parametrize("name", ["cem", "latco"])
def test_a_plan_that_is_not_finite_is_counted_and_disturbs_no_other(name):
    problem = curved_problem()

    def broken(z):
        # States that start beyond 50 stay there: their reward is not a number.
        return tf.where(tf.abs(z[..., 0]) > 50.0, tf.constant(np.nan, z.dtype), problem.reward(z))

    sick = LatentProblem(problem.step, broken, 2, 1)
    make = {"cem": lambda p: CEM(p, 4, 3, 40, 8, False, False), "latco": lambda p: LatCo(p, 4, 10, jit_compile=False)}[
        name
    ]
    z0, seeds = np.array([[0.1, 0.2], [90.0, 90.0]], np.float32), split_seed(tf.constant(SEED), 2)
    plan, healthy = make(sick)(z0, seeds), make(problem)(z0, seeds)
    assert plan.non_finite.numpy()[0] == 0 and plan.non_finite.numpy()[1] > 0
    np.testing.assert_allclose(plan.actions[0], healthy.actions[0], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(plan.actions)) and np.all(np.isfinite(plan.states))


@pytest.mark.parametrize("solver", ["condensed", "block_tridiagonal"])
def test_a_search_that_leaps_over_a_cliff_comes_back_and_goes_on(solver):
    # Beyond |x| = 1.2 the second problem's dynamics are not a number, and relaxed states leap there: the goal is at 1.
    def step(z, a):
        beyond = (tf.abs(z[..., :1]) > 1.2) & (z[..., 1:] > 0.5)
        x = tf.where(beyond, tf.constant(np.nan, z.dtype), z[..., :1] + 0.1 * a)
        return tf.concat([x, z[..., 1:]], -1)

    problem = LatentProblem(step, lambda z: -4 * tf.square(z[..., 0] - 1.0), 2, 1)
    plan = LatCo(problem, 8, 100, solver, jit_compile=False)(np.array([[0.0, 0.0], [0.0, 1.0]]), SEED)
    best = -4 * sum((1 - 0.1 * t) ** 2 for t in range(1, 9))
    returns = tf.reduce_sum(plan.rewards, 1).numpy()
    assert returns[0] == pytest.approx(best, rel=1e-3) and plan.non_finite[0] == 0
    assert -32.0 < 1.5 * best < returns[1] and plan.non_finite[1] > 0  # -32 is the return of standing still
    assert all(np.all(np.isfinite(curve)) for curve in plan.curves.values())
    assert plan.curves["dynamics_violation"][1, -1] < 0.02


def test_multipliers_that_start_at_1e8_do_not_relax_the_dynamics_at_first():
    step, reward = lambda z, a: z + 0.1 * a, lambda z: -tf.square(z[..., 0] - 5.0)
    problem = LatentProblem(step, reward, 1, 1)
    strict, relaxed = (LatCo(problem, 5, 100, lam_init=x)(tf.zeros([1, 1]), SEED) for x in (1e8, 1.0))
    assert np.max(strict.curves["dynamics_violation"][0, :5]) < 1e-6 < 0.01 < relaxed.curves["dynamics_violation"][0, 0]
    np.testing.assert_allclose(strict.curves["lam"][0, 0], 1e8 * (1 + 0.1 * np.log(0.01)), rtol=1e-3)
    np.testing.assert_allclose(strict.actions[0, :, 0], 1.0, atol=0.05)


def test_the_problem_s_own_linearization_is_used():
    def linearize(z, a):
        calls.append(z.shape)
        return tuple(tf.stop_gradient(x) for x in linearize_by_tape(curved_problem().step, z, a))

    calls, z0 = [], np.array([[0.1, 0.2], [1.0, -1.0]])
    plans = [LatCo(curved_problem(x), 4, 10, jit_compile=False)(z0, SEED) for x in (linearize, None)]
    assert calls == [(8, 2)]
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, rtol=1e-9)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="damping"):
        LatCo(curved_problem(), 3, damping=0.0)
    with pytest.raises(UserError, match="horizon"):
        LatCo(curved_problem(), 0)
    with pytest.raises(UserError, match="elites"):
        CEM(curved_problem(), 3, candidates=5, elites=6)
    with pytest.raises(UserError, match="sample_states"):
        CEM(linear_quadratic(), 3)
    with pytest.raises(UserError, match="condensed"):
        LatCo(curved_problem(), 3, solver="condense")
