"""Losses of a batch that several devices share.

Each of D devices takes B / D chunks of a batch. Its *share* of a loss is a sum over its own entries, divided by counts
of the whole batch. So shares and their gradients add up to those of one device with the whole batch, however the
padding is spread.
"""

import tensorflow as tf


def devices() -> int:
    """How many devices share the batch. To be called on one of them."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def total(x: tf.Tensor) -> tf.Tensor:
    """The sum over devices, without a gradient."""
    x = tf.stop_gradient(x)
    return x if devices() == 1 else tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x)


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """This device's share of the mean over all entries of the batch that are not padding."""
    return tf.reduce_sum(values * mask) / total(tf.reduce_sum(mask))


def at_least(share: tf.Tensor, least: float) -> tf.Tensor:
    """This device's share of max(mean, least), from its share of the mean."""
    return tf.where(total(share) > least, share, least / devices())


def device_seed(seed: tf.Tensor) -> tf.Tensor:
    """A seed for this device, int32 [2]."""
    if devices() == 1:
        return seed
    return tf.random.fold_in(seed, tf.distribute.get_replica_context().replica_id_in_sync_group)
