"""The frame of all programs: exit codes, and one line instead of a traceback."""

import ast
import errno
import importlib
import os
import signal

import pytest

from tests.tools.programs import ROOT, end, raising
from tools.command_line import Parser
from tools.errors import UserError

PROGRAMS = sorted(path for path in ROOT.glob("*.py") if '__name__ == "__main__"' in path.read_text())
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text())


def test_every_way_to_end_has_a_code_and_one_line(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert end(capsys, lambda argv: 1) == (1, "")
    assert end(capsys, raising(UserError("No such task."))) == (2, "error: No such task.\n")
    assert end(capsys, raising(KeyboardInterrupt())) == (130, "interrupted: start it again\n")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/file")
    code, line = end(capsys, raising(full))
    assert code == 2 and line.count("\n") == 1 and "/disk/file" in line and "make room" in line
    code, line = end(capsys, raising(OSError(errno.EROFS, "Read-only file system", "/disk/file")))
    assert code == 2 and line.count("\n") == 1 and "/disk/file" in line and "where you can write" in line
    code, line = end(capsys, raising(PermissionError(errno.EACCES, "Permission denied", "/disk/file")))
    assert code == 2 and line.startswith("error: /disk/file cannot be used (Permission denied): ")
    assert "read and write" in line and line.count("\n") == 1
    for words, said in (("", "memory: ask"), ("Unable to allocate 48 GiB", "memory (Unable to allocate 48 GiB): ask")):
        code, line = end(capsys, raising(MemoryError(words)))
        assert code == 2 and line.startswith("error: ") and said in line and line.count("\n") == 1
    with pytest.raises(ValueError, match="a mistake"):
        end(capsys, raising(ValueError("a mistake")))
    with pytest.raises(ConnectionError):
        end(capsys, raising(ConnectionError()))
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_tensorflow_lacks_is_named(capsys):
    import tensorflow as tf  # seconds, which the other tests do without

    code, line = end(
        capsys, raising(tf.errors.ResourceExhaustedError(None, None, "{{node x}} OOM when allocating [9]\nmore"))
    )
    assert code == 2 and "not enough memory (OOM when allocating [9]): ask" in line and line.count("\n") == 1
    code, line = end(capsys, raising(tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")))
    assert code == 2 and "No space left on device" in line and "make room" in line and line.count("\n") == 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        end(capsys, raising(tf.errors.InvalidArgumentError(None, None, "a mistake")))


@pytest.mark.parametrize(
    "words",
    [
        "evaluate.py --logdir=",
        "evaluate.py --logdir logdir/run --out=",
        "plan_report.py --logdir=",
        "plan_report.py --logdir logdir/run --out=",
        "ship.py --logdir= --out model",
        "ship.py --logdir logdir/run --out=",
        "demo.py --model=",
        "demo.py --out=",
        "sweep.py --tasks pointmass_obstacle --planners cem --seeds 0 --out=",
        "sweep.py --experiment= --seeds 0 --out out",
        "collect.py episodes --out=",
        "collect.py import data-v0 --out=",
        "plot.py curves logdir --out=",
    ],
)
def test_an_empty_path_is_refused_by_its_name(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("defaults:\n")  # as in the folder of the programs
    name, *argv = words.split()
    option = next(word.rstrip("=") for word in argv if word.endswith("="))
    assert importlib.import_module(name.removesuffix(".py")).main(argv) == 2
    line = capsys.readouterr().err
    assert option in line and "empty: name a" in line and line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("words", ["evaluate.py --task=", "evaluate.py --method=", "plan_report.py --task="])
def test_an_empty_name_is_refused_by_its_option(words, capsys):
    program, option = words.split()
    argv = ["--logdir", "metaworld_reach", option]
    assert importlib.import_module(program.removesuffix(".py")).main(argv) == 2
    line = capsys.readouterr().err
    assert option.rstrip("=") in line and "the name is empty" in line and line.count("\n") == 1


def test_empty_folders_without_an_option_are_refused(capsys):
    for name, argv in (("collect", ["export", "", "name-v0"]), ("plot", ["curves", ""]), ("plot", ["table", "a", ""])):
        assert importlib.import_module(name).main(argv) == 2
        assert "empty: name a" in capsys.readouterr().err


@pytest.mark.parametrize("path", [*PROGRAMS, *BENCHMARKS], ids=lambda path: path.stem)
def test_no_program_takes_an_empty_path(path):
    assert "type=Path" not in path.read_text(encoding="utf-8")


def test_options_are_not_known_by_their_beginnings():
    """Programs take settings beside their options, and `--act elu` is one of them."""
    plain, outer = Parser(), Parser()
    plain.add_argument("--actions")
    outer.add_subparsers().add_parser("kind").add_argument("--actions")
    assert plain.parse_known_args(["--act", "elu"])[1] == ["--act", "elu"]
    assert outer.parse_known_args(["kind", "--act", "elu"])[1] == ["--act", "elu"]


def test_a_refusal_that_quotes_lines_is_one_line(capsys):
    assert end(capsys, raising(UserError("It failed: here\r\n  is why\n\n: do that."))) == (
        2,
        "error: It failed: here is why : do that.\n",
    )


@pytest.mark.parametrize("length", [10, 899, 5000])
def test_refusals_have_at_most_1000_characters(capsys, length):
    message = f"start {'x' * length} end"
    _, line = end(capsys, raising(UserError(message)))
    assert len(line) <= 1000 and line.startswith("error: start ") and line.endswith(" end\n")
    assert (message in line) == (length < 899)


def test_words_that_are_no_text_are_refused(capsys):
    code, line = end(capsys, lambda argv: 0, ["--logdir", "run\udce9"])
    assert code == 2 and r"b'run\xe9'" in line and line.count("\n") == 1


@pytest.mark.parametrize("path", [*PROGRAMS, *BENCHMARKS], ids=lambda path: path.name)
def test_every_program_has_the_frame_and_is_ready_for_ctrl_c_first(path):
    body = ast.parse(path.read_text()).body
    first = "import checkout" if path in BENCHMARKS else "if __name__ == '__main__':\n    import tools.startup"
    assert ast.unparse(body[1]) == first
    main = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert "return run_program(" in ast.unparse(main)
