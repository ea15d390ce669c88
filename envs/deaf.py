"""Processes of environments and signals: a terminal and many schedulers send them to all processes at once.

The program needs its environments to end in an orderly way, so they do not hear Ctrl-C, SIGTERM and SIGHUP. It ends
them itself; where it cannot, its own end closes the pipes on which they wait.
"""

import atexit
import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in this block never hear these signals. This process does after the block."""
    resource_tracker.ensure_running()  # its start would unblock the signals
    with _postponed():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which children inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _postponed() -> Iterator[None]:
    # Blocking is not enough here: other threads still take the signal, and Python's handler then runs in this one. It
    # would leave a process half-started, which complains.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@atexit.register
def _end_children() -> None:
    # Python would ask those that are left to end by SIGTERM, and wait for them.
    for process in multiprocessing.active_children():
        process.kill()
