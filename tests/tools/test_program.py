"""The frame of all programs: exit codes, one line instead of a traceback, and streams that do not end a program."""

import ast
import errno
import importlib
import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools import signals
from tools.command_line import Parser
from tools.errors import UserError
from tools.program import run_program

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(path for path in ROOT.glob("*.py") if '__name__ == "__main__"' in path.read_text())
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text())


def end(capsys, body, argv=()):
    """Exit code and error output of a program with this body."""
    code = run_program(body, list(argv), lambda: "start it again")
    return code, capsys.readouterr().err


def raising(error):
    def body(argv):
        raise error

    return body


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


def test_sigterm_has_an_exit_code_of_its_own(capsys):
    def body(argv):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert end(capsys, body) == (143, "terminated: start it again\n")
    assert end(capsys, raising(signals.Terminated("saved"))) == (143, "terminated: saved\n")


def test_a_request_to_stop_waits_for_a_check(capsys):
    def body(argv):
        stop = signals.StopRequest()
        with stop.armed():
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            print("goes on", file=sys.stderr)
            stop.check()
        return 0

    assert end(capsys, body) == (143, "goes on\nterminated: start it again\n")


def test_a_second_sigterm_quits_at_once():
    program = """
        import os, signal, time
        from tools.program import run_program
        from tools.signals import StopRequest

        def body(argv):
            with StopRequest().armed():
                os.kill(os.getpid(), signal.SIGTERM)
                print("still here", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                print("too late", flush=True)

        run_program(body, [], str)
        """
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "still here\n", "")


def test_a_terminal_that_closes_asks_once_however_often_it_says_so():
    program = """
        import os, signal, sys
        from tools.program import run_program
        from tools.signals import StopRequest

        signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))

        def body(argv):
            stop = StopRequest()
            with stop.armed():
                for word in ("saving", "saved"):
                    os.kill(os.getpid(), signal.SIGHUP)
                    print(word, flush=True)
                stop.check()
            print("went on")
            return 0

        sys.exit(run_program(body, [], lambda: "again"))
        """
    done = run(program, words=["SIG_DFL"])
    assert (done.returncode, done.stdout, done.stderr) == (143, "saving\nsaved\n", "terminated: again\n")
    done = run(program, words=["SIG_IGN"])  # nohup
    assert (done.returncode, done.stdout, done.stderr) == (0, "saving\nsaved\nwent on\n", "")


def test_ctrl_c_does_not_cut_off_what_sigterm_asked_for():
    """The first one is the same wish once more, as from a sweep whose job was told to end; a second one means it."""
    program = """
        import os, signal, sys
        from tools.program import run_program
        from tools.signals import StopRequest

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

        def body(argv):
            stop = StopRequest()
            with stop.armed():
                os.kill(os.getpid(), signal.SIGTERM)
                for word in ("saving", "saved"):
                    print(word, flush=True)
                    os.kill(os.getpid(), signal.SIGINT)
                    if word == argv[0]:
                        stop.check()
            return 0

        sys.exit(run_program(body, sys.argv[1:], lambda: "again"))
        """
    done = run(program, words=["saving"])
    assert (done.returncode, done.stdout, done.stderr) == (143, "saving\n", "terminated: again\n")
    done = run(program, words=["never"])
    assert (done.returncode, done.stdout, done.stderr) == (130, "saving\nsaved\n", "interrupted: again\n")


@pytest.mark.parametrize("number", [signal.default_int_handler, signal.SIG_IGN])
def test_ctrl_c_has_its_usual_effect_after_a_request_to_stop(number):
    before = signal.signal(signal.SIGINT, number)
    try:
        with signals.StopRequest().armed():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is number
    finally:
        signal.signal(signal.SIGINT, before)


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


def run(program, **options):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PYTHON"))}
    environment |= options.pop("environment", {})
    command = [sys.executable, "-c", textwrap.dedent(program), *options.pop("words", ())]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | options
    return subprocess.run(command, cwd=ROOT, env=environment, **options)


PRINTING = """
    import sys
    from tools.progress import ProgressLine
    from tools.program import run_program

    def body(argv):
        with ProgressLine(100) as line:
            for step in range(0, 100, 10):
                line.update(step, {"return": 1.5})
                line._print()
        print("Gr\\xf6\\xdfe \\u03bb", flush=True)
        print("done", file=sys.stderr)
        return 0

    sys.exit(run_program(body, [], str))
    """


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}], ids=["ascii", "C"]
)
def test_output_that_is_not_utf_8_ends_no_program(environment):
    done = run(PRINTING, environment=environment)
    assert (done.returncode, done.stderr) == (0, "done\n")
    lines = done.stdout.splitlines()
    assert lines[0] == "0/100 steps | return 1.5" and lines[-1] == "Gr\\xf6\\xdfe \\u03bb"


def test_a_closed_pipe_is_told_once_and_the_program_goes_on():
    reader, writer = os.pipe()
    os.close(reader)
    done = run(PRINTING, stdout=writer)
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == "note: nobody reads the standard output; the program goes on\ndone\n"


def test_a_closed_terminal_is_told_once_and_the_program_goes_on():
    """As `disown` leaves it, without a signal."""
    screen, terminal = pty.openpty()
    os.close(screen)
    done = run(PRINTING, stdout=terminal)
    assert done.returncode == 0
    assert done.stderr == "note: nobody reads the standard output; the program goes on\ndone\n"
    assert run(PRINTING, stdout=terminal, stderr=terminal).returncode == 0
    os.close(terminal)


def test_a_program_keeps_its_exit_code_where_its_error_output_fails():
    program = """
        import sys
        from tools.errors import UserError
        from tools.program import run_program

        def body(argv):
            print("note", file=sys.stderr, flush=True)
            print("a result")
            raise UserError("No.")

        sys.exit(run_program(body, [], str))
        """
    with open("/dev/full", "w") as full:
        done = run(program, stderr=full)
    assert (done.returncode, done.stdout) == (2, "a result\n")


@pytest.mark.parametrize("closed", [[0], [1], [2], [1, 2], [0, 1, 2]])
def test_closed_streams_are_as_good_as_unread_ones(closed, tmp_path):
    """A file opened later must not take the number of a standard stream, and no error may land in the output."""
    program = """
        import tools.startup
        import os, sys
        from tools.errors import UserError
        from tools.program import run_program

        def body(argv):
            with open(argv[0], "w") as file:
                assert file.fileno() > 2
                os.write(2, b"what C code says\\n")
                print("a result")
                raise UserError("No.")

        sys.exit(run_program(body, sys.argv[1:], str))
        """
    command = ["sh", "-c", '"$@" ' + " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed), "sh"]
    command += [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    output, error = "a result\n", "what C code says\nerror: No.\n"
    assert (done.returncode, done.stdout) == (2, "" if 1 in closed else output)
    assert done.stderr == ("" if 2 in closed else error) and not (tmp_path / "file").read_text()


def test_a_standard_output_on_a_full_disk_is_one_sentence():
    program = PRINTING.replace(", flush=True", "")
    with open("/dev/full", "w") as full:
        done = run(program, stdout=full)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "make room" in done.stderr


def test_words_that_are_no_text_are_refused(capsys):
    code, line = end(capsys, lambda argv: 0, ["--logdir", "run\udce9"])
    assert code == 2 and r"b'run\xe9'" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
def test_signals_during_the_imports_are_one_line(name, code, word):
    program = f"""
        import tools.startup
        import os, signal, tempfile

        try:  # as tools.tensorflow_setup does, while it imports TensorFlow
            held = tempfile.TemporaryFile()
            os.dup2(held.fileno(), 2)
            os.kill(os.getpid(), signal.{name})
        except KeyboardInterrupt:
            raise ImportError("what a library makes of it")
        """
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{word}: nothing was started yet\n")
    # The frame ends that time.
    program = f"""
        import tools.startup
        import os, signal
        from tools.program import run_program

        raise SystemExit(run_program(lambda argv: os.kill(os.getpid(), signal.{name}), [], lambda: "later"))
        """
    done = run(program)
    assert (done.returncode, done.stderr) == (code, f"{word}: later\n")


def test_programs_that_are_imported_leave_signals_alone():
    done = run(
        "import signal, plot, collect, sweep; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("path", [*PROGRAMS, *BENCHMARKS], ids=lambda path: path.name)
def test_every_program_has_the_frame_and_is_ready_for_ctrl_c_first(path):
    body = ast.parse(path.read_text()).body
    first = "import checkout" if path in BENCHMARKS else "if __name__ == '__main__':\n    import tools.startup"
    assert ast.unparse(body[1]) == first
    main = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert "return run_program(" in ast.unparse(main)


def test_ctrl_c_during_the_imports_of_a_benchmark_is_one_line(tmp_path):
    """While it imports TensorFlow, for which a module that sends the signal stands here."""
    (tmp_path / "tensorflow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "leaderboard.py")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: nothing was started yet\n")
