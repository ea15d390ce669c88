"""Weights that were trained before: of a run to evaluate, or of one that a new run starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tools.config import Config, keys_of, load_config
from tools.errors import UserError
from training import checkpoint_files
from training.agent import Agent
from training.logdir import WEIGHTS, check_same, find_logdir, shipped_models
from training.weights import read_weights


def restore_newest(parts: Mapping[str, Any], logdir: Path) -> None:
    """Gives these parts of an agent, by name, what the newest checkpoint of a run or a shipped model has for them.

    A shipped model has no optimizers, so that those of the agent stay as they are.

    Raises:
        UserError: there is no checkpoint, or it is damaged or does not fit.
    """
    if (logdir / WEIGHTS).is_file():
        read_weights(parts, logdir)
        return
    checkpoint, folder = tf.train.Checkpoint(**parts), logdir / "checkpoints"
    # Not an older one: a figure must be of the newest weights.
    if checkpoint_files.restore_newest(checkpoint, folder, partial=True, or_older=False) is None:
        raise UserError(f"{logdir} has no checkpoint yet: wait until the run has made one, or choose another --logdir.")


def start_from(agent: Agent, logdir: Path) -> None:
    """Gives a new agent the weights, the optimizer's state and the count of updates of another run (`init_from`).

    Of a shipped model, by its folder or name, there is no optimizer's state.

    Steps and reward statistics are those of the new run's own episodes.

    Raises:
        UserError: `logdir` holds no run, or one with other weights or another task.
    """
    if str(logdir) in shipped_models():
        logdir = find_logdir(logdir)
    if not (logdir / "config.yaml").is_file():
        raise UserError(f"init_from is {logdir}, which holds no run: give the log directory of one.")
    before = load_config([], saved=Config.load(logdir / "config.yaml"))
    check_same(before, agent.config, keys_of("transitions", "weights"), logdir)
    parts = {name: part for name, part in agent.checkpointed.items() if name not in ("step", "rewards")}
    restore_newest(parts, logdir)
