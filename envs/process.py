"""A process beside the agent's that makes one object and answers calls of its methods.

It may be killed, hang or fail in any way: the agent's process learns of it, by an answer or by the lack of one.
"""

import contextlib
import multiprocessing
import pickle
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from envs.deaf import deaf_children
from tools.command_line import note, print_to_stderr
from tools.errors import UserError

PATIENCE = 30.0  # seconds without an answer after which the console says so
CLOSE_TIMEOUT = 10.0  # seconds to end in an orderly way


class Lost(Exception):  # noqa: N818 - not a failure of the program
    """The process died or did not answer. The message goes on from "the process of environment 3"."""


class Late(Lost):
    """The process did not answer in time."""


class Process:
    """A process that makes an object.

    Args:
        make: a picklable function that makes the object.
        name: of the object, for messages.

    Attributes:
        waited: seconds that the last `receive` waited.
    """

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        # Spawned, because TensorFlow's threads do not survive a fork and workers must not import TensorFlow.
        context = multiprocessing.get_context("spawn")
        self._name, self.waited = name, 0.0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        with _hidden_main(), deaf_children():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """As that of `multiprocessing.Process`: negative for a signal, None while the process lives."""
        return self._process.exitcode

    def send(self, method: str, *args: Any, **options: Any) -> None:
        """Calls a method of the object. A process that is gone is found by `receive`."""
        with contextlib.suppress(OSError):
            self._pipe.send((method, args, options))

    def receive(self, timeout: float) -> Any:
        """What the method returned. Seconds in which this process was suspended do not count.

        Raises:
            Lost: the process died or did not answer in time.
            Exception: what the method, or making the object, raised; as a RuntimeError if it cannot leave its process.
        """
        self.waited = 0.0
        try:
            while not self._pipe.poll(min(1.0, timeout - self.waited)):
                self.waited += 1.0
                if self.waited >= timeout:
                    raise Late("did not answer in time (step_timeout)")
                if self.waited == PATIENCE:
                    note(f"{self._name} has not answered for {PATIENCE:.0f} s; the limit is {timeout:.0f} s.")
            done, answer = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:  # killed, perhaps in the middle of an answer
            raise Lost(self._cause()) from error
        if not done:
            raise answer
        return answer

    def close(self, force: bool = False) -> None:
        """Ends the process, by force if it is busy or takes too long."""
        if not force:
            self.send("close")
            self._process.join(CLOSE_TIMEOUT)
        self._process.kill()  # which a stopped process does not miss
        self._process.join()
        self._pipe.close()

    def _cause(self) -> str:
        """How the process ended."""
        self._process.join(CLOSE_TIMEOUT)
        code = self._process.exitcode
        if code is None:
            return "answers no more"
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL: by hand, or by the system for want of memory)"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    """The process: makes the object and calls its methods until it is closed, something fails or the agent is gone."""
    made: Any = None
    try:
        print_to_stderr()
        made = make()
        while True:
            method, args, options = pipe.recv()
            if method == "close":
                break
            pipe.send((True, getattr(made, method)(*args, **options)))
    except EOFError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send((False, _sendable(error)))
    finally:
        if made is not None:
            made.close()


def _sendable(error: Exception) -> Exception:
    """The error itself where the agent's process surely knows how to make it, else its words."""
    known = type(error).__module__ == "builtins" or type(error) is UserError
    with contextlib.suppress(Exception):
        if known and type(pickle.loads(pickle.dumps(error))) is type(error):  # our own bytes
            if not isinstance(error, UserError):
                error.add_note(traceback.format_exc())
            return error
    replaced = RuntimeError(f"{type(error).__name__}: {error}")
    replaced.add_note(traceback.format_exc())
    return replaced


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    # A spawned process first imports the parent's main script, and with it TensorFlow (seconds, and hundreds of
    # megabytes per worker). The workers need only `envs`, so they start from an empty main module.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
