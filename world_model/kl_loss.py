"""The KL terms of the world model's loss."""

import tensorflow as tf

from tools.config import Config
from world_model.device_shares import at_least, masked_mean, total
from world_model.ssm import SSM, State


def kl_loss(
    c: Config, dynamics: SSM, post: State, prior: State, batch: dict[str, tf.Tensor], noise: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The KL terms: (1 / D) sum over d of beta_d max(KL_d, free nats) with D = `overshooting` (PlaNet equation 7).

    `kl_balance` weights the prior's part of the one-step term (DreamerV2 algorithm 2).

    Args:
        c: the settings.
        dynamics: that predict.
        post: posterior states [B, L, ...].
        prior: one-step predictions of them.
        batch: a replay batch, arrays [B, L, ...].
        noise: standard normal [B, L, (D - 1) * noise_size].

    Returns:
        the loss, scaled by `kl_scale`, and the terms as metrics; on several devices this device's shares.
    """
    mask = batch["mask"]
    kl = masked_mean(dynamics.kl(post, prior), mask)
    loss, metrics = at_least(kl, c.free_nats), {"kl": kl}
    if c.kl_balance:
        still_post, still_prior = tf.nest.map_structure(tf.stop_gradient, (post, prior))
        train_prior = at_least(masked_mean(dynamics.kl(still_post, prior), mask), c.free_nats)
        train_post = at_least(masked_mean(dynamics.kl(post, still_prior), mask), c.free_nats)
        loss = c.kl_balance * train_prior + (1.0 - c.kl_balance) * train_post
    loss *= c.kl_scale
    if c.overshooting > 1:
        noise = tf.reshape(noise, [*mask.shape, c.overshooting - 1, dynamics.noise_size])
        sums, counts = dynamics.overshoot(post, prior, batch["action"], batch["is_first"], mask, noise)
        kls = tf.math.divide_no_nan(sums, total(counts))
        metrics["overshooting_kl"] = tf.reduce_mean(kls)
        loss = (loss + c.overshooting_scale * tf.reduce_sum(at_least(kls, c.free_nats))) / c.overshooting
    return loss, metrics
