"""The value network: the return after a latent state, learned by TD(lambda) (Dreamer, ColloDreamer).

It is the terminal value of plans (`optimizers.LatentProblem.value`). Its gradients do not reach the world model.
"""

import tensorflow as tf
from tensorflow import keras

import models
from tools.config import Config


class ValueNetwork(models.DenseHead):
    """A scalar for each feature, with ColloDreamer's regularizers (section 4).

    Dropout after each hidden layer, and batch normalization after its activation.
    """

    def __init__(self, feat_size: int, layers: int, units: int, act: str, dropout: float, batch_norm: bool):
        super().__init__(feat_size, layers=layers, units=units, act=act, name="value")
        self.dropout = dropout
        self.norms = [keras.layers.BatchNormalization() for _ in self.hidden] if batch_norm else []
        for norm in self.norms:
            norm.build((None, units))

    def call(self, feat: tf.Tensor, seed: tf.Tensor | None = None, counts: tf.Tensor | None = None) -> tf.Tensor:
        """Values [...] of features [..., F].

        Args:
            feat: features.
            seed: int32 [2], in training, when units are dropped and the statistics of the batch normalize; None for
                neither.
            counts: bool [...], which entries count in these statistics.
        """
        x = tf.reshape(feat, [-1, feat.shape[-1]])
        counts = None if counts is None else tf.reshape(counts, [-1])
        for index, layer in enumerate(self.hidden):
            x = layer(x)
            if self.norms:
                x = self.norms[index](x, training=seed is not None, mask=counts)
            if self.dropout and seed is not None:
                x = tf.nn.experimental.stateless_dropout(x, self.dropout, tf.random.fold_in(seed, index))
        return tf.reshape(self.out(tf.cast(x, tf.float32)), feat.shape[:-1])


def lambda_returns(
    reward: tf.Tensor, value: tf.Tensor, discount: tf.Tensor, follows: tf.Tensor, lam: float
) -> tf.Tensor:
    """TD(lambda) targets G_t (Dreamer equation 6) along sequences of states, [B, T].

        time          t          t+1        t+2
        state         z_t -----> z_{t+1} -> z_{t+2}
        reward                   r_{t+1}    r_{t+2}      came with the state above it
        discount                 d_{t+1}    d_{t+2}      of what comes after that state; 0 where it is terminal

        G_t = r_{t+1} + d_{t+1} ((1 - lam) v_{t+1} + lam G_{t+1}), and G_t = v_t where nothing follows z_t.

    So the value of a state does not include its own reward.

    Args:
        reward: [B, T].
        value: v [B, T], which bootstraps the returns.
        discount: [B, T].
        follows: bool [B, T], whether state t came after state t - 1: false at the first state of an episode and at
            padding. Entry 0 is not used.
        lam: 0 bootstraps from the next state, 1 from the last one.
    """

    def body(later, x):
        reward, discount, follows, after, value = x
        return tf.where(follows, reward + discount * ((1.0 - lam) * after + lam * later), value)

    time_first = [
        tf.transpose(x) for x in (reward[:, 1:], discount[:, 1:], follows[:, 1:], value[:, 1:], value[:, :-1])
    ]
    returns = tf.scan(body, time_first, value[:, -1], reverse=True)
    return tf.concat([tf.transpose(returns), value[:, -1:]], 1)


class ValueLearner(tf.Module):
    """The value network, its target network and its optimizer.

    Attributes:
        net: the terminal value of plans.
        target: bootstraps the returns; a copy of the network every `value_target_every` updates (DreamerV2).
        updates: int64, so far.
    """

    def __init__(self, config: Config, feat_size: int):
        super().__init__(name="value_learner")
        c = self.config = config
        self.net, self.target = (
            ValueNetwork(feat_size, c.value_layers, c.value_units, c.act, c.value_dropout, c.value_batch_norm)
            for _ in range(2)
        )
        self.optimizer = models.make_adam(c.value_lr, c.adam_eps, c.precision)
        self.optimizer.build(self.net.trainable_variables)
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="value_updates")
        # TensorFlow does not see layers that a Keras 3 model keeps in lists, so that checkpoints need their variables.
        self.weights = [*self.net.variables, *self.target.variables]
        self.lam = 1.0 if c.value_data == "plans" else c.value_lambda
        self._copy()
        self.learn = tf.function(self._learn, autograph=False)

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """Values [...] of features [..., F], clipped to the bound."""
        return self._bounded(self.net(z))

    def _bounded(self, value: tf.Tensor) -> tf.Tensor:
        bound = self.config.value_bound
        return tf.clip_by_value(value, -bound, bound) if bound else value

    def _learn(self, feat: tf.Tensor, reward: tf.Tensor, discount: tf.Tensor, follows: tf.Tensor) -> models.Metrics:
        """One Adam step towards the lambda-returns of sequences of states.

        A step on numbers or with gradients that are not finite is skipped.

        Args:
            feat: [B, T, F].
            reward, discount, follows: [B, T], see `lambda_returns`. All are constants.

        Returns:
            value_loss and value, the mean over the states that another follows; NaN where the step was skipped.
        """
        feat, reward, discount = (tf.stop_gradient(x) for x in (feat, reward, discount))
        finite = tf.reduce_all(tf.math.is_finite(feat)) & tf.reduce_all(tf.math.is_finite(reward))
        nan = tf.constant(float("nan"))
        step = lambda: self._step(feat, reward, discount, follows)
        loss, mean = tf.cond(finite & tf.reduce_any(follows[:, 1:]), step, lambda: (nan, nan))
        self._count()
        return {"value_loss": loss, "value": mean}

    def bootstrap(self, feat: tf.Tensor) -> tf.Tensor:
        """The target network's values [...] of features [..., F], clipped to the bound."""
        return self._bounded(self.target(feat))

    def regress(self, feat: tf.Tensor, returns: tf.Tensor, weights: tf.Tensor) -> models.Metrics:
        """One Adam step towards given returns. A step on numbers or with gradients that are not finite is skipped.

        Args:
            feat: [B, T, F].
            returns: [B, T].
            weights: [B, T], of the squared errors; not all of them 0.

        Returns:
            value_loss and value, weighted means; NaN where the step was skipped.
        """
        feat, returns, weights = (tf.stop_gradient(x) for x in (feat, self._bounded(returns), weights))
        finite = [tf.reduce_all(tf.math.is_finite(x)) for x in (feat, returns, weights)]
        nan, total = tf.constant(float("nan")), tf.reduce_sum(weights)
        step = lambda: self._descend(feat, returns, weights / total, weights > 0.0)
        loss, mean = tf.cond(tf.reduce_all(finite) & (total > 0.0), step, lambda: (nan, nan))
        self._count()
        return {"value_loss": loss, "value": mean}

    def _step(self, feat, reward, discount, follows):
        counts = follows[:, 1:]
        returns = lambda_returns(reward, self.bootstrap(feat), discount, follows, self.lam)
        returns = tf.stop_gradient(self._bounded(returns)[:, :-1])
        weights = tf.cast(counts, tf.float32)
        weights /= tf.reduce_sum(weights)
        return self._descend(feat[:, :-1], returns, weights, counts)

    def _descend(self, feat, returns, weights, counts):
        c = self.config
        seed = tf.stack([tf.constant(c.seed % 2**31, tf.int32), tf.cast(self.updates, tf.int32)])
        with tf.GradientTape() as tape:
            predicted = self.net(feat, seed=seed, counts=counts)
            loss = 0.5 * tf.reduce_sum(weights * tf.square(predicted - returns))
            scaled = loss * models.loss_scale(self.optimizer)
        variables = self.net.trainable_variables
        models.clipped_step(self.optimizer, tape.gradient(scaled, variables), variables, c.grad_clip)
        return loss, tf.reduce_sum(weights * predicted)

    def _count(self) -> None:
        self.updates.assign_add(1)
        tf.cond(self.updates % self.config.value_target_every == 0, self._copy, lambda: False)

    def _copy(self) -> bool:
        for old, new in zip(self.target.variables, self.net.variables, strict=True):
            old.assign(new)
        return True
