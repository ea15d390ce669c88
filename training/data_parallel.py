"""Data-parallel training: strategies by name, and sums over the devices that share a batch.

Each of D devices takes B / D chunks of a batch. Its *share* of a loss is a sum over its own entries, divided by counts
of the whole batch. So shares and their gradients add up to those of one device with the whole batch, however the
padding is spread.
"""

import tensorflow as tf

from tools.errors import UserError


def make_strategy(name: str, batch_size: int) -> tf.distribute.Strategy:
    """A strategy by name: one, mirrored (all devices of this machine), multi_worker (all hosts in TF_CONFIG).

    Raises:
        UserError: the batch does not divide evenly, or the strategy finds no devices or hosts.
    """
    try:
        strategy = {
            "one": tf.distribute.get_strategy,
            "mirrored": lambda: tf.distribute.MirroredStrategy(_local_devices()),
            "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
        }[name]()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"strategy {name} cannot start ({str(error).splitlines()[0][:200]}): check the devices, and TF_CONFIG for "
            "multi_worker, or use strategy one."
        ) from error
    devices = strategy.num_replicas_in_sync
    if batch_size % devices:
        raise UserError(f"batch_size {batch_size} does not divide evenly over {devices} devices: choose a multiple.")
    return strategy


def _local_devices() -> list[str]:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def place_among_workers(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Which of the hosts this is, and how many there are. Host 0 is the chief, which evaluates and saves."""
    resolver = strategy.cluster_resolver
    tasks = resolver.cluster_spec().as_dict() if resolver else {}
    chiefs, workers = (len(tasks.get(kind, ())) for kind in ("chief", "worker"))
    if chiefs + workers < 2:
        return 0, 1
    return (0 if resolver.task_type == "chief" else chiefs + resolver.task_id), chiefs + workers


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
