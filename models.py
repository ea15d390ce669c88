"""World model: encoder, decoder, heads and the recurrent state-space model (PlaNet section 3 and appendix A).

A latent *state* is a dict of tensors {'stoch', 'deter', 'mean', 'std'}; the *feature* is the concatenation (stoch,
deter), written `z` where a planner optimizes it. Nothing here knows environments, files or the config: sizes come in as
arguments.

Every part is a Keras model because a plain `tf.Module` does not see the variables of Keras 3 layers and would train
nothing.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow import keras

tfd = tfp.distributions

State = dict[str, tf.Tensor]

IMAGE_SHAPE = (64, 64, 3)


def preprocess(image: tf.Tensor) -> tf.Tensor:
    """uint8 images to float32 in [-0.5, 0.5]."""
    return tf.cast(image, tf.float32) / 255.0 - 0.5


def postprocess(image: tf.Tensor) -> tf.Tensor:
    """float32 images around [-0.5, 0.5] to uint8."""
    return tf.cast(tf.clip_by_value(image + 0.5, 0.0, 1.0) * 255.0 + 0.5, tf.uint8)


def get_feat(state: State) -> tf.Tensor:
    """The feature z = (stoch, deter) of a latent state, [..., stoch + deter]."""
    return tf.concat([state["stoch"], state["deter"]], -1)


def _fold_time(function, x: tf.Tensor) -> tf.Tensor:
    """Applies `function` to [N, ...] with N the product of the leading dimensions of x [B, T, ...]."""
    lead = x.shape[:2]
    y = function(tf.reshape(x, [lead[0] * lead[1], *x.shape[2:]]))
    return tf.reshape(y, [*lead, *y.shape[1:]])


def _scan(function: Callable, state: State, inputs: tuple[tf.Tensor, ...]) -> State:
    """Folds `function(state, inputs at t) -> state` over the time axis of inputs [B, T, ...]; returns all states, a
    dict of [B, T, ...].

    A loop rather than T copies of its body: the graph is traced and compiled in a time that does not grow with T.
    """
    length, keys = inputs[0].shape[1], sorted(state)
    inputs = [
        tf.TensorArray(x.dtype, length, element_shape=x[:, 0].shape).unstack(
            tf.transpose(x, [1, 0, *range(2, len(x.shape))])
        )
        for x in inputs
    ]
    outputs = [tf.TensorArray(state[key].dtype, length, element_shape=state[key].shape) for key in keys]

    def body(t, values, outputs):
        state = function(dict(zip(keys, values, strict=True)), [x.read(t) for x in inputs])
        values = [state[key] for key in keys]
        return t + 1, values, [output.write(t, value) for output, value in zip(outputs, values, strict=True)]

    start = (tf.constant(0), [state[key] for key in keys], outputs)
    outputs = tf.while_loop(lambda t, *_: t < length, body, start, maximum_iterations=length)[2]
    stacked = [output.stack() for output in outputs]
    return {key: tf.transpose(x, [1, 0, *range(2, len(x.shape))]) for key, x in zip(keys, stacked, strict=True)}


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
        self.out = keras.layers.Dense(size)
        for layer, inputs in zip([*self.hidden, self.out], [feat_size] + [units] * layers, strict=True):
            layer.build((None, inputs))
        self.built = True

    def call(self, feat: tf.Tensor) -> tf.Tensor:
        x = feat
        for layer in self.hidden:
            x = layer(x)
        x = self.out(x)
        return tf.reshape(x, [*x.shape[:-1], *self.shape])


class RSSM(keras.Model):
    """Recurrent state-space model with Gaussian latents (PlaNet equation 4 and figure 2c).

        deter_t = GRU(act(W1 [stoch_{t-1}, action_t]), deter_{t-1})            action_t led to image_t
        prior_t = N(mean, std) of two dense layers of deter_t
        post_t  = N(mean, std) of two dense layers of (deter_t, embed_t)

    `std = softplus(raw) + min_std`. A layer with two inputs is a sum of two dense layers, so that the part that does
    not depend on the recurrence (actions, image embeddings) is computed for all time steps in one product.
    """

    def __init__(
        self,
        action_size: int,
        embed_size: int,
        stoch: int = 30,
        deter: int = 200,
        hidden: int = 200,
        act: str = "relu",
        min_std: float = 0.1,
    ):
        super().__init__(name="rssm")
        self.action_size, self.stoch, self.deter, self.hidden, self.min_std = action_size, stoch, deter, hidden, min_std
        self.feat_size = stoch + deter
        self.act = keras.activations.get(act)
        self.stoch_in = keras.layers.Dense(hidden)
        self.action_in = keras.layers.Dense(hidden, use_bias=False)
        self.cell = keras.layers.GRUCell(deter)
        self.prior_in = keras.layers.Dense(hidden)
        self.prior_out = keras.layers.Dense(2 * stoch)
        self.post_in = keras.layers.Dense(hidden)
        self.embed_in = keras.layers.Dense(hidden, use_bias=False)
        self.post_out = keras.layers.Dense(2 * stoch)
        for layer, inputs in (
            (self.stoch_in, stoch), (self.action_in, action_size), (self.cell, hidden), (self.prior_in, deter),
            (self.prior_out, hidden), (self.post_in, deter), (self.embed_in, embed_size), (self.post_out, hidden),
        ):  # fmt: skip
            layer.build((None, inputs))
        self.built = True

    def initial(self, batch: int) -> State:
        """The zero state before the first observation, for a batch."""
        zeros = tf.zeros([batch, self.stoch])
        return {"stoch": zeros, "deter": tf.zeros([batch, self.deter]), "mean": zeros, "std": zeros}

    def _gaussian(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, std = tf.split(raw, 2, -1)
        return mean, tf.nn.softplus(std) + self.min_std

    def _next_deter(self, stoch: tf.Tensor, deter: tf.Tensor, action_in: tf.Tensor) -> tf.Tensor:
        x = self.act(self.stoch_in(stoch) + action_in)
        # Keras' cell takes [N, ...] only, planners come with any leading dimensions.
        flat = self.cell(tf.reshape(x, [-1, self.hidden]), tf.reshape(deter, [-1, self.deter]))[0]
        return tf.reshape(flat, [*x.shape[:-1], self.deter])

    def _prior(self, deter: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gaussian(self.prior_out(self.act(self.prior_in(deter))))

    def _post(self, deter: tf.Tensor, embed_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gaussian(self.post_out(self.act(self.post_in(deter) + embed_in)))

    def img_step(self, state: State, action: tf.Tensor, noise: tf.Tensor) -> State:
        """One step of the prior.

        State at t-1 and action [B, A] to the state at t; `noise` [B, stoch] is standard normal.
        """
        deter = self._next_deter(state["stoch"], state["deter"], self.action_in(action))
        mean, std = self._prior(deter)
        return {"stoch": mean + std * noise, "deter": deter, "mean": mean, "std": std}

    def obs_step(
        self, state: State, action: tf.Tensor, embed: tf.Tensor, is_first: tf.Tensor, noise: tf.Tensor
    ) -> State:
        """One step of the posterior q(z_t | z_{t-1}, a_t, o_t), restarting from zero where `is_first` [B] is true."""
        return self._filter(state, self.action_in(action), self.embed_in(embed), is_first, noise)

    def _filter(
        self, state: State, action_in: tf.Tensor, embed_in: tf.Tensor, is_first: tf.Tensor, noise: tf.Tensor
    ) -> State:
        keep = 1.0 - tf.cast(is_first, tf.float32)[:, None]
        deter = self._next_deter(state["stoch"] * keep, state["deter"] * keep, action_in * keep)
        mean, std = self._post(deter, embed_in)
        return {"stoch": mean + std * noise, "deter": deter, "mean": mean, "std": std}

    def observe(
        self, embed: tf.Tensor, action: tf.Tensor, is_first: tf.Tensor, noise: tf.Tensor
    ) -> tuple[State, State]:
        """Filters sequences from the zero state.

        Args:
          embed: image embeddings [B, L, E].
          action: [B, L, A]; action[:, t] led to embed[:, t].
          is_first: bool [B, L], where an episode starts.
          noise: standard normal [B, L, stoch].

        Returns:
          (post, prior), each a dict of [B, L, ...].
        """
        action_in, embed_in = self.action_in(action), self.embed_in(embed)
        post = _scan(
            lambda state, x: self._filter(state, *x),
            self.initial(embed.shape[0]),
            (action_in, embed_in, is_first, noise),
        )
        # The prior at t depends on the posterior at t-1 through deter_t alone, so it needs no place in the loop.
        mean, std = self._prior(post["deter"])
        return post, {"deter": post["deter"], "mean": mean, "std": std}

    def imagine(self, state: State, action: tf.Tensor, noise: tf.Tensor) -> State:
        """Rolls the prior out from `state` under actions [B, H, A].

        Noise [B, H, stoch]; returns a dict of [B, H, ...].
        """
        return _scan(lambda state, x: self.img_step(state, *x), state, (action, noise))

    def kl(self, post: State, prior: State) -> tf.Tensor:
        """KL[post || prior] in nats, summed over the latent dimensions: [...]."""
        return tfd.kl_divergence(
            tfd.MultivariateNormalDiag(post["mean"], post["std"]),
            tfd.MultivariateNormalDiag(prior["mean"], prior["std"]),
        )

    # The same transition on features z = (stoch, deter), as planners see it.

    def mean_step(self, z: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
        """mu(z, a): features [..., n] and actions [..., m] to (mean of the next stoch, next deter), [..., n]."""
        deter = self._next_deter(z[..., : self.stoch], z[..., self.stoch :], self.action_in(a))
        return tf.concat([self._prior(deter)[0], deter], -1)

    def sample_step(self, z: tf.Tensor, a: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A sample of the next feature given features [..., n] and actions [..., m]; `seed` int32 [2] (stateless)."""
        deter = self._next_deter(z[..., : self.stoch], z[..., self.stoch :], self.action_in(a))
        mean, std = self._prior(deter)
        return tf.concat([mean + std * tf.random.stateless_normal(tf.shape(mean), seed), deter], -1)

    def linearize(self, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """mu(z, a) and its Jacobians by the chain rule through the layers.

        Cheaper than automatic differentiation, which pushes n seeds through every layer: here the wide products are
        elementwise scalings of the GRU's kernels, and the dense layers above and below it are narrow (stoch and action
        columns).

        Args:
          z: features [N, n].
          a: actions [N, m].

        Returns:
          mu [N, n], A = dmu/dz [N, n, n], B = dmu/da [N, n, m].
        """
        stoch, deter = z[:, : self.stoch], z[:, self.stoch :]
        x, dx = self._act_and_slope(self.stoch_in(stoch) + self.action_in(a))
        deter_next, dh_dh, dh_dx = self._gru_jacobian(x, deter)
        # dh'/d(stoch, action): [N, deter, hidden] with the activation's slope on its columns, times [hidden, stoch +
        # m].
        w_in = tf.transpose(tf.concat([self.stoch_in.kernel, self.action_in.kernel], 0))
        dh_dsa = tf.einsum("nik,kj->nij", dh_dx * dx[:, None, :], w_in)
        y, dy = self._act_and_slope(self.prior_in(deter_next))
        mean = self.prior_out(y)[:, : self.stoch]
        w_out = tf.transpose(self.prior_out.kernel[:, : self.stoch])
        dmean_dh = tf.einsum("nkq,jq->nkj", dy[:, None, :] * w_out[None], self.prior_in.kernel)
        dh = tf.concat([dh_dsa[..., : self.stoch], dh_dh, dh_dsa[..., self.stoch :]], -1)
        jacobian = tf.concat([dmean_dh @ dh, dh], 1)
        return tf.concat([mean, deter_next], -1), jacobian[..., : self.feat_size], jacobian[..., self.feat_size :]

    def _act_and_slope(self, pre: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The activation and its elementwise derivative."""
        with tf.GradientTape() as tape:
            tape.watch(pre)
            out = self.act(pre)
        return out, tape.gradient(out, pre)

    def _gru_jacobian(self, x: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The Keras GRU h' = u h + (1 - u) c, with dh'/dh [N, deter, deter] and dh'/dx [N, deter, hidden]."""
        bias_in, bias_rec = tf.unstack(tf.convert_to_tensor(self.cell.bias))
        xu, xr, xc = tf.split(x @ self.cell.kernel + bias_in, 3, -1)
        hu, hr, hc = tf.split(h @ self.cell.recurrent_kernel + bias_rec, 3, -1)
        u, r = tf.sigmoid(xu + hu), tf.sigmoid(xr + hr)
        c = tf.tanh(xc + r * hc)
        slope_c = (1.0 - u) * (1.0 - c * c)
        slope_u = (h - c) * u * (1.0 - u)
        slope_r = slope_c * hc * r * (1.0 - r)
        kernel = tf.transpose(tf.reshape(tf.convert_to_tensor(self.cell.kernel), [-1, 3, self.deter]), [1, 2, 0])
        recurrent = tf.transpose(
            tf.reshape(tf.convert_to_tensor(self.cell.recurrent_kernel), [-1, 3, self.deter]), [1, 2, 0]
        )

        def rows(weights, *slopes):
            return sum(
                slope[:, :, None] * weight[None] for slope, weight in zip(slopes, tf.unstack(weights), strict=True)
            )

        dh_dh = rows(recurrent, slope_u, slope_r, slope_c * r)
        dh_dh = tf.linalg.set_diag(dh_dh, tf.linalg.diag_part(dh_dh) + u)
        return u * h + (1.0 - u) * c, dh_dh, rows(kernel, slope_u, slope_r, slope_c)


class WorldModel(keras.Model):
    """All learned parts: encoder, dynamics, decoder, reward head, optional discount head and state probe."""

    def __init__(
        self, action_size: int, *, stoch: int, deter: int, hidden: int, act: str, min_std: float, cnn_depth: int,
        cnn_act: str, reward_layers: int, reward_units: int, discount_head: bool = False, state_size: int = 0,
    ):  # fmt: skip
        super().__init__(name="world_model")
        self.encoder = Encoder(cnn_depth, cnn_act)
        self.dynamics = RSSM(action_size, self.encoder.embed_size, stoch, deter, hidden, act, min_std)
        feat_size = self.dynamics.feat_size
        self.decoder = Decoder(feat_size, cnn_depth, cnn_act)
        head = {"layers": reward_layers, "units": reward_units, "act": act}
        self.reward = DenseHead(feat_size, **head, name="reward")
        self.discount = DenseHead(feat_size, **head, name="discount") if discount_head else None
        self.probe = DenseHead(feat_size, (state_size,), **head, name="probe") if state_size else None
        self.built = True

    def embed(self, image: tf.Tensor) -> tf.Tensor:
        """Embeddings [B, T, E] of uint8 images [B, T, 64, 64, 3]."""
        return _fold_time(lambda x: self.encoder(preprocess(x)), image)

    def decode(self, feat: tf.Tensor) -> tf.Tensor:
        """Image means [B, T, 64, 64, 3] around [-0.5, 0.5] of features [B, T, n]."""
        return _fold_time(self.decoder, feat)
