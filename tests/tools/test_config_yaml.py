"""The real config.yaml against the code that reads it."""

import ast
from collections.abc import Iterator

import pytest

import envs
from tools.config import Config, keys_of, load_config
from tools.errors import UserError
from tools.schema import CONFIG_FILE, RESERVED, read_schema


def test_numbers_have_ranges():
    free = {name for name, setting in read_schema().settings.items() if setting.kind in (int, float)}
    free -= {name for name, setting in read_schema().settings.items() if setting.range is not None}
    assert free == {"cost_limit"}


def test_no_setting_is_infinite():
    for name, setting in read_schema().settings.items():
        if setting.kind in (int, float):
            for text in ("inf", "-inf", "nan", "1e999", "1e300"):
                with pytest.raises(UserError, match=f"--{name} "):
                    load_config([f"--{name}={text}"])


def test_names_that_a_config_needs_itself_are_reserved():
    assert {name for name in dir(Config) if not name.startswith("_")} <= set(RESERVED)


def test_every_key_and_preset_of_the_real_file_is_explained():
    schema = read_schema()
    assert {"defaults", "metaworld", "dmc", "pointmass", "gym", "small", "debug"} <= set(schema.presets)
    for setting in schema.settings.values():
        assert len(setting.explanation) > 10 and setting.section, setting.name
    for preset in schema.presets.values():
        assert len(preset.description) > 10, preset.name
        assert preset.values, preset.name


def is_config(node: ast.expr) -> bool:
    """Whether an expression is named like a config: config, c, self.config, agent.config ..."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    # tf.config is TensorFlow's own.
    return name in ("config", "_config", "c") and ast.unparse(node) != "tf.config"


def config_reads() -> Iterator[tuple[str, str]]:
    """Each (name, place) that the programs read from something called a config."""
    root = CONFIG_FILE.parent
    files = [*root.glob("*.py"), *(file for file in root.glob("*/*.py") if file.parent.name != "tests")]
    for file in files:
        if file.name == "config.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            read = None
            if isinstance(node, ast.Attribute) and is_config(node.value):
                read = node.attr
            elif isinstance(node, ast.Subscript) and is_config(node.value):
                read = node.slice
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and is_config(node.args[0]):
                read = node.args[1]
            if isinstance(read, ast.Constant):
                read = read.value
            if isinstance(read, str):
                yield read, f"{file.relative_to(root)}:{node.lineno}"


def test_every_key_is_read_by_some_program():
    read = {name for name, _ in config_reads()}
    dead = [key for key in read_schema().settings if key not in read]
    assert not dead, f"config.yaml has keys that no code reads: {dead}"


def test_programs_read_only_keys_that_exist():
    keys = set(read_schema().settings)
    wrong = [
        f"{place} reads {name}" for name, place in config_reads() if name not in keys and not hasattr(Config, name)
    ]
    assert not wrong, wrong


def test_environments_read_the_keys_that_episodes_depend_on_and_no_others():
    read = {name for name, place in config_reads() if place.startswith("envs/") and not hasattr(Config, name)}
    assert read == {*envs.setting_keys(), "step_timeout"}  # how long is waited for them changes no episode


def test_the_model_is_made_of_keys_that_are_marked_as_its_weights():
    root, read = CONFIG_FILE.parent, set()
    for file in [*root.glob("*.py"), *root.glob("training/*.py"), *root.glob("world_model/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("WorldModel", "RewardTransform")):
                attributes = [inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]
                read |= {inner.attr for inner in attributes if is_config(inner.value)}
    # Heads and copies that exist or not, and what the value network, the policy and the pictures are made of.
    others = {"value_head", "value_layers", "value_units", "value_batch_norm", "state_probe", "image_bits"}
    others |= {"policy_layers", "policy_units", "augmented_objective"}
    assert len(read) > 15 and read | others == set(keys_of("weights"))
