"""World model: encoder, decoder, heads, and what holds them together with the latent dynamics (PlaNet appendix A).

The dynamics are in `world_model/dynamics.py`, the distributions of their latents in `world_model/latents.py`. Nothing
here knows environments, files or the config: sizes come in as arguments.

Every part is a Keras model because a plain `tf.Module` does not see the variables of Keras 3 layers and would train
nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from world_model import convolution
from world_model.convolution import block_bias, block_kernel
from world_model.dynamics import make_dynamics
from world_model.ssm import State as State
from world_model.ssm import get_feat as get_feat

IMAGE_SHAPE = (64, 64, 3)
CHUNK = 64  # images in memory at a time, as activations of the encoder or the decoder, at most


def preprocess(image: tf.Tensor) -> tf.Tensor:
    """uint8 images to float32 in [-0.5, 0.5]."""
    return tf.cast(image, tf.float32) / 255.0 - 0.5


def reduce_bits(image: tf.Tensor, bits: int, seed: tf.Tensor | None = None) -> tf.Tensor:
    """uint8 images with the lower 8 - bits bits of every value replaced (PlaNet appendix A: 5 bits).

    By uniform noise from the seed, int32 [2], which makes the discrete values continuous for the likelihood of training
    (Kingma & Dhariwal 2018); without a seed by the middle of the interval.
    """
    if bits == 8:
        return image
    width = 2 ** (8 - bits)
    high = tf.bitwise.bitwise_and(image, tf.constant(256 - width, tf.uint8))
    if seed is None:
        return high + tf.constant(width // 2, tf.uint8)
    # A byte of a random number a value: four times as fast as a number each.
    size = image.shape.num_elements()
    noise = tf.bitcast(tf.random.stateless_uniform([-(-size // 4)], seed, None, None, tf.int32), tf.uint8)
    noise = tf.reshape(tf.reshape(noise, [-1])[:size], image.shape)
    return high + tf.bitwise.bitwise_and(noise, tf.constant(width - 1, tf.uint8))


def postprocess(image: tf.Tensor) -> tf.Tensor:
    """float32 images around [-0.5, 0.5] to uint8."""
    return tf.cast(tf.clip_by_value(image + 0.5, 0.0, 1.0) * 255.0 + 0.5, tf.uint8)


def _fold_time(function, x: tf.Tensor) -> tf.Tensor:
    """Applies `function` to [N, ...] with N the product of the leading dimensions of x [B, T, ...]."""
    lead = x.shape[:2]
    y = function(tf.reshape(x, [lead[0] * lead[1], *x.shape[2:]]))
    return tf.reshape(y, [*lead, *y.shape[1:]])


def _chunks(x: tf.Tensor) -> tf.Tensor:
    """[N, ...] as [N / n, n, ...], where n is the largest divisor of N of at most `CHUNK`."""
    size = max(size for size in range(1, min(x.shape[0], CHUNK) + 1) if x.shape[0] % size == 0)
    return tf.reshape(x, [x.shape[0] // size, size, *x.shape[1:]])


class Encoder(keras.Model):
    """Convolutional encoder of Ha & Schmidhuber (2018), as in PlaNet appendix A: [N, 64, 64, 3] -> [N, 32 depth].

    The layers hold the weights; `convolution` says how they are multiplied.
    """

    def __init__(self, depth: int = 32, act: str = "relu"):
        super().__init__(name="encoder")
        self.embed_size = 2 * 2 * 8 * depth
        self.convs = [keras.layers.Conv2D(depth * 2**i, 4, strides=2, activation=act) for i in range(4)]
        shape = (None, *IMAGE_SHAPE)
        for conv in self.convs:
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
        self.built = True

    def call(self, image: tf.Tensor) -> tf.Tensor:
        return self.convolve(image, self.block_weights())

    def block_weights(self) -> list[tf.Tensor]:
        """Kernel and bias of each layer as `convolve` takes them, rearranged once for any number of calls."""
        kernels = [block_kernel(tf.convert_to_tensor(conv.kernel)) for conv in self.convs]
        biases = [tf.convert_to_tensor(conv.bias) for conv in self.convs]
        biases[:-1] = [block_bias(bias) for bias in biases[:-1]]
        return [tensor for pair in zip(kernels, biases, strict=True) for tensor in pair]

    def convolve(self, image: tf.Tensor, weights: Sequence[tf.Tensor]) -> tf.Tensor:
        """Embeddings [N, E] of images [N, 64, 64, 3] under `block_weights`."""
        # Cast here, so that gradients by the weights are summed over calls in the weights' own precision.
        image, *weights = [tf.cast(x, self.compute_dtype) for x in (image, *weights)]
        # The layers make 31, 14, 6, 2 pixels out of 64. The second one does not reach the last of the 31, nor hence
        # the last two of the 64.
        x = tf.nn.space_to_depth(image[:, :62, :62], 2)
        for i, conv in enumerate(self.convs):
            x = convolution.down(x, weights[2 * i])
            if conv is not self.convs[-1]:
                x = tf.nn.space_to_depth(x, 2)
            # After the rearrangement, so that the backward pass needs one copy of the result and not two.
            x = conv.activation(tf.nn.bias_add(x, weights[2 * i + 1]))
        return tf.reshape(x, [-1, self.embed_size])


class Decoder(keras.Model):
    """Transposed-convolution decoder of Ha & Schmidhuber (2018): features [N, F] -> image means [N, 64, 64, 3].

    The first transposed convolution of the original maps 1 x 1 to 5 x 5 pixels. On a single pixel it is exactly a dense
    layer, and written as one it is much faster on a CPU.
    """

    def __init__(self, feat_size: int, depth: int = 32, act: str = "relu"):
        super().__init__(name="decoder")
        self.depth = depth
        self.stem = keras.layers.Dense(32 * depth)
        self.first = keras.layers.Dense(5 * 5 * 4 * depth, activation=act)
        self.deconvs = [
            keras.layers.Conv2DTranspose(2 * depth, 5, strides=2, activation=act),
            keras.layers.Conv2DTranspose(depth, 6, strides=2, activation=act),
            keras.layers.Conv2DTranspose(3, 6, strides=2),
        ]
        self.stem.build((None, feat_size))
        self.first.build((None, 32 * depth))
        shape = (None, 5, 5, 4 * depth)
        for deconv in self.deconvs:
            deconv.build(shape)
            shape = deconv.compute_output_shape(shape)
        self.built = True

    def call(self, feat: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(self.convolve(self.expand(feat), self.block_weights()), 2)

    def expand(self, feat: tf.Tensor) -> tf.Tensor:
        """The dense part: features [N, F] to [N, 5, 5, 4 depth]."""
        return tf.reshape(self.first(self.stem(feat)), [-1, 5, 5, 4 * self.depth])

    def block_weights(self) -> list[tf.Tensor]:
        """Kernel and bias of each transposed convolution as `convolve` takes them."""
        return [
            tensor
            for deconv in self.deconvs
            for tensor in (
                block_kernel(tf.convert_to_tensor(deconv.kernel)),
                block_bias(tf.convert_to_tensor(deconv.bias)),
            )
        ]

    def convolve(self, x: tf.Tensor, weights: Sequence[tf.Tensor]) -> tf.Tensor:
        """The convolutional part: [N, 5, 5, 4 depth] to image means by blocks of 2 x 2 pixels, [N, 32, 32, 12]."""
        x, *weights = [tf.cast(y, self.compute_dtype) for y in (x, *weights)]
        for i, deconv in enumerate(self.deconvs):
            if i:
                x = tf.nn.depth_to_space(x, 2)
            if i == 1:
                # 5 x 5 pixels make 13 x 13 with a kernel of 5: half a block too many. The gradient of this slice is
                # many times faster than that of an indexing expression.
                x = tf.slice(x, [0, 0, 0, 0], [-1, 13, 13, -1])
            x = convolution.up(x, weights[2 * i])
            x = deconv.activation(tf.nn.bias_add(x, weights[2 * i + 1]))
        return x


class DenseHead(keras.Model):
    """Fully connected network [..., F] -> [..., *shape]; `shape=()` gives a scalar per feature."""

    def __init__(
        self,
        feat_size: int,
        shape: Sequence[int] = (),
        layers: int = 2,
        units: int = 200,
        act: str = "relu",
        name: str = "head",
    ):
        super().__init__(name=name)
        self.shape = tuple(shape)
        size = 1
        for dim in self.shape:
            size *= dim
        self.hidden = [keras.layers.Dense(units, activation=act) for _ in range(layers)]
        self.out = keras.layers.Dense(size, dtype="float32")  # losses and plans are sums, which low precision spoils
        for layer, inputs in zip([*self.hidden, self.out], [feat_size] + [units] * layers, strict=True):
            layer.build((None, inputs))
        self.built = True

    def call(self, feat: tf.Tensor) -> tf.Tensor:
        x = feat
        for layer in self.hidden:
            x = layer(x)
        x = self.out(tf.cast(x, tf.float32))
        return tf.reshape(x, [*x.shape[:-1], *self.shape])


Metrics = dict[str, tf.Tensor]

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def layer_precision(name: str) -> Iterator[None]:
    """Layers made within compute in this precision; their weights stay float32 (Keras's mixed-precision policies)."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(PRECISIONS[name])
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def make_adam(lr: float, eps: float, precision: str) -> keras.optimizers.Optimizer:
    """Adam for weights of layers in this precision."""
    optimizer = keras.optimizers.Adam(lr, epsilon=eps)
    if precision == "float16":
        # Gradients below 6e-8 vanish in float16, so the loss is scaled up as far as they stay finite.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float:
    """What a loss is multiplied by before it is differentiated: with float16 what keeps its gradients finite."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return tf.convert_to_tensor(optimizer.dynamic_scale) if scaled else 1.0


class WorldModel(keras.Model):
    """All learned parts: encoder, dynamics, decoder, reward head, optional discount head, cost head and state probe.

    Features, distributions and the outputs of heads and decoder are float32 in every precision of the layers.
    """

    def __init__(
        self, action_size: int, *, stoch: int, deter: int, hidden: int, act: str, min_std: float, cnn_depth: int,
        cnn_act: str, reward_layers: int, reward_units: int, dynamics: str = "rssm", latent: str = "gaussian",
        classes: int = 32, unimix: float = 0.0, discount_head: bool = False, cost_head: bool = False,
        state_size: int = 0,
    ):  # fmt: skip
        super().__init__(name="world_model")
        self.encoder = Encoder(cnn_depth, cnn_act)
        self.dynamics = make_dynamics(
            dynamics, latent, action_size, self.encoder.embed_size, stoch=stoch, deter=deter, hidden=hidden, act=act,
            min_std=min_std, classes=classes, unimix=unimix,
        )  # fmt: skip
        feat_size = self.dynamics.feat_size
        self.decoder = Decoder(feat_size, cnn_depth, cnn_act)
        head: dict[str, Any] = {"layers": reward_layers, "units": reward_units, "act": act}
        self.reward = DenseHead(feat_size, **head, name="reward")
        self.discount = DenseHead(feat_size, **head, name="discount") if discount_head else None
        self.cost = DenseHead(feat_size, **head, name="cost") if cost_head else None
        self.probe = DenseHead(feat_size, (state_size,), **head, name="probe") if state_size else None
        self.built = True

    def embed(self, image: tf.Tensor) -> tf.Tensor:
        """Embeddings [B, T, E] of uint8 images [B, T, 64, 64, 3], computed chunk by chunk."""
        weights, chunks = self.encoder.block_weights(), _chunks(tf.reshape(image, [-1, *IMAGE_SHAPE]))
        embed = tf.map_fn(
            lambda chunk: self.encoder.convolve(preprocess(chunk), weights), chunks,
            fn_output_signature=self.encoder.compute_dtype, parallel_iterations=1,
        )  # fmt: skip
        return tf.reshape(embed, [*image.shape[:2], self.encoder.embed_size])

    def decode(self, feat: tf.Tensor) -> tf.Tensor:
        """Image means [B, T, 64, 64, 3] around [-0.5, 0.5] of features [B, T, n]."""
        return tf.cast(_fold_time(self.decoder, feat), tf.float32)

    def image_error(
        self, feat: tf.Tensor, image: tf.Tensor, weights: tf.Tensor, factor: tf.Tensor | float = 1.0
    ) -> tf.Tensor:
        """Weighted sum of squared image errors, sum_bt w_bt |decode(feat_bt) - image_bt|^2.

        The images are decoded and compared chunk by chunk, and the gradients of a chunk are computed at once, as if
        `factor` were the factor of this sum in the loss; the backward pass only multiplies by what is left of it. So
        the activations of one chunk are in memory at a time and nothing is computed twice.

        Args:
          feat: [B, T, n].
          image: uint8 [B, T, 64, 64, 3].
          weights: [B, T], taken as constants.
          factor: changes the result by rounding only. A scaled loss has to give its scale, without which the gradients
            would underflow in float16.

        Returns:
          a scalar. It has first derivatives only.
        """
        count = weights.shape[0] * weights.shape[1]
        images, weights = _chunks(tf.reshape(image, [count, *IMAGE_SHAPE])), _chunks(tf.reshape(weights, [count]))
        weights *= factor

        @tf.custom_gradient
        def error(x: tf.Tensor, *kernels: tf.Tensor):
            value, *grads = self._sum_errors(_chunks(x), images, weights, kernels)
            grads[0] = tf.reshape(grads[0], x.shape)
            return value / factor, lambda whole: [tf.cast(whole / factor, grad.dtype) * grad for grad in grads]

        return error(self.decoder.expand(tf.reshape(feat, [count, -1])), *self.decoder.block_weights())

    def _sum_errors(
        self, x: tf.Tensor, images: tf.Tensor, weights: tf.Tensor, kernels: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The sum over chunks of `_error_and_grads`; its gradients by x are put together instead of summed."""

        def body(t, value, grads_x, grads):
            error, grad_x, *new = self._error_and_grads(x[t], images[t], weights[t], kernels)
            return t + 1, value + error, grads_x.write(t, grad_x), [a + b for a, b in zip(grads, new, strict=True)]

        grads_x = tf.TensorArray(x.dtype, x.shape[0], element_shape=x.shape[1:])
        start = (tf.constant(0), tf.constant(0.0), grads_x, [tf.zeros_like(kernel) for kernel in kernels])
        _, value, grads_x, grads = tf.while_loop(lambda t, *_: t < x.shape[0], body, start, parallel_iterations=1)
        return [value, grads_x.stack(), *grads]

    def _error_and_grads(
        self, x: tf.Tensor, image: tf.Tensor, weights: tf.Tensor, kernels: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The weighted error of one chunk and its gradients by x [n, 5, 5, 4 depth] and the kernels."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, *kernels])
            decoded = self.decoder.convolve(x, kernels)
        # The order of the pixels does not matter to the sum: blocks are compared with blocks.
        error = tf.cast(decoded, tf.float32) - tf.nn.space_to_depth(preprocess(image), 2)
        weighted = weights[:, None, None, None] * error
        grads = tape.gradient(decoded, [x, *kernels], tf.cast(2.0 * weighted, decoded.dtype))
        return [tf.reduce_sum(weighted * error), *grads]
