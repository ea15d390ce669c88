"""Standard streams that do not end a program: of any encoding, and with or without a reader."""

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def open_closed_streams() -> None:
    """Opens the standard streams that were closed before the start (`2>&-`), so that they go nowhere.

    Otherwise the next file that is opened gets the number of one and what C code prints, and `print` takes the standard
    output for an error output that is None.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Makes both output streams tolerant: a letter that their encoding lacks is escaped, a closed pipe is left alone.

    A program whose standard output nobody reads any more (`| head -1`, a terminal that was closed) says so once and
    goes on, since its results are in files. Where the standard error output fails, also for want of room, nothing more
    can be said.
    """
    before = sys.stdout, sys.stderr  # None where it was closed before the start
    farewell = "note: nobody reads the standard output; the program goes on"
    tolerant = [stream and _Tolerant(stream, words) for stream, words in zip(before, (farewell, ""), strict=True)]
    with contextlib.ExitStack() as stack:
        for original in before:
            if isinstance(original, io.TextIOWrapper):
                stack.callback(original.reconfigure, errors=original.errors)
                original.reconfigure(errors="backslashreplace")
        sys.stdout, sys.stderr = tolerant  # type: ignore[assignment]  # all that is ever asked of them
        try:
            yield
        finally:
            for stream in tolerant:
                if stream:
                    stream.end()
            sys.stdout, sys.stderr = before


class _Tolerant:
    """A stream whose reader may go away."""

    def __init__(self, stream: TextIO, farewell: str) -> None:
        self._stream, self._farewell = stream, farewell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As that of the stream."""
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As that of the stream."""
        with self._without_reader():
            self._stream.flush()

    def end(self) -> None:
        """Flushes a last time; what cannot be written any more goes nowhere, so that Python's own end is silent."""
        try:
            self.flush()
        except OSError:
            self._divert()

    @contextlib.contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._farewell and not self._is_unread(error):
                raise
            self._divert()
            if self._farewell and sys.stderr:
                print(self._farewell, file=sys.stderr)

    def _is_unread(self, error: OSError) -> bool:
        """Whether the reader of a pipe is gone, or the terminal, which has errors of a disk's kind then."""
        terminal = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self._stream.fileno()).st_mode)
        return terminal or isinstance(error, BrokenPipeError)

    def _divert(self) -> None:
        # What is still in the buffer has to go somewhere, at the latest when Python ends.
        with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
