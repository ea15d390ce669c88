"""Optimizers in checkpoints: their learning rates and the precision are those of the settings."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import models
from base_agent import BaseAgent
from policy_agents import DreamerAgent, PolicyAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS
from tools.errors import UserError
from training import checkpoint_files
from training.initial_weights import restore_parts
from training.logdir import CHECKPOINTS


def make(config, cls=BaseAgent, **changes):
    return cls(config.replace(**changes), OBSERVATIONS, ACTION_SPACE)


def save(agent, logdir):
    checkpoint = tf.train.Checkpoint(**agent.checkpointed)
    tf.train.CheckpointManager(checkpoint, str(logdir / CHECKPOINTS), max_to_keep=1).save()


def resume(agent, logdir):
    """Restores as a resumed run does."""
    assert checkpoint_files.restore_newest(tf.train.Checkpoint(**agent.checkpointed), logdir / CHECKPOINTS)


def start(agent, logdir):
    """Restores as an evaluation or a run with `init_from` does."""
    restore_parts(agent.checkpointed, logdir)


def rate(part):
    return pytest.approx(float(part.learning_rate.numpy()), rel=1e-6)


@pytest.mark.parametrize("restore", [resume, start])
def test_learning_rates_are_those_of_the_settings(tiny_config, tmp_path, restore):
    save(make(tiny_config, DreamerAgent, model_lr=1e-3, value_lr=2e-3, actor_lr=3e-3), tmp_path)
    agent = make(tiny_config, DreamerAgent, model_lr=1e-4, value_lr=2e-4, actor_lr=3e-4)
    agent.optimizer.iterations.assign(7)
    restore(agent, tmp_path)
    assert int(agent.optimizer.iterations) == 0  # it was restored
    optimizers = agent.optimizer, agent.value.optimizer, agent.actor.optimizer
    assert [rate(optimizer) for optimizer in optimizers] == [1e-4, 2e-4, 3e-4]


def test_a_policy_that_was_dreamers_actor_learns_at_its_own_rate(tiny_config, tmp_path):
    save(make(tiny_config, DreamerAgent, actor_lr=1e-3), tmp_path)
    agent = make(tiny_config, PolicyAgent, policy_teacher="gd", policy_lr=1e-4)
    start(agent, tmp_path)
    assert rate(agent.actor.optimizer) == 1e-4 and rate(agent.optimizer) == agent.config.model_lr


def test_a_checkpoint_that_does_not_fit_changes_no_rate(tiny_config, tmp_path):
    save(make(tiny_config, model_lr=1e-3), tmp_path)
    agent = make(tiny_config, model_lr=1e-4, reward_units=5)
    with pytest.raises(UserError, match="does not fit this configuration"):
        resume(agent, tmp_path)
    assert rate(agent.optimizer) == 1e-4


PRECISIONS = ("float32", "bfloat16", "float16")


def optimizers_of(agent):
    return agent.optimizer, agent.value.optimizer, agent.actor.optimizer


QUICK = [("float32", "float16"), ("float16", "float32")]
PAIRS = [
    pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow)
    for pair in itertools.permutations(PRECISIONS, 2)
]


@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_the_precision_may_change_when_a_run_goes_on(tiny_config, tmp_path, before, now):
    first = make(tiny_config, DreamerAgent, precision=before, model_lr=1e-3)
    for number, optimizer in enumerate(optimizers_of(first)):
        for moment in optimizer.variables:
            moment.assign(tf.fill(moment.shape, tf.cast(number + 2, moment.dtype)))
    save(first, tmp_path)
    scale = models.loss_scale(make(tiny_config, DreamerAgent, precision=now).optimizer)
    for restore in (resume, start):
        agent = make(tiny_config, DreamerAgent, precision=now, seed=1, model_lr=1e-4)
        own = optimizers_of(agent)
        restore(agent, tmp_path)
        for old, new in zip(first.model.trainable_variables, agent.model.trainable_variables, strict=True):
            np.testing.assert_array_equal(old, new)
        for number, (optimizer, same) in enumerate(zip(optimizers_of(agent), own, strict=True)):
            assert optimizer is same and float(models.loss_scale(optimizer)) == float(scale)
            adam = getattr(optimizer, "inner_optimizer", optimizer)
            assert int(adam.iterations) == number + 2
            assert all(np.all(moment.numpy() == number + 2) for moment in (*adam._momentums, *adam._velocities))
        assert rate(agent.optimizer) == 1e-4
    save(agent, tmp_path / "again")
    resume(agent, tmp_path / "again")


def test_the_loss_scale_goes_on(tiny_config, tmp_path):
    first, agent = (make(tiny_config, precision="float16") for _ in range(2))
    first.optimizer.dynamic_scale.assign(16.0)
    save(first, tmp_path)
    resume(agent, tmp_path)
    assert float(agent.loss_scale) == 16.0
