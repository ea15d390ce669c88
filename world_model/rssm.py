"""The recurrent state-space model: an SSM with a GRU, and its Jacobians by hand."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from world_model.latents import Gaussian, Latent
from world_model.ssm import SSM, State, dense


def _scale_rows(slopes: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
    """The sum over gates of diag(slope) W: slopes of [..., rows] each and W [gates, rows, columns]."""
    return sum(slope[..., None] * weight for slope, weight in zip(slopes, tf.unstack(weights), strict=True))


def _add_diag(matrix: tf.Tensor, diag: tf.Tensor) -> tf.Tensor:
    return matrix + diag[..., None] * tf.eye(diag.shape[-1], dtype=diag.dtype)  # which XLA fuses with what comes before


class _Slopes(NamedTuple):
    """Derivatives of the elementwise parts of one step z, a -> z'. Its Jacobian needs these and the weights.

    Attributes:
        x: activation below the GRU, [..., hidden].
        update: the GRU's update gate, the direct path from h to h', [..., deter].
        kernel: h' by the input's part of the gates (update, reset, candidate), three of [..., deter].
        recurrent: h' by the state's part of the same gates, three of [..., deter].
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

    def __init__(self, latent: Latent, action_size: int, embed_size: int, *, deter: int, hidden: int, act: str):
        sizes = {"deter": deter, "hidden": hidden, "context": deter}
        super().__init__(latent, action_size, embed_size, **sizes, act=act, name="rssm")
        self.explicit_moments = isinstance(latent, Gaussian)
        self.cell = keras.layers.GRUCell(deter)
        self.cell.build((None, hidden))

    def _context(self, stoch: tf.Tensor, deter: tf.Tensor, action_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = self.act(self.stoch_in(stoch) + action_in)
        # Keras' cell takes [N, ...] only, and planners have any leading dimensions.
        flat = self.cell(tf.reshape(x, [-1, self.hidden]), tf.reshape(deter, [-1, self.deter]))[0]
        deter = tf.reshape(tf.cast(flat, tf.float32), [*x.shape[:-1], self.deter])
        return deter, deter

    def _priors(self, start: State, post: State, action_in: tf.Tensor, is_first: tf.Tensor) -> State:
        # The prior at t depends on the posterior at t-1 only through deter_t.
        return {"deter": post["deter"], **self._prior(post["deter"])}

    def _context_jacobian(
        self, x: tf.Tensor, dx: tf.Tensor, deter: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Wide products are elementwise scalings of the GRU's kernels; matrix products are left to the narrow layers.
        deter_next, update, slopes_in, slopes_rec = self._gru_slopes(x, deter)
        kernel, recurrent = self._gru_kernels()
        dh_dh = _add_diag(_scale_rows(slopes_rec, recurrent), update)
        # dh'/d(stoch, action): [N, deter, hidden], the activation's slope on its columns, times [hidden, stoch + m].
        dh_dsa = tf.einsum("nik,kj->nij", _scale_rows(slopes_in, kernel) * dx[:, None, :], self._input_kernel())
        stoch = self.latent.size
        return deter_next, deter_next, tf.concat([dh_dsa[..., :stoch], dh_dh, dh_dsa[..., stoch:]], -1)

    def linearize_moments(
        self, z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Moments of the next feature over K samples of the present one, and the mean's Jacobians.

        For Gaussian LatCo (ICML 2021, appendix C, algorithm 3). With samples z_k = mu + sigma eps_k, the mean Jacobian
        by z_k is the Jacobian of the mean by mu. Unlike in `linearize`, z'_k is a sample, so its standard deviation is
        differentiated too. Exact without forming the K Jacobians: samples are summed before or within the products.

        Args:
            z: features [N, K, n].
            a: actions [N, m].
            noise: [N, K, stoch], as in `sample_step`.

        Returns:
            mean [N, n] and (biased) standard deviation [N, n] of z'_k = sample_step(z_k, a, noise_k), and the means
            over k of dz'_k/dz_k [N, n, n] and dz'_k/da [N, n, m].
        """
        raw, deter_next, slopes = self._step_slopes(z, a[:, None])
        sample = tf.concat([self.latent.sample(self.latent.stats(raw), noise), deter_next], -1)
        mean = tf.reduce_mean(sample, 1)
        # From the deviations: by rounding, a difference of squares can be negative.
        std = tf.sqrt(tf.reduce_mean(tf.square(sample - mean[:, None]), 1))
        std_slope = noise * tf.sigmoid(raw[..., self.latent.size :])
        weights = self._gru_kernels()  # transposed once, not in every iteration
        # One of the N at a time, whose [K, deter, hidden] fits in the cache.
        jacobian = tf.map_fn(
            lambda x: self._mean_jacobian(x[0], x[1], *weights), (slopes, std_slope), fn_output_signature=raw.dtype
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

        diag(slope) W diag(slope of x) is W times an outer product, elementwise: the mean is W times the mean outer
        product.
        """
        samples = slopes.x.shape[0]
        update, gates = tf.nest.map_structure(lambda x: tf.reduce_mean(x, 0), (slopes.update, slopes.recurrent))
        outer = tf.einsum("gkd,kh->gdh", tf.stack(slopes.kernel), slopes.x) / samples
        return _add_diag(_scale_rows(gates, recurrent), update), tf.reduce_sum(outer * kernel, 0)

    def _mean_stoch_rows(
        self, slopes: _Slopes, std_slope: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The means of dstoch'/dh [stoch, deter] and of dstoch'/d(pre-activation of x) [stoch, hidden].

        Three factors depend on the sample, so the few rows dstoch'/dh' go through the GRU sample by sample. There one
        dense [deter, hidden] per sample is cheaper than a product for each gate.
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
        x, dx = self._act_and_slope(dense(self.stoch_in, stoch) + dense(self.action_in, a))
        deter, update, kernel, recurrent = self._gru_slopes(x, deter)
        y, dy = self._act_and_slope(dense(self.prior_in, deter))
        return dense(self.prior_out, y), deter, _Slopes(dx, update, kernel, recurrent, dy)

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
