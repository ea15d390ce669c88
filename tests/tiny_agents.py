"""Agents without an environment, and batches, for the tests of agents."""

import gymnasium
import numpy as np
import tensorflow as tf

from base_agent import BaseAgent
from planning_agent import PlanningAgent

ACTIONS = 2
OBSERVATIONS = gymnasium.spaces.Dict(
    {
        "image": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        "state": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
    }
)
ACTION_SPACE = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def agent_of(config, **changes):
    """An agent without a planner, whose loss has no free nats."""
    return BaseAgent(config.replace(free_nats=0.0, **changes), OBSERVATIONS, ACTION_SPACE)


def make_batch(config, seed=0):
    rng = np.random.default_rng(seed)
    shape = [config.batch_size, config.batch_length]
    batch = {
        "image": rng.integers(0, 256, [*shape, 64, 64, 3], np.uint8),
        "action": rng.uniform(-1, 1, [*shape, ACTIONS]).astype(np.float32),
        "reward": rng.uniform(0, 1, shape).astype(np.float32),
        "discount": np.ones(shape, np.float32),
        "is_first": np.zeros(shape, bool),
        "mask": np.ones(shape, np.float32),
        "state": rng.normal(size=[*shape, 3]).astype(np.float32),
        "cost": rng.uniform(0, 1, shape).astype(np.float32),
    }
    return {key: tf.constant(value) for key, value in batch.items()}


def make_noise(config, seed=1):
    noise_size = {"gaussian": config.stoch, "categorical": config.stoch}[config.latent]
    noise_size = 0 if config.dynamics == "deterministic" else noise_size
    shape = [config.batch_size, config.batch_length, config.overshooting * noise_size]
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def with_cost(config, **changes):
    """The config with a cost head, on the task that reports a cost."""
    return config.replace(task="pointmass_obstacle", cost_head=True, **changes)


class PlanlessAgent(PlanningAgent):
    """An agent of which only the model and the latent problem matter."""

    @classmethod
    def make_planner(cls, c, problem):
        return None
