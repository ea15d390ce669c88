"""Runs that start from a folder of episodes, or train on it alone (`offline_dir`)."""

import gymnasium
import numpy as np
import pytest
from documentation import read_metrics

from episodes.dataset import check_collection, settings, write_collection
from episodes.replay import Replay
from planner_agents import CEMAgent, LatCoAgent
from policy_agents import PolicyAgent
from tools.errors import UserError
from training.logdir import open_logdir
from training.run import TrainingRun

IMAGES = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
OBSERVATIONS = gymnasium.spaces.Dict({**IMAGES, "state": gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)})
ACTION_SPACE = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
EPISODES, LENGTH = 3, 20


def make_episodes(folder, rewards=(0.0, 1.0, 2.0), states=True):
    """Episodes of constant rewards, as those of a point mass are shaped."""
    replay, rng = Replay(folder, 1, 1, 1000, 0), np.random.default_rng(0)
    for reward in rewards:
        episode = {
            "image": rng.integers(0, 256, (LENGTH + 1, 64, 64, 3), np.uint8),
            "action": rng.uniform(-1, 1, (LENGTH + 1, 2)).astype(np.float32),
            "reward": np.full(LENGTH + 1, reward, np.float32),
            "discount": np.ones(LENGTH + 1, np.float32),
            "is_first": np.arange(LENGTH + 1) == 0,
            "state": np.zeros((LENGTH + 1, 4), np.float32),
            "success": np.zeros(LENGTH + 1, np.float32),
            "cost": np.zeros(LENGTH + 1, np.float32),
        }
        episode["action"][0] = 0.0
        if not states:
            del episode["state"]
        replay.add(episode)
    return folder


@pytest.fixture
def offline_config(tiny_config, tmp_path):
    folder = make_episodes(tmp_path / "data")
    return tiny_config.replace(
        task="pointmass_obstacle", planner="cem", offline_dir=str(folder), steps=0, eval_every=0, log_every=2
    )


def train(config, logdir):
    agent = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
    agent.train(logdir, quiet=True)
    rows = read_metrics(logdir)
    return agent, rows


def test_without_steps_updates_are_counted_and_nothing_is_collected(
    offline_config, tmp_path, monkeypatch, line_by_line
):
    monkeypatch.setattr("training.run.PRETRAIN_SLICE", 1)
    agent, rows = train(offline_config.replace(pretrain=3), tmp_path / "run")
    assert (int(agent.updates), int(agent.step)) == (3, 0)
    losses = [row["step"] for row in rows if "model/loss" in row]
    assert losses == [2, 3]
    assert all(row["replay/episodes"] == row["replay/steps"] == 0 for row in rows)
    assert not list((tmp_path / "run" / "episodes").glob("*.npz"))
    assert len(list((tmp_path / "data").glob("*.npz"))) == EPISODES


@pytest.mark.slow
def test_a_second_start_trains_on_from_the_checkpoint(offline_config, tmp_path):
    first, _ = train(offline_config.replace(pretrain=3), tmp_path / "run")
    second, rows = train(offline_config.replace(pretrain=7), tmp_path / "run")
    assert int(second.updates) == 7 and rows[-1]["step"] == 7
    assert int(first.optimizer.iterations) == 3 and int(second.optimizer.iterations) == 7
    third, again = train(offline_config.replace(pretrain=7), tmp_path / "run")
    assert int(third.updates) == 7 and not any("model/loss" in row for row in again[len(rows) :])


def test_normalization_knows_the_offline_rewards(offline_config, tmp_path):
    config = offline_config.replace(pretrain=1, reward_normalization=True)
    for _ in range(2):  # the statistics are in the checkpoint, and are not added once more
        agent = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
        run = TrainingRun(agent, tmp_path / "run", quiet=True)
        assert float(agent.rewards.mean) == pytest.approx(1.0)
        assert float(agent.rewards.count) == EPISODES * LENGTH
        run.checkpoints.save()
        run.close()


@pytest.mark.slow
def test_a_run_with_steps_collects_beside_the_offline_episodes(offline_config, tmp_path):
    """A hybrid run: it may train before its first own episode, and steps count what it collected itself."""
    config = offline_config.replace(steps=40, prefill=0, pretrain=2, train_every=20, log_every=10)
    agent, rows = train(config, tmp_path / "run")
    assert rows[-1]["step"] == 40 and rows[-1]["replay/episodes"] == 2 and rows[-1]["replay/steps"] == 40
    assert int(agent.updates) == 2 + 2 * config.train_steps
    assert len(list((tmp_path / "data").glob("*.npz"))) == EPISODES


def test_nothing_to_train_on_is_refused(tiny_config, tmp_path):
    agent = CEMAgent(tiny_config.replace(steps=0, planner="cem"), OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="--offline_dir"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


def test_a_value_that_learns_from_plans_is_refused_where_none_are_made(offline_config, tmp_path):
    config = offline_config.replace(value_head=True, discount=0.99, value_data="plans")
    agent = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="steps is 0.*--value_data replay"):
        TrainingRun(agent, tmp_path / "run", quiet=True)
    config = config.replace(steps=100, planner="policy", policy_teacher="none")
    agent = PolicyAgent(config, OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="policy_teacher is none.*--value_data replay"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("key, value", [("task", "pointmass_lottery"), ("action_repeat", 3)])
def test_episodes_of_another_task_or_repeat_are_refused(offline_config, tmp_path, key, value):
    write_collection(tmp_path / "data", {"settings": settings(offline_config) | {key: value}})
    agent = CEMAgent(offline_config, OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match=f"have {key} = {value!r}"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("key, value", [("starts", "near"), ("time_limit", 7), ("randomize", False)])
def test_episodes_that_start_or_end_otherwise_are_named(offline_config, tmp_path, key, value, capsys):
    write_collection(tmp_path / "data", {"settings": settings(offline_config) | {key: value}})
    TrainingRun(CEMAgent(offline_config, OBSERVATIONS, ACTION_SPACE), tmp_path / "run", quiet=True).close()
    error = capsys.readouterr().err
    assert error.startswith("note: ") and error.count("\n") == 1
    assert f"have {key} = {value!r}, this run {offline_config[key]!r}" in error


def test_episodes_from_before_a_setting_have_what_was_done_then(offline_config, tmp_path, capsys):
    config = offline_config.replace(task="metaworld_reach")
    known = settings(config)
    del known["starts"]
    for found, starts, words in (
        (known, "paper", "have starts = 'near', this run 'paper'"),
        (known, "near", ""),
        ({"task": config.task}, "paper", ""),  # a foreign data set
    ):
        write_collection(tmp_path, {"settings": found})
        check_collection(tmp_path, config.replace(starts=starts))
        error = capsys.readouterr().err
        assert words in error and bool(error) == bool(words)


def test_a_folder_without_episodes_is_refused(offline_config, tmp_path):
    agent = CEMAgent(offline_config.replace(offline_dir=str(tmp_path / "none")), OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="has no episodes"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


def test_a_run_of_several_tasks_is_refused(offline_config, tmp_path):
    config = offline_config.replace(task="pointmass_obstacle,pointmass_lottery")
    agent = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="episodes of one task"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


def test_actions_of_another_size_are_refused(offline_config, tmp_path):
    agent = CEMAgent(offline_config, OBSERVATIONS, gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32))
    with pytest.raises(UserError, match="have 2 numbers, this task's 3"):
        TrainingRun(agent, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("states", [False, True])
def test_episodes_that_cannot_be_beside_own_ones_are_refused(offline_config, tmp_path, states):
    data, observations = tmp_path / "other", OBSERVATIONS if not states else IMAGES
    make_episodes(data, states=states)
    config = offline_config.replace(offline_dir=str(data), steps=100)
    words = "have a state, this task's have none" if states else "have no state, this task's have one"
    with pytest.raises(UserError, match=f"other {words}.*--offline_dir, or collect nothing \\(--steps 0\\)"):
        TrainingRun(CEMAgent(config, observations, ACTION_SPACE), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    agent = CEMAgent(config.replace(steps=0), observations, ACTION_SPACE)
    TrainingRun(agent, tmp_path / "run", quiet=True).close()


def test_a_log_directory_is_for_runs_that_collect_or_for_those_that_do_not(offline_config, tmp_path):
    config = offline_config.replace(logdir=str(tmp_path / "run"))
    open_logdir(config, [])
    with pytest.raises(UserError, match="directories of their own"):
        open_logdir(config.replace(steps=100), [])
    open_logdir(config.replace(pretrain=9), [])


@pytest.mark.parametrize(
    "key, value", [("seed", -1), ("envs", 0), ("action_repeat", -1), ("time_limit", -3), ("prefill_correlation", 1.0)]
)
def test_numbers_that_make_no_sense_are_refused(offline_config, key, value):
    with pytest.raises(UserError, match=f"{key} is {value}: "):
        CEMAgent(offline_config.replace(**{key: value}), OBSERVATIONS, ACTION_SPACE)


def test_a_run_starts_from_the_weights_of_another(offline_config, tmp_path, monkeypatch, line_by_line):
    monkeypatch.setattr("training.run.PRETRAIN_SLICE", 1)
    base = offline_config.replace(pretrain=1, logdir=str(tmp_path / "base"))
    first, _ = train(base, open_logdir(base, []))
    config = base.replace(steps=40, init_from=base.logdir, logdir=str(tmp_path / "new"), prefill=0, seed=7)
    agent = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
    run = TrainingRun(agent, open_logdir(config, []), quiet=True)
    assert (int(agent.updates), int(agent.step), int(agent.optimizer.iterations)) == (1, 0, 1)
    for old, new in zip(first.optimizer.variables, agent.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    for old, new in zip(first.model.trainable_variables, agent.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    # Its own checkpoint counts from then on.
    agent.updates.assign(9)
    run.checkpoints.save()
    run.close()
    again = CEMAgent(config, OBSERVATIONS, ACTION_SPACE)
    TrainingRun(again, tmp_path / "new", quiet=True).close()
    assert int(again.updates) == 9


@pytest.mark.slow
def test_what_the_other_run_did_not_learn_starts_anew_with_settings_of_its_own(offline_config, tmp_path, capsys):
    base = offline_config.replace(pretrain=1, logdir=str(tmp_path / "base"))
    first, _ = train(base, open_logdir(base, []))
    value = {"value_head": True, "augmented_objective": True, "value_units": 5, "discount": 0.9}
    config = base.replace(planner="latco", init_from=base.logdir, logdir=str(tmp_path / "new"), steps=40, **value)
    agent = LatCoAgent(config, OBSERVATIONS, ACTION_SPACE)
    run = TrainingRun(agent, open_logdir(config, []), quiet=True)
    run.checkpoints.save()
    run.close()
    assert "has no value: this run starts with new weights there" in capsys.readouterr().err
    # The old dynamics are a copy of those that the run starts with.
    for dynamics in (agent.model.dynamics, agent.old_dynamics.net):
        for old, new in zip(first.model.dynamics.weights, dynamics.weights, strict=True):
            np.testing.assert_array_equal(old.numpy(), new.numpy())
    # The other way round, the settings of what is left out do not matter.
    config = base.replace(init_from=config.logdir, logdir=str(tmp_path / "third"), steps=40, value_layers=3)
    TrainingRun(CEMAgent(config, OBSERVATIONS, ACTION_SPACE), open_logdir(config, []), quiet=True).close()


@pytest.mark.parametrize(
    "change, match",
    [
        ({"deter": 9}, "holds a run with deter .* choose another --init_from, or the same deter"),
        ({"init_from": "nowhere"}, "init_from is nowhere, which holds no run"),
    ],
)
def test_weights_that_do_not_fit_are_refused(offline_config, tmp_path, change, match):
    base = offline_config.replace(logdir=str(tmp_path / "base"))
    open_logdir(base, [])
    config = base.replace(**{"init_from": base.logdir} | change)
    with pytest.raises(UserError, match=match):
        TrainingRun(CEMAgent(config, OBSERVATIONS, ACTION_SPACE), tmp_path / "new", quiet=True)


def test_a_run_without_a_checkpoint_to_start_from_is_refused(offline_config, tmp_path):
    base = offline_config.replace(logdir=str(tmp_path / "base"))
    open_logdir(base, [])
    config = base.replace(init_from=base.logdir)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        TrainingRun(CEMAgent(config, OBSERVATIONS, ACTION_SPACE), tmp_path / "new", quiet=True)
