"""The environments and episodes of one task of a run."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import envs
from episodes.dataset import check_collection
from episodes.episode import OUTCOMES
from episodes.replay import Replay
from tools.command_line import note
from tools.errors import UserError
from tools.files import expanded
from tools.metric_names import own_name
from training.agent import Agent
from training.driver import Driver, Episode, Policy
from training.logdir import EPISODES

# The seed of a resumed run's environments grows by this with each episode that it has. No other seed is as large.
RESUMED_SEED = 2**64


class Collector:
    """The environments and episodes of one task of a run.

    Attributes:
        task: the task's name.
        repeat: simulator steps per decision.
        replay: the task's episodes.
        decisions: decisions in all training environments so far.
        driver: drives the training environments; None before `start`.
        eval_driver: drives the evaluation environments; None before the first evaluation.
        begun: with `deterministic`, how many episodes were begun, or the number of the last one.
    """

    def __init__(self, agent: Agent, task: str, folder: Path):
        config, tasks = agent.config, envs.split_tasks(agent.config.task)
        self.config, self.task, self.only_task, self.seed = config, task, len(tasks) == 1, agent.worker_seed
        self.repeat = envs.action_repeat(config.replace(task=task))
        self.replay = Replay(
            folder / EPISODES if self.only_task else folder / EPISODES / task,
            agent.device_batch_size,
            config.batch_length,
            config.replay_capacity // len(tasks),
            self.seed + tasks.index(task),
            self._offline_folder(),
            config.damaged_share,
        )
        # All episodes have a cost where the model learns one, and otherwise what any of the task's has reported.
        self._reported = {"cost"} if config.cost_head else set()
        self._reported.update(key for episode in self.replay.memory for key in OUTCOMES if key in episode)
        if config.offline_dir:
            self._check_offline(agent)
        self._check_states(self.replay.memory)
        self.decisions = tf.Variable(0, dtype=tf.int64, trainable=False, name="decisions")
        self.driver: Driver | None = None
        self.eval_driver: Driver | None = None
        self.begun = 0

    def _offline_folder(self) -> Path | None:
        """The folder of offline episodes, checked against the run's settings."""
        if not self.config.offline_dir:
            return None
        if not self.only_task:
            raise UserError(f"offline_dir holds episodes of one task, this run has {self.config.task}: leave it out.")
        folder = expanded(self.config.offline_dir)
        check_collection(folder, self.config)
        return folder

    def _check_offline(self, agent: Agent) -> None:
        """Raises UserError if offline episodes lack something that the model learns from, or have another shape.

        If the run collects, they also must have a state where its own have one: a replay holds episodes of one kind.
        """
        memory, folder = self.replay.memory, self.config.offline_dir
        found = memory[0]["action"].shape[1]
        if found != agent.action_size:
            raise UserError(f"Actions in {folder} have {found} numbers, this task's {agent.action_size}.")
        for key, space in agent.observation_space.spaces.items():
            shapes = {episode[key].shape[1:] for episode in memory if key in episode} - {space.shape}
            for shape in shapes:
                found, wanted = (" x ".join(map(str, numbers)) for numbers in (shape, space.shape))
                raise UserError(
                    f"The {key} of an entry in {folder} is {found}, this task's {wanted}: name another --offline_dir."
                )
        found, wanted = ("state" in keys for keys in (memory[0], agent.observation_space.spaces))
        if self.config.steps and found != wanted:
            words = "a state, this task's have none" if found else "no state, this task's have one"
            raise UserError(
                f"Episodes in {folder} have {words}: name another --offline_dir, or collect nothing (--steps 0)."
            )
        for key, name in (("cost", "cost_head"), ("state", "state_probe")):
            if self.config[name] and not any(key in episode for episode in memory):
                raise UserError(f"Episodes in {folder} have no {key} to learn: turn {name} off.")

    def start(self) -> None:
        """Starts the training environments. A resumed run must not repeat the seeds of its earlier episodes."""
        self.begun = 1000 * self.replay.episodes
        if self.config.deterministic:
            self.driver = self._make_driver(self.seed, self._episode_seeds())
        else:
            self.driver = self._make_driver(self.seed + RESUMED_SEED * self.replay.episodes)

    def _episode_seeds(self) -> Iterator[int]:
        """A seed for each episode, so that one in progress can be played again."""
        while True:
            self.begun += 1
            yield envs.stream_seed(self.seed, self.begun)

    @property
    def state(self) -> dict[str, Any]:
        """The episodes in progress, what the policy remembers of them, and what episodes have reported."""
        state: dict[str, Any] = {"begun": self.begun, "reported": sorted(self._reported)}
        if self.driver is None:
            return state | {"episodes": [], "policy": None}
        return state | {"episodes": self.driver.state, "policy": self.driver.policy_state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.begun = state["begun"]
        self._reported.update(state.get("reported", ()))  # older checkpoints have none
        if self.driver is None or len(state["episodes"]) != self.config.envs:
            return
        if not self.driver.resume(state["episodes"], self._episode_seeds()):
            note(f"{self.task} does not repeat itself from a seed: its episodes in progress are lost, others begin.")
            return
        self.driver.policy_state = state["policy"]

    def collect(self, policy: Policy) -> list[Episode]:
        """One decision in every training environment. Adds finished episodes to the replay and returns them."""
        episodes = self.driver.step(policy)
        self.decisions.assign_add(self.config.envs)
        for episode in episodes:
            self.replay.add(episode.data)
        self._check_states([episode.data for episode in episodes])
        return episodes

    def _check_states(self, episodes: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Raises UserError if the model is to learn states that are not numbers."""
        if not self.config.state_probe:
            return
        for episode in episodes:
            bad = np.argwhere(np.isnan(episode["state"]))
            if len(bad):
                raise UserError(
                    f"{self.task} has a state whose number {bad[0, 1]} is NaN at decision {bad[0, 0]} of an episode, "
                    "which state_probe cannot learn: turn it off."
                )

    def start_evaluation(self, seeds: Iterable[int]) -> Driver:
        """The evaluation environments, which play an episode from each seed."""
        if self.eval_driver is None:
            self.eval_driver = self._make_driver(self.config.seed + envs.EVAL_SEED)
        self.eval_driver.restart(seeds)
        return self.eval_driver

    def metric_name(self, name: str) -> str:
        """The name of this task's metric, which contains the task if there are several."""
        return name if self.only_task else own_name(name, self.task)

    def close(self) -> None:
        """Closes all environments."""
        for driver in (self.driver, self.eval_driver):
            if driver is not None:
                driver.close()

    def _make_driver(self, seed: int, seeds: Iterable[int] | None = None) -> Driver:
        return Driver(envs.make_vector_env(self.config, self.config.envs, seed, self.task), self._reported, seeds)
