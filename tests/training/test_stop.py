"""SIGTERM during a run, and what a refused or ended start leaves in the log directory."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

import planning_agent
from episodes.replay import Replay
from tests.training.fakes import ACTION_SIZE, FakeAgent, make_episode, make_run, replace_simulators, short_run
from tests.training.test_run import EPISODE, read_metrics
from tools.errors import UserError
from tools.lock import locked
from tools.signals import Terminated
from training.collector import Collector
from training.run import TrainingRun


@pytest.fixture
def seeds(monkeypatch):
    return replace_simulators(monkeypatch, lambda task, index: EPISODE)


@pytest.fixture
def config(tiny_config):
    """Decisions of two steps, episodes of eight, two updates every four steps."""
    return short_run(
        tiny_config, action_repeat=2, steps=40, prefill=8, pretrain=6, train_every=4, train_steps=2, eval_episodes=2
    )


def terminate_at(monkeypatch, owner, name, call):
    """SIGTERM at the end of a call of a method, counted from 1. Returns the list of the calls."""
    function, calls = getattr(owner, name), []

    def method(*args, **options):
        calls.append(args)
        result = function(*args, **options)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, method)
    return calls


def resumed(config, logdir):
    run = make_run(config, logdir)
    counts = int(run.agent.step), int(run.agent.updates)
    run.run()
    assert int(run.agent.step) == config.steps
    return counts


@pytest.mark.parametrize(
    ("part", "call", "counts"),
    [
        ("random_policy", 2, (4, 0)),  # in the prefill: the decision is taken, no more
        ("train_step", 3, (8, 3)),  # in the pretraining: that update is made, no more
        ("train_step", 7, (12, 8)),  # later: the step's second update is made as well
        ("policy", 3, (14, 8)),
    ],
)
def test_sigterm_finishes_the_step_and_saves(seeds, config, tmp_path, monkeypatch, part, call, counts):
    before = signal.getsignal(signal.SIGTERM)
    run = make_run(config, tmp_path)
    calls = terminate_at(monkeypatch, run.agent, part, call)
    with pytest.raises(Terminated, match=f"saved at {counts[0]} steps; the same command goes on"):
        run.run()
    assert len(calls) == call + (part == "train_step" and call == 7)
    assert signal.getsignal(signal.SIGTERM) is before
    assert read_metrics(tmp_path)[-1]["train/updates"] == counts[1]
    assert resumed(config, tmp_path) == counts


def test_sigterm_cuts_off_an_evaluation(seeds, config, tmp_path, monkeypatch):
    run = make_run(config.replace(eval_every=20), tmp_path)
    calls = []

    def policy(obs, is_first, state, *, explore, idle=None):
        calls.append(explore)
        if calls.count(False) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros([len(is_first), ACTION_SIZE]), "policy", {}

    monkeypatch.setattr(run.agent, "policy", policy)
    with pytest.raises(Terminated, match="saved at 8 steps"):
        run.run()
    assert calls == [False, False]
    assert resumed(config, tmp_path) == (8, 6)


def test_a_closed_environment_hides_no_error(seeds, config, tmp_path, monkeypatch):
    """Whatever ends a run, its environments are closed; an error that they make then comes after the first one."""
    run = make_run(config, tmp_path)
    closed = []
    monkeypatch.setattr(run.turns.collectors[0], "close", lambda: closed.append(True))
    monkeypatch.setattr(run.logger, "close", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert closed == [True]


# The whole program, with an agent and environments that do nothing


@pytest.fixture
def train(seeds, monkeypatch):
    """The program: words of the command line to its exit code."""

    class Agent(FakeAgent):
        def train(self, logdir, begin):
            TrainingRun(self, logdir, quiet=True, begin=begin).run()

    monkeypatch.setattr(planning_agent, "make_agent", Agent)
    words = [
        "--configs",
        "defaults",
        "pointmass",
        "debug",
        "--batch_size",
        "2",
        "--batch_length",
        "3",
        "--prefill",
        "8",
    ]
    words += ["--pretrain", "1", "--steps", "24", "--eval_every", "0", "--action_repeat", "2", "--media", "false"]
    return lambda logdir, *more: planning_agent.main([*words, "--logdir", str(logdir), *more])


def refused(capsys, code):
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_refused_command_leaves_no_mark(train, tmp_path, capsys, monkeypatch):
    logdir = tmp_path / "new" / "run"
    assert "batch_size" in refused(capsys, train(logdir, "--batch_size", "0"))
    assert "nowhere" in refused(capsys, train(logdir, "--offline_dir", str(tmp_path / "nowhere")))
    data = tmp_path / "data"
    Replay(data, 1, 1, 100, 0).add(make_episode(EPISODE, 1.0) | {"action": np.zeros([EPISODE + 1, 3], np.float32)})
    assert "have 3 numbers" in refused(capsys, train(logdir, "--offline_dir", str(data)))
    with monkeypatch.context() as broken:
        broken.setattr("training.collector.Collector.start", fail)
        assert "no environment" in refused(capsys, train(logdir))
    assert not (tmp_path / "new").exists()
    assert train(logdir) == 0
    before = {path: path.stat().st_mtime_ns for path in logdir.rglob("*") if path.is_file()}
    assert "deter" in refused(capsys, train(logdir, "--deter", "12"))
    assert "no episodes" in refused(capsys, train(logdir, "--offline_dir", str(tmp_path / "nowhere")))
    assert {path: path.stat().st_mtime_ns for path in logdir.rglob("*") if path.is_file()} == before
    assert train(logdir, "--steps", "32") == 0
    assert len((logdir / "runs.jsonl").read_text().splitlines()) == 2


def fail(*_):
    raise UserError("There is no environment: make one.")


def test_two_processes_do_not_train_in_one_log_directory(train, tmp_path, capsys):
    with locked(tmp_path, 0.0, "the other host"):
        error = refused(capsys, train(tmp_path))
        assert "the other host" in error and "--logdir" in error
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]
    assert train(tmp_path) == 0


def test_folders_that_cannot_be_written_are_refused_in_one_sentence(train, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    assert "file/run" in refused(capsys, train(tmp_path / "file" / "run"))

    def read_only(*_):
        raise OSError(30, "Read-only file system", str(tmp_path / "run" / "config.yaml"))

    monkeypatch.setattr("tools.config.replaced", read_only)
    assert "Read-only" in refused(capsys, train(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("writer", ["episodes.episode.replaced", "tools.logger.append_json"])
def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(train, tmp_path, capsys, monkeypatch, writer):
    assert train(tmp_path, "--steps", "16") == 0

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(writer, full)
        error = refused(capsys, train(tmp_path, "--steps", "32"))
        assert "No space left" in error and "make room" in error
    assert train(tmp_path, "--steps", "32") == 0
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 32


def test_a_folder_that_is_deleted_during_a_run_is_one_sentence(train, tmp_path, capsys, monkeypatch):
    start = Collector.start

    def start_and_delete(self):
        start(self)
        shutil.rmtree(self.replay.directory)

    with monkeypatch.context() as deleted:
        deleted.setattr(Collector, "start", start_and_delete)
        error = refused(capsys, train(tmp_path))
        assert f"{tmp_path / 'episodes'}/" in error and "No such file or directory" in error
    assert train(tmp_path) == 0


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(train, tmp_path, capsys, monkeypatch):
    import tensorflow as tf

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "{{node x}} ckpt-1; No space left on device [Op:Save]")

    with monkeypatch.context() as disk:
        disk.setattr("tensorflow.train.CheckpointManager.save", full)
        error = refused(capsys, train(tmp_path))
        assert "checkpoints cannot be written (ckpt-1; No space left on device): make room" in error
    assert train(tmp_path) == 0
