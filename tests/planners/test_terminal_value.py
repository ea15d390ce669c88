"""Plans that end in a terminal value: optima, residuals, discounts, constraints and restarts."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from problems import (
    BUILDERS,
    EAGER,
    HORIZON,
    SEED,
    SOLVED,
    curved,
    explicit,
    line,
    linear_quadratic,
    linear_quadratic_optimum,
    paper_latco,
    root_residual,
    with_value,
)

from planners.cem import CEM
from planners.discounting import LEAST_DISCOUNT, discounted, start_survival, strip_survival
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.ilqr import ILQR
from planners.residuals import objective_residuals, softplus_residual
from planners.seeds import split_seed
from planners.trajectories import objective_rewards, rollout


def quick(names, *fast):
    """Parameters of which those not among `fast` are slow tests."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick(SOLVED, "cem", "gd", "ilqr", "latco", "grasp"))
def test_every_planner_reaches_the_linear_quadratic_optimum_with_a_terminal_value(name):
    z0 = np.array([0.5, 1.0, 0.0])
    build, error = SOLVED[name]
    actions, best = linear_quadratic_optimum(z0, HORIZON, value=True)
    plan = build(with_value(linear_quadratic()))(z0[None], SEED)
    found = float(tf.reduce_sum(plan.rewards) + plan.value[0])
    assert best - 3 * error <= found <= best + 1e-9
    np.testing.assert_allclose(plan.actions[0, :, 0], actions, atol=np.sqrt(3 * error / 0.3))
    # Without the value other actions are best, and theirs are the rewards alone.
    short, _ = linear_quadratic_optimum(z0, HORIZON)
    assert np.abs(short - actions).max() > 1.0
    states = rollout(linear_quadratic().step, tf.constant(z0[None]), plan.actions)
    np.testing.assert_allclose(plan.rewards, linear_quadratic().reward(states), rtol=1e-6)
    np.testing.assert_allclose(plan.value, with_value(linear_quadratic()).value(states[:, -1]), rtol=1e-6)


@pytest.mark.parametrize("name", quick(BUILDERS, "cem", "latco"))
def test_a_value_of_zero_changes_no_plan(name):
    z0, build = np.array([[0.1, 0.2], [1.0, -1.0]]), BUILDERS[name][0]
    zero = dataclasses.replace(explicit(), value=lambda z: 0.0 * z[..., 0], value_steps=100.0)
    own, plan = (build(problem, 4, restarts=2, tolerance=1e-9, **EAGER)(z0, SEED) for problem in (explicit(), zero))
    assert own.value is None and plan.value.shape == (2,)
    for field in ("actions", "states", "rewards", "iterations"):
        np.testing.assert_allclose(getattr(plan, field), getattr(own, field), rtol=1e-6, atol=1e-7, err_msg=field)
    for key, curve in own.curves.items():
        np.testing.assert_allclose(plan.curves[key], curve, rtol=1e-5, atol=1e-7, err_msg=key)


def test_objective_rewards_are_rewards_with_the_value_of_the_last_state():
    problem = dataclasses.replace(curved(), value=lambda z: 10.0 * z[..., 1])
    states = tf.constant([[[0.3, 0.3], [0.3, 0.3], [0.3, 0.5]]])
    np.testing.assert_allclose(objective_rewards(problem, states), [[0.0, 0.0, -0.04 + 5.0]], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(objective_rewards(curved(), states), [[0.0, 0.0, -0.04]], rtol=1e-6, atol=1e-9)


def test_a_terminal_value_is_discounted_as_the_next_reward_would_be():
    # One step from 1 to 2 on a line, discounts 0.8 in 0, 0.5 in 1, 0.25 in 2; the value is what rewards from 3 on say.
    problem = dataclasses.replace(curved(), step=lambda z, a: z + a, value=lambda z: 100.0 * z[..., 0], state_size=1)
    factor = lambda z: tf.pow(0.5, z[..., 0]) * tf.where(z[..., 0] < 0.5, 0.8, 1.0)
    found = discounted(problem, factor)
    states = rollout(found.step, start_survival(tf.zeros([1, 1])), tf.ones([1, 2, 1]))
    np.testing.assert_allclose(found.value(states[:, -1]), [200.0 * 0.8 * 0.5 * 0.25], rtol=1e-5)
    over = found.value(tf.constant([[5.0, 0.0]]))  # 2^-5 is above the least discount, 2^-20 is not
    np.testing.assert_allclose(over, [500.0 / 32], rtol=1e-5)
    np.testing.assert_allclose(found.value(tf.constant([[20.0, 0.0]])), [2000.0 * LEAST_DISCOUNT], rtol=1e-5)
    assert discounted(curved(), factor).value is None


DISCOUNTED = {
    "cem": lambda p: CEM(p, 2, 15, 300, 30, False, **EAGER),
    "gd": lambda p: GD(p, 2, 200, restarts=2, **EAGER),
    "gn": lambda p: GN(p, 2, 30, reward_residual=root_residual, restarts=2, **EAGER),
    "latco": lambda p: paper_latco(p, 2, 60, reward_residual=root_residual, restarts=2, **EAGER),
}


@pytest.mark.parametrize("name", DISCOUNTED)
def test_discounted_plans_reach_the_optimum_of_the_weighted_problem(name):
    # With the same discount in every state the weights are gamma^t, so that a grid over two actions knows the optimum.
    goal, gamma, value = 1.0, 0.6, lambda z: -5.0 * tf.square(z[..., 0] - goal)
    problem = line(lambda z: -2.0 * tf.square(z[..., 0] + goal), 0.5, 1e-3, value=value, value_steps=2.5)
    one, two = np.meshgrid(*[np.linspace(-0.5, 0.5, 501)] * 2)
    pays = -2 * (gamma * (one + goal) ** 2 + gamma**2 * (one + two + goal) ** 2)
    pays -= 5 * gamma**3 * (one + two - goal) ** 2
    found = discounted(problem, lambda z: tf.fill(z.shape[:-1], tf.constant(gamma, z.dtype)))
    plan = DISCOUNTED[name](found)(start_survival(tf.zeros([1, 1])), SEED)
    stripped = strip_survival(plan)
    assert stripped.states.shape[-1] == 1 and stripped.value is plan.value
    objective = float(tf.reduce_sum(plan.rewards) + plan.value[0])
    assert pays.max() - 0.1 < objective < pays.max() + 1e-3
    ignoring = np.unravel_index(
        np.argmax(-2 * (gamma * (one + goal) ** 2 + gamma**2 * (one + two + goal) ** 2)), one.shape
    )
    assert pays[ignoring] < pays.max() - 0.3


def test_the_residual_of_a_value_is_that_of_the_steps_it_stands_for():
    problem = dataclasses.replace(curved(), value_steps=4.0)
    rewards = tf.constant([[0.1, 0.2, 0.3]])
    found = objective_residuals(problem, softplus_residual, rewards, tf.constant([2.0]))
    np.testing.assert_allclose(found[0, :, 0], np.log1p(np.exp([-0.1, -0.2, -0.3])), rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], [0.0, 0.0, 2.0 * np.log1p(np.exp(-0.5))], rtol=1e-6)
    # As four more rewards of 0.5, and its square with the same slope in the objective.
    assert float(found[0, 2, 1] ** 2) == pytest.approx(4 * np.log1p(np.exp(-0.5)) ** 2, rel=1e-6)
    assert objective_residuals(problem, softplus_residual, rewards, None).shape == (1, 3, 1)


def test_gaussian_plans_are_paid_the_mean_over_their_distributions():
    """The samples have mean 0 and variance 1 exactly, so that the mean of z^2 is that of the Gaussian."""
    problem = line(lambda z: -tf.square(z[..., 0]), 0.1, 0.5, value=lambda z: 3.0 * tf.square(z[..., 0]) + z[..., 0])
    planner = GaussianLatCo(problem, 2, 1, samples=7, **EAGER)
    noise = planner._noise(split_seed(tf.constant(SEED), 1), tf.float64)
    mean, std = np.array([[[0.3], [-0.5]]]), np.array([[[0.2], [0.4]]])
    variables = tf.constant(mean), tf.zeros([1, 2, 1], tf.float64), tf.constant(std)
    rewards, value = planner._rewards_and_value(variables[0], variables, noise)
    np.testing.assert_allclose(rewards, [[-(0.3**2) - 0.2**2, -(0.5**2) - 0.4**2]], rtol=1e-9)
    np.testing.assert_allclose(value, [3.0 * (0.5**2 + 0.4**2) - 0.5], rtol=1e-9)
    # Predictions with a mean of 0.1 and a spread of 0.5 are these far away.
    moments = tf.fill([1, 2, 1], tf.constant(0.1, tf.float64)), tf.fill([1, 2, 1], tf.constant(0.5, tf.float64))
    _, violation = planner._dynamics(variables, moments)
    np.testing.assert_allclose(violation, [[0.2**2 + 0.3**2, 0.6**2 + 0.1**2]], rtol=1e-9)


def test_a_large_value_still_moves_second_order_plans():
    # A value of 100 at most, for a discount of 0.99: softplus(-V) itself would be e^-100.
    value = lambda z: 60.0 + 40.0 * tf.tanh(z[..., 0])
    problem = line(lambda z: 0.0 * z[..., 0], 0.1, 0.0, value=value, value_steps=100.0)
    for planner in (GN(problem, 5, 40, **EAGER), ILQR(problem, 5, 40, **EAGER), paper_latco(problem, 5, 100, **EAGER)):
        plan = planner(np.zeros([2, 1]), SEED)
        assert np.all(plan.actions > 0.9), type(planner)


def test_both_solvers_take_the_same_step_as_the_damping_vanishes():
    problem, z0 = with_value(linear_quadratic()), tf.constant([[0.5, 1.0, 0.0]], tf.float64)
    options = {"damping": 1e-9, "reward_residual": root_residual, **EAGER}
    steps = []
    for solver in ("condensed", "block_tridiagonal"):
        planner = paper_latco(problem, HORIZON, 1, solver, **options)
        steps.append(planner(z0, SEED))
        assert planner.solver == solver
    np.testing.assert_allclose(steps[0].actions, steps[1].actions, rtol=1e-4)
    np.testing.assert_allclose(steps[0].states, steps[1].states, rtol=1e-4)
    other = paper_latco(linear_quadratic(), HORIZON, 1, "condensed", **options)(z0, SEED)
    assert np.abs(other.actions - steps[0].actions).max() > 0.1


def test_a_value_stands_beside_state_constraints():
    # The value pulls to 2, the constraint stops at 0.6; its multipliers are those of its own column.
    limit, value = lambda z: tf.concat([z - 0.6, -3.0 - z], -1), lambda z: -tf.square(z[..., 0] - 2.0)
    problem = line(lambda z: 0.0 * z[..., 0], 0.1, 0.0, constraint=limit, value=value, value_steps=3.0)
    plan = paper_latco(problem, 10, 150, reward_residual=root_residual, eps_con=1e-6, **EAGER)(np.zeros([1, 1]), SEED)
    assert np.max(plan.states) < 0.62 and float(plan.states[0, -1, 0]) > 0.55
    assert float(plan.curves["kappa"][0, -1]) > 0.0


def test_restarts_are_compared_with_their_values():
    # Two goals: the rewards prefer the left one, the value the right one by far.
    step = lambda z, a: z + 0.5 * a
    near = lambda z, x: tf.exp(-8.0 * tf.square(z[..., 0] - x))
    problem = dataclasses.replace(curved(), step=step, state_size=1, reward=lambda z: near(z, -1.0))
    valued = dataclasses.replace(problem, value=lambda z: 10.0 * near(z, 1.0), value_steps=10.0)
    ends = []
    for x in (problem, valued):
        plan = BUILDERS["gd"][0](x, 4, restarts=32, **EAGER)(np.zeros([1, 1]), SEED)
        ends.append(float(rollout(step, tf.zeros([1, 1], tf.float64), plan.actions)[0, -1, 0]))
    assert ends[0] < -0.5 and ends[1] > 0.5
