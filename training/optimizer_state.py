"""Optimizers in checkpoints. A restore gives them back their moments, and leaves what the settings say."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow import keras


@contextlib.contextmanager
def own_rates(checkpoint: tf.train.Checkpoint) -> Iterator[None]:
    """What is restored in this context keeps its learning rates, which Keras saves like the moments."""
    optimizers = [owner.optimizer for owner in _owners(checkpoint).values()]
    rates = [float(optimizer.learning_rate.numpy()) for optimizer in optimizers]
    try:
        yield
    finally:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.learning_rate = rate


def _owners(checkpoint: tf.train.Checkpoint) -> dict[str, Any]:
    """The checkpoint and its parts, where they have an optimizer, by the beginning of its name in the file."""
    parts = tf.train.TrackableView.children(checkpoint)
    owners = {"": checkpoint} | {f"{name}/": part for name, part in parts.items()}
    is_owner = lambda owner: isinstance(getattr(owner, "optimizer", None), keras.optimizers.Optimizer)
    return {name: owner for name, owner in owners.items() if is_owner(owner)}
