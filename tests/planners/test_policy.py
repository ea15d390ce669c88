"""Planners with a policy: its rollout, plans that start from it, candidates of it, and restarts that are kept."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from problems import BUILDERS, EAGER, HORIZON, SEED, cliff_discount, curved, explicit, far

from optimizers import LatentProblem
from planners.cem import CEM
from planners.discounting import discounted, start_survival, strip_survival
from planners.gd import GD
from planners.icem import ICEM
from planners.policy import PolicyRollout
from planners.seeds import CANDIDATES, fold_in, split_seed
from planners.trajectories import policy_noise, policy_rollout, rollout


def drive(z, noise=None):
    """A policy that depends on the state."""
    u = 0.7 - 0.5 * z[..., :1]
    return tf.tanh(u if noise is None else u + 0.4 * noise)


def with_policy(problem, policy=drive):
    return dataclasses.replace(problem, policy=policy)


def by_hand(problem, z0, noise):
    """Actions and states of one rollout, step by step."""
    z, actions, states = tf.constant(z0), [], []
    for e in noise:
        actions.append(problem.policy(z, tf.constant(e)))
        z = problem.step(z, actions[-1])
        states.append(z)
    return np.array(actions), np.array(states)


def test_a_policy_is_rolled_out_along_the_mean_dynamics():
    problem, z0 = with_policy(curved()), np.array([[0.1, 0.2], [1.0, -1.0]])
    noise = np.random.default_rng(0).normal(size=[2, HORIZON, 1])
    found = policy_rollout(problem, tf.constant(z0), tf.constant(noise))
    for row in range(2):
        for part, expected in zip(found, by_hand(problem, z0[row], noise[row]), strict=True):
            np.testing.assert_allclose(part[row], expected, rtol=1e-9)
    wide = policy_rollout(problem, tf.repeat(tf.constant(z0)[:, None], 3, 1), tf.zeros([2, 3, HORIZON, 1], tf.float64))
    np.testing.assert_allclose(wide[1][:, 2], policy_rollout(problem, z0, tf.zeros([2, HORIZON, 1], tf.float64))[1])


def test_the_plan_of_a_policy_is_its_mean_and_more_restarts_are_samples():
    problem, z0 = with_policy(curved()), np.array([[0.1, 0.2], [1.0, -1.0]])
    planner = PolicyRollout(problem, HORIZON, **EAGER)
    plan = planner(z0, SEED)
    for row in range(2):
        actions, states = by_hand(problem, z0[row], np.zeros([HORIZON, 1]))
        np.testing.assert_allclose(plan.actions[row], actions, rtol=1e-9)
        np.testing.assert_allclose(plan.states[row], states, rtol=1e-9)
        np.testing.assert_allclose(plan.curves["reward"][row, 0], problem.reward(states).numpy().sum(), rtol=1e-9)
    assert plan.iterations.numpy().tolist() == [1, 1] and plan.non_finite.numpy().tolist() == [0, 0]
    many = PolicyRollout(problem, HORIZON, restarts=9, keep_plans=9, **EAGER)(z0, SEED)
    totals = tf.reduce_sum(many.rewards, 1)
    assert np.all(totals > tf.reduce_sum(plan.rewards, 1)) and np.all(np.diff(many.kept_scores) <= 0)
    for row in range(2):  # the mean is one of them
        assert np.min(np.abs(many.kept[row] - plan.actions[row]).max((1, 2))) < 1e-9
        np.testing.assert_array_equal(many.kept[row, 0], many.actions[row])


def test_plans_of_a_policy_that_is_not_finite_are_counted_and_replaced():
    broken = with_policy(curved(), lambda z, noise=None: drive(z) / tf.cast(z[..., :1] < 50.0, z.dtype))
    plan = PolicyRollout(broken, HORIZON, **EAGER)(np.array([[0.1, 0.2], [90.0, 0.0]]), SEED)
    assert plan.non_finite.numpy().tolist() == [0, 1] and np.all(np.abs(plan.actions) <= 1.0)
    assert np.all(np.isfinite(plan.rewards)) and np.ptp(plan.actions[1]) > 0.1


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("icem", "random_shooting")])
def test_every_planner_starts_from_the_policy(name, line_by_line):
    problem, z0 = with_policy(explicit()), np.array([[0.1, 0.2], [0.3, 0.1]])
    planner = BUILDERS[name][0](problem, HORIZON, policy_start=True, **EAGER)
    plan = planner(z0, SEED, iterations=0)
    expected, _ = policy_rollout(problem, tf.constant(z0), tf.zeros([2, HORIZON, 1], tf.float64))
    np.testing.assert_allclose(plan.actions, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["icem", "random_shooting"])
def test_planners_of_candidates_have_the_policy_among_them(name):
    # Full speed ahead is the only optimum, and random sequences of 12 actions come nowhere near it.
    problem = with_policy(far(), lambda z, noise=None: tf.ones_like(z[..., :1]))
    for start in (True, False):
        plan = BUILDERS[name][0](problem, 12, policy_start=start, **EAGER)(np.zeros([2, 1]), SEED)
        assert np.allclose(plan.actions, 1.0) == start


def test_of_several_starts_the_first_is_the_policy_s_mean_and_the_others_are_samples():
    problem, z0, seeds = with_policy(curved()), np.array([[0.1, 0.2], [1.0, -1.0]]), split_seed(tf.constant(SEED), 2)
    planner = ICEM(problem, HORIZON, 2, 40, 4, False, policy_start=True, **EAGER)
    warm = planner._from_policy(tf.constant(z0), seeds)
    assert warm.actions.shape == (2, 5, HORIZON, 1) and warm.steps.numpy().tolist() == [HORIZON] * 2
    noise = tf.reshape(policy_noise(problem, 5 * HORIZON, seeds, tf.float64), [2, 5, HORIZON, 1]).numpy()
    noise[:, 0] = 0.0
    expected, _ = policy_rollout(problem, tf.repeat(tf.constant(z0)[:, None], 5, 1), tf.constant(noise))
    np.testing.assert_allclose(warm.actions, expected, rtol=1e-9)
    assert np.ptp(warm.actions, axis=1).min() > 0.01


def test_only_the_first_restart_starts_from_the_policy(line_by_line):
    problem, z0 = with_policy(curved()), np.array([[0.1, 0.2]])
    planner = GD(problem, HORIZON, 5, restarts=3, keep_plans=3, policy_start=True, **EAGER)
    plan = planner(z0, SEED, iterations=0)
    others = [
        GD(curved(), HORIZON, 5, **EAGER)(z0, seed[None], iterations=0)
        for seed in split_seed(split_seed(tf.constant(SEED), 1)[0], 3)[1:]
    ]
    expected = [
        policy_rollout(problem, z0, tf.zeros([1, HORIZON, 1], tf.float64))[0][0],
        *(x.actions[0] for x in others),
    ]
    scores = [float(tf.reduce_sum(curved().reward(rollout(curved().step, tf.constant(z0[0]), x)))) for x in expected]
    order = np.argsort(scores)[::-1]
    np.testing.assert_allclose(plan.kept_scores[0], np.array(scores)[order], rtol=1e-6)
    np.testing.assert_allclose(plan.kept[0], np.stack(expected)[order], rtol=1e-6)


def test_the_score_of_a_kept_plan_that_has_none_is_not_a_number():
    """The states are the actions and pay themselves, but for the positive ones."""
    reward = lambda z: tf.where(z[..., 0] > 0.0, tf.constant(np.nan, z.dtype), z[..., 0])
    problem = LatentProblem(lambda z, a: a, reward, 1, 1)
    plan = GD(problem, 1, 5, restarts=8, keep_plans=8, **EAGER)(np.zeros([3, 1]), SEED, iterations=0)
    actions = plan.kept[..., 0, 0].numpy()
    assert np.any(actions > 0.0, 1).all() and np.any(actions < 0.0, 1).all()
    np.testing.assert_array_equal(plan.kept_scores, np.where(actions > 0.0, np.nan, actions))
    assert np.all(plan.actions < 0.0), "the best one has a score"
    np.testing.assert_array_equal(plan.non_finite, np.sum(actions > 0.0, 1))  # of all restarts


def test_without_restarts_the_plan_itself_is_kept():
    plan = GD(curved(), HORIZON, 5, keep_plans=1, **EAGER)(np.array([[0.1, 0.2]]), SEED)
    np.testing.assert_array_equal(plan.kept[:, 0], plan.actions)
    np.testing.assert_allclose(plan.kept_scores[:, 0], tf.reduce_sum(plan.rewards, 1))
    assert GD(curved(), HORIZON, 5, restarts=3, **EAGER)(np.array([[0.1, 0.2]]), SEED).kept is None


# Candidates


class RecordedError(Exception):
    """Carries the candidates of the first population."""


def first_population(planner, z0, monkeypatch):
    def returns(z0, actions, seeds):
        raise RecordedError(actions)

    monkeypatch.setattr(planner, "_returns", returns)
    with pytest.raises(RecordedError) as caught:
        planner._optimize(tf.constant(z0), split_seed(tf.constant(SEED), len(z0)), None, tf.constant(99))
    return caught.value.args[0].numpy()


@pytest.mark.parametrize(
    "make",
    [lambda p, **o: CEM(p, HORIZON, 3, 40, 8, False, **o), lambda p, **o: ICEM(p, HORIZON, 2, 40, 8, False, **o)],
)
def test_a_share_of_the_candidates_are_samples_of_the_policy(make, monkeypatch):
    monkeypatch.setattr(tf, "while_loop", lambda cond, body, start, **_: body(*start))
    problem, z0 = with_policy(curved()), np.array([[0.1, 0.2], [1.0, -1.0]])
    plain = first_population(make(problem), z0, monkeypatch)
    mixed = first_population(make(problem, policy_share=0.25), z0, monkeypatch)
    np.testing.assert_array_equal(mixed[:, :30], plain[:, :30])
    seeds = fold_in(split_seed(tf.constant(SEED), 2), CANDIDATES)
    noise = tf.reshape(policy_noise(problem, 10 * HORIZON, seeds, tf.float64), [2, 10, HORIZON, 1])
    expected, _ = policy_rollout(problem, tf.repeat(tf.constant(z0)[:, None], 10, 1), noise)
    np.testing.assert_allclose(mixed[:, 30:], expected, rtol=1e-9)
    assert np.ptp(mixed[:, 30:, 0], axis=1).min() > 0.1


def test_a_small_share_of_few_candidates_is_one(monkeypatch):
    monkeypatch.setattr(tf, "while_loop", lambda cond, body, start, **_: body(*start))
    problem, z0 = with_policy(curved()), np.array([[0.1, 0.2]])
    plain, mixed = (
        first_population(CEM(problem, HORIZON, 3, 40, 8, False, policy_share=share, **EAGER), z0, monkeypatch)
        for share in (0.0, 0.01)
    )
    assert np.any(plain != mixed, axis=(2, 3))[0].tolist() == [False] * 39 + [True]


@pytest.mark.parametrize("name", ["cem", "mppi", "icem"])
def test_candidates_of_the_policy_are_found(name, line_by_line):
    problem = with_policy(far(), lambda z, noise=None: tf.ones_like(z[..., :1]))
    found = [
        float(
            tf.reduce_sum(BUILDERS[name][0](problem, 12, policy_share=share, **EAGER)(np.zeros([1, 1]), SEED).rewards)
        )
        for share in (0.0, 0.25)
    ]
    assert found[1] > found[0] + 5.0


def test_the_policy_of_a_discounted_problem_sees_the_features_alone():
    problem = with_policy(far(), lambda z, noise=None: tf.tanh(0.1 * tf.reduce_sum(z, -1, keepdims=True) + 0.3))
    found = discounted(problem, cliff_discount)
    plan = PolicyRollout(found, 3, **EAGER)(start_survival(tf.zeros([1, 1])), SEED)
    plain = PolicyRollout(problem, 3, **EAGER)(tf.zeros([1, 1]), SEED)
    np.testing.assert_allclose(plan.actions, plain.actions, rtol=1e-6)
    np.testing.assert_allclose(strip_survival(plan).states, plain.states, rtol=1e-6)
    assert discounted(far(), cliff_discount).policy is None


def test_a_rollout_without_a_policy_is_refused():
    with pytest.raises(ValueError, match="policy"):
        PolicyRollout(curved(), 3)
