"""Runs as figures and tables read them: where they are and what they measured.

Nothing here imports TensorFlow or a simulator, so that tables and figures are made in seconds.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import envs
from tools.command_line import note
from tools.errors import UserError
from tools.metric_names import METRICS_FILE, own_name
from training.logdir import method_of, read_config

LARGEST = 1e100  # of what is drawn: squares of larger values leave the range of a float
LAST_STEP = 2**53  # whole numbers beyond are no longer exact in figures


class Series(NamedTuple):
    """A metric of one run: environment steps, int [N], strictly increasing, and finite values, float [N]."""

    steps: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """What one run measured in one task. An agent of several tasks is one of these for each of them."""

    logdir: Path
    task: str
    method: str
    seed: int
    metrics: dict[str, Series]
    unit: str = "environment steps"  # of the steps; a run that collects nothing counts updates


def common_unit(runs: Sequence[Run]) -> str:
    """What the steps of all runs are. Raises UserError where they differ."""
    units = sorted({run.unit for run in runs})
    if len(units) > 1:
        raise UserError(
            f"Some runs count {units[0]} and others, which collect nothing, {units[1]}: give the folders of one kind."
        )
    return units[0]


def printable(name: str) -> str:
    """A name as tables and figures can show it: line breaks, control characters and broken bytes become U+FFFD."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """Every run at or below the directories, each once, by task, method and seed.

    Raises:
        UserError: a directory is missing or has no run below it, the files of a run cannot be read, or two runs have
          task, method and seed in common, so that a seed would count twice.
    """
    found: dict[Path, None] = {}
    for directory in directories:
        files = list(find_files(directory, METRICS_FILE))
        if not files:
            raise UserError(f"{directory} holds no run (no {METRICS_FILE} at or below it): give folders of runs.")
        found |= dict.fromkeys(file.parent for file in files)
    unique = {os.path.realpath(logdir): logdir for logdir in reversed(found)}.values()
    runs = sorted((run for logdir in unique for run in read_run(logdir)), key=lambda run: run[1:4])
    for one, other in zip(runs, runs[1:], strict=False):
        if one[1:4] == other[1:4]:
            raise UserError(
                f"{one.logdir} and {other.logdir} both are {one.method} with seed {one.seed} on {one.task}: give one "
                "of them only, or keep runs in folders <method>/<seed>."
            )
    return runs


def find_files(directory: Path, name: str) -> Iterator[Path]:
    """The files of a name at or below a directory; what is inside a log directory is not searched.

    Raises:
        UserError: there is no such directory.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a folder: give folders of runs.")
    seen = set()
    for folder, folders, files in os.walk(directory, onerror=_note_unreadable, followlinks=True):
        folders.sort()
        real = os.path.realpath(folder)
        if name in files and real not in seen:
            yield Path(folder, name)
        if real in seen or METRICS_FILE in files:  # episodes are many, and links may lead in circles
            folders.clear()
        seen.add(real)


def _note_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # one that was removed meanwhile
        note(f"{error.filename} cannot be read ({error.strerror}): what is in it is left out.")


def read_run(logdir: Path) -> list[Run]:
    """The run of a log directory, once for each of its tasks.

    An agent of several tasks has metrics of each task, which are taken where every task has them. Its method is named
    after the number of tasks, so that it is not mistaken for an agent of one task.

    Raises:
        UserError: config.yaml or metrics.jsonl cannot be read.
    """
    config = read_config(logdir)
    metrics, method = read_metrics(logdir / METRICS_FILE), printable(method_of(logdir, config))
    tasks = envs.split_tasks(printable(config.task))
    unit = "updates" if config.get("steps") == 0 else Run._field_defaults["unit"]
    if len(tasks) == 1:
        return [Run(logdir, tasks[0], method, config.seed, metrics, unit)]
    method = f"{method} ({len(tasks)} tasks)"
    return [Run(logdir, task, method, config.seed, _of_task(metrics, task, tasks), unit) for task in tasks]


def _of_task(metrics: dict[str, Series], task: str, tasks: Sequence[str]) -> dict[str, Series]:
    """The metrics of one of several tasks under their plain names, with those that all tasks share."""
    owned = {own_name(name, each): (name, each) for name in metrics for each in tasks}
    means = {owned[name][0] for name in metrics if name in owned}
    shared = {name: series for name, series in metrics.items() if name not in owned and name not in means}
    return shared | {owned[name][0]: metrics[name] for name in metrics if name in owned and owned[name][1] == task}


def read_metrics(path: Path) -> dict[str, Series]:
    """The metrics of a run by name, without values that are null.

    A run that was killed and resumed went back to its last checkpoint: of what it logged twice the later line wins,
    and lines beyond the step to which it returned are not what the present run came from, so they are left out. Values
    beyond `LARGEST` and those that are not numbers are left out too, with a note.

    Raises:
        UserError: the file cannot be read, or a line before the last one holds no metrics.
    """
    rows: list[dict[str, Any]] = []
    for number, line in read_lines(path):
        if not (is_number(line.get("step")) and 0 <= line["step"] <= LAST_STEP):
            raise UserError(f"line {number} of {path} has no step: it is not a file of metrics, or was changed.")
        while rows and rows[-1]["step"] > line["step"]:
            rows.pop()
        if rows and rows[-1]["step"] == line["step"]:
            rows[-1] |= line
        else:
            rows.append(line)
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
    points = {name: [(row["step"], float(row[name])) for row in rows if is_number(row.get(name))] for name in names}
    odd = [name for name in names if any(row.get(name) is not None and not is_number(row[name]) for row in rows)]
    if odd:
        note(
            f"{path} has values that are not numbers or beyond {LARGEST:g}, which are left out: "
            f"{', '.join(map(printable, odd))}."
        )
    return {name: Series(*map(np.array, zip(*known, strict=True))) for name, known in points.items() if known}


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a file of JSON objects with their numbers from 1 on. A last one that is cut off is left out.

    Raises:
        UserError: the file cannot be read, or another line is not a JSON object.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait
        raise UserError(f"{path} is not a file: give what a run or evaluate.py has written.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    values = [(number, _parsed(line)) for number, line in lines]
    if (
        values and values[-1][1] is None and not content.endswith(b"\n")
    ):  # a run is writing it, or was killed while it did
        values.pop()
    for number, value in values:
        if value is None:
            raise UserError(
                f"line {number} of {path} is not a JSON object: give what a run or evaluate.py has written, or remove "
                "the line if it is damaged."
            )
    return values


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (RecursionError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number that can be drawn, true and false among them."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def metric_names(runs: Iterable[Run]) -> list[str]:
    """The names of all metrics that any of the runs has."""
    return sorted({name for run in runs for name in run.metrics})
