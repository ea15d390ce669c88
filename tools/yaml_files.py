"""Files of YAML 1.2 that hold names with values."""

import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.errors import UserError


def make_yaml() -> YAML:
    """A reader and writer of YAML 1.2."""
    # pure: the C parser reads YAML 1.1, in which 1e-3 is a text and "no" is false.
    return YAML(typ="safe", pure=True)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Returns the content of a YAML file (1.2, read safely), a mapping. Raises UserError."""
    return parse_yaml(path, read_text(path))


def read_text(path: Path) -> str:
    """Returns what a file holds, UTF-8. Raises UserError."""
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait
        raise UserError(f"cannot read {path}: it is not a file.")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}.") from None


def parse_yaml(path: Path, text: str) -> dict[Any, Any]:
    """Returns the mapping that the text of a file stands for. Raises UserError, in which path says where."""
    try:
        content = make_yaml().load(text)
    except (RecursionError, YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold names with values, 'name: value'.")
    return content
