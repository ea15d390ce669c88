"""Processes of environments that are killed, stopped or fail in ways of their own."""

import functools
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
from clocks import SPACES, Clock, OtherClock, die, die_once, fail

from envs import workers
from envs.workers import WorkerEnvs, in_new_process
from tools.errors import UserError
from training.driver import Driver

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_batch():
    """Makes batches of clocks, and ends their processes after the test."""
    batches = []

    def make(count=2, kind=Clock, **options):
        batches.append(WorkerEnvs(functools.partial(kind, **options), range(count), SPACES))
        return batches[-1]

    yield make
    for batch in batches:
        pids = [process.pid for process in batch.processes]
        batch.close()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def still(obs, is_first, state):
    return np.zeros((len(is_first), 1), np.float32), None, {}


def shown(obs):
    return obs["image"][:, 0].tolist()


def test_batch_resets_steps_and_resets_in_part(make_batch):
    batch = make_batch(2)
    obs, info = batch.reset(seed=5)
    assert shown(obs) == [0, 0] and info["success"].tolist() == [0.0] * 2
    obs, reward, terminated, truncated, info = batch.step(np.zeros((2, 1), np.float32))
    assert shown(obs) == [1, 1] and reward.tolist() == [1.0] * 2 and info["success"].tolist() == [1.0] * 2
    assert not terminated.any() and not truncated.any() and "lost" not in info
    before = obs["image"].copy()
    after, _ = batch.reset(options={"reset_mask": np.array([False, True])})
    assert shown(after) == [1, 0]
    np.testing.assert_array_equal(obs["image"], before)  # what was handed out does not change
    later, *_ = batch.step(np.zeros((2, 1), np.float32))
    assert shown(after) == [1, 0] and not np.shares_memory(after["image"], later["image"])
    assert obs["image"].dtype == np.uint8


def test_killed_worker_is_replaced_and_its_episode_dropped_and_counted(make_batch, capsys):
    batch = make_batch(2)
    driver = Driver(batch)
    assert driver.step(still) == driver.step(still) == []
    os.kill(batch.processes[1].pid, signal.SIGKILL)
    assert driver.step(still) == [] and driver.dropped == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "environment 1 was killed (SIGKILL" in said and "restart 1 of at most 5" in said
    (first,) = driver.step(still)
    assert first.env == 0 and first.data["image"][:, 0].tolist() == [0, 1, 2, 3, 4]
    episodes = [episode for _ in range(3) for episode in driver.step(still)]
    assert [episode.env for episode in episodes] == [1]
    # Its replacement has a random stream of its own, or it would repeat the episodes that the dead one has played.
    assert episodes[0].data["image"][:, 0].tolist() == [100, 101, 102, 103, 104]
    assert episodes[0].data["reward"].tolist() == [0, 1, 1, 1, 1]


def test_every_start_of_an_evaluation_is_played_though_workers_are_killed(make_batch):
    batch = make_batch(2)
    driver = Driver(batch)
    driver.restart([7, 8, 9])
    driver.step(still)
    os.kill(batch.processes[0].pid, signal.SIGKILL)
    episodes = [episode for _ in range(10) for episode in driver.step(still)]
    assert sorted(episode.number for episode in episodes) == [0, 1, 2] and driver.dropped == 1


def test_worker_killed_between_an_episode_and_the_next_loses_none(make_batch):
    batch = make_batch(1)
    batch.reset()
    os.kill(batch.processes[0].pid, signal.SIGKILL)
    assert shown(batch.reset(seed=[3])[0]) == [100] and batch.restarts == 1
    assert "lost" not in batch.step(np.zeros((1, 1), np.float32))[-1]


def test_restarts_are_bounded(make_batch, monkeypatch):
    monkeypatch.setattr(workers, "RESTARTS", 2)
    batch = make_batch(2, fault="exit")
    with pytest.raises(UserError, match="ended with exit code 3, after 2 restarts") as error:
        batch.reset()
    assert batch.closed and "\n" not in str(error.value)


def test_worker_killed_while_it_starts(make_batch, monkeypatch):
    monkeypatch.setattr(workers, "RESTARTS", 1)
    with pytest.raises(UserError, match="was killed .SIGKILL.* after 1 restarts"):
        make_batch(1, fault="start").reset()


def test_stopped_worker_is_replaced_after_the_time_limit(make_batch):
    batch = make_batch(2)
    batch.reset()
    batch.timeout = 2.0
    os.kill(batch.processes[0].pid, signal.SIGSTOP)
    obs, _, _, _, info = batch.step(np.zeros((2, 1), np.float32))
    assert info["lost"].tolist() == [True, False] and shown(obs)[1] == 1
    batch.timeout = 300.0
    assert shown(batch.reset(options={"reset_mask": np.array([True, False])})[0]) == [100, 1]


def test_a_worker_that_is_late_too_often_needs_more_time(make_batch, monkeypatch):
    monkeypatch.setattr(workers, "RESTARTS", 0)
    batch = make_batch(1)
    batch.reset()
    batch.timeout = 0.5
    os.kill(batch.processes[0].pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="environment 0 did not answer in time .*, or raise step_timeout"):
        batch.step(np.zeros((1, 1), np.float32))


def test_first_ctrl_c_ends_a_run_whose_worker_is_stopped(make_batch):
    batch = make_batch(1)
    batch.reset()
    os.kill(batch.processes[0].pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        batch.step(np.zeros((1, 1), np.float32))
    batch.close()
    assert time.monotonic() - start < 10.0


@pytest.mark.parametrize("fault", ["constructor", "step"])
def test_exception_that_cannot_be_pickled_is_named(make_batch, fault):
    batch = make_batch(1, fault=fault)
    with pytest.raises(RuntimeError, match=r"OwnError: \('(made|stepped)', 'wrong'\)"):
        batch.reset()
        batch.step(np.zeros((1, 1), np.float32))


def test_environment_of_other_spaces_is_refused(make_batch):
    with pytest.raises(UserError, match="different spaces"):
        make_batch(1, kind=OtherClock).reset()


def test_workers_end_with_the_agent_that_is_killed():
    program = textwrap.dedent("""
        import functools, os, sys
        sys.path.insert(0, "tests/envs")
        from clocks import SPACES, Clock
        from envs.workers import WorkerEnvs
        batch = WorkerEnvs(Clock, range(2), SPACES)
        batch.reset()
        print(*(process.pid for process in batch.processes), flush=True)
        os.kill(os.getpid(), 9)
    """)
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    pids = [int(word) for word in result.stdout.split()]
    assert len(pids) == 2 and result.returncode == -signal.SIGKILL
    end = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_killed_query_process_is_tried_again_once(tmp_path):
    assert in_new_process(die_once, tmp_path / "marker") == "alive"
    with pytest.raises(UserError, match="ended by SIGSEGV, twice: look for what ends it"):
        in_new_process(die, signal.SIGSEGV)


def test_stopped_query_process_is_given_up():
    with pytest.raises(UserError, match=r"in time \(step_timeout\), twice: look for what holds it up, or raise"):
        in_new_process(die, signal.SIGSTOP, timeout=1.0)


@pytest.mark.parametrize("closed", ["1", "2", "12"])
def test_closed_output_streams_end_no_environment(closed):
    program = "import os; from envs.workers import in_new_process; os._exit(in_new_process(abs, -7))"
    words = " ".join(f"{number}>&-" for number in closed)
    assert subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {words}', sys.executable, program], cwd=ROOT).returncode == 7


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [("user", UserError, "Say this."), ("own", RuntimeError, "OwnError"), ("builtin", KeyError, "there")],
)
def test_errors_of_a_query_process_arrive(kind, error, words):
    with pytest.raises(error, match=words):
        in_new_process(fail, kind)
