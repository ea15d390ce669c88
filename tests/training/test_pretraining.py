"""The updates and the evaluation with which learning begins, and runs that do nothing else."""

import contextlib

import pytest

from episodes.replay import Replay
from tests.training.fakes import make_episode, make_run, replace_simulators, short_run, watch, without
from tools.errors import UserError

EPISODE = 4  # decisions


@pytest.fixture
def seeds(monkeypatch):
    """See `replace_simulators`."""
    return replace_simulators(monkeypatch, lambda *_: EPISODE)


@pytest.fixture
def config(tiny_config):
    """A run of 30 steps whose decisions take two, and its episodes eight."""
    every = {"train_every": 5, "eval_every": 10, "checkpoint_every": 12}
    return short_run(
        tiny_config, action_repeat=2, steps=30, prefill=8, pretrain=3, train_steps=2, eval_episodes=2, **every
    )


def test_pretraining_waits_for_the_first_episode(seeds, config, tmp_path, monkeypatch):
    run = make_run(config.replace(prefill=2, eval_every=0), tmp_path)
    events = watch(run, monkeypatch)
    run.run()
    assert without(events, "write") == [
        ("update", 8, 3), ("save", 8), ("update", 10, 2), ("save", 12), ("update", 16, 2), ("update", 20, 2),
        ("save", 24), ("update", 26, 2), ("update", 30, 2), ("save", 30),
    ]  # fmt: skip


def test_interrupted_pretraining_goes_on(seeds, config, tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.PRETRAIN_SLICE", 2)
    run = make_run(config.replace(pretrain=7, checkpoint_every=4, log_every=3), tmp_path)
    run.prefill()
    events = watch(run, monkeypatch)
    monkeypatch.setattr(run.metrics, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.pretrain()
    run.close()
    assert without(events, "write") == [("update", 8, 2), ("update", 8, 2)]
    again = make_run(config.replace(pretrain=7, checkpoint_every=4), tmp_path)
    assert int(again.agent.updates) == 0  # nothing was saved yet
    events = watch(again, monkeypatch)
    again.pretrain()
    again.close()
    names = [event[0] for event in events]
    assert names == ["update", "update", "save", "update", "update", "save"]
    last = make_run(config.replace(pretrain=9), tmp_path)
    events = watch(last, monkeypatch)
    last.pretrain()
    last.close()
    assert events == [("update", 8, 2), ("save", 8)]


def test_pretraining_is_saved_on_the_way(seeds, config, tmp_path, monkeypatch):
    """Before environment steps, too, which may take hours to come."""
    monkeypatch.setattr("training.run.PRETRAIN_SLICE", 1)
    run = make_run(config.replace(pretrain=5, checkpoint_every=2), tmp_path)
    run.prefill()
    saved = []
    monkeypatch.setattr(run.checkpoints, "save", lambda: saved.append(int(run.agent.updates)))
    run.pretrain()
    run.close()
    assert saved == [2, 4, 5]


def interrupt():
    raise KeyboardInterrupt


def test_the_first_evaluation_is_made_once_also_where_no_update_comes_before_it(seeds, config, tmp_path, monkeypatch):
    config = config.replace(pretrain=0, train_every=20, eval_every=20, checkpoint_every=0)
    found = []
    for steps in (4, 12, 16, 30):
        run = make_run(config.replace(steps=steps), tmp_path)
        events = watch(run, monkeypatch)
        with pytest.raises(UserError, match="No episode") if steps == 4 else contextlib.nullcontext():
            run.run()
        found.append(without(events, "write"))
    assert found == [
        [("save", 4)],  # within the prefill
        [("evaluate", 12), ("save", 12)],  # the episode in progress was lost
        [("save", 16)],
        [("update", 20, 2), ("evaluate", 20), ("save", 30)],
    ]


def start_with_updates(monkeypatch, updates):
    """`init_from` is a run with so many updates."""
    monkeypatch.setattr("training.run.start_from", lambda agent, logdir: agent.updates.assign(updates))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The first episode ends at step 8.
        ({"prefill": 0}, [("evaluate", 8), ("update", 8, 2), ("update", 10, 2), ("evaluate", 10), ("save", 12)]),
        ({"prefill": 6}, [("evaluate", 8), ("update", 10, 2), ("evaluate", 10), ("save", 12)]),
        # Only the updates that the other run has not made.
        ({"pretrain": 5}, [("update", 8, 1), ("save", 8), ("evaluate", 8), ("update", 10, 2), ("evaluate", 10)]),
    ],
)
def test_a_run_that_starts_from_another_is_evaluated_and_trained_from_the_start(
    seeds, config, tmp_path, monkeypatch, changes, expected
):
    start_with_updates(monkeypatch, 4)
    config = config.replace(**{"init_from": "other", "pretrain": 3, "steps": 12, "checkpoint_every": 0} | changes)
    run = make_run(config, tmp_path)
    events = watch(run, monkeypatch)
    run.run()
    assert without(events, "write")[: len(expected)] == expected


@pytest.mark.parametrize("pretrain", [3, 6])
def test_an_offline_run_that_starts_from_another_is_evaluated(seeds, config, tmp_path, monkeypatch, pretrain):
    start_with_updates(monkeypatch, 4)
    Replay(tmp_path / "data", 1, 1, 100, 0).add(make_episode(EPISODE, 2.0))
    offline = {"steps": 0, "pretrain": pretrain, "offline_dir": str(tmp_path / "data"), "init_from": "other"}
    for evaluations in ([max(pretrain, 4)], []):
        run = make_run(config.replace(**offline), tmp_path / "run")
        events = watch(run, monkeypatch)
        run.run()
        assert [event[1] for event in events if event[0] == "evaluate"] == evaluations


def test_without_steps_everything_counts_updates(seeds, config, tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.PRETRAIN_SLICE", 2)
    Replay(tmp_path / "data", 1, 1, 100, 0).add(make_episode(EPISODE, 2.0))
    offline = config.replace(
        steps=0, pretrain=7, eval_every=4, log_every=3, checkpoint_every=5, offline_dir=str(tmp_path / "data"),
        reward_normalization=True,
    )  # fmt: skip
    run = make_run(offline, tmp_path / "run")
    assert float(run.agent.rewards.count) == EPISODE and float(run.agent.rewards.mean) == 2.0
    events = watch(run, monkeypatch)
    run.run()
    assert events == [
        ("update", 0, 2), ("update", 2, 2), ("write", 4), ("evaluate", 4), ("write", 4), ("update", 4, 2), ("write", 6),
        ("save", 6), ("update", 6, 1), ("save", 7), ("evaluate", 7), ("write", 7), ("save", 7), ("write", 7),
    ]  # fmt: skip
    assert int(run.agent.step) == 0 and len(seeds) == 1  # only the environments of the evaluation were started
    again = make_run(offline, tmp_path / "run")
    assert float(again.agent.rewards.count) == EPISODE  # from the checkpoint, not added once more
    again.close()
