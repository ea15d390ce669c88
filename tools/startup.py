"""Ctrl-C in the first seconds of a program. Programs import this before anything else, and only when they are run.

While TensorFlow and others are imported, KeyboardInterrupt would come out of the middle of their code, as dozens of
lines or as another error. Nothing has been started then, so the process just ends.
"""

import contextlib
import os
import signal
from types import FrameType

LINE = b"interrupted: nothing was started yet\n"

try:
    _screen = os.dup(2)  # tools/tensorflow_setup.py holds back what is written to the original for a while
except OSError:
    _screen = -1


def _quit(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(_screen, LINE)
    os._exit(128 + number)


def over() -> None:
    """The imports are done: from now on, Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _begin() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _quit)


_begin()
