"""The state-space model: filtering, rollouts, overshooting, and the transition with its Jacobians as planners see it.

Planners see the mean dynamics mu(z, a) as functions of features. Jacobians, and the means that come with them, are
computed in float32 from the weights themselves, in every precision of the layers.
"""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import keras

from world_model.latents import Latent, Stats

State = dict[str, tf.Tensor]


def get_feat(state: State) -> tf.Tensor:
    """The feature z = (stoch, deter) of a latent state, [..., stoch + deter]."""
    return tf.concat([state["stoch"], state["deter"]], -1)


def _scan(function: Callable, state: State, inputs: tuple[tf.Tensor, ...]) -> State:
    """Folds `function(state, inputs at t) -> state` over the time axis of inputs [B, T, ...].

    A loop instead of T copies of its body, so that tracing and compiling do not take longer for a larger T.

    Returns:
        all states, a dict of [B, T, ...].
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


def dense(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """A dense layer without its activation, in the precision of x and the weights, not the layer's."""
    y = tf.tensordot(x, tf.convert_to_tensor(layer.kernel), 1)
    return y + layer.bias if layer.use_bias else y


def _shift(x: tf.Tensor) -> tf.Tensor:
    """x [B, L, ...] one step later. The first entry is arbitrary."""
    return tf.concat([x[:, :1], x[:, :-1]], 1)


def follows(is_first: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Which entries [B, L] have the entry before them in their chunk and episode, as 0 or 1."""
    inside = mask * (1.0 - tf.cast(is_first, mask.dtype))
    return tf.concat([tf.zeros_like(inside[:, :1]), inside[:, 1:]], 1)


class SSM(keras.Model):
    """State-space model with stochastic transitions only (PlaNet figure 2b), and the base class of all designs.

        context_t = act(W1 [stoch_{t-1}, action_t])                             action_t led to image_t
        prior_t = two dense layers of context_t
        post_t  = two dense layers of (context_t, embed_t)

    A subclass adds to the context. A layer with two inputs is a sum of two dense layers: the part that does not depend
    on the recurrence (actions, image embeddings) is then one product for all time steps.

    Attributes:
        latent: the distribution of stoch.
        deter: size of the deterministic path.
        feat_size: n = stoch + deter, size of a feature.
        noise_size: standard normal numbers for one sample of the next state.
        explicit_moments: whether there is a `linearize_moments`.
    """

    explicit_moments = False

    def __init__(
        self,
        latent: Latent,
        action_size: int,
        embed_size: int,
        *,
        deter: int = 0,
        hidden: int,
        act: str,
        context: int | None = None,
        name: str = "ssm",
    ):
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
            (self.stoch_in, latent.size),
            (self.action_in, action_size),
            (self.prior_in, context),
            (self.prior_out, hidden),
            (self.post_in, context),
            (self.embed_in, embed_size),
            (self.post_out, hidden),
        ):
            layer.build((None, inputs))
        self.built = True

    def initial(self, batch: int) -> State:
        """The zero state before the first observation."""
        sizes = {"stoch": self.latent.size, "deter": self.deter} | self.latent.keys
        return {key: tf.zeros([batch, size]) for key, size in sizes.items()}

    def _context(self, stoch: tf.Tensor, deter: tf.Tensor, action_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The input of both distributions of the next stoch, and the next deter (here empty, [..., 0])."""
        return self.act(self.stoch_in(stoch) + action_in), deter

    def _prior(self, context: tf.Tensor) -> Stats:
        return self.latent.stats(tf.cast(self.prior_out(self.act(self.prior_in(context))), tf.float32))

    def _post(self, context: tf.Tensor, embed_in: tf.Tensor) -> Stats:
        return self.latent.stats(tf.cast(self.post_out(self.act(self.post_in(context) + embed_in)), tf.float32))

    def _state(self, stats: Stats, deter: tf.Tensor, noise: tf.Tensor | None) -> State:
        return {"stoch": self.latent.sample(stats, noise), "deter": deter, **stats}

    def _predict(self, state: State, action_in: tf.Tensor, noise: tf.Tensor | None = None) -> State:
        """One step of the prior; the mean where there is no noise."""
        context, deter = self._context(state["stoch"], state["deter"], action_in)
        return self._state(self._prior(context), deter, noise)

    def _filter(
        self,
        state: State,
        action_in: tf.Tensor,
        embed_in: tf.Tensor,
        is_first: tf.Tensor,
        noise: tf.Tensor | None = None,
    ) -> State:
        """One step of the posterior. Where `is_first`, nothing that came before counts: neither state nor action."""
        keep = 1.0 - tf.cast(is_first, tf.float32)[:, None]
        action_in *= tf.cast(keep, action_in.dtype)
        context, deter = self._context(state["stoch"] * keep, state["deter"] * keep, action_in)
        return self._state(self._post(context, embed_in), deter, noise)

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
        """The priors of all steps at once, outside of the loop."""
        keep = 1.0 - tf.cast(is_first, tf.float32)[..., None]
        before = tf.concat([start["stoch"][:, None], post["stoch"][:, :-1]], 1) * keep
        context, deter = self._context(before, post["deter"], action_in * tf.cast(keep, action_in.dtype))
        return {"deter": deter, **self._prior(context)}

    def imagine(self, state: State, action: tf.Tensor, noise: tf.Tensor | None = None) -> State:
        """Rolls the prior out from `state` under actions [B, H, A]; returns a dict of [B, H, ...].

        Standard normal noise [B, H, noise_size], None for the mean dynamics.
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

        Predictions over d steps are one step from those over d - 1, for all start times at once: D - 1 steps in all
        instead of D (D + 1) / 2. Gradients stop at the target posteriors, not at the states where predictions start.

        Args:
            post, prior: of `observe`.
            action: [B, L, A].
            is_first, mask: [B, L]; predictions across the start of an episode and of padding do not count.
            noise: standard normal [B, L, D - 1, noise_size].

        Returns:
            for each distance the sum of KL[q(s_t | o_<=t) || p(s_t | s_{t-d})] over all predictions, [D - 1], and their
            number, [D - 1].
        """
        action_in, distances = self.action_in(action), noise.shape[2]
        noise = tf.transpose(noise, [2, 0, 1, 3])
        target = {key: tf.stop_gradient(post[key]) for key in self.latent.keys}
        keys = ["deter", *self.latent.keys]
        known = follows(is_first, mask)
        outputs = tf.TensorArray(tf.float32, distances, element_shape=[2])

        def body(i, values, valid, outputs):
            stats = dict(zip(keys, values, strict=True))
            state = {"stoch": _shift(self.latent.sample(stats, noise[i])), "deter": _shift(stats["deter"])}
            predicted = self._predict(state, action_in)
            valid = known * tf.concat([tf.zeros_like(valid[:, :1]), valid[:, :-1]], 1)
            found = tf.stack([tf.reduce_sum(self.kl(target, predicted) * valid), tf.reduce_sum(valid)])
            return i + 1, [predicted[key] for key in keys], valid, outputs.write(i, found)

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
        """A sample of the next feature [..., n] from features [..., n] and actions [..., m].

        The caller draws the standard normal noise [..., noise_size], and so decides which samples share it.
        """
        context, deter = self._context(*self._split(z), self.action_in(a))
        return tf.concat([self.latent.sample(self._prior(context), noise), deter], -1)

    def log_prob(self, z: tf.Tensor, a: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        """log q(z' | z, a) [...] of the stochastic part of the next features [..., n]; deter has no density."""
        return self.latent.log_prob(self.predict(z, a), self._split(after)[0])

    def predict(self, z: tf.Tensor, a: tf.Tensor) -> Stats:
        """The statistics of the next stoch, dict of [..., k], from features [..., n] and actions [..., m]."""
        context, _ = self._context(*self._split(z), self.action_in(a))
        return self._prior(context)

    def post_step(self, z: tf.Tensor, a: tf.Tensor, embed: tf.Tensor) -> tf.Tensor:
        """Mean of the posterior's next feature given features [..., n], actions [..., m] and embeddings [..., E]."""
        context, deter = self._context(*self._split(z), self.action_in(a))
        return tf.concat([self.latent.mean(self._post(context, self.embed_in(embed))), deter], -1)

    def linearize(self, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """mu(z, a) and its Jacobians by the chain rule: automatic differentiation pushes n seeds through every layer.

        Args:
            z: features [N, n].
            a: actions [N, m].

        Returns:
            mu [N, n], A = dmu/dz [N, n, n], B = dmu/da [N, n, m].
        """
        stoch, deter = self._split(z)
        x, dx = self._act_and_slope(dense(self.stoch_in, stoch) + dense(self.action_in, a))
        context, deter_next, by_za = self._context_jacobian(x, dx, deter)
        y, dy = self._act_and_slope(dense(self.prior_in, context))
        raw = dense(self.prior_out, y)
        w_out = tf.transpose(self.latent.mean_columns(tf.convert_to_tensor(self.prior_out.kernel)))
        rows = tf.einsum("nkq,jq->nkj", dy[:, None, :] * w_out[None], self.prior_in.kernel)
        jacobian = self.latent.mean_rows(raw, rows @ by_za)
        if self.deter:  # it is the context
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
