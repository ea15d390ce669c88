"""Command lines beside planning_agent.py's: options of the program itself, and kinds of values."""

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from tools.errors import UserError
from tools.files import expanded


class HelpFormatter(argparse.HelpFormatter):
    """Keeps texts of several lines as they are, and shows defaults that the help of an option does not name itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, "", [], (), argparse.SUPPRESS) or default is False or "default:" in text:
            return text
        words = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {words.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """Reports bad input as a UserError, and knows no option by its beginning, which may be a setting."""

    def __init__(self, **options: Any):
        own: dict[str, Any] = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(**own | options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}.")


def count(text: str) -> int:
    """A whole number from 0 on that fits into an int32."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**31 - 1}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on that fits into an int32."""
    number = count(text)
    if not number:
        raise argparse.ArgumentTypeError("'0' is too few: give at least 1")
    return number


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < math.inf:  # NaN is refused, too
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def amount(text: str) -> float:
    """A finite number from 0 on."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def place(text: str) -> Path:
    """A file or folder, see `expanded`. An empty text would be the present folder, as if that had been asked for."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or folder")
    return expanded(text)


def nonempty(text: str) -> str:
    """A name. An empty one would count as none given."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: give one, or leave the option out")
    return text


def picture(text: str) -> Path:
    """A file for a picture."""
    if place(text).suffix not in (".png", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text} is neither a .png nor a .pdf: choose one of these")
    return Path(text)


def print_to_stderr() -> None:
    """Sends what this process prints to the standard error output: the standard output is for a program's JSON."""
    if sys.stdout:  # None where it is closed
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # no standard error output either
        os.dup2(2, 1)  # what C code prints, too


def note(text: str) -> None:
    """Prints a note that does not stop the program."""
    print(f"note: {text}", file=sys.stderr)
