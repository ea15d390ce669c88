"""One run at a time in a folder, and none that outlives its worker, with small programs in place of a training."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sweeps import supervisor
from tools import lock

ROOT = Path(__file__).parents[2]


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def start(script, folder, identity=("words",), **options):
    return supervisor.supervise([sys.executable, str(script), str(folder)], folder, identity, node="here", **options)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_complete_run_is_marked_and_not_started_again(tmp_path):
    program = write(tmp_path / "program.py", "import os; print('hello', os.getcwd(), os.environ['THREADS'])")
    folder, starts = tmp_path / "new" / "run", []
    environment = {"THREADS": "3", "PATH": "nowhere"}
    options = {"started": lambda: starts.append(1), "environment": environment}
    outcome = start(program, folder, ["a", "b"], **options)
    assert outcome.code == 0 and outcome.seconds > 0
    mark = json.loads((folder / "done.json").read_text())
    assert mark["command"] == ["a", "b"] and mark["node"] == "here" and 0 < mark["seconds"] <= outcome.seconds
    assert (folder / "sweep.log").read_text().endswith(f"hello {tmp_path} 3\n")
    assert start(program, folder, ["a", "b"], **options) == supervisor.Outcome(0)
    assert len(starts) == 1
    assert start(program, folder, ["a", "c"], **options).code == 0
    assert len(starts) == 2 and supervisor.is_done(folder, ["a", "c"]) and not supervisor.is_done(folder, ["a", "b"])


def test_relative_places_in_variables_are_those_of_the_worker(tmp_path, monkeypatch):
    """The program starts in its own folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", f"modules:{tmp_path}:")
    monkeypatch.setenv("COMPILE_CACHE_DIR", "cache")
    names = "PYTHONPATH", "COMPILE_CACHE_DIR"
    program = write(tmp_path / "program.py", f"import os; print(*[os.environ[name] for name in {names}])")
    assert start(program, tmp_path / "run").code == 0
    here = tmp_path / "here"
    said = (tmp_path / "run" / "sweep.log").read_text()
    assert said.endswith(f"\n{here / 'modules'}:{tmp_path}:{here} {here / 'cache'}\n")


def test_run_that_fails_under_another_command_is_complete_under_neither(tmp_path):
    program = write(tmp_path / "program.py", "")
    assert start(program, tmp_path, ["a"]).code == 0
    write(program, "import sys; print('some error'); sys.exit(3)")
    outcome = start(program, tmp_path, ["b"])
    assert (outcome.code, outcome.message) == (3, "some error")
    assert not supervisor.is_done(tmp_path, ["a"]) and not supervisor.is_done(tmp_path, ["b"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"exit_code": 0}', '{"exit_code": 1, "command": ["a"]}', "\xff{"])
def test_marks_that_say_something_else_do_not_count(text, tmp_path):
    (tmp_path / "done.json").write_text(text, encoding="latin-1")
    assert not supervisor.is_done(tmp_path, ["a"])


def test_signal_and_missing_program_are_told(tmp_path):
    program = write(tmp_path / "program.py", "import os; os.kill(os.getpid(), 11)")
    assert start(program, tmp_path).code == -11
    missing = start(tmp_path / "gone.py", tmp_path)
    assert missing.code == supervisor.BAD_INPUT and "gone.py" in missing.message
    (tmp_path / "file").touch()
    refused = start(program, tmp_path / "file" / "run")
    assert refused.code is None and "file/run" in refused.message


def test_second_worker_waits_for_the_lock_and_says_who_has_it(tmp_path):
    program = write(tmp_path / "program.py", "")
    with lock.locked(tmp_path, 1.0, "node seven"):
        outcome = start(program, tmp_path, lock_seconds=0.3)
    assert outcome.code is None and "node seven" in outcome.message and not (tmp_path / "done.json").exists()
    assert start(program, tmp_path, lock_seconds=0.3).code == 0


WORKER = """
    import signal, sys
    from pathlib import Path
    from sweeps import supervisor

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    supervisor.GRACE_SECONDS = 1.0
    folder = Path(sys.argv[1])
    print(supervisor.supervise([sys.executable, sys.argv[2], str(folder)], folder, ["x"], node="first"))
"""
# A training with an environment process; neither listens to anything.
STUBBORN = """
    import os, signal, subprocess, sys, time
    from pathlib import Path

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    pids = Path(sys.argv[1], "pids")
    pids.with_suffix(".part").write_text(f"{os.getpid()} {other.pid} {os.getppid()}")
    pids.with_suffix(".part").rename(pids)
    time.sleep(300)
"""


def stubborn_run(tmp_path):
    """A worker process whose program runs, and the pids of program, environment and guard."""
    worker, program = write(tmp_path / "worker.py", WORKER), write(tmp_path / "program.py", STUBBORN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(worker), str(tmp_path), str(program)], env=environment)
    wait_for((tmp_path / "pids").exists)
    return process, [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def test_dead_worker_takes_all_processes_along_and_the_next_one_waits_for_that(tmp_path):
    worker, pids = stubborn_run(tmp_path)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert alive(pids[0])  # its grace
    ran_beside = []
    quick = write(tmp_path / "quick.py", "")
    outcome = start(quick, tmp_path, started=lambda: ran_beside.append([alive(pid) for pid in pids[:2]]))
    assert outcome.code == 0 and ran_beside == [[False, False]]
    wait_for(lambda: not alive(pids[2]))


def test_interrupted_worker_takes_all_processes_along(tmp_path):
    worker, pids = stubborn_run(tmp_path)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=60) != 0 and not any(map(alive, pids[:2]))
    assert not (tmp_path / "done.json").exists()


def test_program_is_interrupted_where_the_worker_blocks_interrupts(tmp_path):
    program = write(
        tmp_path / "program.py",
        """
        import sys, time
        from pathlib import Path

        try:
            Path(sys.argv[1], "started").touch()
            time.sleep(300)
        except KeyboardInterrupt:
            Path(sys.argv[1], "interrupted").touch()
        """,
    )
    worker = write(tmp_path / "worker.py", "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])")
    worker.write_text(worker.read_text() + textwrap.dedent(WORKER))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(worker), str(tmp_path), str(program)], env=environment)
    wait_for((tmp_path / "started").exists)
    process.kill()
    process.wait()
    wait_for((tmp_path / "interrupted").exists)


def test_a_job_that_is_told_to_end_lets_the_program_end_in_its_own_way(tmp_path):
    program = write(
        tmp_path / "program.py",
        """
        import os, signal, sys, time

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        """,
    )
    assert start(program, tmp_path).code == 143


def test_dead_guard_takes_the_program_along(tmp_path):
    worker, pids = stubborn_run(tmp_path)
    os.kill(pids[2], signal.SIGKILL)
    wait_for(lambda: not alive(pids[0]))
    assert worker.wait(timeout=60) == 0 and not (tmp_path / "done.json").exists()
    os.kill(pids[1], signal.SIGKILL)


def test_program_that_listens_may_end_by_itself_and_its_leftovers_are_killed(tmp_path):
    program = write(
        tmp_path / "program.py",
        """
        import subprocess, sys
        from pathlib import Path

        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(sys.argv[1], "pid").write_text(str(other.pid))
        """,
    )
    assert start(program, tmp_path).code == 0
    wait_for(lambda: not alive(int((tmp_path / "pid").read_text())))
