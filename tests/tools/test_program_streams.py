"""Output that nobody reads, that cannot be written or that is not UTF-8 ends no program."""

import os
import pty
import subprocess
import sys
import textwrap

import pytest

from tests.tools.programs import ROOT, run

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
