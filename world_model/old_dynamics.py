"""A copy of the latent dynamics as they were some updates ago: q_old of ColloDreamer's equation 11."""

from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:  # models.py is made of this folder
    from models import WorldModel


class OldDynamics(tf.Module):
    """The dynamics at the last copy.

    Args:
        model: the world model whose dynamics are copied.
        every: updates of the world model between copies.
    """

    def __init__(self, model: "WorldModel", every: int):
        super().__init__(name="old_dynamics")
        self._new, self.net, self.every = model.dynamics, model.make_dynamics(), every
        # For checkpoints, as in `value.ValueLearner`.
        self.weights = list(self.net.weights)
        self.copy()

    def copy(self) -> bool:
        """Takes over the present weights."""
        for old, new in zip(self.weights, self._new.weights, strict=True):
            old.assign(new)
        return True

    def follow(self, updates: tf.Tensor) -> None:
        """Copies when a copy is due after so many updates."""
        tf.cond(updates % self.every == 0, self.copy, lambda: False)
