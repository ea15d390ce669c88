"""Programs that tests run: in this process, and in one of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tools.program import run_program

ROOT = Path(__file__).parents[2]


def end(capsys, body, argv=()):
    """Exit code and error output of a program with this body."""
    code = run_program(body, list(argv), lambda: "start it again")
    return code, capsys.readouterr().err


def raising(error):
    """The body of a program that raises."""

    def body(argv):
        raise error

    return body


def run(program, **options):
    """Runs code in a process of its own; `words` are its arguments, `environment` more variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PYTHON"))}
    environment |= options.pop("environment", {})
    command = [sys.executable, "-c", textwrap.dedent(program), *options.pop("words", ())]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | options
    return subprocess.run(command, cwd=ROOT, env=environment, **options)
