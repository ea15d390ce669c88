"""Typed settings: ``config.yaml``, presets that stack, command-line overrides.

``config.yaml`` maps preset names to keys. ``defaults`` comes first and holds every key on a line of its own, with the
explanation as a comment on that line; a comment line of its own opens a section. An explanation that ends in
``[a | b]`` lists the allowed values. One that ends in ``[...]`` marks a text of one or several names: several words on
the command line, with commas between them in the text. The other presets hold some of the keys, and the comment above a
preset describes it. The type of a default (bool, int, float or str) is the type of the key, everywhere.
"""

import contextlib
import functools
import keyword
import os
import re
import shutil
import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.errors import UserError, unknown
from tools.files import replaced

CONFIG_FILE = Path(__file__).parent.parent / "config.yaml"

Value = bool | int | float | str

# What runs did before a key existed, where that is not the key's default today.
BEFORE: Mapping[str, Value] = MappingProxyType({"starts": "near", "latco_finish": 0})

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CHOICES = re.compile(r"\s*\[([^\[\]]*\|[^\[\]]*)\]$")
_SEVERAL = re.compile(r"\s*\[\.\.\.\]$")
_FIELD = re.compile(r"\{([^{}]*)\}")


class Config(Mapping[str, Value]):
    """Immutable settings: ``config.steps`` and ``config["steps"]`` are the same value.

    Compares equal to any mapping with the same items.
    """

    __slots__ = ("_values",)
    _values: Mapping[str, Value]

    def __init__(self, values: Mapping[str, Value]) -> None:
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __getattr__(self, key: str) -> Any:
        # Any, not Value: the type of each key is known to config.yaml only.
        if key in self._values:
            return self._values[key]
        raise AttributeError(str(unknown("config key", key, self._values)))

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"the config cannot change: use config.replace({key}=...) to make another one.")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"the config cannot change: {key!r} stays.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"Config({dict(self._values)!r})"

    def __reduce__(self) -> tuple[type["Config"], tuple[dict[str, Value]]]:
        # Environments in other processes take the config along.
        return Config, (self.as_dict(),)

    def as_dict(self) -> dict[str, Value]:
        """Returns the settings as a new plain dict, in the order of ``defaults``."""
        return dict(self._values)

    def replace(self, **changes: Value) -> "Config":
        """Returns a config with some values changed.

        Raises:
          UserError: for an unknown key, or a value that is not of the type of the present one.
        """
        values = self.as_dict()
        for key, value in changes.items():
            if key not in values:
                raise unknown("config key", key, values)
            values[key] = _cast(key, value, type(values[key]))
        return Config(values)

    def resolved(self) -> "Config":
        """Returns a config whose texts have each field in braces, ``{key}``, filled with the value of that key.

        Raises:
          UserError: for a field that is no key, a field whose own value has braces, or a brace without its partner.
        """
        texts = {key: value for key, value in self._values.items() if isinstance(value, str)}
        return self.replace(**{key: self._fill(key, text) for key, text in texts.items()})

    def _fill(self, key: str, text: str) -> str:
        def field_value(match: re.Match[str]) -> str:
            if match[1] not in self._values:
                raise unknown(f"{key} field", match[1], self._values)
            return str(self._values[match[1]])

        filled = _FIELD.sub(field_value, text)
        if "{" in filled or "}" in filled:
            raise UserError(
                f"cannot fill in {key} {text!r}: braces must pair and hold a key without braces of its own."
            )
        return filled

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the settings as YAML, making the folder if need be; a reader sees the old file or the new one.

        Raises:
          OSError: if the file cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yaml = _yaml()
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares it None
        with replaced(path) as file:
            yaml.dump(self.as_dict(), file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Config":
        """Reads settings that ``save`` wrote; they need not be those of today's ``config.yaml``.

        Raises:
          UserError: if the file is missing, is no YAML or holds anything but ``key: value`` lines.
        """
        values = read_yaml(Path(path))
        for key, value in values.items():
            _check_setting(str(path), key, value)
        return cls(values)


@dataclass(frozen=True)
class Setting:
    """One key of ``defaults``.

    ``choices`` lists the allowed values and is empty where all of the type are; ``several`` says that the value is one
    or several names with commas between them.
    """

    name: str
    default: Value
    section: str
    explanation: str
    choices: tuple[Value, ...]
    several: bool

    @property
    def kind(self) -> type:
        """The type that every value of this key has."""
        return type(self.default)

    def parse(self, text: str) -> Value:
        """Returns the value that a text on the command line stands for. Raises UserError if it stands for none."""
        return self.check(_parse(f"--{self.name}", text, self.kind), f"--{self.name}")

    def check(self, value: Value, label: str) -> Value:
        """Returns the value in the type of the key (an integral 1e6 becomes an int).

        Raises:
          UserError: if the value is of another type or not among the choices, or of several names one is empty or
            given twice; label says where it stands.
        """
        value = _cast(label, value, self.kind)
        if self.several:
            value = _join_names(label, str(value))
        if self.choices and value not in self.choices:
            raise unknown(f"{label} value", str(value), map(str, self.choices))
        return value


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
            choices = f" [{' | '.join(map(str, setting.choices))}]" if setting.choices else ""
            choices += " [...]" if setting.several else ""
            kind = f"({setting.kind.__name__}, default {setting.default!r})"
            lines.append(entry(f"--{setting.name}", f"{setting.explanation}{choices} {kind}"))
        return "\n".join(lines)


def load_config(
    argv: Sequence[str], path: str | os.PathLike[str] = CONFIG_FILE, saved: Mapping[str, Value] | None = None
) -> Config:
    """Returns the settings that a command line asks for.

    ``--configs a b`` stacks presets left to right on ``defaults``, which is the base whether it is named or not; then
    ``--key value`` or ``--key=value`` override single keys, the last one if a key is given twice. A key of several
    names takes several words. ``--help`` prints every preset and key and ends the program.

    Args:
      argv: the words after the name of the program.
      path: the file with the presets.
      saved: the settings of an earlier run, which come between ``defaults`` and the command line. A key that it lacks
        has its value in ``BEFORE`` or its default, and one that the file with the presets has no longer is dropped,
        as no code reads it.

    Raises:
      UserError: for an unknown preset or key (naming the nearest), a value that is missing or of the wrong type, saved
        ones included, or a file that is not as the head of this module says.
    """
    schema = read_schema(path)
    if {"-h", "--help"} & set(argv):
        print(schema.help(shutil.get_terminal_size((100, 24)).columns))
        raise SystemExit(0)
    presets, overrides = _split_arguments(argv, schema)
    values = dict(schema.presets["defaults"].values)
    for key, value in ({} if saved is None else {**BEFORE, **saved}).items():
        if key in schema.settings:
            values[key] = schema.settings[key].check(value, f"the saved {key}")
    for name in presets:
        if name not in schema.presets:
            raise unknown("preset", name, schema.presets)
        if name != "defaults":
            values.update(schema.presets[name].values)
    for key, text in overrides.items():
        values[key] = schema.settings[key].parse(text)
    return Config(values)


def read_schema(path: str | os.PathLike[str] = CONFIG_FILE) -> Schema:
    """Reads the file with the presets, comments included, and checks every value in it.

    Raises:
      UserError: if the file is not as the head of this module says.
    """
    return _parse_schema(Path(path), _read_text(Path(path)))


# Parsing takes a tenth of a second, and programs with several runs, such as a sweep, ask again and again.
@functools.lru_cache(maxsize=8)
def _parse_schema(path: Path, text: str) -> Schema:
    content = _parse_yaml(path, text)
    if "defaults" not in content:
        raise UserError(f"{path} has no preset 'defaults', which holds every key.")
    for name, values in content.items():
        if not isinstance(name, str) or not isinstance(values, dict):
            raise UserError(f"{path}: preset {name!r} must be a name followed by indented 'key: value' lines.")
    for key, value in content["defaults"].items():
        _check_setting(str(path), key, value)
    nodes = {key.value: (key, value) for key, value in _yaml().compose(text).value}
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
        kind = type(defaults[key.value])
        listed = _CHOICES.search(comment)
        choices = [choice.strip() for choice in listed[1].split("|")] if listed else []
        settings[key.value] = Setting(
            name=key.value,
            default=defaults[key.value],
            section=section,
            explanation=_SEVERAL.sub("", _CHOICES.sub("", comment)),
            choices=tuple(_parse(f"{path}: a choice of {key.value}", choice, kind) for choice in choices),
            several=bool(_SEVERAL.search(comment)) and kind is str,
        )
    return settings


def _comment_above(text: str, line: int) -> str:
    """Joins the comment lines that end right above a line."""
    comments: deque[str] = deque()
    for above in reversed(text.split("\n")[:line]):
        if not above.startswith("#"):
            break
        comments.appendleft(above.strip(" #"))
    return " ".join(comments)


def _split_arguments(argv: Sequence[str], schema: Schema) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into the names of presets and the texts of overridden keys."""
    presets: list[str] = []
    overrides: dict[str, str] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            raise UserError(f"{word!r} is out of place: write --key value, or --configs and the names of presets.")
        key, equals, text = word.removeprefix("--").partition("=")
        if key != "configs" and key not in schema.settings:
            raise unknown("key", f"--{key}", [f"--{name}" for name in schema.settings])
        several = key == "configs" or schema.settings[key].several
        given = [text] if equals else []
        while words and not words[0].startswith("--") and (several or not given):
            given.append(words.popleft())
        if not given:
            raise UserError(f"--{key} needs a value: write --{key} VALUE.")
        if key == "configs":
            presets += given
        else:
            overrides[key] = " ".join(given)
    return presets, overrides


def _parse(label: str, text: str, kind: type) -> Value:
    """Reads a text as a value of a kind; 1e6 is a whole number. Raises UserError, in which label says where."""
    try:
        if kind is bool:
            return _BOOLS[text.lower()]
        if kind is int and text.strip().lstrip("+-").isdigit():
            return int(text)
        return _cast(label, text if kind is str else float(text), kind)
    except (KeyError, ValueError):
        raise UserError(f"{label} must be {_KINDS[kind]}, not {text!r}.") from None


def _cast(label: str, value: Value, kind: type) -> Value:
    """Returns a value as its kind where nothing is lost by that: ints as floats, integral floats as ints.

    NaN is no number here, and infinity is one for floats only. Raises UserError, in which label says where.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if type(value) is kind and value == value:
        return value
    if is_number and kind in (int, float):
        # Infinity has no int (OverflowError), NaN neither (ValueError), and some ints are too large for a float.
        with contextlib.suppress(OverflowError, ValueError):
            if kind(value) == value:
                return kind(value)
    wanted = "text (in quotes if need be)" if kind is str else _KINDS[kind]
    raise UserError(f"{label} must be {wanted}, not {value!r}.")


def _join_names(label: str, text: str) -> str:
    """Returns names that stand between commas or spaces with one comma between them. Raises UserError."""
    names = re.split(r"\s*,\s*|\s+", text.strip())
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"{label} must be one or several different names with commas between them, not {text!r}.")
    return ",".join(names)


def _check_setting(path: str, key: Any, value: Any) -> None:
    """Raises UserError unless a key can be an attribute of a Config and its value is of one of the four types."""
    usable = isinstance(key, str) and key.isidentifier() and not key.startswith("_") and not keyword.iskeyword(key)
    if not usable or key in ("configs", "help") or hasattr(Config, key):
        raise UserError(f"{path}: {key!r} cannot be the name of a key, choose another word.")
    if type(value) not in _KINDS:
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{path}: {key} must have a value that is a bool, an int, a float or a str, not {found}.")
    _cast(f"{path}: {key}", value, type(value))


def _yaml() -> YAML:
    # pure: the C parser reads YAML 1.1, in which 1e-3 is a text and "no" is false.
    return YAML(typ="safe", pure=True)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Returns the content of a YAML file (1.2, read safely), a mapping. Raises UserError."""
    return _parse_yaml(path, _read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}.") from None


def _parse_yaml(path: Path, text: str) -> dict[Any, Any]:
    try:
        content = _yaml().load(text)
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold names with values, 'name: value'.")
    return content
