"""Changes of the world model's loss that are meant for planning: smooth rewards, straight paths, robust predictions."""

import tensorflow as tf

from tools.config import Config
from world_model.device_shares import total
from world_model.ssm import SSM, State, get_feat


def regularization(
    c: Config, dynamics: SSM, post: State, batch: dict[str, tf.Tensor]
) -> tuple[tf.Tensor | float, dict[str, tf.Tensor]]:
    """The weighted sum of the terms that are turned on, and these as metrics; this device's shares of them."""
    loss: tf.Tensor | float = 0.0
    metrics = {}
    inside = follows(batch["is_first"], batch["mask"])
    if c.straightening:
        metrics["curvature"] = curvature(dynamics.mean_feat(post), inside)
        loss += c.straightening * metrics["curvature"]
    if c.perturbation:
        metrics["perturbed_kl"] = perturbed_kl(dynamics, post, batch["action"], inside, c.perturbation)
        loss += c.perturbation_scale * metrics["perturbed_kl"]
    return loss, metrics


def follows(is_first: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Which entries [B, L] have the entry before them in their chunk and episode, as 0 or 1."""
    inside = mask * (1.0 - tf.cast(is_first, mask.dtype))
    return tf.concat([tf.zeros_like(inside[:, :1]), inside[:, 1:]], 1)


def smooth_rewards(reward: tf.Tensor, is_first: tf.Tensor, mask: tf.Tensor, std: float) -> tf.Tensor:
    """Rewards averaged over time with Gaussian weights (DreamSmooth, arXiv 2311.01450).

    Args:
        reward: [B, L].
        is_first: bool [B, L]; episodes do not mix.
        mask: [B, L], 0 for padding, which has no weight.
        std: standard deviation of the weights in steps. They add up to one over what the chunk has of the episode.

    Returns:
        [B, L].
    """
    step = tf.range(reward.shape[1], dtype=reward.dtype)
    episode = tf.cumsum(tf.cast(is_first, tf.int32), 1)
    weights = tf.exp(-0.5 * tf.square((step[:, None] - step) / std)) * mask[:, None, :]
    weights = tf.where(episode[:, :, None] == episode[:, None, :], weights, 0.0)
    return tf.math.divide_no_nan(tf.einsum("bts,bs->bt", weights, reward), tf.reduce_sum(weights, -1))


def curvature(feat: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """The mean of 1 - cos(z_t - z_{t-1}, z_{t+1} - z_t) (arXiv 2603.12231, section 3), this device's share.

    Args:
        feat: z [B, L, n].
        inside: [B, L], see `follows`.
    """
    change = feat[:, 1:] - feat[:, :-1]
    length = tf.sqrt(tf.reduce_sum(tf.square(change), -1) + 1e-8)  # states may rest, and sqrt has no slope at 0
    cosine = tf.reduce_sum(change[:, 1:] * change[:, :-1], -1) / (length[:, 1:] * length[:, :-1])
    valid = inside[:, 2:] * inside[:, 1:-1]
    return _mean(1.0 - cosine, valid)


def perturbed_kl(dynamics: SSM, post: State, action: tf.Tensor, inside: tf.Tensor, radius: float) -> tf.Tensor:
    """KL[q(z_t) || p(z_t | z_{t-1} + delta, a_t + eps)] with the worst small delta and eps (arXiv 2512.09929).

    One step of the fast gradient sign method finds them: each entry moves by `radius` standard deviations of that entry
    over the batch, in the direction that raises the divergence. Only the prediction learns: gradients stop at the
    posteriors.

    Args:
        dynamics: that predict.
        post: posterior states [B, L, ...].
        action: [B, L, A].
        inside: [B, L], see `follows`.
        radius: in standard deviations.

    Returns:
        the mean in nats, this device's share.
    """
    post = tf.nest.map_structure(tf.stop_gradient, post)
    target = {key: post[key][:, 1:] for key in dynamics.latent.keys}
    before, action, inside = get_feat(post)[:, :-1], action[:, 1:], inside[:, 1:]
    with tf.GradientTape() as tape:
        tape.watch([before, action])
        divergence = tf.reduce_sum(dynamics.kl(target, dynamics.predict(before, action)) * inside)
    slopes = tape.gradient(divergence, [before, action], unconnected_gradients="zero")
    before, action = (
        x + tf.stop_gradient(radius * _std(x, inside) * tf.sign(slope))
        for x, slope in zip((before, action), slopes, strict=True)
    )
    return _mean(dynamics.kl(target, dynamics.predict(before, action)), inside)


def _mean(values: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """This device's share of the mean over valid entries; 0 where chunks are too short for any."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * valid), total(tf.reduce_sum(valid)))


def _std(x: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """The standard deviation [n] of each entry of x [B, L, n] over the whole batch."""
    count, weight = total(tf.reduce_sum(inside)), inside[..., None]
    mean = tf.math.divide_no_nan(total(tf.reduce_sum(x * weight, [0, 1])), count)
    return tf.sqrt(tf.math.divide_no_nan(total(tf.reduce_sum(tf.square(x - mean) * weight, [0, 1])), count))
