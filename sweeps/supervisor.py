"""One run of a program in its folder: never twice at a time, and never longer than the process that asked for it.

Three processes take part. The *worker* calls `supervise`, holds the folder's lock and starts a *guard* (this module as
a program, which imports nothing but the standard library and `tools`), which starts the *program* in a process
group of its own. The guard watches a pipe from the worker: when it closes, because the worker wants to stop or has died
in whatever way, the program is interrupted and, after some seconds, its whole group is killed, environments included.
If the guard is killed, the kernel kills the program.

The lock is a `flock` whose file description worker, guard and program share, so that it is held until the last of them
is gone: a second worker cannot start the run while its program still trains, even where the first worker is dead. A
program that is started by hand takes the same lock (tools/lock.py).
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.files import replaced
from tools.lock import INHERITED, FolderInUseError, locked

LOG_FILE = "sweep.log"  # in the folder of a run: what its program printed
DONE_FILE = "done.json"  # there, too, when it is complete
GUARD = (sys.executable, "-E", "-S", "-m", "sweeps.supervisor")
BAD_INPUT = 2  # exit code for errors that a retry cannot fix
LOCK_SECONDS = 300.0  # how long a run waits for another process in its folder; NFS frees a dead node's locks after 90
GRACE_SECONDS = 10.0  # between the interrupt and the end of all processes
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclass(frozen=True)
class Outcome:
    """How a start of a run ended.

    `code` is the program's exit code (negative: the signal that killed it) and None where it was not started, `message`
    one line about a failure, `seconds` the time that the program ran.
    """

    code: int | None
    message: str = ""
    seconds: float = 0.0


def supervise(
    command: Sequence[str],
    folder: Path,
    identity: Sequence[str],
    *,
    node: str,
    environment: Mapping[str, str] | None = None,
    lock_seconds: float = LOCK_SECONDS,
    started: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs a program to its end, unless it is complete, and marks it complete when it exits with 0.

    Its output is appended to `sweep.log` in the folder.

    Args:
        command: the words that start the program; it runs in the folder of `command[1]`, the script.
        folder: the run's folder, made if need be.
        identity: what has to be equal for a complete run to count as this one.
        node: where it runs, for the files.
        environment: variables that the program gets unless they are set already.
        lock_seconds: how long to wait for another process in the folder.
        started: called when the run has its folder for itself, before the program starts.
    """
    script = Path(command[1])
    if not script.is_file():
        return Outcome(BAD_INPUT, f"{node} has no {script}: every node needs the checkout at the same path.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, lock_seconds, node) as lock:
            if is_done(folder, identity):
                return Outcome(0)
            (folder / DONE_FILE).unlink(missing_ok=True)  # of another command, or of fewer steps
            started()
            return _run(command, folder, identity, node, environment or {}, lock)
    except FolderInUseError as error:
        return Outcome(None, str(error))
    except OSError as error:
        return Outcome(None, f"{node} cannot work in {folder} ({error.strerror or error}).")


def _run(
    command: Sequence[str], folder: Path, identity: Sequence[str], node: str, environment: Mapping[str, str], lock: int
) -> Outcome:
    log = folder / LOG_FILE
    with log.open("a", encoding="utf-8") as file:
        file.write(f"--- {_now()} on {node}: {' '.join(command)}\n")
    start = time.monotonic()
    variables = _with_absolute_places({**environment, **os.environ})
    code = run_guarded(command, folder, {"command": list(identity), "node": node}, lock, variables)
    return Outcome(code, last_line(log) if code else "", round(time.monotonic() - start, 3))


def _with_absolute_places(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with folders that stay the same where the program starts, which is another folder."""
    absolute = {}
    if modules := variables.get("PYTHONPATH"):
        absolute["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, modules.split(os.pathsep)))
    if cache := variables.get("COMPILE_CACHE_DIR"):
        absolute["COMPILE_CACHE_DIR"] = os.path.abspath(os.path.expanduser(cache))
    return {**variables, **absolute}


def is_done(folder: Path, identity: Sequence[str]) -> bool:
    """Whether the run in a folder is complete and was started by the same words."""
    try:
        mark = json.loads((folder / DONE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(mark, dict) and mark.get("exit_code") == 0 and mark.get("command") == list(identity)


def run_guarded(
    command: Sequence[str], folder: Path, mark: Mapping[str, object], lock: int, environment: Mapping[str, str]
) -> int:
    """Runs a program under a guard and returns its exit code. An exception, such as KeyboardInterrupt, ends it.

    `done.json` gets the mark, in case of success. The guard writes it: a worker of Ray whose node is cut off may hang.
    """
    guard = subprocess.Popen(
        [*GUARD, str(folder), json.dumps(mark), str(lock), str(GRACE_SECONDS), *command],
        cwd=Path(__file__).parent.parent,  # where Python finds this module
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[lock],
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
    )
    try:
        # Ray interrupts a task between two instructions of Python, not within a call.
        while not select.select([guard.stdout], [], [], POLL_SECONDS)[0]:
            continue
    finally:
        guard.stdin.close()
        answer = guard.stdout.read()  # until the guard has ended, and the program with it
        guard.stdout.close()
        guard.wait()
    return int(answer or -signal.SIGKILL)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, cut to a readable length; '' where there is none."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def guard(folder: Path, mark: Mapping[str, object], lock: int, grace: float, command: Sequence[str]) -> None:
    """Starts the program, ends it when the standard input closes, marks success and prints the exit code.

    Args:
        folder: of the run, with its sweep.log.
        mark: entries of `done.json` besides exit code, seconds and time.
        lock: the file descriptor that the program inherits.
        grace: seconds between interrupting and killing it.
        command: its words.
    """
    start = time.monotonic()
    # A scheduler that ends a job tells all of its processes, and the program then saves before it ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(folder / LOG_FILE, "ab") as output:
        program = subprocess.Popen(
            command,
            cwd=Path(command[1]).parent,
            env={**os.environ, INHERITED: str(lock)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            start_new_session=True,
            preexec_fn=_die_with_guard,  # safe here, where there is one thread
        )
    while _runs(program.pid) and not select.select([0], [], [], POLL_SECONDS)[0]:
        continue
    if _runs(program.pid):
        program.send_signal(signal.SIGINT)
        deadline = time.monotonic() + grace
        while _runs(program.pid) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    # Before the program is waited for, so that its number still names this group.
    os.killpg(program.pid, signal.SIGKILL)
    code = program.wait()
    if code == 0:
        found = {"exit_code": code, "seconds": round(time.monotonic() - start, 3), "time": _now()}
        with replaced(folder / DONE_FILE) as file:
            file.write(json.dumps({**mark, **found}, indent=2) + "\n")
    with contextlib.suppress(BrokenPipeError):  # the worker is gone
        print(code, flush=True)


def _runs(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _die_with_guard() -> None:
    # A shell's background jobs ignore the interrupt and Ray's workers block it, and both are inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    # Ray kills the children of a worker that ends, so the guard is the child of a process that is gone.
    if os.fork():
        os._exit(0)
    guard(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
