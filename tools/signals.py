"""SIGTERM, with which schedulers, `timeout` and preempted machines end a program: a polite request, once.

The first one ends the program in an orderly way, with an exit code of its own; a second one kills it at once, also
within a long call of TensorFlow. During the imports, Ctrl-C and SIGTERM both end a program at once.

SIGHUP, with which a terminal or a connection closes, is the same request. It may come several times, from the shell
and from the system, so that later ones count for nothing. `nohup` ignores it from the start.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports for a process that the signal killed


class Terminated(BaseException):  # noqa: N818  # no error: like KeyboardInterrupt, it passes handlers of errors
    """SIGTERM or SIGHUP ends the program. The message says what was saved, '' where the program has its own words."""


class StopRequest:
    """Postpones the end by SIGTERM or SIGHUP to the next `check`.

    Attributes:
        requested: whether the signal has come.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Within the block, the first SIGTERM or SIGHUP only makes the request.

        One Ctrl-C after it is ignored: a sweep whose job is ended interrupts its runs, too (sweeps/supervisor.py).
        """
        with _at_first(self._request), _kept(signal.SIGINT):
            yield

    def check(self) -> None:
        """Raises Terminated if the end was requested."""
        if self.requested:
            raise Terminated

    def _request(self) -> None:
        self.requested = True
        usual = signal.getsignal(signal.SIGINT)
        if callable(usual):  # a shell's background jobs ignore the interrupt
            signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, usual))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within the block, the first SIGTERM or SIGHUP raises Terminated wherever the main thread is, like Ctrl-C."""
    with _at_first(_terminate):
        yield


def _terminate() -> None:
    raise Terminated


@contextlib.contextmanager
def _at_first(act: Callable[[], None]) -> Iterator[None]:
    """Within the block, calls a function at the first SIGTERM or SIGHUP; another SIGTERM kills the program."""

    afterwards = {signal.SIGTERM: signal.SIG_DFL}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        afterwards[signal.SIGHUP] = signal.SIG_IGN

    def handler(*_: object) -> None:
        for number, effect in afterwards.items():
            signal.signal(number, effect)
        act()

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = {number: signal.signal(number, handler) for number in afterwards}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


@contextlib.contextmanager
def _kept(number: signal.Signals) -> Iterator[None]:
    """Restores the handler of a signal at the end."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if signal.getsignal(number) is not before:
            signal.signal(number, before)


_before_imports: dict[signal.Signals, Any] = {}
_screen = -1


def quit_during_imports() -> None:
    """From now on, Ctrl-C and SIGTERM end the process with one line.

    While TensorFlow and others are imported, KeyboardInterrupt would come out of the middle of their code, as dozens of
    lines or as another error, and there is nothing yet to be lost.
    """
    global _screen
    with contextlib.suppress(OSError):
        _screen = os.dup(2)  # tools/tensorflow_setup.py holds back what is written to the original for a while
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) == handler:  # a shell's background jobs ignore the interrupt
            _before_imports[number] = signal.signal(number, _quit)


def imports_are_done() -> None:
    """From now on, the signals have their usual effects again."""
    while _before_imports:
        signal.signal(*_before_imports.popitem())


def _quit(number: int, frame: FrameType | None) -> None:
    word = "interrupted" if number == signal.SIGINT else "terminated"
    with contextlib.suppress(OSError):
        os.write(_screen, f"{word}: nothing was started yet\n".encode())
    os._exit(128 + number)
