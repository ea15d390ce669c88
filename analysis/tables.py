"""The table of planners as Markdown, and the files that go with it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import figures
from analysis.bars import draw_bars, draw_distances
from analysis.evaluations import Row, labels, newest, read_evaluations, table_rows
from analysis.markdown import markdown, number, percent, with_interval


def table(sources: Sequence[Path], out: Path) -> tuple[str, list[str]]:
    """Turns evaluations into tables and figures.

    Args:
        sources: files of evaluations, or folders at or below which they are looked for.
        out: folder for the files.

    Returns:
        the text of table.md, and the paths of all files.

    Raises:
        UserError: there are no evaluations, a line is not one, or a file cannot be written.
    """
    rows = table_rows(newest(read_evaluations(sources)))
    text = table_text(rows)
    files = [figures.save_text(text, out / "table.md")]
    files += figures.save_all(draw_bars(rows), out / "table", [_row_numbers(row) for row in rows])
    if any(row.distances for row in rows):
        numbers = [_row_numbers(row) for row in rows if row.distances]
        files += figures.save_all(draw_distances(rows), out / "distance", numbers)
    return text, files


def table_text(rows: Sequence[Row]) -> str:
    """The rows in Markdown; of several tasks first their scores side by side, as in LatCo's table 1."""
    head = [
        "task",
        "model of",
        "method",
        "planner",
        "settings",
        "return",
        "success, %",
        "seeds",
        "episodes",
        "planning, s",
    ]
    cells = [
        [
            row.task,
            row.model,
            row.method if row.method not in (row.model, row.planner) else "",
            row.planner,
            row.settings,
            with_interval(row.score),
            with_interval(row.success, percent) if row.success else "",
            str(row.seeds),
            str(row.episodes),
            "" if math.isnan(row.seconds) else number(row.seconds),
        ]
        for row in rows
    ]
    filled = [
        column for column, name in enumerate(head) if name in ("task", "planner") or any(row[column] for row in cells)
    ]
    text = markdown([head[column] for column in filled], [[row[column] for column in filled] for row in cells])
    text += (
        "\nIn brackets: 95% intervals, over seeds (Student t) where there are at least three, else over the episodes "
        "of these seeds. Episodes are those of all seeds together, planning is the time of one call.\n"
    )
    return (side_by_side(rows) + "\n" if len({row.task for row in rows}) > 1 else "") + text


def side_by_side(rows: Sequence[Row]) -> str:
    """Planners by tasks in Markdown: success in percent where there is any, else the return."""
    tasks, names = sorted({row.task for row in rows}), labels(rows)
    cells = {
        (name, row.task): f"{with_interval(row.success, percent)} %" if row.success else with_interval(row.score)
        for name, row in zip(names, rows, strict=True)
    }
    body = [[name, *(cells.get((name, task), "") for task in tasks)] for name in dict.fromkeys(sorted(names))]
    return markdown(["method", *tasks], body)


def _row_numbers(row: Row) -> dict[str, Any]:
    """A row as it is written to JSON."""
    return {
        **{key: getattr(row, key) for key in ("task", "model", "method", "planner", "settings", "seeds", "episodes")},
        "return": row.score._asdict(),
        "success": row.success._asdict() if row.success else None,
        "plan_seconds": row.seconds,
        "by_distance": [
            {"low": low, "high": high, "episodes": episodes, "success": estimate._asdict()}
            for low, high, episodes, estimate in row.distances
        ],
    }
