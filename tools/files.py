"""Files that survive a crash: replaced as a whole, or grown by whole lines."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tools.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLACE_IN_CODE = re.compile(r"\{\{.*?\}\} | \[Op:\w+\]")  # where in its code TensorFlow found an error


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the home directory in the place of a leading `~`, which a shell leaves in `--out=~/runs`.

    Raises:
        UserError: there is no such user, or this one has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} names a home directory that is not known: write the path in full.") from None


@contextlib.contextmanager
def replaced(path: Path, mode: str = "w") -> Iterator[IO]:
    """Opens a new file that takes the place of `path` at the end of the block.

    A reader, a crash and a power failure find all of the old file or all of the new one. An exception in the block
    leaves the old one.

    Args:
        path: the file; its folder exists.
        mode: "w" for text, "wb" for bytes.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # A full disk does not say which file.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_partial(folder: Path) -> None:
    """Removes what killed programs of this machine left of `replaced` files in a folder and the folders in it."""
    partial = re.compile(rf"\..+\.{re.escape(socket.gethostname())}\.(\d+)")
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        found = partial.fullmatch(path.name)
        if found and not _runs(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Flushes the rename itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json(path: Path, line: Mapping[str, Any], make_folder: bool = True) -> None:
    """Appends one line of JSON to a file: all of it or nothing, also where several programs append. Numbers are finite.

    Args:
        path: the file.
        line: what it gets.
        make_folder: makes its folder if need be; otherwise a folder that is gone is an error.

    Raises:
        OSError: the file cannot be written.
    """
    data = (json.dumps(line, allow_nan=False) + "\n").encode()
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked_end(path) as file:
        end = file.seek(0, os.SEEK_END) if file.seekable() else None  # as a pipe is not
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            if end is not None:
                with contextlib.suppress(OSError):  # a device, which says why it cannot be written, has no end to cut
                    file.truncate(end)
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _locked_end(path: Path) -> Iterator[IO]:
    """Opens a file to append to it, for this program alone."""
    there = False
    while not there:
        with path.open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                there = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            if there:  # and not removed by another program while this one waited
                yield file


def remove_if_empty(path: Path) -> None:
    """Removes a file unless another program writes, or has written, to it."""
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            pass
        if not os.fstat(file.fileno()).st_size:
            path.unlink()


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, the innermost first, up to one that holds a file."""
    with contextlib.suppress(OSError):
        for inside, _, _ in os.walk(folders[0], topdown=False) if folders else ():
            os.rmdir(inside)
        for folder in folders[1:]:
            folder.rmdir()


@contextlib.contextmanager
def writing(path: Path, otherwise: str = "choose a place where you can write") -> Iterator[None]:
    """Turns the error of a file that cannot be written into a UserError.

    Args:
        path: what is written, for errors that do not say it: those of TensorFlow, and of a disk that is full.
        otherwise: what to do unless the disk is full.
    """
    try:
        yield
    except _write_errors() as error:
        raise unwritable(error, path, otherwise) from error


def unwritable(error: Exception, path: Path | str, otherwise: str) -> UserError:
    """The UserError (returned, not raised) for an error of writing; see `writing`."""
    reason = getattr(error, "strerror", None) or PLACE_IN_CODE.sub("", (str(error).splitlines() or [""])[0])[:200]
    full = getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in reason
    advice = "make room, then start the same command again" if full else otherwise
    return UserError(f"{getattr(error, 'filename', None) or path} cannot be written ({reason}): {advice}.")


def _write_errors() -> tuple[type[Exception], ...]:
    # TensorFlow writes some files by itself and has errors of its own. Programs without it need not import it.
    tensorflow = sys.modules.get("tensorflow")
    return (OSError,) if tensorflow is None else (OSError, tensorflow.errors.OpError)
