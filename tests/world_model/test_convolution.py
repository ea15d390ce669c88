"""Convolutions between blocks, and the image loss in chunks, against Keras' layers on whole batches."""

import numpy as np
import pytest
import tensorflow as tf

import models
from world_model import convolution, images
from world_model.image_loss import chunked_image_error, image_error

FEAT, DEPTH = 7, 3


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def randomize(model, seed=0):
    # Keras starts biases at zero, which would hide a bias that is left out.
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        fan_in = np.prod(variable.shape[:-1])
        variable.assign(rng.normal(0.0, 0.5 if len(variable.shape) == 1 else fan_in**-0.5, variable.shape))
    return model


def make_model(act="relu"):
    return randomize(
        models.WorldModel(
            2,
            stoch=3,
            deter=FEAT - 3,
            hidden=4,
            act="relu",
            min_std=0.1,
            cnn_depth=DEPTH,
            cnn_act=act,
            reward_layers=1,
            reward_units=4,
        )
    )


def plain_encoder(encoder, image):
    for conv in encoder.convs:
        image = conv(image)
    return tf.reshape(image, [-1, encoder.embed_size])


def plain_decoder(decoder, feat):
    x = tf.reshape(decoder.first(decoder.stem(feat)), [-1, 5, 5, 4 * DEPTH])
    for deconv in decoder.deconvs:
        x = deconv(x)
    return x


def value_and_grads(function, x, variables):
    """The function's value at x and the gradients of a smooth scalar of it by x and the variables."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        scalar = y if y.shape == () else tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(scalar, [x, *[variable.value for variable in variables]])]


def assert_close(values, expected):
    for value, want in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("size", [4, 5, 6])
@pytest.mark.parametrize("side", [2, 9])  # both ways to compute `up`
@pytest.mark.parametrize("channels", [3, 5])  # and the kernel's gradient
def test_blocks_do_what_strided_convolutions_do(size, side, channels):
    pixels, kernel = normal(2, side, side, 4), normal(size, size, channels, 4, seed=1)
    large = 2 * (side - 1) + size
    padded = large + size % 2  # a block more than an odd kernel reaches

    def up(kernel):
        blocks = convolution.up(pixels, convolution.block_kernel(kernel))
        return tf.nn.depth_to_space(blocks, 2)[:, :large, :large]

    plain_up = lambda kernel: tf.nn.conv2d_transpose(pixels, kernel, [2, large, large, channels], 2, "VALID")
    image = normal(2, padded, padded, channels, seed=2)

    def down(image):
        return convolution.down(tf.nn.space_to_depth(image, 2), convolution.block_kernel(kernel))

    plain_down = lambda image: tf.nn.conv2d(image, kernel, 2, "VALID")
    assert_close(value_and_grads(up, kernel, []), value_and_grads(plain_up, kernel, []))
    assert_close(value_and_grads(down, image, []), value_and_grads(plain_down, image, []))


def test_second_derivatives_pass_through_blocks():
    pixels, kernel = normal(2, 4, 4, 3), normal(2, 2, 8, 3, seed=1)

    def slope(function):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            scalar = tf.reduce_sum(tf.sin(function(pixels)))
        return tape.gradient(scalar, pixels)

    def curvature(function):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            scalar = tf.reduce_sum(tf.sin(slope(function)))
        return tape.gradient(scalar, kernel)

    plain = lambda x: tf.nn.conv2d_transpose(x, kernel, [2, 5, 5, 8], 1, "VALID")
    assert_close([curvature(lambda x: convolution.up(x, kernel))], [curvature(plain)])


@pytest.mark.parametrize("act", ["relu", "elu"])
def test_encoder_equals_its_layers(act):
    encoder = make_model(act).encoder
    fast, plain = [
        value_and_grads(lambda x, f=f: f(encoder, x), normal(3, 64, 64, 3), encoder.trainable_variables)
        for f in (lambda encoder, x: encoder(x), plain_encoder)
    ]
    assert_close(fast, plain)


@pytest.mark.parametrize("act", ["relu", "elu"])
def test_decoder_equals_its_layers(act):
    decoder = make_model(act).decoder
    fast, plain = [
        value_and_grads(lambda x, f=f: f(decoder, x), normal(3, FEAT), decoder.trainable_variables)
        for f in (lambda decoder, x: decoder(x), plain_decoder)
    ]
    assert_close(fast, plain)


def random_images(batch, length):
    return tf.constant(np.random.default_rng(0).integers(0, 256, [batch, length, 64, 64, 3], np.uint8))


# One chunk; several; a limit that divides no batch, so that chunks are smaller; chunks of a single image.
@pytest.mark.parametrize(("batch", "length", "limit"), [(2, 3, 64), (2, 6, 4), (3, 5, 7), (1, 5, 3)])
@pytest.mark.parametrize("compiled", [False, True])
def test_embedding_in_chunks_equals_the_whole_batch(monkeypatch, batch, length, limit, compiled):
    monkeypatch.setattr(images, "CHUNK", limit)
    model, image = make_model(), random_images(batch, length)

    def grads(embed):
        with tf.GradientTape() as tape:
            y = embed(image)
            scalar = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(scalar, [variable.value for variable in model.encoder.trainable_variables])]

    def plain(image):
        flat = models.preprocess(tf.reshape(image, [-1, *models.IMAGE_SHAPE]))
        return tf.reshape(plain_encoder(model.encoder, flat), [batch, length, -1])

    fast = tf.function(lambda: grads(model.embed)) if compiled else lambda: grads(model.embed)
    assert_close(fast(), grads(plain))


@pytest.mark.parametrize(("batch", "length", "limit"), [(2, 3, 64), (2, 6, 4), (3, 5, 7), (1, 5, 3)])
@pytest.mark.parametrize("compiled", [False, True])
def test_image_error_in_chunks_equals_the_whole_batch(monkeypatch, batch, length, limit, compiled):
    monkeypatch.setattr(images, "CHUNK", limit)
    model, image, feat = make_model(), random_images(batch, length), normal(batch, length, FEAT)
    mask = np.random.default_rng(1).uniform(size=[batch, length]).astype(np.float32)
    mask[-1, -2:] = 0.0  # padding
    weights = tf.constant(mask / mask.sum())

    def grads(error):
        # A factor, because the gradients are computed before it is known.
        loss = lambda x: 3.0 * error(x, image, weights)
        return value_and_grads(loss, feat, model.decoder.trainable_variables)

    fast = lambda: grads(lambda *args: chunked_image_error(model.decoder, *args))
    fast = tf.function(fast)() if compiled else fast()
    assert_close(fast, grads(lambda *args: image_error(model.decoder, *args)))
    np.testing.assert_array_equal(fast[1][-1, -2:], 0.0)


def test_image_error_without_a_tape():
    model, image, feat = make_model(), random_images(2, 3), normal(2, 3, FEAT)
    weights = tf.fill([2, 3], 1.0 / 6.0)
    expected = image_error(model.decoder, feat, image, weights)
    for function in (chunked_image_error, tf.function(chunked_image_error)):
        np.testing.assert_allclose(function(model.decoder, feat, image, weights), expected, rtol=1e-4)


def test_image_error_by_hand():
    image = tf.constant(np.full([1, 2, 64, 64, 3], 255, np.uint8))  # 0.5 in the units of the decoder
    decoder = lambda feat: tf.broadcast_to(feat[:, :1, None, None], [2, 64, 64, 3])
    feat, weights = tf.constant([[[0.25], [1.5]]]), tf.constant([[2.0, 0.5]])
    expected = 64 * 64 * 3 * (2.0 * 0.25**2 + 0.5 * 1.0**2)
    assert float(image_error(decoder, feat, image, weights)) == pytest.approx(expected)
