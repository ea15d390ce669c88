"""The log directory of a run: what a resumed run may not change, and what is noted about each start."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import envs
from tools.config import Config, load_config
from tools.errors import UserError
from tools.files import append_json
from tools.revision import git_revision

# What a log directory's episodes and weights depend on: a resumed run must agree with the first one in these.
FIXED_KEYS = (
    "task", "action_repeat", "time_limit", "reward", "camera", "starts", "dynamics", "latent", "stoch", "classes",
    "unimix", "deter", "hidden", "min_std", "act", "cnn_act", "cnn_depth", "reward_layers", "reward_units",
    "discount_head", "cost_head", "state_probe", "image_bits", "reward_normalization", "reward_transform",
    "reward_bound", "value_head", "value_layers", "value_units", "value_batch_norm",
)  # fmt: skip


def open_logdir(config: Config, argv: Sequence[str]) -> Path:
    """Creates or resumes the log directory, and saves the config, the command and the git revision in it.

    Raises:
        UserError: the directory holds a run whose episodes or weights do not fit this config.
    """
    logdir = Path(config.logdir).expanduser()
    saved = logdir / "config.yaml"
    try:
        logdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # also for a name that is too long, as of many tasks
        raise UserError(
            f"The log directory {logdir} cannot be created ({error.strerror}): choose another --logdir."
        ) from error
    if saved.exists():
        before = load_config([], saved=Config.load(saved))
        check_fixed_keys(before, config, logdir)
        if (before.steps == 0) != (config.steps == 0):
            raise UserError(
                f"{logdir} holds a run with steps = {before.steps}: one that collects and one that does not need log "
                "directories of their own, choose another --logdir."
            )
    config.save(saved)
    append_json(logdir / "runs.jsonl", _describe_start(argv))
    return logdir


def check_task(config: Config, logdir: Path, task: str) -> str:
    """The task, which must be one of those of the run in a log directory. Raises UserError if it is not."""
    if task not in envs.split_tasks(config.task):
        raise UserError(f"{logdir} holds a run with task = {config.task}, not {task}: choose a task of the run.")
    return task


def check_fixed_keys(before: Config, config: Config, logdir: Path) -> None:
    """Raises UserError unless these settings agree with those of the run in a log directory in `FIXED_KEYS`."""
    for key in FIXED_KEYS:
        if before.get(key) != config[key]:
            raise UserError(
                f"{logdir} holds a run with {key} = {before.get(key)}, this command says {config[key]}: "
                f"choose another --logdir, or the same {key}."
            )


def _describe_start(argv: Sequence[str]) -> dict:
    import tensorflow as tf

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["planning_agent.py", *argv],
        **git_revision(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "machine": platform.machine(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }
