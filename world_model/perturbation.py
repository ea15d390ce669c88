"""Adversarial world modeling: a model whose predictions bear small errors, which is what plans look for."""

import tensorflow as tf

from world_model.device_shares import total
from world_model.ssm import SSM, State, follows, get_feat


def perturbed_kl(
    dynamics: SSM, post: State, action: tf.Tensor, is_first: tf.Tensor, mask: tf.Tensor, radius: float
) -> tf.Tensor:
    """KL[q(z_t) || p(z_t | z_{t-1} + delta, a_t + eps)] with the worst small delta and eps (arXiv 2512.09929).

    One step of the fast gradient sign method finds them: each entry moves by `radius` standard deviations of that entry
    over the batch, in the direction that raises the divergence. Only the prediction learns: gradients stop at the
    posteriors.

    Args:
        dynamics: that predict.
        post: posterior states [B, L, ...].
        action: [B, L, A].
        is_first, mask: [B, L]; predictions across the start of an episode and of padding do not count.
        radius: in standard deviations.

    Returns:
        the mean in nats, this device's share; 0 where chunks are too short for any prediction.
    """
    post = tf.nest.map_structure(tf.stop_gradient, post)
    target = {key: post[key][:, 1:] for key in dynamics.latent.keys}
    before, action, inside = get_feat(post)[:, :-1], action[:, 1:], follows(is_first, mask)[:, 1:]
    with tf.GradientTape() as tape:
        tape.watch([before, action])
        divergence = tf.reduce_sum(dynamics.kl(target, dynamics.predict(before, action)) * inside)
    slopes = tape.gradient(divergence, [before, action], unconnected_gradients="zero")
    before, action = (
        x + tf.stop_gradient(radius * _std(x, inside) * tf.sign(slope))
        for x, slope in zip((before, action), slopes, strict=True)
    )
    kl = dynamics.kl(target, dynamics.predict(before, action))
    return tf.math.divide_no_nan(tf.reduce_sum(kl * inside), total(tf.reduce_sum(inside)))


def _std(x: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """The standard deviation [n] of each entry of x [B, L, n] over the whole batch."""
    count, weight = total(tf.reduce_sum(inside)), inside[..., None]
    mean = tf.math.divide_no_nan(total(tf.reduce_sum(x * weight, [0, 1])), count)
    return tf.sqrt(tf.math.divide_no_nan(total(tf.reduce_sum(tf.square(x - mean) * weight, [0, 1])), count))
