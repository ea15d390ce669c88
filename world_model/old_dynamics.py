"""A copy of the latent dynamics as they were some updates ago: q_old of ColloDreamer's equation 11."""

import tensorflow as tf

from tools.config import Config
from world_model.dynamics import make_dynamics
from world_model.ssm import SSM


class OldDynamics(tf.Module):
    """The dynamics at the last copy.

    Args:
        config: sizes, and `augmented_target_every`.
        dynamics: the dynamics to copy.
        action_size, embed_size: as those of the dynamics.
    """

    def __init__(self, config: Config, dynamics: SSM, action_size: int, embed_size: int):
        super().__init__(name="old_dynamics")
        c = config
        self._new, self.every = dynamics, c.augmented_target_every
        self.net = make_dynamics(
            c.dynamics,
            c.latent,
            action_size,
            embed_size,
            stoch=c.stoch,
            deter=c.deter,
            hidden=c.hidden,
            act=c.act,
            min_std=c.min_std,
            classes=c.classes,
            unimix=c.unimix,
        )
        # For checkpoints, as in `value.ValueLearner`.
        self.weights = list(self.net.weights)
        self.copy()

    def copy(self) -> bool:
        """Takes over the present weights."""
        for old, new in zip(self.weights, self._new.weights, strict=True):
            old.assign(new)
        return True

    def follow(self, updates: tf.Tensor) -> None:
        """Copies after every `augmented_target_every` updates of the world model."""
        tf.cond(updates % self.every == 0, self.copy, lambda: False)
