"""Distributions of the stochastic latent: from the raw outputs of a network to samples, means and divergences.

A latent has no variables. Its *statistics*, a dict of tensors, describe a distribution:

    latent         raw outputs         statistics      noise of a sample       mean
    Gaussian       2 size              mean, std       size numbers            mean
    Categorical    groups x classes    logits          one per group           class probabilities
    Point          size                mean            none                    mean

Samples are functions of standard normal noise. The caller draws it, and so decides which samples share it. Gradients
pass through samples to the statistics. Without noise a "sample" is the mean.

A new latent is one subclass of `Latent`, one line in `LATENTS` and its name in config.yaml.
"""

import abc

import tensorflow as tf
import tensorflow_probability as tfp

from tools.errors import UserError

tfd = tfp.distributions

Stats = dict[str, tf.Tensor]


class Latent(abc.ABC):
    """The interface of a latent.

    Attributes:
        size: S, length of a sample.
        raw_size: outputs of a network for one distribution.
        noise_size: standard normal numbers for one sample.
        keys: names and lengths of the statistics.
    """

    size: int
    raw_size: int
    noise_size: int
    keys: dict[str, int]

    @abc.abstractmethod
    def stats(self, raw: tf.Tensor) -> Stats:
        """Statistics of a network's outputs [..., raw_size]."""

    @abc.abstractmethod
    def mean(self, stats: Stats) -> tf.Tensor:
        """The mean of a sample, [..., S]."""

    @abc.abstractmethod
    def sample(self, stats: Stats, noise: tf.Tensor | None) -> tf.Tensor:
        """A sample [..., S] from standard normal noise [..., noise_size]; the mean where there is no noise."""

    @abc.abstractmethod
    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """KL[post || prior] in nats, summed over the latent: [...]."""

    @abc.abstractmethod
    def log_prob(self, stats: Stats, value: tf.Tensor) -> tf.Tensor:
        """Log density or log probability [...] of values [..., S]."""

    def mean_columns(self, weights: tf.Tensor) -> tf.Tensor:
        """The columns of a layer's weights [..., raw_size] that the mean depends on."""
        return weights

    def mean_rows(self, raw: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Derivatives of the mean, [N, S, k].

        Args:
            raw: [N, raw_size].
            rows: [N, S, k], derivatives of the raw outputs that `mean_columns` chooses.
        """
        del raw
        return rows


class Gaussian(Latent):
    """Diagonal Gaussian with std = softplus(raw) + min_std (PlaNet section 3)."""

    def __init__(self, size: int, min_std: float):
        self.size, self.raw_size, self.noise_size, self.min_std = size, 2 * size, size, min_std
        self.keys = {"mean": size, "std": size}

    def stats(self, raw: tf.Tensor) -> Stats:
        """Mean and standard deviation."""
        mean, std = tf.split(raw, 2, -1)
        return {"mean": mean, "std": tf.nn.softplus(std) + self.min_std}

    def mean(self, stats: Stats) -> tf.Tensor:
        """The mean."""
        return stats["mean"]

    def sample(self, stats: Stats, noise: tf.Tensor | None) -> tf.Tensor:
        """A reparameterized sample."""
        return stats["mean"] if noise is None else stats["mean"] + stats["std"] * noise

    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """The closed form."""
        return tfd.kl_divergence(*(tfd.MultivariateNormalDiag(x["mean"], x["std"]) for x in (post, prior)))

    def log_prob(self, stats: Stats, value: tf.Tensor) -> tf.Tensor:
        """The log density."""
        return tfd.MultivariateNormalDiag(stats["mean"], stats["std"]).log_prob(value)

    def mean_columns(self, weights: tf.Tensor) -> tf.Tensor:
        """The first half."""
        return weights[..., : self.size]


class Categorical(Latent):
    """`groups` one-hot vectors of `classes` each (DreamerV2 section 2).

    Samples pass gradients straight through to the class probabilities. A share `unimix` of a uniform distribution is
    mixed into the probabilities (DreamerV3), which keeps divergences finite.

    Planners optimize means, which are class probabilities: the expectation of the one-hot vectors in training. The mean
    dynamics end in a softmax, so predicted states lie on the simplex. A collocated state is free, but its dynamics
    residual is its distance to a prediction: where plans meet the dynamics to within eps, states are within sqrt(eps)
    of the simplex, and need no projection.
    """

    def __init__(self, groups: int, classes: int, unimix: float):
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.size = self.raw_size = groups * classes
        self.noise_size = groups
        self.keys = {"logits": self.size}

    def stats(self, raw: tf.Tensor) -> Stats:
        """Logarithms of the probabilities."""
        logits = tf.nn.log_softmax(self._grouped(raw))
        if self.unimix:
            logits = tf.math.log((1.0 - self.unimix) * tf.exp(logits) + self.unimix / self.classes)
        return {"logits": self._flat(logits)}

    def mean(self, stats: Stats) -> tf.Tensor:
        """The class probabilities."""
        return tf.exp(stats["logits"])

    def sample(self, stats: Stats, noise: tf.Tensor | None) -> tf.Tensor:
        """One-hot vectors with the gradient of the probabilities (straight-through).

        The noise is the normal quantile of a uniform number, and the class is where the cumulative probability passes
        it. That takes one number per group; a Gumbel maximum takes one per class.
        """
        probs = self.mean(stats)
        if noise is None:
            return probs
        below = tf.cumsum(self._grouped(probs), -1)
        # Rounding leaves the last cumulative probability near one. A number above it belongs to the last class.
        uniform = 0.5 * tf.math.erfc(-noise[..., None] / 2.0**0.5) * below[..., -1:]
        index = tf.reduce_sum(tf.cast(below[..., :-1] < uniform, tf.int32), -1)
        onehot = self._flat(tf.one_hot(index, self.classes, dtype=probs.dtype))
        return onehot + probs - tf.stop_gradient(probs)

    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """Summed over the groups."""
        p, q = (tfd.OneHotCategorical(self._grouped(x["logits"])) for x in (post, prior))
        return tf.reduce_sum(tfd.kl_divergence(p, q), -1)

    def log_prob(self, stats: Stats, value: tf.Tensor) -> tf.Tensor:
        """The log probability of one-hot vectors; of planned class probabilities its expectation."""
        return tf.reduce_sum(value * stats["logits"], -1)

    def mean_rows(self, raw: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The softmax's Jacobian diag(p) - p p^T of each group, times the rows."""
        probs = tf.nn.softmax(self._grouped(raw))[..., None]  # [N, groups, classes, 1]
        grouped = tf.reshape(rows, [-1, self.groups, self.classes, rows.shape[-1]])
        centered = grouped - tf.reduce_sum(probs * grouped, 2, keepdims=True)
        return tf.reshape((1.0 - self.unimix) * probs * centered, [-1, self.size, rows.shape[-1]])

    def _grouped(self, x):
        return tf.reshape(x, [*x.shape[:-1], self.groups, self.classes])

    def _flat(self, x):
        return tf.reshape(x, [*x.shape[:-2], self.size])


class Point(Latent):
    """A point instead of a distribution (PlaNet figure 2a, the deterministic model).

    The divergence is half the squared distance, as of two Gaussians of unit variance. It trains the prior to predict
    the posterior.
    """

    def __init__(self, size: int):
        self.size = self.raw_size = size
        self.noise_size = 0
        self.keys = {"mean": size}

    def stats(self, raw: tf.Tensor) -> Stats:
        """The point."""
        return {"mean": raw}

    def mean(self, stats: Stats) -> tf.Tensor:
        """The point."""
        return stats["mean"]

    def sample(self, stats: Stats, noise: tf.Tensor | None) -> tf.Tensor:
        """The point."""
        return stats["mean"]

    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """Half the squared distance."""
        return 0.5 * tf.reduce_sum(tf.square(post["mean"] - prior["mean"]), -1)

    def log_prob(self, stats: Stats, value: tf.Tensor) -> tf.Tensor:
        """The log density of a Gaussian of unit variance, without its constant."""
        return -0.5 * tf.reduce_sum(tf.square(value - stats["mean"]), -1)


LATENTS = {
    "gaussian": lambda stoch, min_std, classes, unimix: Gaussian(stoch, min_std),
    "categorical": lambda stoch, min_std, classes, unimix: Categorical(stoch, classes, unimix),
    "point": lambda stoch, min_std, classes, unimix: Point(stoch),
}


def make_latent(kind: str, stoch: int, *, min_std: float, classes: int, unimix: float) -> Latent:
    """A latent by name: gaussian and point of size `stoch`, categorical of `stoch` groups of `classes`.

    Raises:
        UserError: a size or share is out of range.
    """
    if stoch < 1:
        raise UserError(f"stoch is {stoch}: the latent needs a size of at least 1.")
    if kind == "categorical" and classes < 2:
        raise UserError(f"classes is {classes}: a categorical latent needs at least 2.")
    if not 0.0 <= unimix < 1.0:
        raise UserError(f"unimix is {unimix}: choose a share from 0 up to, not including, 1.")
    return LATENTS[kind](stoch, min_std, classes, unimix)
