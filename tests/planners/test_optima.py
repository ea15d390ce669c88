"""Plans of every planner on problems whose optimum is known."""

import numpy as np
import pytest
import tensorflow as tf
from problems import (
    BUILDERS,
    EAGER,
    HORIZON,
    SEED,
    SOLVED,
    far,
    linear_quadratic,
    linear_quadratic_optimum,
    paper_latco,
    ridge,
    root_residual,
)

from optimizers import WarmStart
from planners.cem import CEM
from planners.gd import GD
from planners.gn import GN
from planners.ilqr import ILQR
from planners.seeds import split_seed


@pytest.mark.parametrize("name", SOLVED)
def test_every_planner_reaches_the_linear_quadratic_optimum(name):
    z0 = np.array([0.5, 1.0, 0.0])
    build, error = SOLVED[name]
    actions, best = linear_quadratic_optimum(z0, HORIZON)
    plan = build(linear_quadratic())(z0[None], SEED)
    assert best - error <= float(tf.reduce_sum(plan.rewards)) <= best + 1e-9
    # The return falls by at least 0.3 |da|^2 around the optimum: every action is charged for.
    np.testing.assert_allclose(plan.actions[0, :, 0], actions, atol=np.sqrt(error / 0.3))


def test_shooting_by_gradients_is_stuck_before_the_ridge_and_collocation_leaps_over_it():
    best = -2.25 - 1.0 - 0.25  # at full speed: 0.5, 1, 1.5, 2, 2, ...
    for solver in ("condensed", "block_tridiagonal"):
        planner = paper_latco(ridge(), 8, 60, solver, reward_residual=root_residual, restarts=8, **EAGER)
        plan = planner(np.zeros([2, 1], np.float32), SEED)
        np.testing.assert_allclose(tf.reduce_sum(plan.rewards, 1), best, atol=0.05)
        np.testing.assert_allclose(plan.actions[:, :4, 0], 1.0, atol=0.1)
    stuck = GD(ridge(), 8, 400, **EAGER)(np.zeros([16, 1], np.float32), SEED)
    assert np.all(tf.reduce_sum(stuck.rewards, 1) < best - 1.0)


@pytest.mark.parametrize("name", ["cem", "gd", "gn", "ilqr", "latco"])
def test_full_speed_ahead_where_the_goal_is_far(name):
    problem = far()
    planner = {
        "cem": lambda: CEM(problem, 5, 20, 300, 30, False, **EAGER),
        "gd": lambda: GD(problem, 5, 500, eps_act=1e-6, **EAGER),
        "gn": lambda: GN(problem, 5, 100, eps_act=1e-6, **EAGER),
        "ilqr": lambda: ILQR(problem, 5, 50, **EAGER),
        "latco": lambda: paper_latco(problem, 5, 100, eps_act=1e-6, **EAGER),
    }[name]()
    plan = planner(tf.zeros([1, 1]), SEED)
    np.testing.assert_allclose(plan.actions[0, :, 0], 1.0, atol=0.02)
    np.testing.assert_allclose(plan.rewards[0], [-((5 - 0.1 * t) ** 2) for t in range(1, 6)], rtol=2e-3)


@pytest.mark.parametrize("name", ["random_shooting", "icem"])
def test_a_warm_start_that_is_the_optimum_is_kept(name):
    # Full speed ahead is the only optimum, and random sequences of 12 actions come nowhere near it.
    planner = BUILDERS[name][0](far(), 12, **EAGER)
    z0, seed = np.zeros([2, 1]), split_seed(tf.constant(SEED), 2)
    warm = planner(z0, seed, WarmStart(np.ones([2, planner.num_warm_starts, 12, 1]), [12, 0]))
    np.testing.assert_allclose(warm.actions[0], 1.0)
    np.testing.assert_allclose(warm.actions[1], planner(z0, seed).actions[1])
    assert np.sum(warm.rewards[1]) < np.sum(warm.rewards[0])
