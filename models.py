"""World model: encoder, decoder, heads and the recurrent state-space model (PlaNet section 3 and appendix A).

A latent *state* is a dict of tensors {'stoch', 'deter', 'mean', 'std'}; the *feature* is the concatenation (stoch,
deter), written `z` where a planner optimizes it. Nothing here knows environments, files or the config: sizes come in as
arguments.

Every part is a Keras model because a plain `tf.Module` does not see the variables of Keras 3 layers and would train
nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow import keras

import convolution
from convolution import block_bias, block_kernel

tfd = tfp.distributions

State = dict[str, tf.Tensor]

IMAGE_SHAPE = (64, 64, 3)
CHUNK = 64  # images in memory at a time, as activations of the encoder or the decoder, at most


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


def _chunks(x: tf.Tensor) -> tf.Tensor:
    """[N, ...] as [N / n, n, ...], where n is the largest divisor of N of at most `CHUNK`."""
    size = max(size for size in range(1, min(x.shape[0], CHUNK) + 1) if x.shape[0] % size == 0)
    return tf.reshape(x, [x.shape[0] // size, size, *x.shape[1:]])


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


class _Slopes(NamedTuple):
    """Derivatives of the elementwise parts of one step z, a -> z', all that its Jacobian needs besides the weights.

    Attributes:
      x: activation below the GRU, [..., hidden].
      update: the GRU's update gate, its direct path from h to h', [..., deter].
      kernel: h' by the input's share of the gates (update, reset, candidate), three of [..., deter].
      recurrent: h' by the state's share of the same gates, three of [..., deter].
      y: activation of the prior's hidden layer, [..., hidden].
    """

    x: tf.Tensor
    update: tf.Tensor
    kernel: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    recurrent: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    y: tf.Tensor


def _scale_rows(slopes: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
    """The sum over gates of diag(slope) W: slopes of [..., rows] each and W [gates, rows, columns]."""
    return sum(slope[..., None] * weight for slope, weight in zip(slopes, tf.unstack(weights), strict=True))


def _add_diag(matrix: tf.Tensor, diag: tf.Tensor) -> tf.Tensor:
    return tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + diag)


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
        self.noise_size = stoch  # standard normal numbers that one `sample_step` takes
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

    def sample_step(self, z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """A sample of the next feature [..., n] given features [..., n] and actions [..., m].

        `noise` [..., stoch] is standard normal and the caller's, who thus decides which samples share it.
        """
        deter = self._next_deter(z[..., : self.stoch], z[..., self.stoch :], self.action_in(a))
        mean, std = self._prior(deter)
        return tf.concat([mean + std * noise, deter], -1)

    def post_step(self, z: tf.Tensor, a: tf.Tensor, embed: tf.Tensor) -> tf.Tensor:
        """Mean of the posterior's next feature given features [..., n], actions [..., m] and embeddings [..., E]."""
        deter = self._next_deter(z[..., : self.stoch], z[..., self.stoch :], self.action_in(a))
        return tf.concat([self._post(deter, self.embed_in(embed))[0], deter], -1)

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
        raw, deter_next, slopes = self._step_slopes(z, a)
        kernel, recurrent = self._gru_kernels()
        dh_dh = _add_diag(_scale_rows(slopes.recurrent, recurrent), slopes.update)
        # dh'/d(stoch, action): [N, deter, hidden] with the activation's slope on its columns, times [hidden, stoch +
        # m].
        dh_dx = _scale_rows(slopes.kernel, kernel) * slopes.x[:, None, :]
        dh_dsa = tf.einsum("nik,kj->nij", dh_dx, self._input_kernel())
        w_out = tf.transpose(self.prior_out.kernel[:, : self.stoch])
        dmean_dh = tf.einsum("nkq,jq->nkj", slopes.y[:, None, :] * w_out[None], self.prior_in.kernel)
        dh = tf.concat([dh_dsa[..., : self.stoch], dh_dh, dh_dsa[..., self.stoch :]], -1)
        jacobian = tf.concat([dmean_dh @ dh, dh], 1)
        mean = tf.concat([raw[:, : self.stoch], deter_next], -1)
        return mean, jacobian[..., : self.feat_size], jacobian[..., self.feat_size :]

    def linearize_moments(
        self, z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Moments of the next feature over K samples of the present one, and the mean's Jacobians.

        For Gaussian LatCo (ICML 2021, appendix C, algorithm 3). With samples z_k = mu + sigma eps_k, the mean Jacobian
        by z_k is the Jacobian of the mean by mu. Unlike in `linearize`, z'_k is a sample and its standard deviation has
        a share in the Jacobian. Exact, but the K Jacobians are never formed: sums over samples are taken before or
        within the matrix products.

        Args:
          z: features [N, K, n].
          a: actions [N, m].
          noise: [N, K, stoch], as in `sample_step`.

        Returns:
          mean [N, n] and (biased) standard deviation [N, n] of z'_k = sample_step(z_k, a, noise_k), and the means over
          k of dz'_k/dz_k [N, n, n] and dz'_k/da [N, n, m].
        """
        raw, deter_next, slopes = self._step_slopes(z, a[:, None])
        stoch_mean, stoch_std = self._gaussian(raw)
        sample = tf.concat([stoch_mean + stoch_std * noise, deter_next], -1)
        mean = tf.reduce_mean(sample, 1)
        # From the deviations, because a difference of squares can be negative by rounding.
        std = tf.sqrt(tf.reduce_mean(tf.square(sample - mean[:, None]), 1))
        std_slope = noise * tf.sigmoid(raw[..., self.stoch :])
        weights = self._gru_kernels()  # transposed once, not in every iteration
        # One n at a time: its [K, deter, hidden] fits in the cache, all of them do not.
        jacobian = tf.map_fn(
            lambda x: self._mean_jacobian(*x, *weights), (slopes, std_slope), fn_output_signature=raw.dtype
        )
        return mean, std, jacobian[..., : self.feat_size], jacobian[..., self.feat_size :]

    def _mean_jacobian(
        self, slopes: _Slopes, std_slope: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor
    ) -> tf.Tensor:
        """The mean of dz'_k/d(z_k, a), [n, n + m].

        Takes the slopes [K, ...] of one n, dstoch'/d(raw standard deviation) [K, stoch] and `_gru_kernels`.
        """
        dh_dh, dh_dx = self._mean_deter_rows(slopes, kernel, recurrent)
        ds_dh, ds_dx = self._mean_stoch_rows(slopes, std_slope, kernel, recurrent)
        by_sa = tf.concat([ds_dx, dh_dx], 0) @ self._input_kernel()
        by_h = tf.concat([ds_dh, dh_dh], 0)
        return tf.concat([by_sa[:, : self.stoch], by_h, by_sa[:, self.stoch :]], 1)

    def _mean_deter_rows(self, slopes: _Slopes, kernel: tf.Tensor, recurrent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The means of dh'/dh [deter, deter] and of dh'/d(pre-activation of x) [deter, hidden].

        diag(slope) W diag(slope of x) is W times an outer product elementwise, so the mean is W times that of the outer
        products.
        """
        samples = slopes.x.shape[0]
        update, gates = tf.nest.map_structure(lambda x: tf.reduce_mean(x, 0), (slopes.update, slopes.recurrent))
        outer = tf.einsum("gkd,kh->gdh", tf.stack(slopes.kernel), slopes.x) / samples
        return _add_diag(_scale_rows(gates, recurrent), update), tf.reduce_sum(outer * kernel, 0)

    def _mean_stoch_rows(
        self, slopes: _Slopes, std_slope: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The means of dstoch'/dh [stoch, deter] and of dstoch'/d(pre-activation of x) [stoch, hidden].

        Three factors depend on the sample, so the few rows dstoch'/dh' go through the GRU sample by sample. One dense
        [deter, hidden] per sample is cheaper there than a product for each gate.
        """
        samples = slopes.x.shape[0]
        w_mean, w_std = tf.split(tf.transpose(self.prior_out.kernel), 2, 0)
        ds_dy = w_mean[:, None] + tf.transpose(std_slope)[..., None] * w_std[:, None]  # [stoch, K, hidden]
        ds_dnext = tf.einsum("skq,jq->skj", ds_dy * slopes.y, self.prior_in.kernel)
        dh_dx = _scale_rows(slopes.kernel, kernel) * slopes.x[:, None, :]
        *gates, direct = tf.unstack(tf.einsum("skj,gkj->gsj", ds_dnext, tf.stack([*slopes.recurrent, slopes.update])))
        by_h = direct + sum(gate @ weight for gate, weight in zip(gates, tf.unstack(recurrent), strict=True))
        return by_h / samples, tf.einsum("skj,kjh->sh", ds_dnext, dh_dx) / samples

    def _step_slopes(self, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, _Slopes]:
        """The prior's raw outputs [..., 2 stoch], the next deter [..., deter] and the slopes on the way there."""
        x, dx = self._act_and_slope(self.stoch_in(z[..., : self.stoch]) + self.action_in(a))
        deter, update, kernel, recurrent = self._gru_slopes(x, z[..., self.stoch :])
        y, dy = self._act_and_slope(self.prior_in(deter))
        return self.prior_out(y), deter, _Slopes(dx, update, kernel, recurrent, dy)

    def _act_and_slope(self, pre: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The activation and its elementwise derivative."""
        with tf.GradientTape() as tape:
            tape.watch(pre)
            out = self.act(pre)
        return out, tape.gradient(out, pre)

    def _gru_slopes(self, x: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tuple, tuple]:
        """The Keras GRU h' = u h + (1 - u) c, followed by `update`, `kernel` and `recurrent` of `_Slopes`."""
        bias_in, bias_rec = tf.unstack(tf.convert_to_tensor(self.cell.bias))
        xu, xr, xc = tf.split(x @ self.cell.kernel + bias_in, 3, -1)
        hu, hr, hc = tf.split(h @ self.cell.recurrent_kernel + bias_rec, 3, -1)
        u, r = tf.sigmoid(xu + hu), tf.sigmoid(xr + hr)
        c = tf.tanh(xc + r * hc)
        slope_c = (1.0 - u) * (1.0 - c * c)
        slope_u = (h - c) * u * (1.0 - u)
        slope_r = slope_c * hc * r * (1.0 - r)
        return u * h + (1.0 - u) * c, u, (slope_u, slope_r, slope_c), (slope_u, slope_r, slope_c * r)

    def _gru_kernels(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The GRU's kernels [3, deter, hidden] and [3, deter, deter], rows as in a Jacobian."""
        kernels = (self.cell.kernel, self.cell.recurrent_kernel)
        return tuple(tf.transpose(tf.reshape(tf.convert_to_tensor(x), [-1, 3, self.deter]), [1, 2, 0]) for x in kernels)

    def _input_kernel(self) -> tf.Tensor:
        """[hidden, stoch + m], the derivative of the layer below the GRU by (stoch, action)."""
        return tf.transpose(tf.concat([self.stoch_in.kernel, self.action_in.kernel], 0))


class WorldModel(keras.Model):
    """All learned parts: encoder, dynamics, decoder, reward head, optional discount head, cost head and state probe."""

    def __init__(
        self, action_size: int, *, stoch: int, deter: int, hidden: int, act: str, min_std: float, cnn_depth: int,
        cnn_act: str, reward_layers: int, reward_units: int, discount_head: bool = False, cost_head: bool = False,
        state_size: int = 0,
    ):  # fmt: skip
        super().__init__(name="world_model")
        self.encoder = Encoder(cnn_depth, cnn_act)
        self.dynamics = RSSM(action_size, self.encoder.embed_size, stoch, deter, hidden, act, min_std)
        feat_size = self.dynamics.feat_size
        self.decoder = Decoder(feat_size, cnn_depth, cnn_act)
        head = {"layers": reward_layers, "units": reward_units, "act": act}
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
        return _fold_time(self.decoder, feat)

    def image_error(self, feat: tf.Tensor, image: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Weighted sum of squared image errors, sum_bt w_bt |decode(feat_bt) - image_bt|^2.

        The images are decoded and compared chunk by chunk, and the gradients of a chunk are computed at once, as if the
        factor of this sum in the loss were 1; the backward pass only multiplies by that factor. So the activations of
        one chunk are in memory at a time and nothing is computed twice.

        Args:
          feat: [B, T, n].
          image: uint8 [B, T, 64, 64, 3].
          weights: [B, T], taken as constants.

        Returns:
          a scalar. It has first derivatives only.
        """
        count = weights.shape[0] * weights.shape[1]
        images, weights = _chunks(tf.reshape(image, [count, *IMAGE_SHAPE])), _chunks(tf.reshape(weights, [count]))

        @tf.custom_gradient
        def error(x: tf.Tensor, *kernels: tf.Tensor):
            value, *grads = self._sum_errors(_chunks(x), images, weights, kernels)
            grads[0] = tf.reshape(grads[0], x.shape)
            return value, lambda factor: [tf.cast(factor, grad.dtype) * grad for grad in grads]

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
