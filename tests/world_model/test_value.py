"""The value network: lambda-returns, and what is learned from them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from world_model.value import ValueLearner, lambda_returns

SIZE = 4  # of the features in what follows


def learner(config, **changes):
    """A value learner of features of size `SIZE`."""
    return ValueLearner(config.replace(value_head=True, discount=0.9, **changes), SIZE)


def slow_returns(reward, value, discount, follows, lam):
    """Lambda-returns of one sequence, entry by entry from the last one."""
    returns = list(value)
    for t in reversed(range(len(reward) - 1)):
        if follows[t + 1]:
            mixed = (1 - lam) * value[t + 1] + lam * returns[t + 1]
            returns[t] = reward[t + 1] + discount[t + 1] * mixed
    return returns


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_lambda_returns_are_those_of_a_plain_loop(lam):
    rng = np.random.default_rng(0)
    reward, value, discount = rng.normal(size=[3, 6, 7])
    follows = rng.uniform(size=[6, 7]) < 0.7
    found = lambda_returns(*(tf.constant(x) for x in (reward, value, discount, follows)), lam)
    expected = [slow_returns(*(x[row] for x in (reward, value, discount, follows)), lam) for row in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_lambda_returns_by_hand():
    reward, value = tf.constant([[9.0, 1.0, 2.0, 4.0]]), tf.constant([[0.0, 10.0, 20.0, 40.0]])
    discount, follows = tf.constant([[9.0, 0.5, 0.5, 0.5]]), tf.constant([[True, True, True, True]])
    # The rewards of a plan, then the value at its end: 4 + 20, 2 + 12, 1 + 7; without the first state's own reward.
    np.testing.assert_allclose(lambda_returns(reward, value, discount, follows, 1.0), [[8.0, 14.0, 24.0, 40.0]])
    np.testing.assert_allclose(lambda_returns(reward, value, discount, follows, 0.0), [[6.0, 12.0, 24.0, 40.0]])


@pytest.mark.parametrize("words", [{}, pytest.param({"value_batch_norm": True}, marks=pytest.mark.slow)])
def test_the_values_of_a_chain_are_learned(tiny_config, words):
    # States 0, 1, 2 in a row, then 3, which is terminal; entering them pays 0, 1, 0, 5. And a ring 0 -> 1 -> 0 whose
    # value never ends: it is learned through the target network alone.
    gamma, pays = 0.9, np.array([0.0, 1.0, 0.0, 5.0], np.float32)
    options = {"value_lr": 1e-2, "value_units": 32, "value_layers": 1, "value_lambda": 0.5, "value_data": "replay"}
    found = learner(tiny_config, value_target_every=5, **options, **words)
    chain, ring = np.array([[0, 1, 2, 3]]), np.array([[0, 1, 0, 1]])
    expected = {"chain": [1 + gamma * (0 + gamma * 5), gamma * 5, 5.0]}
    expected["ring"] = [1.0 / (1 - gamma**2), gamma / (1 - gamma**2)]
    for name, path in {"chain": chain, "ring": ring}.items():
        discount = gamma * (path != 3).astype(np.float32)
        batch = [tf.constant(x) for x in (np.eye(SIZE, dtype=np.float32)[path], pays[path], discount, path >= 0)]
        for _ in range(700):
            metrics = found.learn(*batch)
        np.testing.assert_allclose(found(tf.eye(SIZE))[: len(expected[name])], expected[name], atol=0.15, err_msg=name)
    if not words:  # normalized over a batch the network in training is another one
        assert float(metrics["value"]) == pytest.approx((2 * expected["ring"][0] + expected["ring"][1]) / 3, abs=0.15)
    assert float(metrics["value_loss"]) < 0.05
    assert int(found.updates) == 1400 and found.learn.experimental_get_tracing_count() == 1


def some_batch(rows=4, length=5, seed=0):
    """Random features, rewards, discounts and what follows what."""
    rng = np.random.default_rng(seed)
    feat, reward = rng.normal(size=[rows, length, SIZE]), rng.normal(size=[rows, length])
    follows = np.ones([rows, length], bool)
    follows[0, 3:] = False  # padding
    follows[1, 2] = False  # an episode begins
    return [tf.constant(x, tf.float32) for x in (feat, reward, np.full([rows, length], 0.9))] + [tf.constant(follows)]


def test_the_loss_is_the_mean_over_the_states_that_something_follows(tiny_config):
    found = learner(tiny_config, value_data="replay", value_lambda=0.7)
    feat, reward, discount, follows = some_batch()
    value = found(feat).numpy()  # of the target as well: it starts as a copy
    errors = []
    for row in range(4):
        returns = slow_returns(reward[row].numpy(), value[row], discount[row].numpy(), follows[row].numpy(), 0.7)
        errors += [value[row, t] - returns[t] for t in range(4) if follows[row, t + 1]]
    assert len(errors) == 16 - 3
    metrics = found.learn(feat, reward, discount, follows)
    assert float(metrics["value_loss"]) == pytest.approx(0.5 * np.mean(np.square(errors)), rel=1e-4)


def test_padding_teaches_nothing(tiny_config):
    results = []
    for noise in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        found = learner(tiny_config, value_batch_norm=True, value_data="replay")
        feat, reward, discount, follows = some_batch()
        hidden = tf.constant([[[0.0]] * 4 + [[noise]]] + [[[0.0]] * 5] * 3)  # the last entry is padding after padding
        found.learn(feat + hidden, reward + hidden[..., 0], discount, follows)
        results.append([x.numpy() for x in found.weights])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_target_network_is_a_copy_now_and_then(tiny_config):
    found, feat = learner(tiny_config, value_target_every=3, value_batch_norm=True), some_batch()[0]
    first = found.target(feat).numpy()
    np.testing.assert_array_equal(first, found.net(feat))
    for update in range(1, 7):
        found.learn(*some_batch(seed=update))
        same = np.array_equal(found.target(feat), found.net(feat))
        assert same == (update % 3 == 0)
        assert np.array_equal(found.target(feat), first) == (update < 3)


def test_dropout_and_normalization_are_of_training_only(tiny_config):
    feat = some_batch()[0]
    for key, on in (("value_dropout", 0.5), ("value_batch_norm", True)):
        net = learner(tiny_config, **{key: on}).net
        np.testing.assert_array_equal(net(feat), net(feat))
        trained = net(feat, seed=tf.constant([1, 2]))
        assert np.abs(trained - net(feat)).max() > 1e-3, key
        np.testing.assert_array_equal(trained, net(feat, seed=tf.constant([1, 2])))
        assert np.array_equal(trained, net(feat, seed=tf.constant([1, 3]))) == (key == "value_batch_norm")


def test_values_are_clipped_at_their_bound(tiny_config):
    free = learner(tiny_config, value_lr=0.1, value_units=32, value_data="replay")
    bound = learner(tiny_config, value_lr=0.1, value_units=32, value_data="replay", value_bound=2.0)
    feat, _, discount, follows = some_batch()
    for _ in range(60):
        for found in (free, bound):
            metrics = found.learn(feat, tf.fill(discount.shape, 10.0), discount, follows)
    assert np.max(free(feat)) > 5.0 and np.abs(bound(feat)).max() <= 2.0
    assert float(metrics["value"]) < 3.0  # the targets are clipped as well


def test_numbers_that_are_not_finite_change_no_weight(tiny_config):
    found = learner(tiny_config, value_batch_norm=True)
    before = [x.numpy() for x in found.weights]
    feat, reward, discount, follows = some_batch()
    for bad in ((feat * np.nan, reward), (feat, reward * np.inf)):
        metrics = found.learn(*bad, discount, follows)
        assert np.isnan(metrics["value_loss"]) and np.isnan(metrics["value"])
    found.learn(feat, reward, discount, tf.zeros_like(follows))  # nothing follows anything
    assert all(np.array_equal(old, x) for old, x in zip(before, found.weights, strict=True))
    assert np.isfinite(found.learn(feat, reward, discount, follows)["value_loss"])
    assert any(not np.array_equal(old, x) for old, x in zip(before, found.weights, strict=True))


def test_a_regression_is_weighted_and_its_returns_are_clipped(tiny_config, line_by_line):
    found, feat = learner(tiny_config, value_bound=2.0), some_batch()[0]
    rng = np.random.default_rng(1)
    returns, weights = rng.normal(0.0, 3.0, [4, 5]), np.abs(rng.normal(size=[4, 5])) * (rng.uniform(size=[4, 5]) < 0.7)
    assert np.any(np.abs(returns[weights > 0]) > 2.0)
    value = found.net(feat).numpy()
    metrics = found.regress(feat, tf.constant(returns, tf.float32), tf.constant(weights, tf.float32))
    error = np.average((value - np.clip(returns, -2.0, 2.0)) ** 2, weights=weights)
    assert float(metrics["value_loss"]) == pytest.approx(0.5 * error, rel=1e-4)
    assert float(metrics["value"]) == pytest.approx(np.average(value, weights=weights), rel=1e-4)
    before = [x.numpy() for x in found.net.variables]
    assert np.isnan(found.regress(feat, tf.zeros([4, 5]), tf.zeros([4, 5]))["value_loss"])
    assert all(np.array_equal(old, x) for old, x in zip(before, found.net.variables, strict=True))
