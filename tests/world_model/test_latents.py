"""Latent distributions against closed forms, numpy and large samples."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tools.errors import UserError
from world_model.latents import Categorical, Gaussian, Point, make_latent

GROUPS, CLASSES = 3, 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def probabilities(latent, raw):
    """[..., groups, classes] in numpy."""
    grouped = np.exp(raw.reshape(*raw.shape[:-1], GROUPS, CLASSES).astype(np.float64))
    return (1 - latent.unimix) * grouped / grouped.sum(-1, keepdims=True) + latent.unimix / CLASSES


def test_gaussian_kl_equals_the_closed_form():
    latent = Gaussian(5, 0.1)
    post = {"mean": normal(3, 5), "std": np.exp(normal(3, 5, seed=1))}
    prior = {"mean": normal(3, 5, seed=2), "std": np.exp(normal(3, 5, seed=3))}
    ratio = post["std"] / prior["std"]
    expected = 0.5 * (ratio**2 + ((post["mean"] - prior["mean"]) / prior["std"]) ** 2 - 1 - 2 * np.log(ratio)).sum(-1)
    np.testing.assert_allclose(latent.kl(post, prior), expected, rtol=1e-4)


@pytest.mark.parametrize("unimix", [0.0, 0.2])
def test_categorical_probabilities_and_kl_equal_numpy(unimix):
    latent = Categorical(GROUPS, CLASSES, unimix)
    raw, other = normal(5, GROUPS * CLASSES), normal(5, GROUPS * CLASSES, seed=1)
    p, q = probabilities(latent, raw), probabilities(latent, other)
    post, prior = latent.stats(tf.constant(raw)), latent.stats(tf.constant(other))
    np.testing.assert_allclose(latent.mean(post), p.reshape(5, -1), rtol=1e-5)
    np.testing.assert_allclose(latent.kl(post, prior), (p * np.log(p / q)).sum((-2, -1)), rtol=1e-4)
    assert np.all(np.abs(latent.kl(post, post)) < 1e-5)
    assert probabilities(latent, raw).min() >= unimix / CLASSES


def test_categorical_samples_are_one_hot_with_the_right_frequencies():
    latent, count = Categorical(GROUPS, CLASSES, 0.0), 20000
    raw = normal(GROUPS * CLASSES)
    stats = latent.stats(tf.constant(np.tile(raw, [count, 1])))
    sample = latent.sample(stats, tf.constant(normal(count, GROUPS, seed=1))).numpy().reshape(count, GROUPS, CLASSES)
    onehot = np.round(sample)
    np.testing.assert_allclose(sample, onehot, atol=1e-6)
    np.testing.assert_array_equal(onehot.sum(-1), 1.0)
    # Four standard errors of a frequency.
    np.testing.assert_allclose(onehot.mean(0), probabilities(latent, raw), atol=4 * np.sqrt(0.25 / count))
    joint = np.einsum("na,nb->ab", onehot[:, 0], onehot[:, 1]) / count
    p = probabilities(latent, raw)
    np.testing.assert_allclose(joint, np.outer(p[0], p[1]), atol=4 * np.sqrt(0.25 / count))


def test_extreme_noise_takes_the_first_or_the_last_class():
    latent = Categorical(1, CLASSES, 0.0)
    stats = latent.stats(tf.constant(normal(2, CLASSES)))
    sample = latent.sample(stats, tf.constant([[-9.0], [9.0]])).numpy()
    np.testing.assert_array_equal(np.argmax(sample, -1), [0, CLASSES - 1])


def test_straight_through_gradients_are_those_of_the_probabilities():
    latent = Categorical(GROUPS, CLASSES, 0.1)
    raw, weights = tf.constant(normal(5, GROUPS * CLASSES)), normal(5, GROUPS * CLASSES, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(raw)
        stats = latent.stats(raw)
        sampled = tf.reduce_sum(weights * latent.sample(stats, tf.constant(normal(5, GROUPS, seed=2))))
        mean = tf.reduce_sum(weights * latent.mean(stats))
    np.testing.assert_allclose(tape.gradient(sampled, raw), tape.gradient(mean, raw), rtol=1e-4, atol=1e-6)


def test_a_point_has_the_divergence_of_unit_gaussians():
    a, b = normal(3, 5), normal(3, 5, seed=1)
    gaussian = Gaussian(5, 0.1).kl({"mean": a, "std": np.ones_like(a)}, {"mean": b, "std": np.ones_like(b)})
    np.testing.assert_allclose(Point(5).kl({"mean": a}, {"mean": b}), gaussian, rtol=1e-4)


@pytest.mark.parametrize(
    "change", [{"stoch": 0}, {"kind": "categorical", "classes": 1}, {"unimix": 1.0}, {"unimix": -0.1}]
)
def test_sizes_that_make_no_distribution_are_refused(change):
    with pytest.raises(UserError, match=next(key for key in ("stoch", "classes", "unimix") if key in change)):
        make_latent(**{"kind": "gaussian", "stoch": 4, "min_std": 0.1, "classes": 4, "unimix": 0.0} | change)


def test_log_probabilities_are_those_of_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    gaussian, value = make_latent("gaussian", 3, min_std=0.1, classes=2, unimix=0.0), rng.normal(size=[4, 3])
    stats = gaussian.stats(tf.constant(rng.normal(size=[4, 6])))
    right = scipy.stats.norm(stats["mean"], stats["std"]).logpdf(value).sum(-1)
    np.testing.assert_allclose(gaussian.log_prob(stats, tf.constant(value)), right, rtol=1e-6)
    categorical = make_latent("categorical", 2, min_std=0.1, classes=3, unimix=0.0)
    stats = categorical.stats(tf.math.log(tf.constant([0.5, 0.2, 0.3, 0.1, 0.6, 0.3])))
    found = categorical.log_prob(stats, tf.constant([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, np.log(0.2 * 0.3), rtol=1e-6)
    mixed = categorical.log_prob(stats, tf.constant([0.5, 0.5, 0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(mixed, 0.5 * np.log(0.5 * 0.2) + np.log(0.3), rtol=1e-6)
    point = make_latent("point", 2, min_std=0.1, classes=2, unimix=0.0)
    assert float(point.log_prob({"mean": tf.constant([1.0, 2.0])}, tf.constant([3.0, 1.0]))) == -2.5
