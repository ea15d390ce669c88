"""Agents with a value network: what it learns from, what is restored, programs and refusals."""

import types

import numpy as np
import pytest
import tensorflow as tf
from documentation import read_metrics

import agents
import planning_agent
from base_agent import BaseAgent
from distilling_agent import DistillingAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS, make_batch
from tools.config import load_config
from tools.errors import UserError
from training.logdir import open_logdir
from world_model.value import ValueLearner


@pytest.mark.slow
def test_the_world_model_learns_the_same_beside_a_value(tiny_config):
    changes = {"value_head": True, "value_data": "replay", "discount": 0.99}
    plain, other = (BaseAgent(x, OBSERVATIONS, ACTION_SPACE) for x in (tiny_config, tiny_config.replace(**changes)))
    assert plain.value is None and "value" not in plain.checkpointed and "value" in other.checkpointed
    values = [x.numpy() for x in other.value.net.trainable_variables]
    for seed in range(3):
        batch = make_batch(tiny_config, seed)
        one, two = plain.train_step(batch), other.train_step(batch)
        assert two.keys() - one.keys() == {"value_loss", "value"}
        assert all(float(one[name]) == float(two[name]) for name in one)
    for old, new in zip(plain.model.variables, other.model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert other.train_step.experimental_get_tracing_count() == 1 and int(other.value.updates) == 3
    assert all(not np.array_equal(old, x) for old, x in zip(values, other.value.net.trainable_variables, strict=True))


def test_replay_teaches_what_follows_within_an_episode(tiny_config, monkeypatch):
    config = tiny_config.replace(value_head=True, value_data="replay", discount=0.99)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    mask, first, goes_on = np.ones([4, 8], np.float32), np.zeros([4, 8], bool), np.ones([4, 8], np.float32)
    mask[1, 5:], first[:, 0], first[2, 3], goes_on[3, 7] = 0.0, True, True, 0.0
    changes = {"mask": mask, "is_first": first, "discount": goes_on}
    batch = make_batch(config) | {key: tf.constant(value) for key, value in changes.items()}
    feat = tf.random.stateless_normal([4, 8, agent.model.dynamics.feat_size], [1, 2])
    seen = []
    monkeypatch.setattr(agent.value, "learn", lambda *args: seen.extend(args) or {})
    agent._learn_value(feat, batch)
    np.testing.assert_array_equal(seen[0], feat)
    np.testing.assert_array_equal(seen[1], agent.model.reward(feat))
    np.testing.assert_allclose(seen[2][3], [0.99] * 7 + [0.0])
    assert seen[3].numpy().sum() == 32 - 4 - 3 - 1 and not seen[3][2, 3] and not seen[3][1, 5]


def test_plans_teach_the_rewards_after_a_state_and_the_value_of_the_last_one(tiny_config, line_by_line):
    value = ValueLearner(tiny_config.replace(value_head=True, value_data="plans", discount=0.9), 3)
    model = types.SimpleNamespace(reward=lambda z: z[..., 0])
    agent = types.SimpleNamespace(value=value, model=model, discount=lambda z: tf.sigmoid(z[..., 1]))
    rng = np.random.default_rng(0)
    path, planned = rng.normal(size=[3, 5, 3]).astype(np.float32), np.array([True, False, True])
    before = value(path).numpy()
    targets = before.copy()  # at first the network that bootstraps them is a copy
    for t in reversed(range(4)):
        targets[:, t] = path[:, t + 1, 0] + targets[:, t + 1] / (1.0 + np.exp(-path[:, t + 1, 1]))
    metrics = DistillingAgent._learn_value_from_plans(agent, tf.constant(path[:, 0]), tf.constant(path[:, 1:]), planned)
    errors = (before - targets)[planned, :4]
    assert float(metrics["value_loss"]) == pytest.approx(0.5 * np.mean(errors**2), rel=1e-4)
    assert float(metrics["value"]) == pytest.approx(np.mean(before[planned, :4]), rel=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_values_are_learned_in_low_precision(tiny_config, precision):
    config = tiny_config.replace(value_head=True, value_data="replay", discount=0.9, precision=precision, value_lr=1e-2)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    feat = tf.random.stateless_normal([4, 5, agent.model.dynamics.feat_size], [1, 2])
    batch = [feat, tf.ones([4, 5]), tf.fill([4, 5], 0.5), tf.ones([4, 5], tf.bool)]
    losses = [float(agent.value.learn(*batch)["value_loss"]) for _ in range(60)]
    assert agent.value(feat).dtype == tf.float32 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--value_head", "true"], ["value_head", "discount"]),
        (["--value_head", "true", "--discount", "0.9", "--strategy", "mirrored"], ["value_head", "strategy"]),
        (["--value_lambda", "1.5"], ["value_lambda", "1.5"]),
        (["--value_dropout", "1"], ["value_dropout"]),
        (["--value_data", "plan"], ["value_data", "plans"]),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(words, expected, tmp_path, capsys):
    argv = ["--configs", "defaults", "pointmass", "debug", *words, "--logdir", str(tmp_path / "new")]
    assert planning_agent.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and all(word in error for word in expected) and not (tmp_path / "new").exists()


def trained(argv, logdir):
    """An agent that a command line trained, and the metrics that it left."""
    argv = ["--configs", "defaults", *argv, "--logdir", str(logdir)]
    config = load_config(argv).resolved()
    agent = agents.make_agent(config)
    agent.train(open_logdir(config, argv), quiet=True)
    return agent, read_metrics(logdir)


@pytest.mark.slow
def test_collodreamer_trains_and_what_it_learned_is_restored(tmp_path):
    words = ["--value_batch_norm", "true", "--value_dropout", "0.1", "--value_bound", "200", "--eval_every", "0"]
    agent, rows = trained(["dmc", "collodreamer", "debug", "--task", "dmc_cheetah_run", *words], tmp_path)
    assert agent.config.latent == "categorical" and agent.planner.problem.value is not None
    assert agent.planner.problem.value_steps == pytest.approx(100.0)
    assert {"plan/value", "model/value_loss", "model/value", "plan/predicted_return"} <= set().union(*rows)
    assert all(row["model/value_loss"] is not None for row in rows if "model/value_loss" in row)
    assert agent.learn_value_from_plans.experimental_get_tracing_count() == 1 and agent.planner.traces == 1
    updates = int(agent.value.updates)
    assert updates > 0 and updates % agent.config.value_updates == 0
    again = agents.load_agent(tmp_path)
    assert int(again.value.updates) == updates
    feat = tf.random.stateless_normal([6, agent.model.dynamics.feat_size], [1, 2])
    fresh = agents.make_agent(agent.config)
    for name in ("net", "target"):
        own, restored, other = (getattr(x.value, name)(feat).numpy() for x in (agent, again, fresh))
        np.testing.assert_array_equal(own, restored)
        assert np.abs(own - other).max() > 0
    for one, two in zip(agent.value.optimizer.variables, again.value.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(UserError, match="value_head"):
        agents.load_agent(tmp_path, ["--value_head", "false"])


@pytest.mark.slow
@pytest.mark.parametrize("data", ["plans", "replay"])
@pytest.mark.parametrize("planner", ["latco", "cem", "gaussian_latco", "ilqr", "image_collocation"])
def test_planners_train_with_a_value(data, planner, tmp_path):
    words = ["--value_head", "true", "--discount", "0.99", "--value_data", data, "--planner", planner, "--envs", "2"]
    agent, rows = trained(["pointmass", "debug", *words], tmp_path)
    names = set().union(*rows)
    assert {"plan/value", "model/value_loss", "model/value", "eval/return"} <= names
    assert (
        agent.value.learn.experimental_get_tracing_count() <= 1 and agent.planner.traces <= 2
    )  # two environments, one
    if data == "replay":
        assert int(agent.value.updates) == int(agent.updates)
