"""The agent's interface to the training loop."""

from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
import tensorflow as tf

from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from tools.config import Config
from world_model.rewards import RewardTransform

Batch = dict[str, tf.Tensor]
Transition = tuple[np.ndarray, Any, dict]  # actions, policy state, extras to record: see `training.driver.Driver`


class Agent(Protocol):
    """An agent as the training loop sees it; `base_agent.BaseAgent` implements it.

    Attributes:
        observation_space: of one environment.
        step: int64, environment steps so far, counted by the loop.
        updates: int64, updates so far, counted by `train_step`.
        rewards: the transform of rewards that the model learns. The loop passes it the rewards of every episode.
        noise: random stream of exploration and random actions.
        rng: random stream of compiled functions.
        value_data: the states that the value network learns from: 'replay', 'plans', 'imagination', or '' without one.
        worker: index of this host. Host 0 evaluates and saves.
        workers: number of hosts.
        worker_seed: seed of the episodes that this host collects.
        checkpointed: the parts of the agent that are saved, by name.
        state_types: the named tuples within a policy state.
    """

    config: Config
    action_size: int
    observation_space: gymnasium.spaces.Dict
    model: Any
    step: tf.Variable
    updates: tf.Variable
    rewards: RewardTransform
    noise: np.random.Generator
    rng: tf.random.Generator
    value_data: str
    worker: int
    workers: int
    worker_seed: int
    state_types: tuple[type, ...]

    @property
    def device_batch_size(self) -> int: ...

    @property
    def checkpointed(self) -> dict[str, Any]: ...

    def batches(self, replay: Replay | MixedReplay, count: int | None = None) -> Iterator[Batch]: ...

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]: ...

    def random_policy(self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any) -> Transition: ...

    def policy(
        self,
        obs: dict[str, np.ndarray],
        is_first: np.ndarray,
        state: Any,
        *,
        explore: bool,
        idle: np.ndarray | None = ...,
    ) -> Transition: ...

    def planned_states(self, state: Any) -> np.ndarray | None: ...

    def open_loop(self, batch: Batch) -> tf.Tensor: ...
