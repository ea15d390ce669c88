"""Typed settings: what config.yaml says (schema.py), presets that stack, command-line overrides."""

import functools
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tools.errors import UserError, unknown
from tools.files import replaced
from tools.schema import CONFIG_FILE, Schema, Value, cast, check_setting, read_schema
from tools.yaml_files import make_yaml, read_yaml

# What runs did before a key existed, where that is not the key's default today.
BEFORE: Mapping[str, Value] = MappingProxyType({"starts": "near", "latco_finish": 0})

# Keys that have another name today. Commands and saved settings may still use the old one.
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "latco_eps_dyn": "eps_dyn",
        "latco_eps_act": "eps_act",
        "latco_eps_con": "eps_con",
        "latco_dual_lr": "dual_lr",
        "latco_eta": "dual_eta",
        "first_order_dual_every": "dual_every",
        "cem_iterations": "sampling_iterations",
        "cem_elites": "sampling_elites",
    }
)

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
            UserError: for an unknown key, or a value of another type than the present one.
        """
        values = self.as_dict()
        for key, value in changes.items():
            if key not in values:
                raise unknown("config key", key, values)
            values[key] = _like(key, value, values[key])
        return Config(values)

    def resolved(self) -> "Config":
        """Returns a config whose texts have each field in braces, ``{key}``, filled with the value of that key.

        Raises:
            UserError: for a field that is not a key, a field whose value has braces itself, or an unpaired brace.
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
        yaml = make_yaml()
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares it None
        with replaced(path) as file:
            yaml.dump(self.as_dict(), file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Config":
        """Reads settings that ``save`` wrote; they need not be those of today's ``config.yaml``.

        Raises:
            UserError: if the file is missing, is not YAML, or holds anything but ``key: value`` lines.
        """
        values = read_yaml(Path(path))
        for key, value in values.items():
            check_setting(str(path), key, value)
        return cls(values)


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
            has its value in ``BEFORE`` or its default, and one that no longer exists is dropped.

    Raises:
        UserError: for an unknown preset or key (naming the nearest), a value that is missing, of the wrong type or out
            of range, saved ones included, or a file that schema.py refuses.
    """
    schema = read_schema(path)
    if {"-h", "--help"} & set(argv):
        print(schema.help(shutil.get_terminal_size((100, 24)).columns))
        raise SystemExit(0)
    presets, overrides = _split_arguments(argv, schema)
    values = dict(schema.presets["defaults"].values)
    for key, value in _saved_values(saved, schema).items():
        values[key] = schema.settings[key].check(value, f"the saved {key}")
    for name in presets:
        if name not in schema.presets:
            raise unknown("preset", name, schema.presets)
        if name != "defaults":
            values.update(schema.presets[name].values)
    for key, text in overrides.items():
        values[key] = schema.settings[key].parse(text)
    return Config(values)


def keys_given(argv: Sequence[str]) -> set[str]:
    """The keys that a command line sets, by presets other than ``defaults`` or one by one.

    Raises:
        UserError: for an unknown preset or key, or a key without a value.
    """
    schema = read_schema()
    presets, overrides = _split_arguments(argv, schema)
    keys = set(overrides)
    for name in presets:
        if name not in schema.presets:
            raise unknown("preset", name, schema.presets)
        keys |= schema.presets[name].values.keys() if name != "defaults" else set()
    return keys


def _like(key: str, value: Value, present: Value) -> Value:
    """A value in the type of the present one, or another that config.yaml allows beside true and false."""
    if {type(value), type(present)} == {bool, str} and (setting := read_schema().settings.get(key)) and setting.words:
        return setting.check(value, key)
    return cast(key, value, type(present))


def check_ranges(config: Config) -> None:
    """Raises UserError unless all values are among those that config.yaml allows.

    `load_config` has checked them; this is for configs that were changed in a program.
    """
    settings = read_schema().settings
    for key in config.keys() & settings.keys():
        settings[key].check(config[key], key)


def keys_of(*dependents: str) -> tuple[str, ...]:
    """The keys on which something depends, as config.yaml marks them: see `schema.DEPENDENTS`."""
    return tuple(name for name, setting in read_schema().settings.items() if setting.dependent in dependents)


def _saved_values(saved: Mapping[str, Value] | None, schema: Schema) -> dict[str, Value]:
    """The saved values of today's keys, those with another name today included."""
    if saved is None:
        return {}
    old = [key for key in saved if _renamed(key, schema) != key]
    if old:
        _say("the saved settings have old names: " + ", ".join(f"{key} is now {RENAMED[key]}" for key in old))
    values = {_renamed(key, schema): value for key, value in {**BEFORE, **saved}.items()}
    return {key: value for key, value in values.items() if key in schema.settings}


def _renamed(key: str, schema: Schema) -> str:
    """The name that a key has today."""
    return RENAMED[key] if key not in schema.settings and RENAMED.get(key) in schema.settings else key


@functools.cache
def _say(line: str) -> None:
    """Prints a line on the standard error output, once."""
    print(f"note: {line}", file=sys.stderr)


def _split_arguments(argv: Sequence[str], schema: Schema) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into the names of presets and the texts of overridden keys."""
    presets: list[str] = []
    overrides: dict[str, str] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            raise UserError(f"{word!r} is out of place: write --key value, or --configs and the names of presets.")
        given_key, equals, text = word.removeprefix("--").partition("=")
        key = _renamed(given_key, schema)
        if key != given_key:
            _say(f"--{given_key} is now --{key}")
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
