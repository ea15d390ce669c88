"""Jacobians and gradients by hand, and in groups that fit into the cache."""

import numpy as np
import pytest
import tensorflow as tf
from problems import curved, curved_jacobians, curved_moments, line

from planners import linearization
from planners.gaussian_latco import moments_by_tape
from planners.linearization import linearize, linearize_by_tape, plans_at_once, values_and_gradients


def test_linearization_by_tape_equals_the_jacobian_by_hand():
    z, a = np.array([[0.3, -0.4], [1.0, 2.0]]), np.array([[0.2], [-0.7]])
    mu, jac_z, jac_a = linearize_by_tape(curved().step, tf.constant(z), tf.constant(a))
    product = a[:, 0] * z[:, 0]
    slope, slope_product = 1 - np.tanh(a[:, 0]) ** 2, 1 - np.tanh(product) ** 2
    np.testing.assert_allclose(mu, 0.9 * z + 0.3 * np.tanh(np.stack([a[:, 0], product], -1)))
    for row in range(2):
        expected = [[0.9, 0.0], [0.3 * slope_product[row] * a[row, 0], 0.9]]
        np.testing.assert_allclose(jac_z[row], expected)
        np.testing.assert_allclose(jac_a[row, :, 0], [0.3 * slope[row], 0.3 * slope_product[row] * z[row, 0]])


@pytest.mark.parametrize("name", ["curved", "line"])
def test_known_problems_have_the_jacobians_of_automatic_differentiation(name):
    problem = {"curved": curved(curved_jacobians, curved_moments), "line": line(lambda z: z[..., 0], 0.3, 0.01)}[name]
    rng, n = np.random.default_rng(0), problem.state_size
    z, a, noise = (tf.constant(rng.normal(size=shape)) for shape in ([6, 4, n], [6, 1], [6, 4, n]))
    pairs = [
        (problem.linearize(z[:, 0], a), linearize_by_tape(problem.step, z[:, 0], a)),
        (problem.linearize_moments(z, a, noise), moments_by_tape(problem.sample_step, z, a, noise)),
    ]
    for own, right in pairs:
        for one, two in zip(own, right, strict=True):
            assert one.shape == two.shape
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


def test_gradients_of_single_states_by_hand():
    states = np.random.default_rng(0).normal(size=[2, 3, 2])
    value, gradient = values_and_gradients(lambda z: tf.reduce_sum(tf.square(z), -1), tf.constant(states))
    np.testing.assert_allclose(value, np.sum(states**2, -1))
    np.testing.assert_allclose(gradient, 2 * states)
    both, gradients = values_and_gradients(
        lambda z: tf.stack([z[..., 0] * z[..., 1], z[..., 1]], -1), tf.constant(states)
    )
    np.testing.assert_allclose(both, np.stack([states[..., 0] * states[..., 1], states[..., 1]], -1))
    np.testing.assert_allclose(gradients[:, :, 0], states[..., ::-1])
    np.testing.assert_allclose(gradients[:, :, 1], np.broadcast_to([0.0, 1.0], states.shape))


@pytest.mark.parametrize("own", [linearize_by_tape, None])
def test_plans_that_are_linearized_group_by_group_are_those_of_a_whole_batch(own, monkeypatch):
    problem = curved(own and (lambda z, a: own(curved().step, z, a)))
    rng = np.random.default_rng(0)
    inputs = [tf.constant(rng.normal(size=shape), tf.float32) for shape in ((6, 2), (6, 5, 2), (6, 5, 1))]
    compiled = lambda: tf.function(lambda *x: linearize(problem, *x), jit_compile=True)(*inputs)
    whole = compiled()
    monkeypatch.setattr(linearization, "CACHED", 2 * 5 * 2 * 3)  # two plans of 5 steps of [2, 2 + 1]
    for grouped, at_once in zip(compiled(), whole, strict=True):
        assert grouped.shape == at_once.shape
        np.testing.assert_allclose(grouped, at_once, rtol=1e-6, atol=1e-7)


def test_groups_divide_a_batch_and_stay_in_the_cache(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    cached = linearization.CACHED
    assert [plans_at_once(12, cached // size) for size in (1, 3, 5, 12, 100)] == [1, 3, 4, 12, 12]
    assert [plans_at_once(batch, 2 * cached) for batch in (1, 16)] == [1, 1] and plans_at_once(17, cached // 16) == 1
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert plans_at_once(12, cached) == 12
