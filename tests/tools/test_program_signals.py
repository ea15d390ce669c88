"""The signals that end a program: one line and an exit code of its own, when and how often they may come."""

import os
import signal
import subprocess
import sys

import pytest

from tests.tools.programs import ROOT, end, raising, run
from tools import signals


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


def test_ctrl_c_during_the_imports_of_a_benchmark_is_one_line(tmp_path):
    """While it imports TensorFlow, for which a module that sends the signal stands here."""
    (tmp_path / "tensorflow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "leaderboard.py")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: nothing was started yet\n")
