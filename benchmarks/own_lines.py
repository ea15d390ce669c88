"""Lines of JSON that a benchmark wrote and finds again when the same command goes on."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tools.errors import UserError


def read_own_lines(path: Path, benchmark: str, kinds: Collection[str] | None = None) -> list[dict[str, Any]]:
    """The lines of a file, none if there is no file.

    Args:
        path: the file.
        benchmark: what each line's "benchmark" has to be.
        kinds: what each line's "kind" may be; None for lines without one.

    Raises:
        UserError: another program wrote the file, or it is damaged.
    """
    try:
        lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
        own = all(line["benchmark"] == benchmark and (kinds is None or line["kind"] in kinds) for line in lines)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        own = False
    if not own:
        raise UserError(f"{path} is not a file that this program wrote, or damaged: choose another --out.")
    return lines
