"""Processes of environments and signals: a terminal and many schedulers send them to all processes at once.

The program needs its environments to end in an orderly way, so they do not hear Ctrl-C and SIGTERM. It ends them
itself; where it cannot, its own end closes the pipes on which they wait.
"""

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in this block never hear Ctrl-C and SIGTERM."""
    resource_tracker.ensure_running()  # its start would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _end_children() -> None:
    # Python would ask those that are left to end by SIGTERM, and wait for them.
    for process in multiprocessing.active_children():
        process.kill()
