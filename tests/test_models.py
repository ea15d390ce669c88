"""Networks of the world model against plain numpy and Keras layers."""

import numpy as np
import pytest
import tensorflow as tf

import models
from tests.tiny_agents import agent_of
from tools.errors import UserError

STOCH, DETER, HIDDEN, ACTIONS = 5, 7, 6, 3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("key", "name", "hint"),
    [
        ("act", "rleu", "'relu'"),
        ("cnn_act", "", "unknown cnn_act ''"),
        ("act", "softmax", "did you mean"),
        ("act", "glu", ""),
    ],
)
def test_activations_that_keras_lacks_or_that_mix_numbers_are_refused(tiny_config, key, name, hint):
    with pytest.raises(UserError, match=f"unknown {key}") as refusal:
        agent_of(tiny_config, **{key: name})
    assert hint in str(refusal.value)


def test_activations_work_on_each_number_by_itself():
    x = tf.linspace(-3.0, 3.0, 12)
    for name in models.ACTIVATIONS:
        function = tf.keras.activations.get(name)
        np.testing.assert_allclose(function(x[None])[0], function(x[:, None])[:, 0], rtol=1e-5, err_msg=name)


def test_first_decoder_layer_is_the_transposed_convolution_of_one_pixel():
    decoder = models.Decoder(feat_size=4, depth=2)
    deconv = tf.keras.layers.Conv2DTranspose(8, 5, strides=2, activation="relu")
    deconv.build((None, 1, 1, 64))
    kernel = np.asarray(decoder.first.kernel).reshape(64, 5, 5, 8)
    deconv.kernel.assign(kernel.transpose(1, 2, 3, 0))
    x = normal(3, 64)
    dense = np.asarray(decoder.first(x)).reshape(3, 5, 5, 8)
    np.testing.assert_allclose(dense, deconv(x[:, None, None, :]), rtol=1e-4, atol=1e-5)


def test_image_shapes_and_ranges():
    model = models.WorldModel(
        ACTIONS,
        stoch=STOCH,
        deter=DETER,
        hidden=HIDDEN,
        act="relu",
        min_std=0.1,
        cnn_depth=2,
        cnn_act="relu",
        reward_layers=1,
        reward_units=4,
    )
    image = np.random.default_rng(0).integers(0, 256, [2, 3, 64, 64, 3], np.uint8)
    assert model.embed(tf.constant(image)).shape == (2, 3, model.encoder.embed_size)
    assert model.decode(tf.zeros([2, 3, STOCH + DETER])).shape == (2, 3, 64, 64, 3)
    assert model.reward(tf.zeros([2, 3, STOCH + DETER])).shape == (2, 3)
    scaled = models.preprocess(tf.constant(image))
    assert scaled.dtype == tf.float32 and float(tf.reduce_min(scaled)) >= -0.5 and float(tf.reduce_max(scaled)) <= 0.5
    np.testing.assert_array_equal(models.postprocess(scaled), image)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_gradients_are_clipped_by_the_norm_that_they_have_together(scale):
    # Steps of plain descent at a rate of 1 are as long as the gradients, here 3 and 4, whose norm is 5.
    for most, steps in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])):
        variables, optimizer = [tf.Variable(0.0), tf.Variable(0.0)], tf.keras.optimizers.SGD(1.0)
        if scale != 1.0:
            optimizer = tf.keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        optimizer.build(variables)
        models.clipped_step(optimizer, [tf.constant(scale * -3.0), tf.constant(scale * -4.0)], variables, most)
        np.testing.assert_allclose([float(variable) for variable in variables], steps, rtol=1e-6)
