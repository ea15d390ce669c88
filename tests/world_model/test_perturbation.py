"""Predictions from perturbed states and actions, against hand-computed ones."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny_agents import agent_of, make_batch, make_noise
from tests.world_model.small_dynamics import ACTIONS, EMBED, make, normal
from world_model.perturbation import perturbed_kl
from world_model.ssm import follows

IS_FIRST = np.array([[True, False, False, True, False], [False, False, False, False, False]])
MASK = np.float32([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_entries_follow_another_one_within_their_episode_and_chunk():
    np.testing.assert_array_equal(follows(tf.constant(IS_FIRST), tf.constant(MASK)), [[0, 1, 1, 0, 1], [0, 1, 1, 0, 0]])


def observed(model):
    action = tf.constant(normal(2, 5, ACTIONS))
    noise = None if model.noise_size == 0 else tf.constant(normal(2, 5, model.noise_size, seed=1))
    post, prior = model.observe(tf.constant(normal(2, 5, EMBED, seed=2)), action, tf.constant(IS_FIRST), noise)
    return post, prior, action, follows(tf.constant(IS_FIRST), tf.constant(MASK))


@pytest.mark.parametrize("variant", ["rssm-gaussian", "rssm-categorical", "rssm-point", "ssm-gaussian"])
def test_perturbed_predictions_are_the_usual_ones_without_a_radius_and_worse_with_one(variant):
    model = make(variant)
    post, prior, action, inside = observed(model)
    usual = tf.reduce_sum(model.kl(post, prior) * inside) / tf.reduce_sum(inside)
    found = [float(perturbed_kl(model, post, action, IS_FIRST, MASK, radius)) for radius in (0.0, 0.01, 0.1)]
    assert found[0] == pytest.approx(float(usual), rel=1e-4)
    assert found[0] < found[1] < found[2]


def test_perturbations_have_the_sign_of_the_slope_and_the_size_of_the_spread():
    model, radius = make("rssm-gaussian"), 0.1
    post, _, action, inside = observed(model)
    valid = np.argwhere(inside.numpy() > 0)
    z = tf.concat([post["stoch"], post["deter"]], -1)
    before = tf.stack([z[b, t - 1] for b, t in valid])
    actions = tf.stack([action[b, t] for b, t in valid])
    target = {key: tf.stack([post[key][b, t] for b, t in valid]) for key in ("mean", "std")}
    with tf.GradientTape() as tape:
        tape.watch([before, actions])
        total = tf.reduce_sum(model.kl(target, model.predict(before, actions)))
    slopes = tape.gradient(total, [before, actions])
    moved = [x + radius * np.std(x, 0) * np.sign(g) for x, g in zip((before, actions), slopes, strict=True)]
    expected = np.mean(model.kl(target, model.predict(*moved)))
    assert float(perturbed_kl(model, post, action, IS_FIRST, MASK, radius)) == pytest.approx(expected, rel=1e-4)


def test_only_the_prediction_learns_from_perturbations():
    model = make("rssm-gaussian")
    with tf.GradientTape() as tape:
        post, _, action, _ = observed(model)
        value = perturbed_kl(model, post, action, IS_FIRST, MASK, 0.1)
    names = ("cell", "stoch_in", "action_in", "prior_in", "prior_out", "post_in", "post_out", "embed_in")
    slopes = tape.gradient(value, [getattr(model, name).trainable_variables[0] for name in names])
    assert [slope is not None and bool(np.any(slope)) for slope in slopes] == [True] * 5 + [False] * 3


def test_the_loss_adds_what_is_turned_on(tiny_config):
    plain, changed = agent_of(tiny_config), agent_of(tiny_config, perturbation=0.1, perturbation_scale=3.0)
    batch, noise = make_batch(plain.config), make_noise(plain.config)
    before, usual, _ = plain.loss(batch, noise)
    after, metrics, _ = changed.loss(batch, noise)
    assert "perturbed_kl" not in usual and float(metrics["perturbed_kl"]) > 0.0
    assert float(after) == pytest.approx(float(before + 3.0 * metrics["perturbed_kl"]), rel=1e-5)
