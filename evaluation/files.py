"""The files of an evaluation."""

import contextlib
import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from analysis.figures import save
from evaluation.executed_plans import write_plans
from evaluation.numbers import Row, model_age
from evaluation.pictures import GRID, draw_by_distance, grid
from tools.command_line import note
from tools.errors import UserError
from tools.files import remove_empty, remove_if_empty, writing
from tools.logger import write_video
from training.agent import Agent
from training.driver import Episode
from training.logdir import EPISODES_FILE, EVALUATIONS_FILE

# Columns of the table on the standard error output: names in a row, and headings.
TABLE = {
    "episode": "episode",
    "return": "return",
    "success": "success",
    "success_final": "at the end",
    "cost": "cost",
    "length": "length",
    "predicted_return": "predicted",
    "distance": "distance",
    "dynamics_violation": "violation",
}

LONGEST_NAME = 200  # bytes of a folder's name; file systems have 255, and a number may follow


FOLDER = "evaluations"  # of the tables and pictures


@dataclass(frozen=True)
class Places:
    """Where an evaluation writes.

    Attributes:
        files: the files that get its line.
        folder: the parent of the folder with its table and pictures.
    """

    files: tuple[Path, ...]
    folder: Path


def find_places(logdir: Path, out: Path | None = None) -> Places:
    """The log directory, and the file `out`, if given; beside that file alone where the log directory is read-only.

    Writing is tried first, and nothing is left behind, so that an evaluation does not fail at its end.

    Raises:
        UserError: no place can be written.
    """
    if out:
        check_writable(out, "choose another --out")
    try:
        for file in (logdir / EVALUATIONS_FILE, logdir / FOLDER / EPISODES_FILE):
            check_writable(file, "give --out FILE, and all files go there")
    except UserError:
        if not out:
            raise
        note(f"{logdir} cannot be written: all files go to {out.parent}")
        return Places((out,), out.parent / FOLDER)
    own = logdir / EVALUATIONS_FILE
    other = (out,) if out and out.resolve() != own.resolve() else ()
    return Places((own, *other), logdir / FOLDER)


def check_writable(file: Path, otherwise: str = "choose a place where you can write") -> None:
    """Tries to append to a file and leaves everything as it was. Raises UserError if that fails."""
    new = [path for path in (file, *file.parents) if not path.exists()]
    with writing(file, otherwise), contextlib.ExitStack() as stack:
        stack.callback(remove_empty, new[1:])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
        if new:
            remove_if_empty(file)


def new_folder(parent: Path, name: str) -> Path:
    """A new folder of this name. A number is added where it is taken, so that no evaluation replaces an earlier one."""
    parent.mkdir(parents=True, exist_ok=True)
    safe, number = re.sub(r"[^\w.,-]+", "-", name), 1
    while len(safe.encode(errors="replace")) > LONGEST_NAME:
        safe = safe[:-1]
    while True:
        folder = parent / (safe if number == 1 else f"{safe}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def write_table(folder: Path, rows: Sequence[Row], task: str) -> None:
    """Writes the table of the episodes of a task."""
    with (folder / EPISODES_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["task", *rows[0]])
        writer.writeheader()
        writer.writerows({"task": task, **row} for row in rows)


def write_pictures(
    folder: Path, agent: Agent, line: Mapping[str, Any], episodes: Sequence[Episode], show: Collection[int]
) -> None:
    """Writes the pictures and videos that the head of evaluate.py lists; without `media` only the plans of `show`."""
    age, unit = model_age(agent)
    title = f"{line['task']}, {line['planner']}, model after {age:,} {unit}"
    if agent.config.media:
        write_video(folder / "episodes.mp4", grid([episode.data["image"] for episode in episodes[:GRID]]), fps=20)
        if "by_distance" in line:
            save(draw_by_distance(line["by_distance"], title), folder / "success_by_distance.png")
    for number in sorted(set(show)):
        write_plans(folder, agent, episodes[number], f"{title}, episode {number}")


def show_table(rows: Sequence[Row], title: str) -> None:
    """Shows the most important columns on the standard error output."""
    table = rich.table.Table(title=title, box=None, header_style="bold")
    names = [name for name in TABLE if name in rows[0]]
    for name in names:
        table.add_column(TABLE[name], justify="right")
    for row in rows:
        table.add_row(*(f"{row[name]:.4g}" for name in names))
    rich.console.Console(stderr=True).print(table)
