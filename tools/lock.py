"""One writer in a folder at a time: a lock that programs, and the attempts of a sweep, hold while they write.

It is a `flock` on the file `sweep.lock`, so it ends with the last process that holds it, however that process ends. A
program that a sweep started has the lock already, and a variable says so (sweeps/supervisor.py).
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tools.errors import UserError
from tools.files import remove_empty, remove_partial

NAME = "sweep.lock"
INHERITED = "SWEEP_LOCK"  # variable with the file descriptor of a lock that the parent passed on
POLL_SECONDS = 0.2
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderInUseError(Exception):
    """Another process, `owner`, works in a folder."""

    def __init__(self, owner: str, folder: Path, seconds: float) -> None:
        super().__init__(f"{owner} has been using {folder} for more than {seconds:.0f} s.")
        self.owner = owner


@contextlib.contextmanager
def locked(folder: Path, seconds: float, owner: str) -> Iterator[int]:
    """Holds the lock of a folder and yields its file descriptor, which keeps the lock in processes that inherit it.

    Raises:
        FolderInUseError: another process has had it for all of the seconds.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    path, deadline = folder / NAME, time.monotonic() + seconds
    while (lock := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            with contextlib.suppress(FileNotFoundError):  # its owner ended meanwhile, so the lock is free
                other = path.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
                raise FolderInUseError(other, folder, seconds)
        time.sleep(min(POLL_SECONDS, seconds))
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{owner} (process {os.getpid()})".encode(), 0)
        yield lock
    finally:
        os.close(lock)  # not LOCK_UN, which would take the lock from the processes that inherited it, too


def _try_lock(path: Path) -> int | None:
    """The descriptor of the locked file, None where another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):  # or its owner removed the file meanwhile
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


@contextlib.contextmanager
def exclusive_folder(folder: Path, option: str) -> Iterator[None]:
    """Makes a folder and keeps other programs from writing to it. An empty new folder goes away at the end.

    What killed programs left half written in it goes away at the start.

    Args:
        folder: where this program writes.
        option: the option that names it, for messages.

    Raises:
        UserError: another process works in the folder, or it cannot be written.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    old_file = (folder / NAME).exists()
    with contextlib.ExitStack() as stack:
        stack.callback(remove_empty, new)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not _inherited(folder):
                stack.enter_context(locked(folder, 0.0, socket.gethostname()))
                if not old_file:
                    stack.callback((folder / NAME).unlink, missing_ok=True)
        except FolderInUseError as error:
            raise UserError(
                f"{error.owner} writes to {folder}: wait for its end, or choose another {option}."
            ) from None
        except OSError as error:  # also for a name that is too long, as of many tasks
            if error.errno not in WITHOUT_LOCKS:
                raise UserError(f"{folder} cannot be written ({error.strerror}): choose another {option}.") from error
            (folder / NAME).unlink(missing_ok=True)
        remove_partial(folder)
        yield


def _inherited(folder: Path) -> bool:
    """Whether this process has the lock of a folder from its parent."""
    try:
        return os.path.samestat(os.fstat(int(os.environ[INHERITED])), os.stat(folder / NAME))
    except (KeyError, ValueError, OSError):
        return False
