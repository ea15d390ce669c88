"""The squared error of decoded images: `image_error` says what it is, `chunked_image_error` needs little memory."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from world_model.images import IMAGE_SHAPE, chunks, fold_time, preprocess


def image_error(decoder: keras.Model, feat: tf.Tensor, image: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted sum of squared image errors, sum_bt w_bt |decode(feat_bt) - image_bt|^2.

    Args:
        decoder: features [N, n] to image means [N, 64, 64, 3].
        feat: [B, T, n].
        image: uint8 [B, T, 64, 64, 3].
        weights: [B, T].
    """
    error = tf.cast(fold_time(decoder, feat), tf.float32) - preprocess(image)
    return tf.reduce_sum(weights * tf.reduce_sum(tf.square(error), [2, 3, 4]))


def chunked_image_error(
    decoder: keras.Model, feat: tf.Tensor, image: tf.Tensor, weights: tf.Tensor, factor: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """`image_error` with the activations of one chunk in memory at a time, and nothing computed twice.

    Each chunk is decoded, compared and differentiated at once, as if the loss were `factor` times this sum. The
    backward pass only multiplies by what is left of the true factor.

    Args:
        decoder: a `models.Decoder`.
        feat: [B, T, n].
        image: uint8 [B, T, 64, 64, 3].
        weights: [B, T], taken as constants.
        factor: changes the result by rounding only. It must be the scale of a scaled loss, without which gradients
            underflow in float16.

    Returns:
        a scalar with first derivatives only.
    """
    count = weights.shape[0] * weights.shape[1]
    images, weights = chunks(tf.reshape(image, [count, *IMAGE_SHAPE])), chunks(tf.reshape(weights, [count]))
    weights *= factor

    @tf.custom_gradient
    def error(x: tf.Tensor, *kernels: tf.Tensor):
        value, *grads = _sum_over_chunks(decoder, chunks(x), images, weights, kernels)
        grads[0] = tf.reshape(grads[0], x.shape)
        return value / factor, lambda whole: [tf.cast(whole / factor, grad.dtype) * grad for grad in grads]

    return error(decoder.expand(tf.reshape(feat, [count, -1])), *decoder.block_weights())


def _sum_over_chunks(
    decoder: keras.Model, x: tf.Tensor, images: tf.Tensor, weights: tf.Tensor, kernels: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """The sum of `_error_and_grads` over chunks. The gradients by x are stacked instead."""

    def body(t, value, grads_x, grads):
        error, grad_x, *new = _error_and_grads(decoder, x[t], images[t], weights[t], kernels)
        return t + 1, value + error, grads_x.write(t, grad_x), [a + b for a, b in zip(grads, new, strict=True)]

    grads_x = tf.TensorArray(x.dtype, x.shape[0], element_shape=x.shape[1:])
    start = (tf.constant(0), tf.constant(0.0), grads_x, [tf.zeros_like(kernel) for kernel in kernels])
    _, value, grads_x, grads = tf.while_loop(lambda t, *_: t < x.shape[0], body, start, parallel_iterations=1)
    return [value, grads_x.stack(), *grads]


def _error_and_grads(
    decoder: keras.Model, x: tf.Tensor, image: tf.Tensor, weights: tf.Tensor, kernels: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """The weighted error of one chunk and its gradients by x [n, 5, 5, 4 depth] and the kernels."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([x, *kernels])
        decoded = decoder.convolve(x, kernels)
    # The sum does not depend on the order of the pixels, so blocks are compared with blocks.
    error = tf.cast(decoded, tf.float32) - tf.nn.space_to_depth(preprocess(image), 2)
    weighted = weights[:, None, None, None] * error
    grads = tape.gradient(decoded, [x, *kernels], tf.cast(2.0 * weighted, decoded.dtype))
    return [tf.reduce_sum(weighted * error), *grads]
