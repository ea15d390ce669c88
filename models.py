"""World model: encoder, decoder, heads, and what holds them together with the latent dynamics (PlaNet appendix A).

The dynamics are in `dynamics.py`, the distributions of their latents in `latents.py`. Nothing here knows environments,
files or the config: sizes come in as arguments.

Every part is a Keras model because a plain `tf.Module` does not see the variables of Keras 3 layers and would train
nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tensorflow import keras

from dynamics import State as State
from dynamics import get_feat as get_feat
from dynamics import make_dynamics

IMAGE_SHAPE = (64, 64, 3)


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


class Encoder(keras.Model):
    """Convolutional encoder of Ha & Schmidhuber (2018), as in PlaNet appendix A: [N, 64, 64, 3] -> [N, 32 depth]."""

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
        x = image
        for conv in self.convs:
            x = conv(x)
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
        x = self.first(self.stem(feat))
        x = tf.reshape(x, [-1, 5, 5, 4 * self.depth])
        for deconv in self.deconvs:
            x = deconv(x)
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


PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def layer_precision(name: str) -> Iterator[None]:
    """Layers made within compute in this precision; their weights stay float32 (Keras's mixed-precision policies)."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
        head = {"layers": reward_layers, "units": reward_units, "act": act}
        self.reward = DenseHead(feat_size, **head, name="reward")
        self.discount = DenseHead(feat_size, **head, name="discount") if discount_head else None
        self.cost = DenseHead(feat_size, **head, name="cost") if cost_head else None
        self.probe = DenseHead(feat_size, (state_size,), **head, name="probe") if state_size else None
        self.built = True

    def embed(self, image: tf.Tensor) -> tf.Tensor:
        """Embeddings [B, T, E] of uint8 images [B, T, 64, 64, 3]."""
        return _fold_time(lambda x: self.encoder(preprocess(x)), image)

    def decode(self, feat: tf.Tensor) -> tf.Tensor:
        """Image means [B, T, 64, 64, 3] around [-0.5, 0.5] of features [B, T, n]."""
        return tf.cast(_fold_time(self.decoder, feat), tf.float32)
