"""The amortized policy: weights of plans by hand, what is remembered, and the regression."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from policies.actor import Actor
from policies.distillation import MOST_WEIGHT, Distiller, PlanMemory, mean_rewards, return_weights

SIZE, ACTIONS = 3, 2


def make_distiller(config, step=lambda z, a: z, lr=1e-2, **changes):
    keras.utils.set_random_seed(0)
    config = config.replace(**changes)
    return Distiller(config, Actor(config, SIZE, ACTIONS, lr), step, SIZE, ACTIONS)


def test_weights_of_plans_by_hand():
    # Returns 1, 2 and 3 have mean 2 and standard deviation sqrt(2 / 3) = 0.8165; 100 is not there.
    returns, there = tf.constant([1.0, 2.0, 3.0, 100.0]), tf.constant([True, True, True, False])
    np.testing.assert_allclose(return_weights(returns, there, 1.0), [0.29384, 1.0, 3.40317, 0.0], rtol=1e-4)
    np.testing.assert_allclose(return_weights(returns, there, 0.5), [0.54207, 1.0, 1.84477, 0.0], rtol=1e-4)
    np.testing.assert_allclose(return_weights(returns, there, 0.0), [1.0, 1.0, 1.0, 0.0])


def test_weights_grow_with_the_return_up_to_a_bound():
    returns = tf.concat([tf.zeros([99]), [7.0]], 0)  # the last one is 9.95 standard deviations above the mean
    weights = return_weights(returns, tf.ones([100], tf.bool), 1.0).numpy()
    assert weights[-1] == MOST_WEIGHT and np.all(weights[:-1] == weights[0]) and 0.9 < weights[0] < 1.0
    larger = return_weights(tf.range(10.0), tf.ones([10], tf.bool), 0.5).numpy()
    assert np.all(np.diff(larger) > 0)
    assert np.all(np.isfinite(return_weights(1e30 * returns[-20:], tf.ones([20], tf.bool), 50.0)))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_returns_have_equal_weights(value):
    np.testing.assert_array_equal(return_weights(tf.fill([7], value), tf.ones([7], tf.bool), 3.0), np.ones(7))
    np.testing.assert_array_equal(return_weights(tf.fill([7], value), tf.zeros([7], tf.bool), 3.0), np.zeros(7))


def test_mean_rewards_by_hand():
    reward = tf.constant([[9.0, 1.0, 2.0, 4.0, 8.0], [9.0, 1.0, 2.0, 4.0, 8.0]])
    follows = tf.constant([[True, True, True, True, True], [True, True, False, True, False]])
    found = mean_rewards(reward, follows, 2)
    # The second row has an episode that ends after entry 1, one of entries 2 and 3, and padding.
    np.testing.assert_allclose(found, [[1.5, 3.0, 6.0, 8.0, 0.0], [1.0, 0.0, 4.0, 0.0, 0.0]])
    np.testing.assert_allclose(mean_rewards(reward, follows, 99)[0], [15 / 4, 14 / 3, 6.0, 8.0, 0.0])


def test_the_memory_keeps_the_newest_pairs_and_no_number_that_is_not_finite():
    memory = PlanMemory(5, 1, 1)
    rows = lambda *values: tf.constant(values, tf.float32)[:, None]
    yes = lambda count: tf.ones([count], tf.bool)
    memory.add(rows(1, 2, 3), rows(10, 20, 30), tf.constant([0.1, 0.2, 0.3]), yes(3))
    assert int(memory.filled) == 3
    np.testing.assert_allclose(memory.feat[:, 0], [1, 2, 3, 0, 0])
    memory.add(rows(4, np.nan, 5, 6), rows(40, 0, 50, 60), tf.constant([0.4, 0.0, 0.5, 0.6]), yes(4))
    memory.add(rows(7, 8, 9), rows(70, 80, 90), tf.constant([np.inf, 0.8, 0.9]), tf.constant([True, True, False]))
    assert int(memory.filled) == 5 and int(memory.count) == 7
    np.testing.assert_allclose(memory.feat[:, 0], [6, 8, 3, 4, 5])
    np.testing.assert_allclose(memory.action[:, 0], [60, 80, 30, 40, 50])
    np.testing.assert_allclose(memory.score, [0.6, 0.8, 0.3, 0.4, 0.5])
    memory.add(rows(*range(11, 23)), rows(*range(12)), tf.zeros([12]), yes(12))  # more at once than there is room for
    assert sorted(memory.feat.numpy()[:, 0]) == [18, 19, 20, 21, 22]


def test_pairs_are_the_states_in_which_the_dynamics_say_that_planned_actions_are_taken(tiny_config):
    step = lambda z, a: tf.concat([z[..., :1] + a[..., :1], z[..., 1:] * 2.0], -1)
    found = make_distiller(tiny_config, step, policy_memory=20, mpc_steps=2)
    feat = tf.constant([[0.0, 1.0, 1.0], [5.0, 1.0, 1.0]])
    plans = np.random.default_rng(0).uniform(-1, 1, [2, 2, 4, ACTIONS]).astype(np.float32)
    scores = tf.constant([[3.0, 1.0], [2.0, 0.0]])
    found.add(feat, plans, scores, tf.constant([False, True]))
    # The second environment's two plans, two steps of each.
    assert int(found.memory.filled) == 4
    np.testing.assert_allclose(found.memory.action[:4], plans[1, :, :2].reshape(4, ACTIONS))
    np.testing.assert_allclose(found.memory.score[:4], [2.0, 2.0, 0.0, 0.0])
    first = [5.0 + plans[1, 0, 0, 0], 5.0 + plans[1, 1, 0, 0]]
    np.testing.assert_allclose(found.memory.feat[:4, 0], [5.0, first[0], 5.0, first[1]])
    np.testing.assert_allclose(found.memory.feat[:4, 1], [1.0, 2.0, 1.0, 2.0])


def test_the_regression_finds_the_weighted_mean_and_spread(tiny_config):
    # Two actions in the same state, the better one three times as heavy: tanh(mean) = 0.75 * 0.6 + 0.25 * -0.2 = 0.4.
    found = make_distiller(tiny_config, lr=3e-2, policy_layers=0)
    feat, action = tf.ones([2, SIZE]), tf.constant([[0.6, 0.6], [-0.2, -0.2]])
    regress = tf.function(found._regress, autograph=False)
    for _ in range(400):
        metrics = regress(feat, action, tf.constant([3.0, 1.0]))
    mean, std = found.actor.net.stats(feat[:1])
    np.testing.assert_allclose(tf.tanh(mean), [[0.4, 0.4]], atol=5e-3)
    u = np.arctanh([0.6, -0.2])
    spread = np.sqrt(0.75 * (u[0] - np.arctanh(0.4)) ** 2 + 0.25 * (u[1] - np.arctanh(0.4)) ** 2)
    np.testing.assert_allclose(std, [[spread, spread]], rtol=0.05)
    assert float(metrics["policy_loss"]) == pytest.approx(2 * (0.75 * 0.04 + 0.25 * 0.36), rel=0.02)
    assert regress.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_good_plans_teach_more_than_bad_ones(tiny_config, beta):
    found = make_distiller(
        tiny_config, policy_layers=0, policy_memory=64, policy_batch=64, policy_beta=beta, mpc_steps=1
    )
    plans = np.tile(np.float32([[[0.8]], [[-0.8]]]), [1, 1, ACTIONS])[None]  # of each state a good and a bad one
    for _ in range(20):
        found.add(tf.ones([1, SIZE]), plans, tf.constant([[1.0, 0.0]]), tf.constant([True]))
    for _ in range(250):
        found.learn()
    # Returns are one standard deviation off their mean, so that with beta the weights are e^2 to e^-2.
    expected = 0.8 * np.tanh(beta)
    np.testing.assert_allclose(found.actor(tf.ones([1, SIZE])), [[expected] * ACTIONS], atol=0.08)
    assert found.learn.experimental_get_tracing_count() == found.add.experimental_get_tracing_count() == 1


def test_recorded_actions_are_those_taken_in_a_state(tiny_config):
    """Action t led to state t, so that state t - 1 is the one in which it was taken."""
    found = make_distiller(tiny_config, planning_horizon=2)
    feat = tf.random.stateless_normal([2, 4, SIZE], [1, 2])
    action = tf.random.stateless_uniform([2, 4, ACTIONS], [1, 3])
    reward, follows = (
        tf.constant([[0.0, 1.0, 5.0, 2.0]] * 2),
        tf.constant([[False, True, True, True], [False, True, False, True]]),
    )
    seen = []
    found._regress = lambda *args: seen.extend(args) or {}
    found.learn_from_episodes(feat, action, reward, follows)
    np.testing.assert_array_equal(tf.reshape(seen[0], [2, 3, SIZE]), feat[:, :3])
    np.testing.assert_array_equal(tf.reshape(seen[1], [2, 3, ACTIONS]), action[:, 1:])
    returns, there = tf.constant([3.0, 3.5, 2.0, 1.0, 0.0, 2.0]), tf.constant([True, True, True, True, False, True])
    np.testing.assert_allclose(seen[2], return_weights(returns, there, tiny_config.policy_beta), rtol=1e-6)


def test_actions_at_their_bounds_teach(tiny_config):
    """Most plans have some, and the inverse tanh of these is infinite."""
    found = make_distiller(tiny_config, policy_layers=0)
    before = [x.numpy() for x in found.actor.net.variables]
    metrics = found._regress(tf.ones([2, SIZE]), tf.constant([[1.0, -1.0], [1.0, 0.5]]), tf.ones([2]))
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(not np.array_equal(old, x) for old, x in zip(before, found.actor.net.variables, strict=True))


def test_numbers_that_are_not_finite_teach_nothing(tiny_config):
    found = make_distiller(tiny_config)
    before = [x.numpy() for x in found.actor.net.variables]
    feat, action = tf.ones([4, SIZE]), 0.5 * tf.ones([4, ACTIONS])
    found._regress(feat * np.nan, action, tf.ones([4]))
    found._regress(feat, action, tf.zeros([4]))
    found.learn()  # of an empty memory
    assert all(np.array_equal(old, x) for old, x in zip(before, found.actor.net.variables, strict=True))
    found._regress(feat, action, tf.ones([4]))
    assert any(not np.array_equal(old, x) for old, x in zip(before, found.actor.net.variables, strict=True))
