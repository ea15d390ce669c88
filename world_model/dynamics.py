"""Latent dynamics: the three designs of PlaNet's figure 2, behind one interface.

A latent *state* is a dict of tensors: 'stoch' (a sample), 'deter' and the statistics of the latent (`latents.py`). The
*feature* is the concatenation (stoch, deter), written `z` where a planner optimizes it.

    rssm            stochastic and deterministic paths (figure 2c)
    ssm             the stochastic path alone (figure 2b): there is no deter
    deterministic   the RSSM without noise (figure 2a): a GRU whose stoch is a point

New dynamics are one class, one line in `DYNAMICS` and the name in config.yaml; `SSM` says what they share.

Planners see the mean dynamics mu(z, a) as functions of features. Jacobians, and the means they come with, are computed
in float32 from the weights themselves, whatever precision the layers use.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from tools.errors import UserError
from world_model.latents import Gaussian, Latent, Stats, make_latent

State = dict[str, tf.Tensor]


def get_feat(state: State) -> tf.Tensor:
    """The feature z = (stoch, deter) of a latent state, [..., stoch + deter]."""
    return tf.concat([state["stoch"], state["deter"]], -1)


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


def _dense(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """A dense layer without its activation, in the precision of x and of the weights rather than of the layer."""
    y = tf.tensordot(x, tf.convert_to_tensor(layer.kernel), 1)
    return y + layer.bias if layer.use_bias else y


def _shift(x: tf.Tensor) -> tf.Tensor:
    """x [B, L, ...] one step later; what moves in at the start is not to be used."""
    return tf.concat([x[:, :1], x[:, :-1]], 1)


def _scale_rows(slopes: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
    """The sum over gates of diag(slope) W: slopes of [..., rows] each and W [gates, rows, columns]."""
    return sum(slope[..., None] * weight for slope, weight in zip(slopes, tf.unstack(weights), strict=True))


def _add_diag(matrix: tf.Tensor, diag: tf.Tensor) -> tf.Tensor:
    return tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + diag)


class SSM(keras.Model):
    """State-space model with stochastic transitions only (PlaNet figure 2b), and what all designs share.

        context_t = act(W1 [stoch_{t-1}, action_t])                             action_t led to image_t
        prior_t = two dense layers of context_t
        post_t  = two dense layers of (context_t, embed_t)

    A subclass says what else the context is made of. A layer with two inputs is a sum of two dense layers, so that the
    part that does not depend on the recurrence (actions, image embeddings) is computed for all time steps in one
    product.

    Attributes:
      latent: the distribution of stoch.
      deter: size of the deterministic path.
      feat_size: n = stoch + deter, size of a feature.
      noise_size: standard normal numbers that one sample of the next state takes.
      explicit_moments: whether there is a `linearize_moments`.
    """

    explicit_moments = False

    def __init__(
        self, latent: Latent, action_size: int, embed_size: int, hidden: int = 200, act: str = "relu",
        deter: int = 0, context: int | None = None, name: str = "ssm",
    ):  # fmt: skip
        super().__init__(name=name)
        self.latent, self.action_size, self.hidden, self.deter = latent, action_size, hidden, deter
        self.feat_size = latent.size + deter
        self.noise_size = latent.noise_size
        self.act = keras.activations.get(act)
        self.stoch_in = keras.layers.Dense(hidden)
        self.action_in = keras.layers.Dense(hidden, use_bias=False)
        self.prior_in = keras.layers.Dense(hidden)
        self.prior_out = keras.layers.Dense(latent.raw_size)
        self.post_in = keras.layers.Dense(hidden)
        self.embed_in = keras.layers.Dense(hidden, use_bias=False)
        self.post_out = keras.layers.Dense(latent.raw_size)
        context = hidden if context is None else context
        for layer, inputs in (
            (self.stoch_in, latent.size), (self.action_in, action_size), (self.prior_in, context),
            (self.prior_out, hidden), (self.post_in, context), (self.embed_in, embed_size), (self.post_out, hidden),
        ):  # fmt: skip
            layer.build((None, inputs))
        self.built = True

    def initial(self, batch: int) -> State:
        """The zero state before the first observation, for a batch."""
        sizes = {"stoch": self.latent.size, "deter": self.deter} | self.latent.keys
        return {key: tf.zeros([batch, size]) for key, size in sizes.items()}

    def _context(self, stoch: tf.Tensor, deter: tf.Tensor, action_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What both distributions of the next stoch depend on, and the next deter (here nothing, [..., 0])."""
        return self.act(self.stoch_in(stoch) + action_in), deter

    def _prior(self, context: tf.Tensor) -> Stats:
        return self.latent.stats(tf.cast(self.prior_out(self.act(self.prior_in(context))), tf.float32))

    def _post(self, context: tf.Tensor, embed_in: tf.Tensor) -> Stats:
        return self.latent.stats(tf.cast(self.post_out(self.act(self.post_in(context) + embed_in)), tf.float32))

    def _state(self, stats: Stats, deter: tf.Tensor, noise: tf.Tensor | None) -> State:
        return {"stoch": self.latent.sample(stats, noise), "deter": deter, **stats}

    def _predict(self, state: State, action_in: tf.Tensor, noise: tf.Tensor | None = None) -> State:
        context, deter = self._context(state["stoch"], state["deter"], action_in)
        return self._state(self._prior(context), deter, noise)

    def _filter(
        self, state: State, action_in: tf.Tensor, embed_in: tf.Tensor, is_first: tf.Tensor,
        noise: tf.Tensor | None = None,
    ) -> State:  # fmt: skip
        keep = 1.0 - tf.cast(is_first, tf.float32)[:, None]
        action_in *= tf.cast(keep, action_in.dtype)
        context, deter = self._context(state["stoch"] * keep, state["deter"] * keep, action_in)
        return self._state(self._post(context, embed_in), deter, noise)

    def img_step(self, state: State, action: tf.Tensor, noise: tf.Tensor | None = None) -> State:
        """One step of the prior.

        State at t-1 and action [B, A] to the state at t; `noise` [B, noise_size] is standard normal, None the mean.
        """
        return self._predict(state, self.action_in(action), noise)

    def obs_step(
        self, state: State, action: tf.Tensor, embed: tf.Tensor, is_first: tf.Tensor, noise: tf.Tensor | None = None
    ) -> State:
        """One step of the posterior q(z_t | z_{t-1}, a_t, o_t), restarting from zero where `is_first` [B] is true."""
        return self._filter(state, self.action_in(action), self.embed_in(embed), is_first, noise)

    def observe(
        self, embed: tf.Tensor, action: tf.Tensor, is_first: tf.Tensor, noise: tf.Tensor | None = None
    ) -> tuple[State, State]:
        """Filters sequences from the zero state.

        Args:
          embed: image embeddings [B, L, E].
          action: [B, L, A]; action[:, t] led to embed[:, t].
          is_first: bool [B, L], where an episode starts.
          noise: standard normal [B, L, noise_size]; None takes means instead of samples.

        Returns:
          (post, prior), each a dict of [B, L, ...]; the prior has no sample.
        """
        action_in, inputs = self.action_in(action), [self.embed_in(embed), is_first]
        inputs += [] if noise is None else [noise]
        start = self.initial(embed.shape[0])
        post = _scan(lambda state, x: self._filter(state, *x), start, (action_in, *inputs))
        return post, self._priors(start, post, action_in, is_first)

    def _priors(self, start: State, post: State, action_in: tf.Tensor, is_first: tf.Tensor) -> State:
        """The prior of every step, which needs no place in the loop."""
        keep = 1.0 - tf.cast(is_first, tf.float32)[..., None]
        before = tf.concat([start["stoch"][:, None], post["stoch"][:, :-1]], 1) * keep
        context, deter = self._context(before, post["deter"], action_in * tf.cast(keep, action_in.dtype))
        return {"deter": deter, **self._prior(context)}

    def imagine(self, state: State, action: tf.Tensor, noise: tf.Tensor | None = None) -> State:
        """Rolls the prior out from `state` under actions [B, H, A].

        Noise [B, H, noise_size], None for the mean dynamics; returns a dict of [B, H, ...].
        """
        inputs = (self.action_in(action),) if noise is None else (self.action_in(action), noise)
        return _scan(lambda state, x: self._predict(state, *x), state, inputs)

    def kl(self, post: State, prior: State) -> tf.Tensor:
        """KL[post || prior] in nats, summed over the latent: [...]."""
        return self.latent.kl(post, prior)

    def overshoot(
        self, post: State, prior: State, action: tf.Tensor, is_first: tf.Tensor, mask: tf.Tensor, noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Latent overshooting (PlaNet equation 7): the divergences of all predictions over 2 to D steps.

        The predictions over d steps are one step of those over d - 1, for all start times at once. So D distances take
        D - 1 steps, where a rollout for each distance would take D (D + 1) / 2. Gradients of the target posteriors are
        stopped; those of the states where the predictions start are not.

        Args:
          post, prior: of `observe`.
          action: [B, L, A].
          is_first, mask: [B, L]; predictions across a start and of padding do not count.
          noise: standard normal [B, L, D - 1, noise_size].

        Returns:
          for each distance the sum over all predictions of KL[q(s_t | o_<=t) || p(s_t | s_{t-d})], [D - 1], and how
          many there are, [D - 1].
        """
        action_in, distances = self.action_in(action), noise.shape[2]
        noise = tf.transpose(noise, [2, 0, 1, 3])
        target = {key: tf.stop_gradient(post[key]) for key in self.latent.keys}
        keys = ["deter", *self.latent.keys]
        inside = mask * (1.0 - tf.cast(is_first, tf.float32))
        outputs = tf.TensorArray(tf.float32, distances, element_shape=[2])

        def body(i, values, valid, outputs):
            stats = dict(zip(keys, values, strict=True))
            state = {"stoch": _shift(self.latent.sample(stats, noise[i])), "deter": _shift(stats["deter"])}
            predicted = self._predict(state, action_in)
            valid = inside * tf.concat([tf.zeros_like(valid[:, :1]), valid[:, :-1]], 1)
            found = tf.stack([tf.reduce_sum(self.kl(target, predicted) * valid), tf.reduce_sum(valid)])
            return i + 1, [predicted[key] for key in keys], valid, outputs.write(i, found)

        known = tf.concat([tf.zeros_like(inside[:, :1]), inside[:, 1:]], 1)  # the first entry has no state before it
        start = (0, [prior[key] for key in keys], known, outputs)
        loop = tf.while_loop(lambda i, *_: i < distances, body, start, maximum_iterations=distances)
        return tuple(tf.unstack(loop[3].stack(), axis=1))

    # The same transition on features z = (stoch, deter), as planners see it.

    def _split(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return z[..., : self.latent.size], z[..., self.latent.size :]

    def mean_step(self, z: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
        """mu(z, a): features [..., n] and actions [..., m] to (mean of the next stoch, next deter), [..., n]."""
        return self.sample_step(z, a, None)

    def sample_step(self, z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor | None) -> tf.Tensor:
        """A sample of the next feature [..., n] given features [..., n] and actions [..., m].

        `noise` [..., noise_size] is standard normal and the caller's, who thus decides which samples share it.
        """
        context, deter = self._context(*self._split(z), self.action_in(a))
        return tf.concat([self.latent.sample(self._prior(context), noise), deter], -1)

    def post_step(self, z: tf.Tensor, a: tf.Tensor, embed: tf.Tensor) -> tf.Tensor:
        """Mean of the posterior's next feature given features [..., n], actions [..., m] and embeddings [..., E]."""
        context, deter = self._context(*self._split(z), self.action_in(a))
        return tf.concat([self.latent.mean(self._post(context, self.embed_in(embed))), deter], -1)

    def linearize(self, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """mu(z, a) and its Jacobians by the chain rule through the layers.

        Cheaper than automatic differentiation, which pushes n seeds through every layer.

        Args:
          z: features [N, n].
          a: actions [N, m].

        Returns:
          mu [N, n], A = dmu/dz [N, n, n], B = dmu/da [N, n, m].
        """
        stoch, deter = self._split(z)
        x, dx = self._act_and_slope(_dense(self.stoch_in, stoch) + _dense(self.action_in, a))
        context, deter_next, by_za = self._context_jacobian(x, dx, deter)
        y, dy = self._act_and_slope(_dense(self.prior_in, context))
        raw = _dense(self.prior_out, y)
        w_out = tf.transpose(self.latent.mean_columns(tf.convert_to_tensor(self.prior_out.kernel)))
        rows = tf.einsum("nkq,jq->nkj", dy[:, None, :] * w_out[None], self.prior_in.kernel)
        jacobian = self.latent.mean_rows(raw, rows @ by_za)
        if self.deter:  # then it is the context
            jacobian = tf.concat([jacobian, by_za], 1)
        mean = tf.concat([self.latent.mean(self.latent.stats(raw)), deter_next], -1)
        return mean, jacobian[..., : self.feat_size], jacobian[..., self.feat_size :]

    def _context_jacobian(
        self, x: tf.Tensor, dx: tf.Tensor, deter: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The context, the next deter and the context's Jacobian by (z, a), [N, context, n + m]."""
        return x, deter, dx[..., None] * self._input_kernel()

    def _act_and_slope(self, pre: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The activation and its elementwise derivative."""
        with tf.GradientTape() as tape:
            tape.watch(pre)
            out = self.act(pre)
        return out, tape.gradient(out, pre)

    def _input_kernel(self) -> tf.Tensor:
        """[hidden, stoch + m], the derivative of the first layer by (stoch, action)."""
        return tf.transpose(tf.concat([self.stoch_in.kernel, self.action_in.kernel], 0))


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


class RSSM(SSM):
    """Recurrent state-space model (PlaNet equation 4 and figure 2c).

        deter_t = GRU(act(W1 [stoch_{t-1}, action_t]), deter_{t-1})            action_t led to image_t

    and the context is deter_t. With a `latents.Point` it is the deterministic model (figure 2a).
    """

    def __init__(
        self, latent: Latent, action_size: int, embed_size: int, deter: int = 200, hidden: int = 200, act: str = "relu"
    ):
        super().__init__(latent, action_size, embed_size, hidden, act, deter, deter, name="rssm")
        self.explicit_moments = isinstance(latent, Gaussian)
        self.cell = keras.layers.GRUCell(deter)
        self.cell.build((None, hidden))

    def _context(self, stoch: tf.Tensor, deter: tf.Tensor, action_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = self.act(self.stoch_in(stoch) + action_in)
        # Keras' cell takes [N, ...] only, planners come with any leading dimensions.
        flat = self.cell(tf.reshape(x, [-1, self.hidden]), tf.reshape(deter, [-1, self.deter]))[0]
        deter = tf.reshape(tf.cast(flat, tf.float32), [*x.shape[:-1], self.deter])
        return deter, deter

    def _priors(self, start: State, post: State, action_in: tf.Tensor, is_first: tf.Tensor) -> State:
        # The prior at t depends on the posterior at t-1 through deter_t alone.
        return {"deter": post["deter"], **self._prior(post["deter"])}

    def _context_jacobian(
        self, x: tf.Tensor, dx: tf.Tensor, deter: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # The wide products are elementwise scalings of the GRU's kernels, and the layers around it are narrow.
        deter_next, update, slopes_in, slopes_rec = self._gru_slopes(x, deter)
        kernel, recurrent = self._gru_kernels()
        dh_dh = _add_diag(_scale_rows(slopes_rec, recurrent), update)
        # dh'/d(stoch, action): [N, deter, hidden] with the activation's slope on its columns, times [hidden, stoch +
        # m].
        dh_dsa = tf.einsum("nik,kj->nij", _scale_rows(slopes_in, kernel) * dx[:, None, :], self._input_kernel())
        stoch = self.latent.size
        return deter_next, deter_next, tf.concat([dh_dsa[..., :stoch], dh_dh, dh_dsa[..., stoch:]], -1)

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
        sample = tf.concat([self.latent.sample(self.latent.stats(raw), noise), deter_next], -1)
        mean = tf.reduce_mean(sample, 1)
        # From the deviations, because a difference of squares can be negative by rounding.
        std = tf.sqrt(tf.reduce_mean(tf.square(sample - mean[:, None]), 1))
        std_slope = noise * tf.sigmoid(raw[..., self.latent.size :])
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
        stoch = self.latent.size
        by_sa = tf.concat([ds_dx, dh_dx], 0) @ self._input_kernel()
        by_h = tf.concat([ds_dh, dh_dh], 0)
        return tf.concat([by_sa[:, :stoch], by_h, by_sa[:, stoch:]], 1)

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
        stoch, deter = self._split(z)
        x, dx = self._act_and_slope(_dense(self.stoch_in, stoch) + _dense(self.action_in, a))
        deter, update, kernel, recurrent = self._gru_slopes(x, deter)
        y, dy = self._act_and_slope(_dense(self.prior_in, deter))
        return _dense(self.prior_out, y), deter, _Slopes(dx, update, kernel, recurrent, dy)

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


DYNAMICS = {
    "rssm": RSSM,
    "ssm": lambda latent, action_size, embed_size, deter, hidden, act: SSM(
        latent, action_size, embed_size, hidden, act
    ),
    "deterministic": RSSM,  # of a point
}


def make_dynamics(
    kind: str, latent: str, action_size: int, embed_size: int, *, stoch: int, deter: int, hidden: int, act: str,
    min_std: float, classes: int, unimix: float,
) -> SSM:  # fmt: skip
    """The dynamics of a name (top of this file).

    Raises:
      UserError: a latent that the dynamics cannot have, or sizes that make no sense.
    """
    if kind == "deterministic" and latent != "gaussian":
        raise UserError(f"Deterministic dynamics have no {latent} latent: leave latent at gaussian, or choose rssm.")
    name = "point" if kind == "deterministic" else latent
    distribution = make_latent(name, stoch, min_std=min_std, classes=classes, unimix=unimix)
    return DYNAMICS[kind](distribution, action_size, embed_size, deter, hidden, act)
