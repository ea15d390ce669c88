"""A world model as planners see it."""

from typing import TYPE_CHECKING

import tensorflow as tf

from optimizers import LatentProblem

if TYPE_CHECKING:  # models.py is made of this folder
    from models import WorldModel


def latent_problem(model: "WorldModel", action_size: int) -> LatentProblem:
    """Its functions of features and actions: those that need no settings and no other network."""
    dynamics = model.dynamics
    return LatentProblem(
        step=dynamics.mean_step,
        reward=model.reward,
        state_size=dynamics.feat_size,
        action_size=action_size,
        sample_step=dynamics.sample_step,
        noise_size=dynamics.noise_size,
        linearize=dynamics.linearize,
        linearize_moments=dynamics.linearize_moments if dynamics.explicit_moments else None,
        encode=model.encoder,
        filter=dynamics.post_step,
        decode=lambda z: tf.cast(model.decoder(z), tf.float32),
    )
