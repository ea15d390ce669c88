"""Optimizers in checkpoints. A restore gives them back their moments, and leaves what the settings say.

Keras saves learning rates like the moments. In float16, where the loss is scaled, a file has one level more:

    optimizer/_learning_rate                     Adam
    optimizer/dynamic_scale                      the scale
    optimizer/inner_optimizer/_learning_rate     its Adam
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow import keras


@contextlib.contextmanager
def own_rates(checkpoint: tf.train.Checkpoint) -> Iterator[None]:
    """What is restored in this context keeps its learning rates."""
    optimizers = [owner.optimizer for owner in _owners(checkpoint).values()]
    rates = [float(optimizer.learning_rate.numpy()) for optimizer in optimizers]
    try:
        yield
    finally:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.learning_rate = rate


@contextlib.contextmanager
def as_saved(checkpoint: tf.train.Checkpoint, names: Iterable[str]) -> Iterator[None]:
    """In this context, the scale of the loss is part of the checkpoint where it is part of a file with these names.

    So files of another precision can be restored. Without a scale in the file, it stays as it is.
    """
    names = tuple(names)
    owners = list(_owners(checkpoint).items())
    own = [owner.optimizer for _, owner in owners]
    for name, owner in owners:
        scaled = any(other.startswith(f"{name}optimizer/inner_optimizer/") for other in names)
        owner.optimizer = _scaled(owner.optimizer) if scaled else _plain(owner.optimizer)
    try:
        yield
    finally:
        for (_, owner), optimizer in zip(owners, own, strict=True):
            owner.optimizer = optimizer


def _owners(checkpoint: tf.train.Checkpoint) -> dict[str, Any]:
    """The checkpoint and its parts, where they have an optimizer, by the beginning of its name in the file."""
    parts = tf.train.TrackableView.children(checkpoint)
    owners = {"": checkpoint} | {f"{name}/": part for name, part in parts.items()}
    is_owner = lambda owner: isinstance(getattr(owner, "optimizer", None), keras.optimizers.Optimizer)
    return {name: owner for name, owner in owners.items() if is_owner(owner)}


def _plain(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.LossScaleOptimizer:
    """The optimizer, or one that scales the loss around it."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    scaled.build(optimizer._trainable_variables)
    return scaled
