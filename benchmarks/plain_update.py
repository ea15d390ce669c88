"""The world model's update as one would first write it, a reference of speed and memory for benchmarks/train_step.py.

Keras layers in the order of the paper's figures: the recurrent model is a Python loop over time steps, each layer takes
its inputs concatenated, the decoder begins with a transposed convolution of one pixel, and the whole batch is decoded
at once. It shares no code with the world model it is compared with, and computes the same loss (RSSM with Gaussian
latents, image and reward likelihoods, free nats).
"""

import tensorflow as tf
from tensorflow import keras

Dense, Conv2D, Conv2DTranspose = keras.layers.Dense, keras.layers.Conv2D, keras.layers.Conv2DTranspose


class PlainModel(keras.Model):
    """Encoder, RSSM, decoder and reward head; `call` gives the loss of a batch."""

    def __init__(self, config):
        super().__init__(name="plain_model")
        c, depth = config, config.cnn_depth
        self.config = config
        relu = {"activation": "relu"}
        self.encoder = keras.Sequential(
            [Conv2D(depth * 2**i, 4, 2, **relu) for i in range(4)] + [keras.layers.Flatten()]
        )
        self.decoder = keras.Sequential(
            [
                Dense(32 * depth),
                keras.layers.Reshape([1, 1, 32 * depth]),
                Conv2DTranspose(4 * depth, 5, 2, **relu),
                Conv2DTranspose(2 * depth, 5, 2, **relu),
                Conv2DTranspose(depth, 6, 2, **relu),
                Conv2DTranspose(3, 6, 2),
            ]
        )
        self.reward = keras.Sequential([*(Dense(c.reward_units, **relu) for _ in range(c.reward_layers)), Dense(1)])
        self.inputs_layer, self.cell = Dense(c.hidden, **relu), keras.layers.GRUCell(c.deter)
        self.prior, self.post = [keras.Sequential([Dense(c.hidden, **relu), Dense(2 * c.stoch)]) for _ in range(2)]

    def gaussian(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of a layer's output."""
        mean, std = tf.split(raw, 2, -1)
        return mean, tf.nn.softplus(std) + self.config.min_std

    def call(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        c, (rows, length) = self.config, batch["reward"].shape
        image = tf.cast(batch["image"], tf.float32) / 255.0 - 0.5
        embed = tf.reshape(self.encoder(tf.reshape(image, [-1, 64, 64, 3])), [rows, length, -1])
        stoch, deter = tf.zeros([rows, c.stoch]), tf.zeros([rows, c.deter])
        feats, kls = [], []
        for t in range(length):
            keep = 1.0 - tf.cast(batch["is_first"][:, t, None], tf.float32)
            x = self.inputs_layer(tf.concat([stoch * keep, batch["action"][:, t] * keep], -1))
            deter = self.cell(x, deter * keep)[0]
            mean, std = self.gaussian(self.prior(deter))
            post_mean, post_std = self.gaussian(self.post(tf.concat([deter, embed[:, t]], -1)))
            stoch = post_mean + post_std * tf.random.normal(post_mean.shape)
            ratio, distance = post_std / std, (post_mean - mean) / std
            kls.append(tf.reduce_sum(0.5 * (ratio**2 + distance**2 - 1.0) - tf.math.log(ratio), -1))
            feats.append(tf.concat([stoch, deter], -1))
        feat = tf.stack(feats, 1)
        decoded = tf.reshape(self.decoder(tf.reshape(feat, [rows * length, -1])), image.shape)
        image_error = tf.reduce_sum(tf.square(decoded - image), [2, 3, 4])
        reward_error = tf.square(self.reward(feat)[..., 0] - batch["reward"])
        mask = batch["mask"]
        mean_of = lambda x: tf.reduce_sum(x * mask) / tf.reduce_sum(mask)
        kl = tf.maximum(mean_of(tf.stack(kls, 1)), c.free_nats)
        return 0.5 * mean_of(image_error) + 0.5 * c.reward_scale * mean_of(reward_error) + c.kl_scale * kl


class PlainUpdate:
    """A callable: one Adam step on a batch, returns the loss."""

    def __init__(self, config):
        self.config, self.model = config, PlainModel(config)
        self.optimizer = keras.optimizers.Adam(config.model_lr, epsilon=config.adam_eps)
        self.step = tf.function(self._step)

    def __call__(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        if not self.optimizer.built:
            self.model({key: value[:1, :1] for key, value in batch.items()})  # makes the weights
            self.optimizer.build(self.model.trainable_variables)
        return self.step(batch)

    def _step(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self.model(batch)
        variables = self.model.trainable_variables
        grads, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), self.config.grad_clip)
        self.optimizer.apply(grads, variables)
        return loss
