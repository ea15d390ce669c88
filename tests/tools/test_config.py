"""Settings from files, presets and command lines, and what is saved of them."""

import copy
import math
import random
from pathlib import Path

import pytest

from tests.tools.small_config import SMALL_FILE, load, refusal
from tools import config as config_module
from tools.config import RENAMED, Config, check_ranges, load_config
from tools.errors import UserError, unknown
from tools.schema import CONFIG_FILE, read_schema


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
    words = "--planner cem --planning_horizon 50 --logdir x"
    config = load(f"--configs defaults metaworld {words}")
    assert (config.planner, config.planning_horizon, config.logdir) == ("cem", 50, "x")
    assert (config.task, config.render_quality) == ("metaworld_reach", "full")
    assert (config.free_nats, config.kl_balance, config.min_std, config.grad_clip) == (3.0, 0.0, 0.1, 1000.0)
    config = load(f"--configs defaults metaworld small {words}")
    assert (config.free_nats, config.kl_balance, config.min_std, config.render_quality) == (0.0, 0.8, 0.1, "fast")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1e6", 1000000),
        ("steps", "-3", -3),
        ("steps", "1_000", 1000),
        ("steps", "90071992547409931", 90071992547409931),
        ("rate", "3", 3.0),
        ("rate", "1e-4", 1e-4),
        ("rate", "-3e38", -3e38),
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
        ("--rate nan", ["--rate", "a finite number", "nan"]),
        ("--rate inf", ["--rate", "a finite number", "inf"]),
        ("--rate=-Infinity", ["--rate", "a finite number", "-inf"]),
        ("--rate 1e999", ["--rate", "a finite number", "inf"]),
        ("--rate 1e39", ["--rate", "too large", "3.4e+38"]),
        ("--rate -1e308", ["--rate", "too large", "3.4e+38"]),
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
    for bad in (
        {"steps": 1.5},
        {"steps": True},
        {"rate": "1"},
        {"flag": 1},
        {"name": 1},
        {"rate": 10**400},
        {"rate": math.inf},
        {"x": 1},
    ):
        with pytest.raises(UserError):
            config.replace(**bad)


def test_save_and_load_round_trip_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = {"b": 1e-5, "a": 10**20, "c": True, "d": "no", "e": "", "f": "é: #'", "g": 1e300, "h": "1e3", "i": 3.0}
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


def test_programs_can_check_what_they_changed():
    check_ranges(load(""))
    with pytest.raises(UserError, match="kl_balance is 2.0: choose a number from 0 to 1"):
        check_ranges(load("").replace(kl_balance=2.0))


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


def test_an_edited_file_is_read_anew(small_file):
    assert load("", small_file) == load("", small_file)
    small_file.write_text(SMALL_FILE.replace("defaults:\n", "defaults:\n  added: 3  # a key more than before\n", 1))
    assert load("", small_file).added == 3
