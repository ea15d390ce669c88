"""What config.yaml says: every key with its type, explanation and allowed values, and the presets.

config.yaml maps preset names to keys. `defaults` comes first and holds every key on a line of its own, with the
explanation as a comment on that line; a comment line of its own opens a section. The other presets hold some of the
keys, and the comment above a preset describes it. The type of a default (bool, int, float or str) is the type of the
key, everywhere. At its end an explanation may have marks, in this order:

    [a | b]      the allowed values; [false | true | a] allows a word besides true and false
    [>= 1]       a range: also [> 0], [0 .. 1] and, without its upper end, [0 .. 1)
    [...]        a text of one or several names: several words on the command line, commas between them in the text
    {weights}    what depends on the key, one of `DEPENDENTS`
"""

import contextlib
import functools
import keyword
import math
import os
import re
import textwrap
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tools.errors import UserError, unknown
from tools.yaml_files import make_yaml, parse_yaml, read_text

CONFIG_FILE = Path(__file__).parent.parent / "config.yaml"

Value = bool | int | float | str

LARGEST_INT = 2**31 - 1  # of a number with a range: counts and seeds are int32 in places
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # beyond it, a float32 is infinite
SMALLEST_FLOAT = 2.0**-126  # below it, a float32 counts as 0

# What can depend on a key, and so may not mix keys of different values.
DEPENDENTS = {
    "transitions": "what a step does, shows and pays: a resumed run, an evaluation and offline episodes have the same",
    "episodes": "how episodes start and end: a resumed run and an evaluation have the same",
    "collection": "what else the collected episodes depend on: a resumed run has the same",
    "weights": "the variables and their targets: a resumed run and an evaluation have the same",
    "memory": "what else a checkpoint holds, for training alone: a resumed run has the same",
}

# Names that a Config needs itself.
RESERVED = ("configs", "help", "as_dict", "replace", "resolved", "save", "load", *dir(Mapping))

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NUMBER = r"[-+.\de]+"
_MARKS = {
    "choices": re.compile(r"\s*\[([^\[\]]*\|[^\[\]]*)\]$"),
    "limit": re.compile(rf"\s*\[(>=?) ({_NUMBER})\]$"),
    "interval": re.compile(rf"\s*\[({_NUMBER}) \.\. ({_NUMBER})([\])])$"),
    "several": re.compile(r"\s*\[\.\.\.\]$"),
    "dependent": re.compile(r"\s*\{(\w+)\}$"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without the end that is open."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"{self.low:g} .. {self.high:g}" + (")" if self.open_high else "")

    @property
    def words(self) -> str:
        """The range as the end of a sentence, "choose a number ..."."""
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open_low else f"from {self.low:g} on"
        return f"from {self.low:g} {'up to, not including,' if self.open_high else 'to'} {self.high:g}"


@dataclass(frozen=True)
class Setting:
    """One key of ``defaults``.

    Attributes:
        choices: the allowed values, none where all of the type are.
        range: that a number must be in, or None.
        several: whether the value is one or several names with commas between them.
        dependent: one of `DEPENDENTS`, or empty.
    """

    name: str
    default: Value
    section: str
    explanation: str
    choices: tuple[Value, ...]
    range: Range | None
    several: bool
    dependent: str

    @property
    def kind(self) -> type:
        """The type that every value of this key has."""
        return type(self.default)

    def parse(self, text: str) -> Value:
        """Returns the value that a text on the command line stands for. Raises UserError if it stands for none."""
        if self.words and text.lower() not in _BOOLS:
            return self.check(text, f"--{self.name}")
        return self.check(_parse(f"--{self.name}", text, self.kind), f"--{self.name}")

    def check(self, value: Value, label: str) -> Value:
        """Returns the value in the type of the key (an integral 1e6 becomes an int).

        Raises:
            UserError: if the value is of another type, out of range or not among the choices, or of several names one
                is empty or given twice; label says where it stands.
        """
        if self.words and isinstance(value, str):
            if value not in self.words:
                raise UserError(f"{label} must be one of {', '.join(map(_spelled, self.choices))}, not {value!r}.")
            return value
        value = cast(label, value, self.kind)
        if self.several:
            value = _join_names(label, str(value))
        if self.choices and value not in self.choices:
            raise unknown(f"{label} value", str(value), map(str, self.choices))
        if self.range is not None and self.kind is int and int(value) > LARGEST_INT:
            raise UserError(f"{label} is too large: choose a whole number up to {LARGEST_INT}.")
        if self.kind is float and abs(float(value)) > LARGEST_FLOAT:
            span = f"-{LARGEST_FLOAT:.2g} and {LARGEST_FLOAT:.2g}"
            raise UserError(f"{label} is too large: choose a number between {span}.")
        if self.range is not None and float(value) not in self.range:
            raise UserError(f"{label} is {value}: choose a number {self.range.words}.")
        if self.range is not None and self.range.open_low and 0.0 < float(value) < SMALLEST_FLOAT:
            raise UserError(f"{label} is too small: choose a number from {SMALLEST_FLOAT:.2g} on.")
        return value

    @property
    def words(self) -> tuple[str, ...]:
        """What a key that is true or false allows besides these."""
        return tuple(choice for choice in self.choices if isinstance(choice, str)) if self.kind is bool else ()

    @property
    def marks(self) -> str:
        """The allowed values, as they stand in config.yaml."""
        marks = f" [{' | '.join(map(_spelled, self.choices))}]" if self.choices else ""
        marks += "" if self.range is None else f" [{self.range}" + ("" if self.range.open_high else "]")
        return marks + (" [...]" if self.several else "")


@dataclass(frozen=True)
class Preset:
    """One preset of ``config.yaml``: some keys with the values it gives them, already of the right types."""

    name: str
    description: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Schema:
    """What ``config.yaml`` says: settings by name and presets by name, ``defaults`` among them."""

    settings: Mapping[str, Setting]
    presets: Mapping[str, Preset]

    def help(self, width: int = 100) -> str:
        """Returns the text of ``--help``: presets, then each key by section with explanation, type and default."""
        column = 2 + max(map(len, [*self.settings, *self.presets])) + 4

        def entry(name: str, text: str) -> str:
            wrapped = textwrap.wrap(text, max(width - column, 30), break_on_hyphens=False)
            return f"  {name}".ljust(column) + ("\n" + " " * column).join(wrapped)

        lines = [
            "python planning_agent.py [--configs PRESET ...] [--KEY VALUE ...]",
            "",
            "Presets, stacked left to right on defaults; single keys override them:",
            *(entry(preset.name, preset.description) for preset in self.presets.values()),
        ]
        section = None
        for setting in self.settings.values():
            if setting.section != section:
                section = setting.section
                lines += ["", f"{section or 'Settings'}:"]
            kind = f"({setting.kind.__name__}, default {setting.default!r})"
            if setting.dependent:
                kind += f"; {DEPENDENTS[setting.dependent].rpartition(': ')[2]}"
            lines.append(entry(f"--{setting.name}", f"{setting.explanation}{setting.marks} {kind}"))
        return "\n".join(lines)


def read_schema(path: str | os.PathLike[str] = CONFIG_FILE) -> Schema:
    """Reads the file with the presets, comments included, and checks every value in it.

    Raises:
        UserError: if the file is not as the head of this module says.
    """
    return _parse_schema(Path(path), read_text(Path(path)))


# Parsing takes a tenth of a second, and programs with several runs, such as a sweep, ask again and again.
@functools.lru_cache(maxsize=8)
def _parse_schema(path: Path, text: str) -> Schema:
    content = parse_yaml(path, text)
    if "defaults" not in content:
        raise UserError(f"{path} has no preset 'defaults', which holds every key.")
    for name, values in content.items():
        if not isinstance(name, str) or not isinstance(values, dict):
            raise UserError(f"{path}: preset {name!r} must be a name followed by indented 'key: value' lines.")
    for key, value in content["defaults"].items():
        check_setting(str(path), key, value)
    nodes = {key.value: (key, value) for key, value in make_yaml().compose(text).value}
    settings = _read_settings(path, text, content["defaults"], nodes["defaults"])
    presets = {}
    for name, values in content.items():
        for key in values:
            if key not in settings:
                raise unknown(f"key (preset {name} of {path})", key, settings)
        checked = {key: settings[key].check(value, f"{name}: {key}") for key, value in values.items()}
        presets[name] = Preset(name, _comment_above(text, nodes[name][0].start_mark.line), MappingProxyType(checked))
    return Schema(MappingProxyType(settings), MappingProxyType(presets))


def _read_settings(path: Path, text: str, defaults: dict[str, Value], nodes: tuple[Any, Any]) -> dict[str, Setting]:
    """Joins the defaults with the comments beside and between them, which safe loading drops."""
    lines = text.split("\n")
    settings = {}
    section = ""
    previous = nodes[0].start_mark.line
    for key, value in nodes[1].value:
        between = map(str.strip, lines[previous + 1 : key.start_mark.line])
        titles = [line.strip(" #") for line in between if line.startswith("#")]
        section = titles[0] if titles else section
        previous = value.end_mark.line
        comment = lines[previous][value.end_mark.column :].strip(" #")
        settings[key.value] = _read_setting(path, key.value, defaults[key.value], section, comment)
    return settings


def _read_setting(path: Path, name: str, default: Value, section: str, comment: str) -> Setting:
    """One key from the comment beside it, whose marks are taken off from the end."""
    kind, marks = type(default), {}
    for mark in reversed(_MARKS):
        if match := _MARKS[mark].search(comment):
            marks[mark], comment = match.groups(), comment[: match.start()]
    number = lambda text: float(_parse(f"{path}: the range of {name}", text, float))
    span = None
    if "limit" in marks:
        sign, low = marks["limit"]
        span = Range(number(low), open_low=sign == ">")
    elif "interval" in marks:
        low, high, end = marks["interval"]
        span = Range(number(low), number(high), open_high=end == ")")
    if span is not None and kind not in (int, float):
        raise UserError(f"{path}: {name} is {_KINDS[kind]} and cannot have a range.")
    (dependent,) = marks.get("dependent", ("",))
    if dependent and dependent not in DEPENDENTS:
        raise unknown(f"mark of {name} (in {path})", dependent, DEPENDENTS)
    choices = [choice.strip() for choice in marks["choices"][0].split("|")] if "choices" in marks else []
    return Setting(
        name=name,
        default=default,
        section=section,
        explanation=comment,
        choices=tuple(
            choice if kind is bool and choice not in _BOOLS else _parse(f"{path}: a choice of {name}", choice, kind)
            for choice in choices
        ),
        range=span,
        several="several" in marks and kind is str,
        dependent=dependent,
    )


def _comment_above(text: str, line: int) -> str:
    """Joins the comment lines that end right above a line."""
    comments: deque[str] = deque()
    for above in reversed(text.split("\n")[:line]):
        if not above.startswith("#"):
            break
        comments.appendleft(above.strip(" #"))
    return " ".join(comments)


def _spelled(value: Value) -> str:
    """A value as it stands in config.yaml."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(label: str, text: str, kind: type) -> Value:
    """Reads a text as a value of a kind; 1e6 is a whole number. Raises UserError, in which label says where."""
    try:
        if kind is bool:
            return _BOOLS[text.lower()]
        if kind is int and text.strip().lstrip("+-").isdigit():
            return int(text)
        return cast(label, text if kind is str else float(text), kind)
    except (KeyError, ValueError):
        raise UserError(f"{label} must be {_KINDS[kind]}, not {text!r}.") from None


def cast(label: str, value: Value, kind: type) -> Value:
    """Returns a value as its kind where nothing is lost by that: ints as floats, integral floats as ints.

    NaN and infinity are no numbers here. Raises UserError, in which label says where.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and kind in (int, float):
        # Infinity has no int (OverflowError), NaN neither (ValueError), and some ints are too large for a float.
        with contextlib.suppress(OverflowError, ValueError):
            if kind(value) == value and abs(value) != math.inf:
                return kind(value)
    elif type(value) is kind:
        return value
    wanted = "text (in quotes if need be)" if kind is str else _KINDS[kind]
    wanted = "a finite number" if is_number and kind is float else wanted
    raise UserError(f"{label} must be {wanted}, not {value!r}.")


def _join_names(label: str, text: str) -> str:
    """Returns names that stand between commas or spaces with one comma between them. Raises UserError."""
    names = re.split(r"\s*,\s*|\s+", text.strip())
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"{label} must be one or several different names with commas between them, not {text!r}.")
    return ",".join(names)


def check_setting(path: str, key: Any, value: Any) -> None:
    """Raises UserError unless a key can be an attribute of a Config and its value is of one of the four types."""
    usable = isinstance(key, str) and key.isidentifier() and not key.startswith("_") and not keyword.iskeyword(key)
    if not usable or key in RESERVED:
        raise UserError(f"{path}: {key!r} cannot be the name of a key, choose another word.")
    if type(value) not in _KINDS:
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{path}: {key} must have a value that is a bool, an int, a float or a str, not {found}.")
    cast(f"{path}: {key}", value, type(value))
