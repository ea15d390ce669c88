"""Images: bytes to numbers and back, fewer bits, and chunks of them."""

import tensorflow as tf

IMAGE_SHAPE = (64, 64, 3)
CHUNK = 64  # images whose activations of the encoder or decoder are in memory at a time, at most


def preprocess(image: tf.Tensor) -> tf.Tensor:
    """uint8 images to float32 in [-0.5, 0.5]."""
    return tf.cast(image, tf.float32) / 255.0 - 0.5


def reduce_bits(image: tf.Tensor, bits: int, seed: tf.Tensor | None = None) -> tf.Tensor:
    """uint8 images with the lower 8 - bits bits of every value replaced (PlaNet appendix A: 5 bits).

    In training by uniform noise from the seed, int32 [2], so that the likelihood is one of continuous values (Kingma &
    Dhariwal 2018); without a seed by the middle of the interval.
    """
    if bits == 8:
        return image
    width = 2 ** (8 - bits)
    high = tf.bitwise.bitwise_and(image, tf.constant(256 - width, tf.uint8))
    if seed is None:
        return high + tf.constant(width // 2, tf.uint8)
    # One byte of a random number for each value is four times as fast as one number.
    size = image.shape.num_elements()
    noise = tf.bitcast(tf.random.stateless_uniform([-(-size // 4)], seed, None, None, tf.int32), tf.uint8)
    noise = tf.reshape(tf.reshape(noise, [-1])[:size], image.shape)
    return high + tf.bitwise.bitwise_and(noise, tf.constant(width - 1, tf.uint8))


def postprocess(image: tf.Tensor) -> tf.Tensor:
    """float32 images around [-0.5, 0.5] to uint8."""
    return tf.cast(tf.clip_by_value(image + 0.5, 0.0, 1.0) * 255.0 + 0.5, tf.uint8)


def fold_time(function, x: tf.Tensor) -> tf.Tensor:
    """Applies `function` to [N, ...] with N the product of the leading dimensions of x [B, T, ...]."""
    lead = x.shape[:2]
    y = function(tf.reshape(x, [lead[0] * lead[1], *x.shape[2:]]))
    return tf.reshape(y, [*lead, *y.shape[1:]])


def chunks(x: tf.Tensor) -> tf.Tensor:
    """[N, ...] as [N / n, n, ...], where n is the largest divisor of N of at most `CHUNK`."""
    size = max(size for size in range(1, min(x.shape[0], CHUNK) + 1) if x.shape[0] % size == 0)
    return tf.reshape(x, [x.shape[0] // size, size, *x.shape[1:]])
