"""What the training loop needs of an agent."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from episodes.replay import MixedReplay, Replay
from tools.config import Config
from world_model.rewards import RewardTransform

Batch = dict[str, tf.Tensor]
Transition = tuple[np.ndarray, Any, dict]  # actions, policy state, what to record: see `training.driver.Driver`


class Agent(Protocol):
    """What the training loop needs of an agent; `base_agent.BaseAgent` has it.

    Attributes:
        step: int64, environment steps so far, which the loop counts.
        updates: int64, updates so far, which `train_step` counts.
        rewards: what the model learns instead of raw rewards. The loop shows it every episode.
        noise: the random stream of exploration and random actions.
        rng: the random stream of everything compiled.
        value_data: which states the value learns from, 'replay', 'plans' or '' without a value.
        worker: which of the hosts this is. The first one, 0, evaluates and saves.
        workers: how many hosts there are.
        worker_seed: the seed of this host's experience.
        checkpointed: what a checkpoint holds of the agent, by name.
    """

    config: Config
    action_size: int
    device_batch_size: int
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

    @property
    def checkpointed(self) -> dict[str, Any]: ...

    def batches(self, replay: Replay | MixedReplay) -> Iterator[Batch]: ...

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]: ...

    def random_policy(self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any) -> Transition: ...

    def policy(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any, *, explore: bool, idle: np.ndarray | None
    ) -> Transition: ...

    def planned_states(self, state: Any) -> np.ndarray | None: ...

    def open_loop(self, batch: Batch) -> tf.Tensor: ...
