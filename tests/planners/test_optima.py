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

from optimizers import LatentProblem, WarmStart
from planners.cem import CEM
from planners.gd import GD
from planners.gn import GN
from planners.ilqr import ILQR
from planners.latco import LatCo
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


@pytest.mark.parametrize("solver", ["condensed", "block_tridiagonal"])
def test_multipliers_pull_like_springs_and_follow_their_violations(solver, monkeypatch, line_by_line):
    """One action leads to a state that is the action.

    The reward pulls the state to 2, the dynamics pull it to the action, a constraint to 0.9, and the bound pulls the
    action to 1. All of this is linear where the search starts, at 1.5, so that it ends after one step.
    """
    step, limits = lambda z, a: 0.0 * z + a, lambda z: tf.concat([z - 0.9, -5.0 - z], -1)  # the second one never pulls
    problem = LatentProblem(step, lambda z: z[..., 0] - 2.0, 1, 1, constraint=limits)
    first = {"lam_init": 2.0, "nu_init": 3.0, "kappa_init": 4.0, "reward_residual": lambda reward: -reward}
    planner = LatCo(
        problem, 1, 1, solver, damping=1e-6, eps_dyn=1e-2, eps_act=1e-3, eps_con=1e-4, finish=0, **first, **EAGER
    )
    solve, dampings = planner.solve, []
    record = lambda *args: dampings.append(float(args[-1][0])) or solve(*args)
    monkeypatch.setattr(LatCo, "solve", property(lambda self: record))
    plan = planner(np.zeros([1, 1]), SEED, WarmStart(np.full([1, 1, 1, 1], 1.5), [1]))
    # Dynamics and bound are in series, 1 / (1 / 2 + 1 / 3) = 1.2.
    z = (1.2 * 1.0 + 4.0 * 0.9 + 1.0 * 2.0) / (1.2 + 4.0 + 1.0)
    a = (2.0 * z + 3.0 * 1.0) / (2.0 + 3.0)
    dynamics, bound, constraint = (z - a) ** 2, (a - 1.0) ** 2, (z - 0.9) ** 2
    pull = lambda violation, eps: 1.0 + 0.1 * np.log(violation / eps + 0.01)
    expected = {"reward": z - 2.0, "dynamics_violation": dynamics, "lam": 2.0 * pull(dynamics, 1e-2)}
    expected |= {"action_violation": bound, "nu": 3.0 * pull(bound, 1e-3), "constraint_violation": constraint}
    expected["kappa"] = 4.0 * (pull(constraint, 1e-4) + pull(0.0, 1e-4)) / 2  # the mean of both
    assert {name: float(curve[0, 0]) for name, curve in plan.curves.items()} == pytest.approx(expected, rel=1e-4)
    assert dampings == pytest.approx([2e-6])  # relative to lam
