"""The loss of the world model. Parts of it are in kl_loss.py, image_loss.py and perturbation.py."""

from typing import TYPE_CHECKING

import tensorflow as tf

from tools.config import Config
from world_model.device_shares import masked_mean, total
from world_model.image_loss import chunked_image_error
from world_model.kl_loss import kl_loss
from world_model.perturbation import perturbed_kl
from world_model.ssm import State, get_feat

if TYPE_CHECKING:  # models.py is made of this folder
    from models import WorldModel


def world_model_loss(
    c: Config,
    model: "WorldModel",
    batch: dict[str, tf.Tensor],
    reward: tf.Tensor,
    noise: tf.Tensor,
    factor: tf.Tensor | float = 1.0,
) -> tuple[tf.Tensor, dict[str, tf.Tensor], State]:
    """The variational bound (PlaNet equation 3, LatCo equation 2) and its terms.

        time          t=0        t=1        t=2
        is_first      true       false      false
        action        0     .--> a_1   .--> a_2          a_t led from image_{t-1} to image_t
        image         o_0 --'    o_1 --'    o_2
        post          z_0 -----> z_1 -----> z_2          z_t ~ q(z_t | z_{t-1}, a_t, o_t)
        prior         z_0        z_1        z_2          z_t ~ p(z_t | z_{t-1}, a_t), compared by the KL term at every t
        reward        0          r_1        r_2          came with image_t; predicted from z_t, as is discount_t
        cost          c_0        c_1        c_2          came with image_t; predicted from z_t

    Every chunk starts from the zero state z_{-1}, even in the middle of an episode. Entries with mask 0 are padding and
    contribute to no term. Likelihoods are Gaussians with unit variance, without their constant; that of the discount is
    Bernoulli.

    Args:
        c: the settings.
        model: the world model.
        batch: a replay batch, arrays [B, L, ...].
        reward: [B, L], as the model learns them.
        noise: standard normal [B, L, overshooting * noise_size]: for the posterior, then for each prediction over more
            than one step.
        factor: by which the caller multiplies the loss before differentiating it, against underflow in float16.

    Returns:
        the loss, metrics and the posterior states. On several devices, loss and metrics are this device's shares of
        those of the whole batch (world_model/device_shares.py).
    """
    mask, size = batch["mask"], model.dynamics.noise_size
    post, prior = model.dynamics.observe(
        model.embed(batch["image"]), batch["action"], batch["is_first"], noise[..., :size]
    )
    feat = get_feat(post)
    weights = mask / total(tf.reduce_sum(mask))
    image_loss = 0.5 * chunked_image_error(model.decoder, feat, batch["image"], weights, factor)
    reward_loss = 0.5 * masked_mean(tf.square(model.reward(feat) - reward), mask)
    kl, metrics = kl_loss(c, model.dynamics, post, prior, batch, noise[..., size:])
    loss = image_loss + c.reward_scale * reward_loss + kl
    metrics |= {"image_loss": image_loss, "reward_loss": reward_loss}
    if c.perturbation:
        inputs = batch["action"], batch["is_first"], mask
        metrics["perturbed_kl"] = perturbed_kl(model.dynamics, post, *inputs, c.perturbation)
        loss += c.perturbation_scale * metrics["perturbed_kl"]
    heads, head_metrics = _head_losses(c, model, batch, feat)
    loss += heads
    return loss, metrics | head_metrics | {"loss": loss}, post


def _head_losses(
    c: Config, model: "WorldModel", batch: dict[str, tf.Tensor], feat: tf.Tensor
) -> tuple[tf.Tensor | float, dict[str, tf.Tensor]]:
    """The weighted loss of the optional heads at features [B, L, n], and its terms."""
    loss: tf.Tensor | float = 0.0
    mask, metrics = batch["mask"], {}
    if model.discount is not None:
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(batch["discount"], model.discount(feat))
        metrics["discount_loss"] = masked_mean(cross_entropy, mask)
        loss += c.discount_scale * metrics["discount_loss"]
    if model.cost is not None:
        metrics["cost_loss"] = 0.5 * masked_mean(tf.square(model.cost(feat) - batch["cost"]), mask)
        loss += c.cost_scale * metrics["cost_loss"]
    if model.probe is not None:
        error = tf.square(model.probe(tf.stop_gradient(feat)) - batch["state"])
        metrics["state_loss"] = 0.5 * masked_mean(tf.reduce_mean(error, -1), mask)
        loss += metrics["state_loss"]
    return loss, metrics
