"""The policy network: its distribution, its updates, and that nothing which is not finite changes it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from policies.actor import INIT_STD, Actor, log_prob

SIZE, ACTIONS = 3, 2


def make_actor(config, **changes):
    return Actor(config.replace(**changes), SIZE, ACTIONS, lr=1e-2)


def test_log_probabilities_are_those_of_tensorflow_probability():
    rng = np.random.default_rng(0)
    mean, std, u = (
        tf.constant(x) for x in (rng.normal(size=[5, 2]), rng.uniform(0.1, 2, [5, 2]), rng.normal(size=[5, 2]))
    )
    normal = tfp.distributions.Normal(mean, std)
    expected = tfp.distributions.TransformedDistribution(normal, tfp.bijectors.Tanh()).log_prob(tf.tanh(u))
    np.testing.assert_allclose(log_prob(u, mean, std), tf.reduce_sum(expected, -1), rtol=1e-6)


def test_log_probabilities_by_hand_and_far_out():
    # u = 0 with mean 0 and std 1: log(1 / sqrt(2 pi)) = -0.918939, and tanh has slope 1 there.
    one = tf.ones([1, 1])
    assert float(log_prob(0.0 * one, 0.0 * one, one)[0]) == pytest.approx(-0.918939, abs=1e-5)
    # log(1 - tanh(u)^2) = 2 log 2 - 2 u far out, where float32's tanh is 1.
    assert float(log_prob(30.0 * one, 30.0 * one, one)[0]) == pytest.approx(-0.918939 - 2 * (np.log(2) - 30), rel=1e-6)


def test_actions_are_the_tanh_of_a_normal(tiny_config):
    actor, z = make_actor(tiny_config), tf.random.stateless_normal([4, 7, SIZE], [1, 2])
    mean, std = (x.numpy() for x in actor.net.stats(z))
    assert mean.shape == std.shape == (4, 7, ACTIONS) and np.all(np.abs(mean) < 5.0)
    noise = np.random.default_rng(0).normal(size=[4, 7, ACTIONS]).astype(np.float32)
    np.testing.assert_allclose(actor(z), np.tanh(mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actor(z, noise), np.tanh(mean + std * noise), rtol=1e-4, atol=1e-5)
    for layer in (*actor.net.hidden, actor.net.out):
        layer.kernel.assign(0.0 * layer.kernel)
    np.testing.assert_allclose(actor.net.stats(z)[1], INIT_STD, rtol=1e-4)
    assert actor(tf.cast(z, tf.float64)).dtype == tf.float64


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_that_are_not_finite_change_no_weight(tiny_config, precision):
    actor = make_actor(tiny_config, precision=precision)
    before = [x.numpy() for x in actor.net.variables]
    good = [tf.ones_like(x) for x in actor.net.trainable_variables]
    actor.step([x * np.nan for x in good])
    assert int(actor.updates) == 1
    assert all(np.array_equal(old, x) for old, x in zip(before, actor.net.variables, strict=True))
    actor.step(good)
    assert int(actor.updates) == 2
    assert all(not np.array_equal(old, x) for old, x in zip(before, actor.net.variables, strict=True))
    if precision == "float32":
        np.testing.assert_array_equal(actor.seed, [tiny_config.seed, 2])


def test_every_weight_is_in_a_checkpoint(tiny_config, tmp_path):
    actor, other = make_actor(tiny_config), make_actor(tiny_config)
    path = tf.train.Checkpoint(actor=actor).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(actor=other).restore(path).assert_consumed()
    assert all(np.array_equal(one, two) for one, two in zip(actor.net.variables, other.net.variables, strict=True))
    assert len(actor.net.trainable_variables) == 2 * (tiny_config.policy_layers + 1)
