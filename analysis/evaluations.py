"""Reads the output of evaluate.py and makes the rows of a table of planners."""

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis import runs as logs
from analysis.statistics import Estimate, over_seeds
from tools.command_line import note
from tools.errors import UserError
from training.logdir import EVALUATIONS_FILE, SETTINGS_FILE, method_of, read_config


class Row(NamedTuple):
    """What one planner achieved in one task, over the seeds (log directories) of one method of training.

    Attributes:
        model: the method that trained the world model.
        method: name of the evaluation; equals `model` if it is the run as it was trained.
        settings: what the evaluation changed besides the planner, as words of a command line.
        seeds: how many log directories.
        episodes: of all of them.
        success: None where the simulator reports none.
        seconds: of a planning call; the mean over seeds of their medians, NaN where unknown.
        distances: success by distance to the goal, a list of (low, high, episodes, Estimate).
    """

    task: str
    model: str
    method: str
    planner: str
    settings: str
    seeds: int
    episodes: int
    score: Estimate
    success: Estimate | None
    seconds: float
    distances: list[tuple[float, float, int, Estimate]]


def read_evaluations(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of all files, as they follow each other, each file once. Raises UserError."""
    paths: dict[str, Path] = {}
    for source in sources:
        files = [source] if source.is_file() else list(logs.find_files(source, EVALUATIONS_FILE))
        if not files:
            raise UserError(f"{source} holds no {EVALUATIONS_FILE}: evaluate its runs first, by evaluate.py.")
        for path in files:
            paths.setdefault(os.path.realpath(path), path)
    found = []  # with the log directory where it is known, and the line as it was
    for path in paths.values():
        for number, raw in logs.read_lines(path):
            line, text = _checked(raw, f"line {number} of {path}"), json.dumps(raw, sort_keys=True)
            logdir = _logdir_of(line, path)
            found.append((logdir, text, line | ({"logdir": logdir} if logdir else {})))
    if not found:
        raise UserError(f"{', '.join(map(str, sources))}: no evaluation has ended yet.")
    # A file of --out has the lines of log directories, too.
    own = {text for logdir, text, _ in found if logdir}
    return list({(logdir, text): line for logdir, text, line in found if logdir or text not in own}.values())


def _logdir_of(line: Mapping[str, Any], path: Path) -> str:
    """The log directory in which the file of an evaluation lies, '' if it lies elsewhere or tells of another run.

    The line may have a name that was right in another folder or on another machine.
    """
    own = path.parent.resolve()
    if path.name != EVALUATIONS_FILE or not (own / SETTINGS_FILE).is_file():
        return ""
    return str(own) if Path(line["logdir"]).name in ("", own.name) else ""


def _checked(line: dict[str, Any], place: str) -> dict[str, Any]:
    """The line with printable names. Raises UserError unless it is that of an evaluation."""
    for key in ("task", "method", "planner", "logdir", "episodes", "return"):
        if key not in line:
            raise UserError(f"{place} has no {key!r}, so it is not an evaluation: give what evaluate.py has written.")
    for key, (fits, words) in _KINDS.items():
        if not fits(line.get(key)):
            raise UserError(f"{place}: {key!r} must be {words}, as evaluate.py writes it.")
    for bin in line.get("by_distance") or []:
        if not (isinstance(bin, dict) and bin.keys() >= {"low", "high", "episodes", "success"}):
            raise UserError(f"{place}: each bin of 'by_distance' must have 'low', 'high', 'episodes' and 'success'.")
        sizes = logs.is_number(bin["low"]) and logs.is_number(bin["high"]) and _is_count(bin["episodes"])
        if not (sizes and _is_estimate(bin["success"])):
            raise UserError(f"{place}: a bin of 'by_distance' must have numbers and a mean 'success'.")
    names = {key: logs.printable(line[key]) for key in ("task", "method", "planner")}
    return line | names | {"overrides": [logs.printable(word) for word in line.get("overrides") or []]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= logs.LAST_STEP


def _is_estimate(value: Any) -> bool:
    """Whether a value is a mean with the ends of its interval, each a number or unknown."""
    if value is None:
        return True
    ends = [value.get(key) for key in Estimate._fields] if isinstance(value, dict) and "mean" in value else [""]
    return all(end is None or logs.is_number(end) for end in ends)


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return value is None or isinstance(value, list) and all(map(fits, value))


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("task", "method", "planner", "logdir"), (_is_text, "a name")),
    "episodes": (_is_count, "a whole number"),
    **dict.fromkeys(("return", "success"), (_is_estimate, "a mean with a low and a high end, or null")),
    "plan_seconds": (lambda value: value is None or logs.is_number(value), "a number or null"),
    "overrides": (lambda value: _is_list(value, lambda word: isinstance(word, str)), "a list of words"),
    "by_distance": (lambda value: _is_list(value, lambda _: True), "a list"),
}


def newest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last evaluation of each task, method, planner, log directory and overrides; notes what was done differently.

    Several files may be in any order. Where a time is not known, that of the lines counts.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        key = (*_group(line), os.path.abspath(line["logdir"]))
        other = [name for name in ("seed", "episodes", "updates") if found.get(key, line).get(name) != line.get(name)]
        if other:
            note(f"{' '.join(_group(line)).strip()}: the last of several evaluations, with another {', '.join(other)}.")
        if key not in found or not _is_before(line, found[key]):
            found[key] = line
    return list(found.values())


def _is_before(line: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an evaluation ended before another one; False where a time is not known."""
    try:
        return datetime.fromisoformat(line["time"]) < datetime.fromisoformat(other["time"])
    except (KeyError, TypeError, ValueError):  # also a time with a time zone beside one without
        return False


def _group(line: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """What a row of the table stands for: task, model, method, planner, other settings."""
    model, method, overrides = _model(line), line["method"], line.get("overrides") or []
    if method == model and any(word.partition("=")[0] == "--planner" for word in overrides):
        method = line["planner"]  # not the run as it was trained
    return line["task"], model, method, line["planner"], _settings(overrides)


def _model(line: Mapping[str, Any]) -> str:
    """The method of the run that an evaluation is of, which may lie on another machine."""
    logdir = Path(line["logdir"])
    if os.path.isfile(logdir / SETTINGS_FILE):
        return logs.printable(method_of(logdir, read_config(logdir)))
    return logs.printable(logdir.parent.name) if logdir.name.isdecimal() else line["method"]


def _settings(overrides: Sequence[str]) -> str:
    """Overrides without the planner, which has a column of its own, and without `media`, which changes no number."""
    words, kept = list(overrides), []
    while words:
        word = words.pop(0)
        if word in ("--planner", "--media"):
            words[:1] = []
        elif not word.startswith(("--planner=", "--media=")):
            kept.append(word)
    return shlex.join(kept)


def table_rows(lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each task, method, planner and settings, by their names; several log directories are its seeds."""
    groups: dict[tuple[str, str, str, str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_group(line), []).append(line)
    rows = []
    for group, own in sorted(groups.items(), key=lambda item: item[0]):
        task, model, method, planner, settings = group
        success = [line["success"] for line in own if line.get("success") is not None]
        rows.append(
            Row(
                task,
                model,
                method,
                planner,
                settings,
                seeds=len(own),
                episodes=sum(line["episodes"] for line in own),
                score=over_seeds([line["return"] or {} for line in own]),
                success=over_seeds(success, (0.0, 1.0)) if success else None,
                seconds=_mean([line.get("plan_seconds") for line in own]),
                distances=_distances(group, own),
            )
        )
    return rows


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _distances(group: tuple[str, ...], lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, int, Estimate]]:
    """Success by distance over the seeds of a row, by distance; empty where seeds have other bins."""
    binned = [bins for line in lines if (bins := line.get("by_distance"))]
    edges = [sorted((bin["low"], bin["high"]) for bin in bins) for bins in binned]
    if any(each != edges[0] for each in edges):
        note(f"{' '.join(group).strip()}: seeds have different bins of distance, so they are not drawn by distance.")
        return []
    found = []
    for low, high in edges[0] if edges else []:
        same = [bin for bins in binned for bin in bins if (bin["low"], bin["high"]) == (low, high) and bin["success"]]
        if same:
            estimate = over_seeds([bin["success"] for bin in same], (0.0, 1.0))
            found.append((low, high, sum(bin["episodes"] for bin in same), estimate))
    return [each for each in found if not math.isnan(each[-1].mean)]


def labels(rows: Sequence[Row]) -> list[str]:
    """Names of the rows in a figure: the method, the model if there are several, and changed settings."""
    several = len({row.model for row in rows}) > 1
    models = [f" (model: {row.model})" if several and row.method != row.model else "" for row in rows]
    names = [f"{row.method}{model} {row.settings}".strip() for row, model in zip(rows, models, strict=True)]
    planners: dict[tuple[str, str], set[str]] = {}
    for row, name in zip(rows, names, strict=True):
        planners.setdefault((row.task, name), set()).add(row.planner)
    return [
        f"{name} ({row.planner})" if len(planners[row.task, name]) > 1 else name
        for row, name in zip(rows, names, strict=True)
    ]
