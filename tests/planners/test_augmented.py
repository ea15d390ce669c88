"""ColloDreamer's augmented objective: the ratio, the advantage and the stopped gradients by hand, and LatCo with it."""

import dataclasses

import numpy as np
import problems
import pytest
import tensorflow as tf

import agents
import models
from optimizers import LatentProblem
from planners.augmented import MAX_RATIO, advantages, augmented_residuals
from planners.cem import CEM
from planners.discounting import discounted, start_survival
from planners.latco import LatCo, Search
from planners.residuals import softplus_residual
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS
from tools.errors import UserError
from world_model.old_dynamics import OldDynamics

Z0, STATES, ACTIONS, LAM = 0.3, [0.5, 0.2, 0.9], [0.4, -0.1, 0.6], [1.0, 2.0, 6.0]


def normal(slope, std):
    """The log density of z' ~ N(slope z + a, std^2)."""

    def log_prob(z, a, after):
        error = (after - slope * z - a)[..., 0] / std
        return -0.5 * tf.square(error) - np.log(std) - 0.5 * np.log(2 * np.pi)

    return log_prob


def line(old=(0.4, 0.5)):
    """z' = 0.8 z + a with a spread of 0.4, of which an older model thought otherwise; r = z and V = z^2."""
    return LatentProblem(
        step=lambda z, a: 0.8 * z + a,
        reward=lambda z: z[..., 0],
        state_size=1,
        action_size=1,
        value=lambda z: tf.square(z[..., 0]),
        log_prob=normal(0.8, 0.4),
        old_log_prob=normal(*old),
    )


def column(values):
    return tf.constant(values, tf.float64)[None, :, None]


def by_hand(residual, slope):
    """Residuals and gradients of equation 11, one number at a time. `residual` and its slope are of J."""
    z, a, weight = [Z0, *STATES], ACTIONS, 1 / 3.0  # 1 / mean of LAM
    logs, own = [], []
    for t in (1, 2, 3):
        new, old = (z[t] - 0.8 * z[t - 1] - a[t - 1]) / 0.4, (z[t] - 0.4 * z[t - 1] - a[t - 1]) / 0.5
        logs.append(-0.5 * new**2 - np.log(0.4) + 0.5 * old**2 + np.log(0.5))
        own.append(-new / 0.4)
    rho, g = [], []
    for t in (1, 2, 3):
        if t == 3:
            advantage = 0.0
        else:
            after = 0.8 * z[t] + a[t]
            advantage = after + after**2 - z[t] ** 2
        ratio = np.exp(logs[t - 1] + (logs[t - 2] if t > 1 else 0.0))
        assert 1 / MAX_RATIO < ratio < MAX_RATIO
        J = weight * ratio * advantage
        rho.append(residual(J))
        g.append(slope(J) * J * own[t - 1])
    return rho, g


def test_ratio_advantage_weight_and_stopped_gradients_are_those_computed_by_hand():
    arguments = tf.constant([[Z0]], tf.float64), column(STATES), column(ACTIONS), tf.constant([LAM], tf.float64)
    rho, g = augmented_residuals(line(), *arguments, residual=lambda J: 2.0 * J)
    right = by_hand(lambda J: 2.0 * J, lambda J: 2.0)
    np.testing.assert_allclose(rho[0, :, 0], right[0], rtol=1e-12)
    np.testing.assert_allclose(g[0, :, 0, 0], right[1], rtol=1e-12)
    assert np.all(np.abs(right[1][:2]) > 0.01) and rho.shape == (1, 3, 1) and g.shape == (1, 3, 1, 1)
    rho, g = augmented_residuals(line(), *arguments, residual=lambda J: tf.nn.softplus(-J))
    right = by_hand(lambda J: np.log1p(np.exp(-J)), lambda J: -1 / (1 + np.exp(J)))
    np.testing.assert_allclose(rho[0, :, 0], right[0], rtol=1e-12)
    np.testing.assert_allclose(g[0, :, 0, 0], right[1], rtol=1e-12)


def test_advantages_by_hand():
    # From 0.5 by -0.1 to 0.3, from 0.2 by 0.6 to 0.76.
    found = advantages(line(), column(STATES), column(ACTIONS))
    np.testing.assert_allclose(found, [[0.3 + 0.09 - 0.25, 0.76 + 0.5776 - 0.04, 0.0]], rtol=1e-12)


def test_a_ratio_out_of_range_is_clipped_and_moves_nothing():
    far = tf.constant([[[30.0], [30.0], [30.0]]], tf.float64)
    arguments = tf.constant([[Z0]], tf.float64), far, column(ACTIONS), tf.constant([LAM], tf.float64)
    for old, bound in (((0.8, 0.39), MAX_RATIO), ((0.8, 0.5), 1 / MAX_RATIO)):
        rho, g = augmented_residuals(line(old), *arguments, residual=lambda J: J)
        gain = advantages(line(), far, column(ACTIONS)) / 3.0
        np.testing.assert_allclose(rho[0, :, 0], bound * gain[0], rtol=1e-12)
        np.testing.assert_array_equal(g, 0.0)


def test_discounts_weight_the_advantage_and_leave_the_ratio_alone():
    gamma = 0.9
    problem = discounted(line(), lambda z: tf.fill(z.shape[:-1], tf.constant(gamma, z.dtype)))
    survival = np.log(gamma) * np.arange(1, 4)
    states = tf.concat([column(STATES), column(survival)], -1)
    found = advantages(problem, states, column(ACTIONS)).numpy()[0]
    # gamma^(t+1) (r(z_{t+1}) + gamma V(z_{t+1}) - V(z_t))
    right = [gamma**2 * (0.3 + gamma * 0.09 - 0.25), gamma**3 * (0.76 + gamma * 0.5776 - 0.04), 0.0]
    np.testing.assert_allclose(found, right, rtol=1e-6)
    z0 = tf.constant([[Z0]], tf.float64)
    before = tf.concat([start_survival(z0)[:, None], states[:, :-1]], 1)
    plain = tf.concat([z0[:, None], column(STATES)[:, :-1]], 1)
    np.testing.assert_array_equal(
        problem.old_log_prob(before, column(ACTIONS), states),
        line().old_log_prob(plain, column(ACTIONS), column(STATES)),
    )


def quadratic(old_std):
    """The linear-quadratic problem with a value, whose model has become surer than it was."""
    problem = problems.with_value(problems.linear_quadratic())

    def density(std):
        def log_prob(z, a, after):
            return -0.5 * tf.reduce_sum(tf.square((after - problem.step(z, a)) / std), -1) - 3 * np.log(std)

        return log_prob

    return dataclasses.replace(problem, log_prob=density(1.0), old_log_prob=density(old_std))


def states_and_actions():
    rng = np.random.default_rng(0)
    return tf.constant(0.3 * rng.normal(size=[1, 4, 3])), tf.constant(0.3 * rng.normal(size=[1, 4, 1]))


def one_step(problem, lam, monkeypatch):
    """The states after one step of LatCo from a plan that violates the dynamics, and what the solver was given."""
    planner, seen = LatCo(problem, 4, 2, lam_init=lam, dual_lr=0.0, damping=1e-6, finish=0), []
    solve, record = planner.solve, lambda *args: seen.append(args) or solve(*args)
    monkeypatch.setattr(LatCo, "solve", property(lambda self: record))
    z0, plan = tf.constant([[0.5, -0.3, 0.0]], tf.float64), states_and_actions()
    damping, zeros = tf.constant([1e-6], tf.float64), tf.zeros([1, len(planner.CURVES)], tf.float64)
    failed, non_finite = tf.constant([False]), tf.zeros([1], tf.int32)
    search = Search(plan, plan, planner._start_duals(z0), damping, failed, zeros, non_finite)
    after = planner._iterate(tf.constant(0), z0, (), search)
    monkeypatch.undo()
    return after.variables[0].numpy(), seen[0], (z0, *plan)


def test_latco_adds_the_term_to_its_system(monkeypatch):
    _, arguments, plan = one_step(quadratic(1.2), 3.0, monkeypatch)
    rho, g = arguments[5], arguments[6]
    right = augmented_residuals(quadratic(1.2), *plan, tf.constant([[3.0] * 4], tf.float64), softplus_residual)
    assert rho.shape == (1, 4, 3) and g.shape == (1, 4, 3, 3)  # rewards, value and the augmented objective
    np.testing.assert_array_equal(rho[..., 2:], right[0])
    np.testing.assert_array_equal(g[..., 2:, :], right[1])
    assert np.any(np.abs(right[1]) > 1e-3)


def test_the_term_falls_as_the_dynamics_are_enforced(monkeypatch):
    plain = dataclasses.replace(quadratic(1.2), log_prob=None, old_log_prob=None)
    states = lambda problem, lam: one_step(problem, lam, monkeypatch)[0]
    moved = [np.abs(states(quadratic(1.2), lam) - states(plain, lam)).max() for lam in (1.0, 1e2, 1e4)]
    assert moved[0] > moved[1] > 100 * moved[2] and moved[0] > 0.1, moved


def test_planners_without_a_lagrangian_and_agents_without_a_value_refuse(tiny_config):
    with pytest.raises(UserError, match="augmented_objective.*latco"):
        CEM(line(), 3, 2, 10, 5)
    with pytest.raises(UserError, match="value_head"):
        agents.agent_class("latco")(tiny_config.replace(augmented_objective=True), OBSERVATIONS, ACTION_SPACE)


def test_old_dynamics_are_copied_every_so_many_updates():
    model = models.WorldModel(
        2,
        stoch=4,
        deter=8,
        hidden=8,
        act="relu",
        min_std=0.1,
        cnn_depth=2,
        cnn_act="relu",
        reward_layers=1,
        reward_units=8,
    )
    old = OldDynamics(model, every=3)
    rng = np.random.default_rng(0)
    z, after = (tf.constant(rng.standard_normal([5, 12]), tf.float32) for _ in range(2))
    a = tf.constant(rng.uniform(-1, 1, [5, 2]), tf.float32)
    follow = tf.function(old.follow)
    copied = []
    for update in range(1, 8):
        for variable in model.dynamics.weights:
            variable.assign_add(0.01 * tf.ones_like(variable))
        follow(tf.constant(update, tf.int64))
        same = np.array_equal(old.net.log_prob(z, a, after), model.dynamics.log_prob(z, a, after))
        copied.append(same)
    assert copied == [False, False, True, False, False, True, False]
