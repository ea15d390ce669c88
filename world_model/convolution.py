"""Stride-2 convolutions and their transposes, written as stride-1 convolutions between blocks of 2 x 2 pixels.

A stride-2 convolution of an image [2H, 2W, C] is a stride-1 convolution of its blocks [H, W, 4C], and a stride-2
transposed convolution makes the blocks of its result in the same way. The products are the same. The reason is speed on
a CPU: libraries are fast at stride-1 convolutions with many channels, slow with three channels, and slowest at the
gradient of a strided convolution by its input, which is what a transposed convolution computes, too.

`down` and `up` are each other's transposes, so each is the other's gradient. Blocks are ordered as in
`tf.nn.space_to_depth`: (row, column, channel).
"""

import tensorflow as tf


def block_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel between blocks that is equivalent to a stride-2 kernel between pixels.

    Args:
        kernel: [K, K, C, O] of `keras.layers.Conv2D`, or of `Conv2DTranspose`, where C are the outputs.

    Returns:
        [T, T, 4C, O] with T = K / 2, rounded up; an odd K gets a last row and column of zeros.
    """
    size, _, channels, outputs = kernel.shape
    taps = (size + 1) // 2
    if size % 2:
        kernel = tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
    kernel = tf.reshape(kernel, [taps, 2, taps, 2, channels, outputs])
    return tf.reshape(tf.transpose(kernel, [0, 2, 1, 3, 4, 5]), [taps, taps, 4 * channels, outputs])


def block_bias(bias: tf.Tensor) -> tf.Tensor:
    """The bias [4C] of a block whose pixels have the bias [C]."""
    return tf.tile(bias, [4])


@tf.custom_gradient
def down(blocks: tf.Tensor, kernel: tf.Tensor):
    """Convolution [N, H + T - 1, W + T - 1, C] -> [N, H, W, O] with a kernel [T, T, C, O], no padding, stride 1."""
    return tf.nn.conv2d(blocks, kernel, 1, "VALID"), lambda grad: (up(grad, kernel), _kernel_grad(blocks, grad, kernel))


@tf.custom_gradient
def up(pixels: tf.Tensor, kernel: tf.Tensor):
    """The transpose of `down`: [N, H, W, O] -> [N, H + T - 1, W + T - 1, C] with the same kernel [T, T, C, O]."""
    grad = lambda grad: (down(grad, kernel), _kernel_grad(grad, pixels, kernel))
    taps, (height, width) = kernel.shape[0], pixels.shape[1:3]
    edge = taps - 1
    # A convolution multiplies the zeros around the image, too. Around a small image there are too many.
    if (height + edge) * (width + edge) > 1.5 * height * width:
        return _up_by_products(pixels, kernel), grad
    flipped = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    return tf.nn.conv2d(pixels, flipped, 1, [[0, 0], [edge, edge], [edge, edge], [0, 0]]), grad


def _up_by_products(pixels: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`up` as one matrix product for each tap of the kernel, moved to its place."""
    (height, width, outputs), (taps, _, channels, _) = pixels.shape[1:], kernel.shape
    flat, total = tf.reshape(pixels, [-1, outputs]), []
    for i in range(taps):
        for j in range(taps):
            product = tf.reshape(tf.matmul(flat, kernel[i, j], transpose_b=True), [-1, height, width, channels])
            total.append(tf.pad(product, [[0, 0], [i, taps - 1 - i], [j, taps - 1 - j], [0, 0]]))
    return tf.add_n(total)


def _kernel_grad(blocks: tf.Tensor, grad: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Gradient of sum(down(blocks, kernel) * grad) by the kernel, one matrix product for each tap."""
    (height, width, outputs), (taps, _, channels, _) = grad.shape[1:], kernel.shape
    if channels < 16:  # blocks of an image have too few rows for a fast product
        return tf.raw_ops.Conv2DBackpropFilter(
            input=blocks, filter_sizes=kernel.shape, out_backprop=grad, strides=[1, 1, 1, 1], padding="VALID"
        )
    flat, products = tf.reshape(grad, [-1, outputs]), []
    for i in range(taps):
        for j in range(taps):
            shifted = tf.reshape(blocks[:, i : i + height, j : j + width], [-1, channels])
            products.append(tf.matmul(shifted, flat, transpose_a=True))
    return tf.reshape(tf.stack(products), kernel.shape)
