"""Devices in training: strategies by name, which host this is, and what is compiled.

Losses of several devices add up by world_model/device_shares.py.
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


def compiles_update(when: str, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles the world model's gradients; "auto" does it on a GPU, which small kernels leave idle.

    Raises:
        UserError: it should, but there are several devices and no GPUs. TensorFlow sums over these in plain code only.
    """
    gpu, devices = bool(tf.config.list_physical_devices("GPU")), strategy.num_replicas_in_sync
    if when == "always" and devices > 1 and not gpu:
        raise UserError(
            f"compile_update always cannot share a batch over {devices} devices that are not GPUs: use compile_update "
            "auto, or strategy one."
        )
    return when == "always" or (when == "auto" and gpu)


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
