"""Which runs a sweep has: every task with every planner and seed, or the rows of an experiment file."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs
from agents import PLANNERS
from episodes.episode import episode_files
from sweeps import supervisor
from tools.config import Config, load_config
from tools.errors import UserError, unknown
from tools.files import expanded
from tools.yaml_files import read_yaml
from training.contradictions import check_plan_length, check_settings
from training.logdir import SETTINGS_FILE, check_logdir, find_initial

PROGRAM = Path(__file__).resolve().parent.parent / "planning_agent.py"
OWN_WORDS = ("--task", "--planner", "--seed", "--logdir")


@dataclass(frozen=True)
class Run:
    """One training: `words` are its settings as planning_agent.py takes them, without the log directory."""

    method: str
    words: tuple[str, ...]
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return f"{self.config.task} {self.method} {self.config.seed}"

    @property
    def arguments(self) -> list[str]:
        """The arguments of planning_agent.py."""
        return [*self.words, "--logdir", str(self.folder)]

    @property
    def length(self) -> str:
        """The run's length: steps, or updates if it collects nothing."""
        return f"{self.config.steps:,} steps" if self.config.steps else f"{self.config.pretrain:,} updates"

    @property
    def identity(self) -> list[str]:
        """Identifies a complete run, independently of its folder."""
        return [PROGRAM.name, *self.words]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, as far as this machine can see."""
        return supervisor.is_done(self.folder, self.identity)


def product_lines(tasks: Sequence[str], names: Sequence[str], settings: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(method, words) for every task and planner."""
    _check_words(settings, "a sweep", OWN_WORDS)
    return [(name, [*settings, "--task", task, "--planner", name]) for task in tasks for name in names]


def experiment_lines(path: Path, rows: Sequence[str], settings: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(row, words) for every command line of some rows of an experiment file, of all rows where none is named.

    The settings come after those of the line; presets among them stack on the line's, and the line's keys beat them.

    Raises:
        UserError: the file is not as the head of this module says, or lacks a row.
    """
    _check_words(settings, "an experiment", OWN_WORDS)
    content = _rows(path)
    lines = []
    for row in rows or content:
        if row not in content:
            raise unknown(f"row (of {path})", row, content)
        if not re.fullmatch(r"\w[\w.+-]*", row):
            raise UserError(f"{path}: a row names a folder, so {row!r} must be of letters, digits and any of _.+-")
        commands = content[row]
        if not isinstance(commands, list) or not commands or not all(isinstance(line, str) for line in commands):
            raise UserError(f"{path}: row {row} must be a list of command lines, each '- --key value ...'.")
        for line in commands:
            try:
                words = shlex.split(line)
            except ValueError as error:
                raise UserError(f"{path}: {line!r} in row {row} is not a command line ({error}).") from None
            _check_words(words, f"row {row} of {path}", ("--seed", "--logdir", "--help", "-h"))
            lines.append((row, [*words, *settings]))
    return lines


def _rows(path: Path) -> dict[str, Any]:
    """The rows of an experiment file by name; a whole number is a name too. Raises UserError."""
    rows: dict[str, Any] = {}
    for key, commands in read_yaml(path).items():
        if type(key) not in (int, str):
            raise UserError(f"{path}: a row names a folder, so write {key!r} in quotes.")
        if str(key) in rows:
            raise UserError(f"{path} has two rows {key}: give one of them another name.")
        rows[str(key)] = commands
    return rows


def _check_words(words: Sequence[str], where: str, refused: Sequence[str]) -> None:
    for word in words:
        name = word.partition("=")[0]
        if name in refused:
            raise UserError(f"{name} has no place in {where}, which sets it for each run: leave it out.")


def make_runs(lines: Sequence[tuple[str, Sequence[str]]], seeds: Sequence[int], out: Path) -> list[Run]:
    """Every line with every seed, all lines with the first seed first. Nothing is imported or started for it.

    Raises:
        UserError: a command line that planning_agent.py would refuse, or two runs in one folder.
    """
    configs = [_checked_config(words) for _, words in lines]
    runs: dict[Path, Run] = {}
    for seed in seeds:
        for (method, words), config in zip(lines, configs, strict=True):
            folder = out / config.task / method / str(seed)
            if folder in runs:
                raise UserError(
                    f"Two runs would share the folder {folder}: name each task, planner, row and seed once."
                )
            resolved = config.replace(seed=seed, logdir=str(folder)).resolved()
            if resolved.logdir != str(folder):
                raise UserError(f"{out} has fields in braces, which a sweep does not fill in: choose another --out.")
            places = _places(resolved)
            named = [word for key, place in places.items() for word in (f"--{key}", place)]
            runs[folder] = Run(method, (*words, *named, "--seed", str(seed)), folder, resolved.replace(**places))
    return list(runs.values())


def _checked_config(words: Sequence[str]) -> Config:
    """The settings of a command line. Raises UserError for what can be seen without an environment or a model."""
    config = load_config(words)
    if config.planner not in PLANNERS:
        raise unknown("planner", config.planner, PLANNERS)
    for task in envs.split_tasks(config.task):
        envs.split_task(task)
    check_settings(config)
    planless = config.planner == "dreamer" or (config.planner == "policy" and config.policy_teacher == "none")
    check_plan_length(config, 1 if planless else config.mpc_steps)
    if config.strategy == "multi_worker":
        raise UserError(
            "strategy multi_worker needs several hosts and a run of a sweep has one: choose mirrored or one."
        )
    return config


def _places(config: Config) -> dict[str, str]:
    """The folders that settings name, for a run: it starts in the program's folder, wherever the sweep does."""
    find = {"offline_dir": expanded, "init_from": find_initial}
    return {key: str(find[key](str(config[key])).absolute()) for key in find if config[key]}


def check_starts(runs: Sequence[Run]) -> None:
    """Looks whether each run can start, or go on in its folder. Nothing is imported or started for it.

    Raises:
        UserError: a folder holds a run with other settings, or what a run starts from is not there.
    """
    folders = {str(run.folder) for run in runs}
    for run in runs:
        check_logdir(run.config)
        if (folder := run.config.offline_dir) and not episode_files(folder):
            raise UserError(f"{folder} holds no episodes: make some with collect.py, or name another --offline_dir.")
        initial, new = run.config.init_from, not (run.folder / SETTINGS_FILE).is_file()
        if initial and new and initial not in folders and not (Path(initial) / SETTINGS_FILE).is_file():
            raise UserError(f"{initial} holds no run: give the log directory of one as --init_from.")


def check_tasks(runs: Sequence[Run]) -> None:
    """Makes one environment of each task in another process. Raises UserError."""
    for run in runs:
        envs.spaces(run.config)  # seconds for each task; the same one again costs nothing
