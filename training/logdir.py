"""The log directory of a run: its settings, what a resumed run may not change, and what is noted about each start."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import envs
from tools.config import Config, keys_of, load_config
from tools.errors import UserError
from tools.files import append_json, expanded, writing
from tools.metric_names import METRICS_FILE
from tools.revision import git_revision
from tools.schema import DEPENDENTS

# What a run writes into its log directory.
SETTINGS_FILE = "config.yaml"
STARTS_FILE = "runs.jsonl"
FILES = (SETTINGS_FILE, STARTS_FILE, METRICS_FILE)
CHECKPOINTS, EPISODES = "checkpoints", "episodes"
FOLDERS = (CHECKPOINTS, EPISODES, "images", "skipped_updates", "videos")
WEIGHTS = "weights.npz"  # what a shipped model has instead of checkpoints
EVALUATIONS_FILE, EPISODES_FILE = "evaluations.jsonl", "episodes.csv"  # what evaluate.py adds; a row of an episode each
SHIPPED = Path(__file__).parent.parent / "shipped"


def read_config(logdir: Path) -> Config:
    """The settings of a run. Raises UserError for a file that is missing, damaged or of another program."""
    path = logdir / SETTINGS_FILE
    try:
        config = Config.load(path)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}: name the folder of a run, or repair the file.") from None
    for key, kind, words in (("task", str, "a name"), ("planner", str, "a name"), ("seed", int, "a whole number")):
        if key not in config:
            raise UserError(f"{path} has no {key}: it is not the config.yaml of a run.")
        if type(config[key]) is not kind:
            raise UserError(f"{path}: {key} must be {words}, not {config[key]!r}; repair it.")
    return config


def method_of(logdir: str | os.PathLike[str], config: Mapping[str, Any]) -> str:
    """The method of a run: the folder above a log directory that is named after its seed, else the planner."""
    logdir = Path(os.path.abspath(logdir))
    return logdir.parent.name if logdir.name == str(config["seed"]) else config["planner"]


def shipped_models() -> list[str]:
    """The names of the models that come with the code."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def find_logdir(place: str | os.PathLike[str], option: str = "--logdir") -> Path:
    """The log directory of a trained agent, or the folder of a shipped model by its name.

    `option` is what names it on the command line.

    Raises:
        UserError: there is neither.
    """
    path = expanded(place)
    if str(place) and (path / SETTINGS_FILE).is_file():
        return path
    if str(place) in shipped_models():
        return SHIPPED / str(place)
    raise UserError(
        f"{str(place) or 'An empty path'} holds no run (it has no config.yaml): give the log directory of one as "
        f"{option}, or the name of a shipped model ({', '.join(shipped_models()) or 'there is none'})."
    )


def find_initial(init_from: str) -> Path:
    """The folder that `init_from` names: a log directory, which need not be there, or a shipped model by its name."""
    return find_logdir(init_from) if init_from in shipped_models() else expanded(init_from)


def check_logdir(config: Config) -> None:
    """Checks, without writing, that a run can start or go on in the log directory.

    Raises:
        UserError: the directory holds a run whose episodes or weights do not fit this config.
    """
    if not config.logdir:
        raise UserError("--logdir is empty: name a folder.")
    logdir = expanded(config.logdir)
    check_places(logdir)
    if not os.path.exists(logdir / SETTINGS_FILE):
        return
    if os.path.exists(logdir / WEIGHTS):
        raise UserError(
            f"{logdir} holds a shipped model, which cannot go on: choose another --logdir, and --init_from {logdir}."
        )
    before = load_config([], saved=read_config(logdir))
    check_same(before, config, keys_of(*DEPENDENTS), logdir)
    if (before.steps == 0) != (config.steps == 0):
        raise UserError(
            f"{logdir} holds a run with steps = {before.steps}: one that collects and one that does not need log "
            "directories of their own, choose another --logdir."
        )


def open_logdir(config: Config, argv: Sequence[str]) -> Path:
    """Creates or resumes the log directory, and saves the config, the command and the git revision in it.

    Raises:
        UserError: as `check_logdir`, or the directory cannot be written.
    """
    logdir = expanded(config.logdir)
    check_logdir(config)
    with writing(logdir, "choose another --logdir"):  # also a name that is too long, as of many tasks
        config.save(logdir / SETTINGS_FILE)
        append_json(logdir / STARTS_FILE, _describe_start(argv))
    return logdir


def check_places(logdir: Path) -> None:
    """Raises UserError if something else is in the place of one of a run's files, or a file in that of a folder."""
    # Unlike those of a Path, these functions call a name that is too long false.
    for name in FILES:
        if os.path.exists(logdir / name) and not os.path.isfile(logdir / name):
            kind = "folder" if os.path.isdir(logdir / name) else "pipe or device"
            raise UserError(f"{logdir / name} is a {kind} in the place of a file of the run: move it away.")
    for name in FOLDERS:
        if os.path.exists(logdir / name) and not os.path.isdir(logdir / name):
            raise UserError(f"{logdir / name} is a file in the place of a folder of the run: move it away.")


def check_task(config: Config, logdir: Path, task: str) -> str:
    """The task, which must be one of those of the run in a log directory. Raises UserError if it is not."""
    if task not in envs.split_tasks(config.task):
        raise UserError(f"{logdir} holds a run with task = {config.task}, not {task}: choose a task of the run.")
    return task


def check_same(before: Config, config: Config, keys: Sequence[str], logdir: Path, option: str = "--logdir") -> None:
    """Raises UserError unless these settings agree with those of the run in a log directory in some keys.

    `option` is what names the log directory on the command line.
    """
    for key in keys:
        if before[key] != config[key]:
            raise UserError(
                f"{logdir} holds a run with {key} = {before[key]}, this command says {config[key]}: "
                f"choose another {option}, or the same {key}."
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
