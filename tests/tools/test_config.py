import ast
import copy
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import envs
from tools import config as config_module
from tools.config import RENAMED, Config, check_ranges, keys_of, load_config
from tools.errors import UserError, unknown
from tools.schema import CONFIG_FILE, RESERVED, read_schema

SMALL_FILE = """\
# What every run starts from.
defaults:

  # Numbers
  steps: 100        # how far to go
  rate: 1e-3        # how fast
  flag: false       # whether at all

  # Texts
  name: 'a # b'     # what it is called
  mode: slow        # how it is done [slow | fast | 10]
  path: runs/{name}/{steps}  # where it goes

# Fast runs,
# short ones.
quick:
  steps: 1e1
  mode: fast

long:
  steps: 1000
  rate: 1
"""


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_FILE)
    return path


def load(argv: str, path: Path = CONFIG_FILE) -> Config:
    """The settings that a command line asks for."""
    return load_config(argv.split(), path)


def refusal(argv: str, path: Path = CONFIG_FILE) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(UserError) as caught:
        load(argv, path)
    return str(caught.value)


def refused_file(tmp_path: Path, text: str) -> str:
    """The sentence with which a file is refused."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    return refusal("", path)


def test_presets_stack_left_to_right_on_defaults_and_single_keys_win(small_file: Path):
    defaults = {
        "steps": 100,
        "rate": 0.001,
        "flag": False,
        "name": "a # b",
        "mode": "slow",
        "path": "runs/{name}/{steps}",
    }
    quick = {"steps": 10, "mode": "fast"}
    assert load("", small_file) == defaults
    assert load("--configs quick", small_file) == defaults | quick
    assert load("--configs quick long defaults", small_file) == defaults | quick | {"steps": 1000, "rate": 1.0}
    assert load("--configs long --rate -2 --configs quick", small_file) == defaults | quick | {"rate": -2.0}
    single = load("--steps 7 --configs quick --name= --mode=10 --steps=8", small_file)
    assert single == defaults | {"steps": 8, "mode": "10", "name": ""}


def test_the_command_of_the_readme_gives_the_papers_values():
    config = load("--configs defaults metaworld small --planner cem --planning_horizon 50 --logdir x")
    assert (config.planner, config.planning_horizon, config.logdir) == ("cem", 50, "x")
    assert (config.task, config.render_quality) == ("metaworld_reach", "fast")
    assert (config.free_nats, config.min_std, config.grad_clip) == (3.0, 0.1, 1000.0)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1e6", 1000000),
        ("steps", "-3", -3),
        ("steps", "1_000", 1000),
        ("steps", "90071992547409931", 90071992547409931),
        ("rate", "3", 3.0),
        ("rate", "1e-4", 1e-4),
        ("rate", "inf", math.inf),
        ("flag", "TRUE", True),
        ("flag", "yes", True),
        ("flag", "1", True),
        ("flag", "False", False),
        ("flag", "No", False),
        ("flag", "0", False),
        ("name", "12", "12"),
        ("name", "a=b", "a=b"),
        ("mode", "10", "10"),
    ],
)
def test_texts_become_values_of_the_type_of_the_default(small_file: Path, key: str, text: str, value: object):
    for argv in (["--" + key, text], [f"--{key}={text}"]):
        given = load_config(argv, small_file)[key]
        assert given == value and type(given) is type(value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--steps 1.5", ["--steps", "whole number", "1.5"]),
        ("--steps inf", ["--steps", "whole number"]),
        ("--steps nan", ["--steps", "whole number"]),
        ("--steps ²", ["--steps", "whole number"]),
        ("--steps= ", ["--steps", "whole number"]),
        ("--rate fast", ["--rate", "a number", "fast"]),
        ("--rate nan", ["--rate", "a number"]),
        ("--flag 2", ["--flag", "true or false", "2"]),
        ("--mode fats", ["--mode", "'fats'", "'fast'"]),
        ("--stesp 3", ["'--stesp'", "'--steps'"]),
        ("--STEPS 3", ["'--STEPS'", "'--steps'"]),
        ("--bogus", ["'--bogus'"]),
        ("--configs defaults qiuck", ["preset", "'qiuck'", "'quick'"]),
        ("--steps", ["--steps needs a value"]),
        ("--steps --flag true", ["--steps needs a value"]),
        ("--configs", ["--configs needs a value"]),
        ("--configs --steps 3", ["--configs needs a value"]),
        ("quick", ["'quick' is out of place"]),
        ("--steps 3 4", ["'4' is out of place"]),
        ("-steps 3", ["'-steps' is out of place"]),
    ],
)
def test_a_bad_command_line_is_refused_by_one_sentence(small_file: Path, argv: str, words: list[str]):
    sentence = refusal(argv, small_file)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL_FILE.replace("rate: 1\n", "rate: fast\n"), ["long: rate", "a number", "'fast'"]),
        (SMALL_FILE.replace("steps: 1000", "steps: true"), ["long: steps", "whole number", "True"]),
        (SMALL_FILE.replace("steps: 1000", "steps: 0.5"), ["long: steps", "whole number", "0.5"]),
        (SMALL_FILE.replace("mode: fast", "mode: 10"), ["quick: mode", "quotes", "10"]),
        (SMALL_FILE.replace("mode: fast", "mode: fats"), ["quick: mode", "'fats'", "'fast'"]),
        (SMALL_FILE.replace("mode: slow", "mode: slwo"), ["defaults: mode", "'slwo'", "'slow'"]),
        (SMALL_FILE.replace("rate: 1\n", "rtae: 1\n"), ["preset long", "'rtae'", "'rate'"]),
        (SMALL_FILE.replace("  mode: fast", "  mode: fast\n  steps: 3"), ["not valid YAML", "line 19", "steps"]),
        (SMALL_FILE.replace("long:", "quick:"), ["not valid YAML", "line 20", "quick"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: .nan"), ["rate", "nan"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: "), ["rate", "nothing"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: [1]"), ["rate", "list"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: 2020-99-99"), ["not valid YAML"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: !!python/name:os.system"), ["not valid YAML"]),
        (SMALL_FILE.replace("rate:", "keys:"), ["'keys' cannot be the name of a key"]),
        (SMALL_FILE.replace("rate:", "lambda:"), ["'lambda' cannot be the name of a key"]),
        (SMALL_FILE.replace("rate:", "7:"), ["7 cannot be the name of a key"]),
        (SMALL_FILE.replace("defaults:", "default:"), ["no preset 'defaults'"]),
        (SMALL_FILE + "empty:\n", ["preset 'empty'"]),
        (SMALL_FILE + "list: [1\n", ["not valid YAML", "line"]),
        ("- a\n- b\n", ["names with values"]),
        ("", ["names with values"]),
    ],
)
def test_a_bad_file_is_refused_by_one_sentence(tmp_path: Path, text: str, words: list[str]):
    sentence = refused_file(tmp_path, text)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    assert "cannot read" in refusal("", tmp_path / "none.yaml")
    assert "cannot read" in refusal("", tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refusal("", tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="cannot read"):
        Config.load(tmp_path / "none.yaml")


def test_damaged_files_and_commands_raise_nothing_but_user_errors(small_file: Path):
    rng = random.Random(0)
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(200):
        text = list(SMALL_FILE)
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.choice(
                ["", "\n", ":", "#", "'", "[", "]", "{", "&", "*", "-", "\t", "é"]
            )
        small_file.write_text("".join(text))
        words = ["--configs", "quick", "long", "--steps", "--mode", "--", "--=", "=", "1e400", "-1", "", "nan", "fast"]
        try:
            load_config(rng.choices(words, k=rng.randint(0, 4)), small_file)
            outcomes["loaded"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, "the damage is too weak or too strong to show anything"


def test_unknown_names_the_nearest_whatever_its_case():
    assert "'latco'" in str(unknown("planner", "LATKO", ["cem", "latco"]))
    assert "'cem'" in str(unknown("planner", "zzz", ["cem"]))
    assert "there is none" in str(unknown("planner", "cem", []))


def test_config_is_an_immutable_mapping_with_attributes():
    config = Config({"steps": 3, "name": "a"})
    assert config.steps == config["steps"] == 3
    assert list(config) == ["steps", "name"] and len(config) == 2 and "name" in config
    assert config == Config({"name": "a", "steps": 3}) and config != Config({"steps": 3})
    with pytest.raises(AttributeError, match="replace"):
        config.steps = 4
    with pytest.raises(AttributeError):
        del config.steps
    with pytest.raises(TypeError):
        config["steps"] = 4
    with pytest.raises(AttributeError, match="'steps'"):
        _ = config.stpes
    copied = config.as_dict()
    copied["steps"] = 4
    assert config.steps == 3
    assert copy.deepcopy(config) == config


def test_replace_checks_keys_and_types():
    config = Config({"steps": 3, "rate": 0.5, "flag": True, "name": "a"})
    changed = config.replace(steps=4.0, rate=2, flag=False, name="b")
    assert changed == {"steps": 4, "rate": 2.0, "flag": False, "name": "b"}
    assert [type(value) for value in changed.values()] == [int, float, bool, str]
    assert config.steps == 3
    for bad in ({"steps": 1.5}, {"steps": True}, {"rate": "1"}, {"flag": 1}, {"name": 1}, {"rate": 10**400}, {"x": 1}):
        with pytest.raises(UserError):
            config.replace(**bad)


def test_save_and_load_round_trip_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = {"b": 1e-5, "a": 10**20, "c": True, "d": "no", "e": "", "f": "é: #'", "g": math.inf, "h": "1e3", "i": 3.0}
    path = tmp_path / "new" / "config.yaml"
    Config(values).save(path)
    loaded = Config.load(path)
    assert loaded.as_dict() == values and list(loaded) == list(values)
    assert [type(value) for value in loaded.values()] == [type(value) for value in values.values()]

    def fail(source: Path, target: Path) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        Config({"b": 2.0}).save(path)
    assert Config.load(path) == values, "a failed save must leave the old file"
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]


def test_every_preset_survives_save_and_load(tmp_path: Path):
    for name in read_schema().presets:
        config = load(f"--configs {name}")
        config.save(tmp_path / "config.yaml")
        assert Config.load(tmp_path / "config.yaml") == config


def test_load_refuses_what_save_does_not_write(tmp_path: Path):
    with pytest.raises(UserError, match="dict"):
        Config.load(CONFIG_FILE)


def test_saved_settings_come_between_defaults_and_the_command_line(small_file: Path):
    saved = Config({"steps": 7, "rate": 2, "mode": "fast", "forgotten": 3})
    defaults = load("", small_file)
    expected = defaults.as_dict() | {"steps": 7, "rate": 2.0, "mode": "fast"}
    assert load_config([], small_file, saved) == expected
    assert load_config(["--configs", "long", "--mode", "10"], small_file, saved) == expected | {
        "steps": 1000,
        "rate": 1.0,
        "mode": "10",
    }
    for wrong in ({"steps": "seven"}, {"steps": 1.5}, {"mode": "fats"}):
        with pytest.raises(UserError, match="the saved (steps|mode)"):
            load_config([], small_file, wrong)


def test_a_saved_run_from_before_a_key_existed_does_what_it_did_then(tmp_path: Path):
    assert load("").starts == "paper"
    assert load_config([], saved=Config({"steps": 7})).starts == "near"
    assert load_config([], saved=Config({"starts": "paper"})).starts == "paper"
    assert load("").latco_finish > 0
    assert load_config([], saved=Config({"steps": 7})).latco_finish == 0
    assert load_config([], saved=Config({"latco_finish": 3})).latco_finish == 3
    assert load_config(["--latco_finish", "4"], saved=Config({"steps": 7})).latco_finish == 4


SEVERAL = SMALL_FILE.replace("what it is called", "what they are called [...]").replace("'a # b'", "ann")


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ("", "ann"),
        ("--name bob", "bob"),
        ("--name bob,cy", "bob,cy"),
        ("--name bob cy --steps 3", "bob,cy"),
        ("--name bob, cy ,dee", "bob,cy,dee"),
        ("--name=bob,cy dee", "bob,cy,dee"),
        ("--name bob cy --name dee", "dee"),
        ("--configs pair", "eve,fay"),
    ],
)
def test_keys_marked_so_take_several_names_and_hold_one_text(small_file: Path, argv: str, names: str):
    small_file.write_text(SEVERAL + "\npair:\n  name: eve , fay\n")
    assert load(argv, small_file).name == names
    setting = read_schema(small_file).settings["name"]
    assert (setting.several, setting.explanation) == (True, "what they are called")
    assert not read_schema(small_file).settings["mode"].several
    assert "what they are called [...] (str" in re.sub(r"\s+", " ", read_schema(small_file).help())


@pytest.mark.parametrize("argv", ["--name bob bob", "--name bob,,cy", "--name bob,", "--name=", "--name bob cy,bob"])
def test_empty_and_repeated_names_are_refused(small_file: Path, argv: str):
    small_file.write_text(SEVERAL)
    sentence = refusal(argv, small_file)
    assert "--name must be one or several different names with commas between them" in sentence and "\n" not in sentence
    small_file.write_text(SEVERAL + "\npair:\n  name: bob,bob\n")
    assert "pair: name" in refusal("", small_file)


def test_several_tasks_leave_the_log_directory_one_folder_a_level():
    config = load(
        "--configs dmc planet planet_all --planner cem --task dmc_cartpole_swingup dmc_reacher_easy"
    ).resolved()
    assert config.task == "dmc_cartpole_swingup,dmc_reacher_easy"
    assert config.logdir == "logdir/dmc_cartpole_swingup,dmc_reacher_easy/cem/0"
    paper = load("--configs dmc planet planet_all")
    assert len(paper.task.split(",")) == 6 and max(map(len, paper.resolved().logdir.split("/"))) < 255
    # C = 100 updates after a round of six episodes of 1000 environment steps, S = 5 seed episodes of each (PlaNet).
    assert (paper.train_every, paper.train_steps, paper.prefill) == (6000, 100, 5 * 6000)


def test_fields_in_braces_are_filled_from_the_config(small_file: Path):
    config = load("--name x", small_file)
    assert config.resolved() == config.replace(path="runs/x/100")
    assert config.resolved().resolved() == config.resolved()
    real = load("--configs metaworld --planner cem --seed 3")
    assert real.resolved().logdir == "logdir/metaworld_reach/cem/3"
    for text, words in [
        ("{stpes}", "'steps'"),
        ("{steps", "pair"),
        ("steps}", "pair"),
        ("{path}", "pair"),
        ("{}", "path"),
    ]:
        with pytest.raises(UserError, match=words):
            config.replace(path=text).resolved()


def test_help_prints_every_key_with_explanation_default_and_type(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        load("--configs small --help")
    assert not ended.value.code
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    schema = read_schema()
    for setting in schema.settings.values():
        assert f" --{setting.name} {setting.explanation}" in text
        assert f"({setting.kind.__name__}, default {setting.default!r})" in text
        assert f"{setting.section}: --" in text
    for preset in schema.presets.values():
        assert f" {preset.name} {preset.description}" in text
    assert "[auto | condensed | block_tridiagonal]" in text


def test_comments_become_sections_explanations_choices_and_descriptions(small_file: Path):
    schema = read_schema(small_file)
    settings = schema.settings
    assert [setting.section for setting in settings.values()] == ["Numbers"] * 3 + ["Texts"] * 3
    assert settings["name"].explanation == "what it is called"
    assert (settings["mode"].explanation, settings["mode"].choices) == ("how it is done", ("slow", "fast", "10"))
    assert settings["steps"].choices == ()
    descriptions = {name: preset.description for name, preset in schema.presets.items()}
    assert descriptions == {"defaults": "What every run starts from.", "quick": "Fast runs, short ones.", "long": ""}


RANGES = """\
defaults:
  count: 1        # how many [>= 1]
  rate: 0.5       # how fast [> 0]
  share: 0.5      # how much of it [0 .. 1]
  part: 0.5       # how much of that [0 .. 1) {weights}
  mode: slow      # how it is done [slow | fast] {episodes}
"""


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--count 0", "--count is 0: choose a number from 1 on."),
        ("--rate 0", "--rate is 0.0: choose a number above 0."),
        ("--rate -1e9", "--rate is -1000000000.0: choose a number above 0."),
        ("--share 1.01", "--share is 1.01: choose a number from 0 to 1."),
        ("--share -0.01", "--share is -0.01: choose a number from 0 to 1."),
        ("--part 1", "--part is 1.0: choose a number from 0 up to, not including, 1."),
    ],
)
def test_numbers_out_of_range_are_refused_by_one_sentence(small_file: Path, argv: str, sentence: str):
    small_file.write_text(RANGES)
    assert refusal(argv, small_file) == sentence


def test_numbers_within_range_are_taken(small_file: Path):
    small_file.write_text(RANGES)
    config = load("--count 7 --rate 1e-9 --share 1 --part 0.999", small_file)
    assert config == {"count": 7, "rate": 1e-9, "share": 1.0, "part": 0.999, "mode": "slow"}
    assert load("--share 0 --part 0", small_file).share == 0.0
    with pytest.raises(UserError, match="the saved count is 0"):
        load_config([], small_file, {"count": 0})


def test_presets_must_be_in_range_too(small_file: Path):
    small_file.write_text(RANGES + "\nnone:\n  count: 0\n")
    assert refusal("", small_file) == "none: count is 0: choose a number from 1 on."


def test_marks_are_no_part_of_the_explanation_and_help_shows_them(small_file: Path):
    small_file.write_text(RANGES)
    schema = read_schema(small_file)
    settings = schema.settings
    assert [settings[key].explanation for key in ("part", "mode")] == ["how much of that", "how it is done"]
    assert [setting.dependent for setting in settings.values()] == ["", "", "", "weights", "episodes"]
    text = re.sub(r"\s+", " ", schema.help())
    assert "how fast [> 0] (float, default 0.5) --share how much of it [0 .. 1] (" in text
    assert "how much of that [0 .. 1) (float, default 0.5); a resumed run has the same" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mode: slow  # how [>= 1]", "mode is text and cannot have a range"),
        ("rate: 1.0  # how {weight}", "did you mean 'weights'"),
        ("rate: 1.0  # how [>= 1e]", "the range of rate must be a number"),
        ("rate: 2.0  # how [0 .. 1]", "defaults: rate is 2.0"),
    ],
)
def test_marks_that_make_no_sense_are_refused(small_file: Path, line: str, words: str):
    small_file.write_text(f"defaults:\n  {line}\n")
    assert words in refusal("", small_file)


def test_programs_can_check_what_they_changed():
    check_ranges(load(""))
    with pytest.raises(UserError, match="kl_balance is 2.0: choose a number from 0 to 1"):
        check_ranges(load("").replace(kl_balance=2.0))


def test_numbers_have_ranges():
    free = {name for name, setting in read_schema().settings.items() if setting.kind in (int, float)}
    free -= {name for name, setting in read_schema().settings.items() if setting.range is not None}
    assert free == {"cost_limit"}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_names_are_understood_and_say_so(old: str, new: str, capsys: pytest.CaptureFixture):
    config_module._say.cache_clear()
    settings = read_schema().settings
    assert old not in settings
    value = settings[new].default + 1
    assert load(f"--{old} {value} --{old}={value}")[new] == value
    assert capsys.readouterr().err == f"note: --{old} is now --{new}\n"
    assert load_config([], saved={old: value})[new] == value
    assert capsys.readouterr().err == f"note: the saved settings have old names: {old} is now {new}\n"
    assert load_config([], saved={new: value})[new] == value and not capsys.readouterr().err


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
    """Whether an expression is called a config: config, c, self.config, agent.config ..."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    # tf.config is TensorFlow's own.
    return name in ("config", "_config", "c") and ast.unparse(node) != "tf.config"


def config_reads() -> Iterator[tuple[str, str]]:
    """Each (name, place) that the programs read from something called a config."""
    root = CONFIG_FILE.parent
    folders = ["analysis", "benchmarks", "envs", "episodes", "planners", "sweeps", "tools", "training", "world_model"]
    files = [*root.glob("*.py"), *(file for folder in folders for file in root.glob(f"{folder}/**/*.py"))]
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
    assert read == set(envs.setting_keys())


def test_the_model_is_made_of_keys_that_are_marked_as_its_weights():
    root, read = CONFIG_FILE.parent, set()
    for file in [*root.glob("*.py"), *root.glob("training/*.py"), *root.glob("world_model/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("WorldModel", "RewardTransform")):
                attributes = [inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]
                read |= {inner.attr for inner in attributes if is_config(inner.value)}
    # Heads that exist or not, and what the value network and the pictures are made of.
    others = {"value_head", "value_layers", "value_units", "value_batch_norm", "state_probe", "image_bits"}
    assert len(read) > 15 and read | others == set(keys_of("weights"))


def test_an_edited_file_is_read_anew(small_file):
    assert load("", small_file) == load("", small_file)
    small_file.write_text(SMALL_FILE.replace("defaults:\n", "defaults:\n  added: 3  # a key more than before\n", 1))
    assert load("", small_file).added == 3
