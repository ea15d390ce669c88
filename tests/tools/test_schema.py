"""What the comments of config.yaml say: explanations, choices, ranges and marks."""

import re
from pathlib import Path

import pytest

from tests.tools.small_config import SMALL_FILE, load, refusal, refused_file
from tools.config import Config, load_config
from tools.errors import UserError
from tools.schema import read_schema


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
        (SMALL_FILE.replace("rate: 1e-3", "rate: .nan"), ["rate", "a finite number", "nan"]),
        (SMALL_FILE.replace("rate: 1e-3", "rate: .inf"), ["rate", "a finite number", "inf"]),
        (SMALL_FILE.replace("rate: 1\n", "rate: -.inf\n"), ["long: rate", "a finite number", "-inf"]),
        (SMALL_FILE.replace("rate: 1\n", "rate: 1e39\n"), ["long: rate", "too large"]),
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


def test_a_word_can_stand_beside_true_and_false(tmp_path: Path, small_file: Path):
    small_file.write_text("defaults:\n  warm: false  # how to start [false | true | policy]\n\nlate:\n  warm: policy\n")
    setting = read_schema(small_file).settings["warm"]
    assert (setting.choices, setting.kind, setting.marks) == ((False, True, "policy"), bool, " [false | true | policy]")
    found = [
        load(words, small_file).warm for words in ("", "--warm yes", "--warm policy", "--configs late", "--warm 0")
    ]
    assert [(type(value), value) for value in found] == [
        (bool, False),
        (bool, True),
        (str, "policy"),
        (str, "policy"),
        (bool, False),
    ]
    for saved in (True, "policy"):
        Config({"warm": saved}).save(tmp_path / "config.yaml")
        assert load_config([], small_file, Config.load(tmp_path / "config.yaml")).warm == saved
    for words in ("--warm maybe", "--warm Policy"):
        sentence = refusal(words, small_file)
        assert "--warm" in sentence and "policy" in sentence and "true" in sentence and "\n" not in sentence
    assert "late: warm" in refused_file(tmp_path, small_file.read_text().replace("warm: policy", "warm: 1"))


def test_configs_change_between_true_and_the_word():
    config = load("")
    assert config.warm_start is False and config.replace(warm_start="policy").warm_start == "policy"
    assert config.replace(warm_start="policy").replace(warm_start=True).warm_start is True
    for key, value in (("warm_start", "plan"), ("media", "policy"), ("act", True)):
        with pytest.raises(UserError, match=key):
            config.replace(**{key: value})


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
    assert "how much of that [0 .. 1) (float, default 0.5); a resumed run and an evaluation have the same" in text


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
