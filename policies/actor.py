"""The policy network: actions for latent states (Dreamer's actor), and its optimizer."""

import math

import tensorflow as tf

import models
from tools.config import Config

# Dreamer, appendix A: the mean before the tanh is 5 tanh(raw / 5), and the standard deviation starts at 5.
MEAN_SCALE = 5.0
INIT_STD = 5.0
MIN_STD = 1e-4


class PolicyNetwork(models.DenseHead):
    """The distribution of the action in a state: tanh(Normal(mean, std)) for each of its entries (Dreamer)."""

    def __init__(self, feat_size: int, action_size: int, layers: int, units: int, act: str):
        super().__init__(feat_size, (2, action_size), layers, units, act, name="actor")

    def stats(self, feat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation [..., m] of the Normal at features [..., F]."""
        mean, std = tf.unstack(self(feat), axis=-2)
        raw_init = math.log(math.expm1(INIT_STD))
        return MEAN_SCALE * tf.tanh(mean / MEAN_SCALE), tf.nn.softplus(std + raw_init) + MIN_STD


def log_prob(u: tf.Tensor, mean: tf.Tensor, std: tf.Tensor) -> tf.Tensor:
    """Log density [...] of the action tanh(u) [..., m], if u ~ Normal(mean, std).

    From u, since an action near a bound has lost it: log N(u) - log(1 - tanh(u)^2), summed over the entries.
    """
    normal = -0.5 * tf.square((u - mean) / std) - tf.math.log(std) - 0.5 * math.log(2.0 * math.pi)
    return tf.reduce_sum(normal - 2.0 * (math.log(2.0) - u - tf.nn.softplus(-2.0 * u)), -1)


class Actor(tf.Module):
    """The policy and its optimizer, however it is learned.

    Attributes:
        net: the policy network.
        updates: int64, so far.
    """

    def __init__(self, config: Config, feat_size: int, action_size: int, lr: float):
        super().__init__(name="actor")
        c = self.config = config
        with models.layer_precision(c.precision):
            self.net = PolicyNetwork(feat_size, action_size, c.policy_layers, c.policy_units, c.act)
            self.optimizer = models.make_adam(lr, c.adam_eps, c.precision)
            self.optimizer.build(self.net.trainable_variables)
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="actor_updates")
        # TensorFlow does not see layers that a Keras 3 model keeps in lists, so that checkpoints need their variables.
        self.weights = list(self.net.variables)

    def __call__(self, z: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Actions [..., m] at features [..., F]: samples from standard normal noise [..., m], or tanh(mean) without."""
        mean, std = self.net.stats(tf.cast(z, tf.float32))
        return tf.cast(tf.tanh(mean if noise is None else mean + std * tf.cast(noise, tf.float32)), z.dtype)

    @property
    def seed(self) -> tf.Tensor:
        """A seed for the next update, int32 [2], which a resumed run draws again."""
        return tf.stack([tf.constant(self.config.seed % 2**31, tf.int32), tf.cast(self.updates, tf.int32)])

    @property
    def loss_scale(self) -> tf.Tensor | float:
        """See `models.loss_scale`."""
        return models.loss_scale(self.optimizer)

    def step(self, grads: list[tf.Tensor]) -> None:
        """An Adam step with gradients of the scaled loss, clipped. Without effect where they are not finite."""
        models.clipped_step(self.optimizer, grads, self.net.trainable_variables, self.config.grad_clip)
        self.updates.assign_add(1)
