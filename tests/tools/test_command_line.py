"""What --help shows of options."""

from pathlib import Path

import pytest

import collect
from benchmarks import replay
from tools.command_line import Parser


def help_of(program, words, capsys) -> list[str]:
    """The lines of a program's help, with single spaces."""
    with pytest.raises(SystemExit) as ended:
        program(words)
    assert ended.value.code == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_help_shows_defaults_that_say_something(capsys):
    parser = Parser(description="one\n    two")
    parser.add_argument("--count", type=int, default=0, help="how many")
    parser.add_argument("--words", nargs="+", default=["a", "50%"], help="which")
    parser.add_argument("--place", type=Path, default=Path("x/y"), help="where (default: beside it)")
    parser.add_argument("--none", help="nothing")
    parser.add_argument("--empty", default="", help="no word")
    parser.add_argument("--list", nargs="*", default=[], help="no words")
    parser.add_argument("--flag", action="store_true", help="yes or no")
    text = "\n".join(help_of(parser.parse_args, ["--help"], capsys))
    assert "one\ntwo" in text and text.count("default") == 3
    for part in ("how many (default: 0)", "which (default: a 50%)", "where (default: beside it)"):
        assert part in text


@pytest.mark.parametrize(
    ("program", "words", "shown"),
    [
        (
            collect.main,
            ["episodes", "--help"],
            ["--noise STD on scripted actions (default: 0.3)", "folder of the episodes"],
        ),
        (replay.main, ["--help"], ["batches measured (default: 30)"]),
    ],
)
def test_help_of_programs(program, words, shown, capsys):
    text = " ".join(help_of(program, words, capsys))
    assert all(part in text for part in shown) and "default: None" not in text
