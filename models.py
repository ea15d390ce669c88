"""The world model: encoder, decoder, heads and latent dynamics (PlaNet appendix A).

The dynamics are in `world_model/dynamics.py`, the distributions of their latents in `world_model/latents.py`, the image
loss in `world_model/image_loss.py`. Nothing here depends on environments, files or the config: sizes are arguments.

Every part is a Keras model: a `tf.Module` does not see the variables of Keras 3 layers and would train nothing.
"""

import contextlib
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tools.errors import unknown
from world_model import convolution
from world_model.convolution import block_bias, block_kernel
from world_model.dynamics import make_dynamics
from world_model.images import IMAGE_SHAPE, chunks, fold_time, preprocess
from world_model.images import postprocess as postprocess
from world_model.images import reduce_bits as reduce_bits
from world_model.ssm import State as State
from world_model.ssm import get_feat as get_feat

# Keras's activations that work on each number by itself. Softmax and its like mix numbers, but the convolutions have
# those of four pixels side by side, and the Jacobians of the dynamics know one slope for each number.
ACTIVATIONS = tuple(
    "relu relu6 leaky_relu elu selu celu gelu silu swish mish softplus squareplus linear exponential sigmoid "
    "log_sigmoid tanh softsign tanh_shrink soft_shrink hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "sparse_plus sparse_sigmoid".split()
)


class Encoder(keras.Model):
    """Convolutional encoder of Ha & Schmidhuber (2018), as in PlaNet appendix A: [N, 64, 64, 3] -> [N, 32 depth].

    The layers only hold the weights; `world_model/convolution.py` has faster convolutions.
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
        """Kernel and bias of each layer, rearranged for `convolve`."""
        kernels = [block_kernel(tf.convert_to_tensor(conv.kernel)) for conv in self.convs]
        biases = [tf.convert_to_tensor(conv.bias) for conv in self.convs]
        biases[:-1] = [block_bias(bias) for bias in biases[:-1]]
        return [tensor for pair in zip(kernels, biases, strict=True) for tensor in pair]

    def convolve(self, image: tf.Tensor, weights: Sequence[tf.Tensor]) -> tf.Tensor:
        """Embeddings [N, E] of images [N, 64, 64, 3] under `block_weights`."""
        # Cast here, so that gradients are summed over calls in the precision of the weights.
        image, *weights = [tf.cast(x, self.compute_dtype) for x in (image, *weights)]
        # The layers reduce 64 pixels to 31, 14, 6 and 2. The second one does not reach the last of the 31, so the last
        # two of the 64 are unused.
        x = tf.nn.space_to_depth(image[:, :62, :62], 2)
        for i, conv in enumerate(self.convs):
            x = convolution.down(x, weights[2 * i])
            if conv is not self.convs[-1]:
                x = tf.nn.space_to_depth(x, 2)
            # Activating after the rearrangement saves one copy of the result in the backward pass.
            x = conv.activation(tf.nn.bias_add(x, weights[2 * i + 1]))
        return tf.reshape(x, [-1, self.embed_size])


class Decoder(keras.Model):
    """Transposed-convolution decoder of Ha & Schmidhuber (2018): features [N, F] -> image means [N, 64, 64, 3].

    The first transposed convolution maps 1 x 1 to 5 x 5 pixels. On a single pixel it is a dense layer, which is much
    faster on a CPU.
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
        """Kernel and bias of each transposed convolution, rearranged for `convolve`."""
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
                # 5 x 5 pixels become 13 x 13 with a kernel of 5, so the blocks hold one row and column too many.
                # `tf.slice` has a much faster gradient than indexing.
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
        self.out = keras.layers.Dense(size, dtype="float32")  # losses and plans sum many outputs
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
    """Layers built in this context compute in this precision, with float32 weights (Keras's mixed precision)."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(PRECISIONS[name])
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


@contextlib.contextmanager
def own_initial_weights() -> Iterator[None]:
    """Layers built in this context have no effect on the initial weights of later ones, which are as without them.

    Keras draws the seed of each layer from Python's generator.
    """
    before = random.getstate()
    random.seed(f"apart {random.random()}")  # other numbers than those that the later layers draw
    try:
        yield
    finally:
        random.setstate(before)


def make_adam(lr: float, eps: float, precision: str) -> keras.optimizers.Optimizer:
    """Adam for layers that compute in this precision."""
    optimizer = keras.optimizers.Adam(lr, epsilon=eps)
    if precision == "float16":
        # Gradients below 6e-8 vanish in float16, so the loss is scaled up as far as they stay finite.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float:
    """The factor on the loss before differentiation: 1 except in float16, where gradients would underflow."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return tf.convert_to_tensor(optimizer.dynamic_scale) if scaled else 1.0


def clipped_step(
    optimizer: keras.optimizers.Optimizer, grads: list[tf.Tensor], variables: list, grad_clip: float
) -> None:
    """One step with gradients of the scaled loss, clipped. Without effect where they are not finite."""
    grads, norm = tf.clip_by_global_norm(grads, grad_clip * loss_scale(optimizer))

    def apply():
        optimizer.apply(grads, variables)
        return True

    # With a scaled loss the optimizer itself skips the step, and lowers the scale.
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    tf.cond(tf.math.is_finite(norm) | scaled, apply, lambda: False)


class WorldModel(keras.Model):
    """Encoder, dynamics, decoder and reward head; optionally discount head, cost head and state probe.

    Features, distributions and outputs are float32, whatever precision the layers compute in.

    Args:
        action_size: A.
        **sizes: of the dynamics, see `make_dynamics`.

    Attributes:
        make_dynamics: () -> new dynamics with these sizes.

    Raises:
        UserError: an activation that is not among `ACTIVATIONS`, or see `make_dynamics`.
    """

    def __init__(
        self,
        action_size: int,
        *,
        act: str,
        cnn_depth: int,
        cnn_act: str,
        reward_layers: int,
        reward_units: int,
        dynamics: str = "rssm",
        latent: str = "gaussian",
        discount_head: bool = False,
        cost_head: bool = False,
        state_size: int = 0,
        **sizes: Any,
    ):
        super().__init__(name="world_model")
        for key, activation in (("act", act), ("cnn_act", cnn_act)):
            if activation not in ACTIVATIONS:
                raise unknown(key, activation, ACTIVATIONS)
        self.encoder = Encoder(cnn_depth, cnn_act)
        self.make_dynamics = functools.partial(
            make_dynamics, dynamics, latent, action_size, self.encoder.embed_size, act=act, **sizes
        )
        self.dynamics = self.make_dynamics()
        feat_size = self.dynamics.feat_size
        self.decoder = Decoder(feat_size, cnn_depth, cnn_act)
        head: dict[str, Any] = {"layers": reward_layers, "units": reward_units, "act": act}
        self.reward = DenseHead(feat_size, **head, name="reward")
        self.discount = DenseHead(feat_size, **head, name="discount") if discount_head else None
        self.cost = DenseHead(feat_size, **head, name="cost") if cost_head else None
        with own_initial_weights():  # so that a probe changes no network that is made after it
            self.probe = DenseHead(feat_size, (state_size,), **head, name="probe") if state_size else None
        self.built = True

    def embed(self, image: tf.Tensor) -> tf.Tensor:
        """Embeddings [B, T, E] of uint8 images [B, T, 64, 64, 3], computed chunk by chunk."""
        weights, images = self.encoder.block_weights(), chunks(tf.reshape(image, [-1, *IMAGE_SHAPE]))
        embed = tf.map_fn(
            lambda chunk: self.encoder.convolve(preprocess(chunk), weights),
            images,
            fn_output_signature=self.encoder.compute_dtype,
            parallel_iterations=1,
        )
        return tf.reshape(embed, [*image.shape[:2], self.encoder.embed_size])

    def decode(self, feat: tf.Tensor) -> tf.Tensor:
        """Image means [B, T, 64, 64, 3], about in [-0.5, 0.5], of features [B, T, n]."""
        return tf.cast(fold_time(self.decoder, feat), tf.float32)
