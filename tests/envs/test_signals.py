"""Ctrl-C in a terminal and SIGTERM to a whole group reach the processes of environments, too."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.deaf import deaf_children
from envs.workers import in_new_process
from tools.config import load_config

ROOT = Path(__file__).parents[2]
DEAF = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def blocked(pid):
    """The signals that a process does not hear."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
    return {number for number in DEAF if int(line.split()[1], 16) >> (number - 1) & 1}


def test_workers_hear_no_signal_and_go_on():
    batch = envs.make_vector_env(load_config(["--task", "pointmass_obstacle"]), 1, seed=0)
    try:
        (worker,) = batch.processes
        assert blocked(worker.pid) == DEAF and blocked(os.getpid()) == set()
        batch.reset()
        for number in DEAF:
            os.kill(worker.pid, number)
        assert batch.step(np.zeros((1, 2), np.float32))[0]["image"].any()
    finally:
        batch.close()
    assert worker.exitcode == 0
    # A process that answers one question, such as what spaces a task has.
    assert in_new_process(signal.pthread_sigmask, signal.SIG_BLOCK, []) == DEAF


def test_a_signal_while_a_process_starts_waits_for_that():
    reached, now = [], threading.Event()
    # Another thread takes the signal, since this one blocks it.
    taker = threading.Thread(target=lambda: now.wait() and signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    taker.start()
    with pytest.raises(KeyboardInterrupt), deaf_children():
        now.set()
        taker.join()
        reached.append("the end")
    assert reached == ["the end"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


# A shell may have told its background jobs to ignore signals (nohup, &), and so these tests.
PROGRAM = """
    import signal
    import sys
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)
    import envs
    from tools.config import load_config
    from tools.program import run_program

    def body(argv):
        batch = envs.make_vector_env(load_config(["--task", "pointmass_obstacle"]), 1, seed=0)
        print("started", *(process.pid for process in batch.processes), flush=True)
        while True:
            batch.reset()

    sys.exit(run_program(body, [], lambda: "again"))
    """


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted: again\n"),
        (signal.SIGTERM, 143, "terminated: again\n"),
        pytest.param(signal.SIGHUP, 143, "terminated: again\n", marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "sigterm", "hangup"],
)
def test_a_signal_to_the_whole_group_is_one_line_and_leaves_no_worker(number, code, line):
    """The program does not close its environments: it is interrupted before it could."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        started, *workers = program.stdout.readline().split()
        assert started == "started" and len(workers) == 1
        os.killpg(program.pid, number)
        assert program.communicate(timeout=120)[1] == line and program.returncode == code
        assert gone(workers)
    finally:
        program.kill()


def gone(pids, seconds=30.0):
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
