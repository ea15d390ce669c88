"""The finish of collocation: bounded least squares with a known answer, and plans that keep their bounds."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from problems import SEED, explicit, far, linear_quadratic, paper_gaussian_latco, paper_latco, ridge, shifted_root
from scipy.optimize import lsq_linear

from optimizers import LatentProblem
from planners.finish import Finished, better_of_pairs, finish_plans
from planners.plan_state import before_finish
from planners.trajectories import rollout

EAGER = {"jit_compile": False}

# Two masses on a line that actions of at most 0.4 push about; the first wants to be at 1, the second to be at rest.
A = np.array([[1.0, 0.3], [0.0, 0.9]])
B = np.array([[0.1], [0.5]])
TARGET, WEIGHTS, BOUND = np.array([1.0, 0.0]), np.array([1.0, 0.2]), 0.4


def bounded() -> LatentProblem:
    step = lambda z, a: tf.linalg.matvec(tf.constant(A, z.dtype), z) + tf.linalg.matvec(tf.constant(B, z.dtype), a)
    reward = lambda z: -tf.reduce_sum(tf.constant(WEIGHTS, z.dtype) * tf.square(z - tf.constant(TARGET, z.dtype)), -1)
    linearize = lambda z, a: (step(z, a), *(tf.repeat(tf.constant(x, z.dtype)[None], z.shape[0], 0) for x in (A, B)))
    return LatentProblem(step, reward, 2, 1, linearize=linearize, a_max=BOUND)


def bounded_optimum(z0, H):
    """The best actions [H] by scipy's bounded least squares on the stacked problem."""
    power = [np.linalg.matrix_power(A, k) for k in range(H + 1)]
    rows = [np.concatenate([power[t - k] @ B if k <= t else 0 * B for k in range(H)], 1) for t in range(H)]
    scale = np.sqrt(np.tile(WEIGHTS, H))
    free = np.concatenate([power[t + 1] @ z0 - TARGET for t in range(H)])
    return lsq_linear(scale[:, None] * np.concatenate(rows), -scale * free, (-BOUND, BOUND), tol=1e-12).x


def test_the_finish_ends_at_the_bounded_optimum():
    H, z0 = 8, np.array([[0.0, 0.0], [0.5, -1.0]])
    problem = bounded()
    # Both coordinates' errors as residuals: their squares sum to minus the return, so that the optima are the same.
    errors = lambda z: tf.constant(np.sqrt(WEIGHTS)) * (z - tf.constant(TARGET))
    far = tf.constant(np.full([2, H, 1], 3.0))
    improve = lambda: finish_plans(problem, tf.constant(z0), far, 30, tf.constant(30), errors)
    plan, scores = tf.function(improve, autograph=False)()
    expected = np.stack([bounded_optimum(start, H) for start in z0])
    held = np.abs(expected) > BOUND - 1e-6
    assert held.any() and not held.all(), "some actions are at their bounds, some are not"
    np.testing.assert_allclose(plan.actions[..., 0], expected, atol=2e-3)
    assert np.abs(plan.actions).max() <= BOUND
    np.testing.assert_allclose(plan.states, rollout(problem.step, tf.constant(z0), plan.actions))
    assert np.all(np.diff(scores, axis=1) >= 0.0)


def test_the_finish_takes_as_many_steps_as_it_is_told():
    problem, z0 = bounded(), tf.zeros([1, 2], tf.float64)
    errors = lambda z: z - tf.constant(TARGET)
    start = tf.zeros([1, 6, 1], tf.float64)
    ends = [finish_plans(problem, z0, start, 5, tf.constant(limit), errors) for limit in (0, 2, 5)]
    np.testing.assert_array_equal(ends[0][0].actions, start)
    np.testing.assert_array_equal(ends[1][1][:, :2], ends[2][1][:, :2])
    np.testing.assert_array_equal(ends[1][1][:, 2:], np.repeat(ends[1][0].score[:, None], 3, 1))
    assert ends[0][0].score < ends[1][0].score


def test_the_finish_does_not_break_a_state_constraint_further():
    # Speed is asked to stay below 0.3; the reward alone would have more.
    problem = bounded()
    fast = lambda z: z[..., 1:] - 0.3
    asked = dataclasses.replace(problem, constraint=fast)
    errors = lambda z: z - tf.constant(TARGET)
    start = tf.fill([1, 8, 1], tf.constant(0.05, tf.float64))
    z0 = tf.zeros([1, 2], tf.float64)
    kept, free = (finish_plans(p, z0, start, 10, tf.constant(10), errors)[0] for p in (asked, problem))
    assert np.all(free.states[..., 1].numpy().max() > 0.35)
    assert np.all(kept.states[..., 1] <= 0.3) and kept.violation == 0.0


@pytest.mark.parametrize("name", ["far", "ridge", "explicit", "linear_quadratic"])
def test_finished_plans_are_feasible_and_no_worse(name):
    problem = {"far": far, "ridge": ridge, "explicit": explicit, "linear_quadratic": linear_quadratic}[name]()
    z0 = np.full([3, problem.state_size], 0.1, np.float32)
    options = EAGER | {"reward_residual": shifted_root} if name == "linear_quadratic" else EAGER
    clipped, finished = (paper_latco(problem, 8, 40, finish=steps, **options)(z0, SEED) for steps in (0, 10))
    for curve in ("dynamics_violation", "action_violation"):
        assert clipped.curves[curve].shape[1] == 40 and finished.curves[curve].shape[1] == 50
        np.testing.assert_array_equal(finished.curves[curve][:, -1], 0.0)
        np.testing.assert_allclose(finished.curves[curve][:, :40], clipped.curves[curve], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(finished.states, rollout(problem.step, tf.constant(z0), finished.actions), atol=1e-4)
    assert np.abs(finished.actions).max() <= problem.a_max
    returns = [plan.rewards.numpy().sum(1) for plan in (clipped, finished)]
    assert np.all(returns[1] >= returns[0] - 1e-3 * np.abs(returns[0]))
    np.testing.assert_allclose(finished.curves["reward"][:, -1], returns[1], rtol=1e-4)
    np.testing.assert_array_equal(finished.iterations, 50)


def test_a_search_stopped_early_is_not_finished():
    planner, z0 = paper_latco(far(), 6, 20, finish=5, **EAGER), np.zeros([2, 1], np.float32)
    plain = paper_latco(far(), 6, 20, **EAGER)(z0, SEED, iterations=12)
    early = planner(z0, SEED, iterations=12)
    np.testing.assert_allclose(early.states, plain.states, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(early.iterations, 12)
    assert planner.traces == 1


def test_gaussian_plans_end_within_the_bounds_on_the_moments_of_the_dynamics():
    planner = paper_gaussian_latco(far(), 6, 15, samples=50, finish=10, **EAGER)
    plan = planner(np.zeros([2, 1], np.float32), SEED)
    assert plan.curves["action_violation"].shape == (2, 16) and np.all(plan.curves["action_violation"][:, -1] == 0.0)
    np.testing.assert_allclose(plan.states[..., 0], np.cumsum(0.1 * plan.actions[..., 0], 1), atol=1e-4)


def test_after_an_early_stop_the_finish_follows_the_search():
    planner = paper_latco(far(), 4, 200, finish=6, tolerance=1e-4, **EAGER)
    plan = planner(np.array([[0.1], [1.0]], np.float32), SEED)
    search = paper_latco(far(), 4, 200, tolerance=1e-4, **EAGER)(np.array([[0.1], [1.0]], np.float32), SEED)
    assert np.all(plan.iterations == search.iterations + 6) and np.all(plan.iterations < 100)
    for row, count in enumerate(search.iterations.numpy()):
        for name, curve in plan.curves.items():
            np.testing.assert_allclose(curve[row, :count], search.curves[name][row, :count], rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(curve[row, count + 5 :], curve[row, -1])
        np.testing.assert_array_equal(plan.curves["dynamics_violation"][row, count:], 0.0)
    for name in ("dynamics_violation", "action_violation"):
        np.testing.assert_allclose(before_finish(plan, name, 6), search.curves[name][:, -1], rtol=1e-3, atol=1e-6)


def test_of_two_finished_plans_the_score_decides_unless_one_breaks_the_constraint_more():
    score, excess = tf.constant([3.0, 3.0, 1.0, np.nan, 9.0, 2.0]), tf.constant([0.0, 0.0, 0.0, 0.0, 0.1, 0.0])
    states = tf.range(6.0)[:, None, None]
    plans = Finished(states, states, score, excess, excess)
    chosen, scores = better_of_pairs(plans, score[:, None], excess)
    # Plan 0 or 3, 1 or 4, 2 or 5: no number, more excess, a higher score.
    np.testing.assert_array_equal(chosen.states[:, 0, 0], [0, 1, 5])
    np.testing.assert_array_equal(scores, [[3.0], [3.0], [2.0]])


@pytest.mark.parametrize("excess, better", [(0.5 * 0.01, 10.0), (1.5 * 0.01, 1.0)])
def test_a_kept_start_wins_only_by_an_excess_that_counts(excess, better):
    problem = dataclasses.replace(far(), constraint=lambda z: z)
    planner = paper_latco(problem, 1, 1, finish=1, keep_start=True, eps_con=0.01, **EAGER)
    none = tf.zeros([2, 1, 1])
    plans = Finished(none, none, tf.constant([10.0, 1.0]), tf.constant([excess, 0.0]), tf.zeros([2]))
    planner._run_finish = lambda *_: (plans, plans.score[:, None])
    end, scores = planner._better_finish(none[:1, 0], none[:1], none[:1], (), 1)
    assert end.score == [better] and scores == [[better]]


def test_a_gaussian_finish_that_is_not_finite_is_left_out():
    # The mean dynamics stay below the edge, samples do not.
    edge = 1.0
    step = lambda z, a: z + 0.1 * a
    reward = lambda z: z[..., 0] - tf.where(z[..., 0] > edge, tf.constant(np.nan, z.dtype), 0.0)
    sample = lambda z, a, noise: step(z, a) + 2.0 * noise
    problem = LatentProblem(step, reward, 1, 1, sample_step=sample, noise_size=1)
    plan = paper_gaussian_latco(problem, 3, 4, samples=20, finish=1, **EAGER)(np.zeros([1, 1], np.float32), SEED)
    for x in (plan.states, plan.rewards, plan.curves["reward"]):
        assert np.all(np.isfinite(x))
    assert plan.iterations == [4]
