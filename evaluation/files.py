"""The files of an evaluation."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from analysis.figures import save
from evaluation.executed_plans import write_plans
from evaluation.numbers import Row
from evaluation.pictures import GRID, draw_by_distance, grid
from tools.errors import UserError
from tools.logger import write_video
from training.agent import Agent
from training.driver import Episode

# Columns of the table on the standard error output: names in a row, and headings.
TABLE = {
    "episode": "episode", "return": "return", "success": "success", "success_final": "at the end", "cost": "cost",
    "length": "length", "predicted_return": "predicted", "distance": "distance", "dynamics_violation": "violation",
}  # fmt: skip


def check_writable(file: Path, folder: Path | None = None) -> None:
    """Makes a file and a folder where they are missing, so that an evaluation does not fail at its end.

    Raises:
        UserError: they cannot be written.
    """
    path = file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
        if folder:
            path = folder
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose a place where you can write.") from error


def new_folder(parent: Path, name: str) -> Path:
    """A new folder of this name. A number is added where it is taken, so that no evaluation replaces an earlier one."""
    safe, number = re.sub(r"[^\w.,-]+", "-", name), 1
    while True:
        folder = parent / (safe if number == 1 else f"{safe}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def write_files(
    folder: Path,
    agent: Agent,
    line: Mapping[str, Any],
    rows: Sequence[Row],
    episodes: Sequence[Episode],
    show: Collection[int],
) -> None:
    """Writes everything that the head of evaluate.py lists; without `media` the table and the plans of `show`."""
    with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    age = f"{line['checkpoint_step']:,} environment steps" if agent.config.steps else f"{line['updates']:,} updates"
    title = f"{line['task']}, {line['planner']}, model after {age}"
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
