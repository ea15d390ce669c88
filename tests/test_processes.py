"""Whole programs in processes of their own: killed, interrupted, on two hosts, stopped and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from documentation import read_metrics

import agents
from tools.config import load_config
from training.run import TrainingRun

ROOT = Path(__file__).parent.parent
DEBUG = ["--configs", "defaults"]


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the program ended before it was killed"
        assert time.monotonic() < deadline, "the program made no checkpoint in time"
        time.sleep(0.1)


@pytest.mark.slow
def test_killed_run_resumes_with_its_steps_replay_and_weights(tmp_path):
    argv = [*DEBUG, "pointmass", "debug", "--steps", "100000", "--eval_every", "0", "--logdir", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "planning_agent.py", *argv], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "checkpoints" / "ckpt-3.index").exists(), process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    config = load_config(argv).resolved()
    weights = tf.train.load_checkpoint(str(tmp_path / "checkpoints"))
    saved_step = int(weights.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE"))
    episodes = len(list((tmp_path / "episodes").glob("*.npz")))
    agent = agents.make_agent(config)
    fresh = agent.model.reward.out.kernel.numpy()
    run = TrainingRun(agent, tmp_path, quiet=True)
    try:
        assert run.replay.episodes == episodes >= 3
        assert int(agent.step) == max(saved_step, run.replay.steps) >= 40
        assert int(agent.updates) == int(weights.get_tensor("updates/.ATTRIBUTES/VARIABLE_VALUE")) > 0
        restored = agent.model.reward.out.kernel.numpy()
        saved = [name for name, shape in weights.get_variable_to_shape_map().items() if tuple(shape) == restored.shape]
        assert any(np.array_equal(weights.get_tensor(name), restored) for name in saved)
        assert np.any(restored != fresh)
        before = int(agent.step)
        run.config = config.replace(steps=before + 30)
    except BaseException:
        run.close()
        raise
    run.run()
    assert int(agent.step) >= before + 30 and len(list((tmp_path / "episodes").glob("*.npz"))) > episodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGTERM, 143, "terminated: saved at "), (signal.SIGINT, 130, "interrupted: the same command resumes")],
    ids=["sigterm", "ctrl-c"],
)
def test_a_signal_to_the_whole_group_ends_a_run_with_one_line(number, code, words, tmp_path):
    argv = [*DEBUG, "pointmass", "debug", "--steps", "100000", "--envs", "2", "--logdir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "planning_agent.py", *argv],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: (tmp_path / "checkpoints" / "ckpt-1.index").exists(), process)
        os.killpg(process.pid, number)
        shown, line = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == code and line.startswith(words) and line.count("\n") == 1, line
    assert "steps" in shown.splitlines()[-1]  # the progress line is ended
    if number == signal.SIGTERM:
        weights = tf.train.load_checkpoint(str(tmp_path / "checkpoints"))
        saved = int(weights.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE"))
        assert f"saved at {saved:,} steps" in line


@pytest.mark.slow
def test_two_hosts_train_one_model_and_resume(tmp_path):
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0)), two.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (one, two)]
    for steps in (120, 200):
        argv = [*DEBUG, "pointmass", "debug", "--strategy", "multi_worker", "--steps", str(steps)]
        hosts = []
        for index in range(2):
            place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = [sys.executable, "planning_agent.py", *argv, "--logdir", str(tmp_path)]
            environment = os.environ | {"TF_CONFIG": json.dumps(place)}
            hosts.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL))
        assert [host.wait(timeout=600) for host in hosts] == [0, 0]
        chief, other = (read_metrics(folder) for folder in (tmp_path, tmp_path / "worker-1"))
        values = lambda rows, name: [row[name] for row in rows if row.get(name) is not None]
        assert chief[-1]["step"] == other[-1]["step"] == steps
        # The sum of both hosts' gradients; their episodes differ.
        for name in ("model/loss", "model/grad_norm"):
            assert values(chief, name) == values(other, name) and len(values(chief, name)) > 2
        assert values(chief, "train/return") != values(other, "train/return")
        assert values(chief, "eval/return") and not values(other, "eval/return")
    assert not (tmp_path / "worker-1" / "checkpoints").exists()


@pytest.mark.slow
def test_with_deterministic_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    """In processes of their own, since TensorFlow's switch cannot be turned back."""
    words = ["pointmass", "debug", "--planner", "cem", "--warm_start", "true", "--deterministic", "true"]
    figures, weights = {}, {}
    for name, stops in (("once", [146]), ("again", [146]), ("stopped", [73, 146])):
        logdir = tmp_path / name
        for steps in stops:  # within an episode, which has 20, and within a plan
            argv = [*DEBUG, *words, "--steps", str(steps), "--logdir", str(logdir)]
            subprocess.run([sys.executable, "planning_agent.py", *argv], cwd=ROOT, check=True, capture_output=True)
        times = ("time", "speed/")
        rows = read_metrics(logdir)
        figures[name] = [{k: v for k, v in row.items() if not k.startswith(times)} for row in rows]
        reader = tf.train.load_checkpoint(str(logdir / "checkpoints"))
        own = ("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")
        names = [key for key in reader.get_variable_to_shape_map() if not key.startswith(own)]
        weights[name] = {key: np.asarray(reader.get_tensor(key)) for key in names}
    assert figures["once"] == figures["again"] and len(figures["once"]) > 8
    assert all(row in figures["stopped"] for row in figures["once"])
    for name in ("again", "stopped"):
        assert weights[name].keys() == weights["once"].keys()
        for key, value in weights["once"].items():
            np.testing.assert_array_equal(weights[name][key], value, err_msg=key)
