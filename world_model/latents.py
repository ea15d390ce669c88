"""Distributions of the stochastic latent: what a network's raw outputs mean, how to sample, compare and average them.

A latent is a small object without variables. Its *statistics* are a dict of tensors that describes a distribution:

    latent         raw outputs      statistics      one sample takes      mean
    Gaussian       2 size           mean, std       size numbers          mean
    Categorical    groups x classes logits          one number a group    class probabilities
    Point          size             mean            none                  mean

Samples are functions of standard normal numbers that the caller provides, so that who shares noise with whom is the
caller's decision, and every one passes gradients on to the statistics. Without noise a "sample" is the mean.

A new latent is one class with these attributes and methods, one line in `LATENTS` and its name in config.yaml.
"""

import abc

import tensorflow as tf
import tensorflow_probability as tfp

from tools.errors import UserError

tfd = tfp.distributions

Stats = dict[str, tf.Tensor]


class Latent(abc.ABC):
    """What all latents have.

    Attributes:
      size: S, length of a sample.
      raw_size: numbers of a network that describe one distribution.
      noise_size: standard normal numbers that one sample takes.
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

    def mean_columns(self, weights: tf.Tensor) -> tf.Tensor:
        """Of a layer's weights [..., raw_size], those that the mean depends on."""
        return weights

    def mean_rows(self, raw: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Derivatives of the mean from those of the raw outputs.

        Args:
          raw: [N, raw_size].
          rows: the derivatives [N, S, k] of the raw outputs that `mean_columns` chooses.
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

    def mean_columns(self, weights: tf.Tensor) -> tf.Tensor:
        """The first half."""
        return weights[..., : self.size]


class Categorical(Latent):
    """`groups` one-hot vectors of `classes` each (DreamerV2 section 2).

    Samples pass gradients straight through to the class probabilities. A share `unimix` of a uniform distribution is
    mixed into every probability (DreamerV3), which keeps divergences finite; 0 mixes nothing.

    Planners optimize means, that is class probabilities. The mean dynamics end in a softmax, so that every state they
    predict lies on the simplex. A collocated state is free, but its dynamics residual is its distance to such a
    prediction: a plan that meets the dynamics to within eps is within sqrt(eps) of the simplex, and nothing has to be
    projected. The world model was trained on one-hot vectors; the probabilities are their expectation.
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

        The class is where the cumulative probability passes the uniform number of which the noise is the normal
        quantile: one number a group, where a Gumbel maximum would take one a class.
        """
        probs = self.mean(stats)
        if noise is None:
            return probs
        below = tf.cumsum(self._grouped(probs), -1)
        # Rounding leaves the last cumulative probability near one; a number above it belongs to the last class.
        uniform = 0.5 * tf.math.erfc(-noise[..., None] / 2.0**0.5) * below[..., -1:]
        index = tf.reduce_sum(tf.cast(below[..., :-1] < uniform, tf.int32), -1)
        onehot = self._flat(tf.one_hot(index, self.classes, dtype=probs.dtype))
        return onehot + probs - tf.stop_gradient(probs)

    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """Summed over the groups."""
        p, q = (tfd.OneHotCategorical(self._grouped(x["logits"])) for x in (post, prior))
        return tf.reduce_sum(tfd.kl_divergence(p, q), -1)

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
    """No distribution at all: the posterior and the prior are points (PlaNet figure 2a, the deterministic model).

    Their divergence is that of two Gaussians of unit variance, half the squared distance: without it nothing would
    train the prior to predict what the posterior will see.
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
        """The point; there is no noise to take."""
        return stats["mean"]

    def kl(self, post: Stats, prior: Stats) -> tf.Tensor:
        """Half the squared distance."""
        return 0.5 * tf.reduce_sum(tf.square(post["mean"] - prior["mean"]), -1)


LATENTS = {
    "gaussian": lambda stoch, min_std, classes, unimix: Gaussian(stoch, min_std),
    "categorical": lambda stoch, min_std, classes, unimix: Categorical(stoch, classes, unimix),
    "point": lambda stoch, min_std, classes, unimix: Point(stoch),
}


def make_latent(kind: str, stoch: int, *, min_std: float, classes: int, unimix: float) -> Latent:
    """The latent of a name: gaussian and point of size `stoch`, categorical of `stoch` groups of `classes`.

    Raises:
      UserError: sizes or a share that make no distribution.
    """
    if stoch < 1:
        raise UserError(f"stoch is {stoch}: the latent needs a size of at least 1.")
    if kind == "categorical" and classes < 2:
        raise UserError(f"classes is {classes}: a categorical latent needs at least 2.")
    if not 0.0 <= unimix < 1.0:
        raise UserError(f"unimix is {unimix}: choose a share from 0 up to, not including, 1.")
    return LATENTS[kind](stoch, min_std, classes, unimix)
