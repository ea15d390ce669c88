"""What all programs have in common: exit codes, and one line instead of a traceback.

0    done
1    some runs of a sweep failed
2    bad input, a disk that is full or cannot be written, or too little memory
130  ended by Ctrl-C
143  ended by SIGTERM, or by the end of its terminal (SIGHUP)
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from tools import signals
from tools.errors import UserError
from tools.files import FULL, PLACE_IN_CODE, unwritable
from tools.streams import tolerant_streams

INTERRUPTED = 130
# Errors of files that no code foresaw. All others are mistakes in a program, which show their traceback.
FILE_ERRORS = {
    *FULL,
    errno.EACCES,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def run_program(body: Callable[[Sequence[str]], int], argv: Sequence[str] | None, advice: Callable[[], str]) -> int:
    """Runs the body of a program and returns its exit code.

    Args:
        body: from the command line to the exit code.
        argv: the words after the name of the program, those of this process unless given.
        advice: what to do after an interruption, for the message.
    """
    signals.imports_are_done()
    with tolerant_streams():
        try:
            with signals.terminable():
                code = body(_readable(sys.argv[1:] if argv is None else list(argv)))
            if sys.stdout:
                sys.stdout.flush()
            return code
        except UserError as error:
            return _end(2, f"error: {error}")
        except MemoryError as error:
            return _end(2, f"error: {_no_memory(str(error))}")
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise
            return _end(2, f"error: {_unusable(error)}")
        except KeyboardInterrupt:
            return _end(INTERRUPTED, f"interrupted: {advice()}")
        except signals.Terminated as ended:
            return _end(signals.EXIT_CODE, f"terminated: {str(ended) or advice()}")
        except Exception as error:
            # TensorFlow's own error for a lack of memory, or of room. Programs without it need not import it.
            tensorflow = sys.modules.get("tensorflow")
            if tensorflow is None or not isinstance(error, tensorflow.errors.ResourceExhaustedError):
                raise
            return _end(2, f"error: {_exhausted(error)}")


def _no_memory(words: str) -> UserError:
    words = f" ({words[:200]})" if words else ""
    return UserError(f"There is not enough memory{words}: ask for less, or free some.")


def _exhausted(error: Exception) -> UserError:
    first = PLACE_IN_CODE.sub("", (str(error).splitlines() or [""])[0])
    if os.strerror(errno.ENOSPC) in first:
        return unwritable(error, "A file", "choose a place where you can write")
    return _no_memory(first)


def _unusable(error: OSError) -> UserError:
    """What to say of a file that was read or written: the error itself knows neither."""
    if error.errno in {*FULL, errno.EROFS}:
        return unwritable(error, "A file", "choose a place where you can write")
    name, reason = error.filename or "A file", error.strerror or error
    return UserError(f"{name} cannot be used ({reason}): choose a place where you can read and write.")


def _end(code: int, line: str) -> int:
    print(line, file=sys.stderr)
    return code


def _readable(argv: list[str]) -> list[str]:
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:  # Python's stand-ins for bytes that are not text
            raise UserError(
                f"{os.fsencode(word)!r} is not text in the encoding of this shell, {sys.getfilesystemencoding()}: "
                "set LC_ALL=C.UTF-8, or use plain letters."
            ) from None
    return argv
