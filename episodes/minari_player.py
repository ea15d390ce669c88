"""Recorded episodes of a Minari data set without pictures, played again to render them."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import minari
import numpy as np

from envs.guard import BadValueError
from envs.pictures import to_picture
from tools.errors import UserError

_NOT_MADE = (gym.error.Error, ImportError, AttributeError, TypeError, ValueError)


class Player:
    """Plays recorded episodes again and renders them.

    Raises:
        UserError: the data set does not say in which environment it was recorded, or that environment cannot be made or
            cannot render.
    """

    def __init__(self, name: str, dataset: minari.MinariDataset):
        self.name, self.dataset = name, dataset
        if dataset.env_spec is None:
            raise UserError(f"{name} does not say which environment it was recorded in: it cannot be played again.")
        try:
            self.env = dataset.recover_environment(render_mode="rgb_array", disable_env_checker=True)
        except _NOT_MADE as error:
            raise UserError(f"The environment {dataset.env_spec.id} of {name} cannot be made ({error}).") from error
        if "rgb_array" not in self.env.metadata.get("render_modes", ()):
            raise UserError(f"The environment {dataset.env_spec.id} of {name} cannot render (render_mode 'rgb_array').")

    def __call__(self, recorded: minari.EpisodeData) -> Iterator[np.ndarray]:
        """The T + 1 pictures of an episode. Raises UserError if it differs from the recorded one."""
        start = next(iter(self.dataset.storage.get_episode_metadata([recorded.id])))
        if start.get("seed") is None:
            raise UserError(f"{self.name} has no seed of episode {recorded.id}: it cannot be played again.")
        observation, _ = self.env.reset(seed=int(start["seed"]), options=start.get("options"))
        yield self._picture(recorded, 0, observation)
        for step, action in enumerate(recorded.actions, 1):
            observation = self.env.step(action)[0]
            yield self._picture(recorded, step, observation)

    def _picture(self, recorded: minari.EpisodeData, step: int, observation: Any) -> np.ndarray:
        if not _agree(recorded.observations, step, observation):
            raise UserError(
                f"Episode {recorded.id} of {self.name}, played again, differs from the recorded one at step {step}: "
                f"{self.dataset.env_spec.id} behaves differently on this machine."
            )
        try:
            return to_picture(self.env.render(), "what render() returns")
        except (*_NOT_MADE, RuntimeError, BadValueError) as error:
            raise UserError(f"The environment of {self.name} cannot render here ({error}).") from error


def _agree(recorded: Any, step: int, played: Any) -> bool:
    """Whether an observation is that of a step of recorded ones, which hold all steps in each of their arrays."""
    if isinstance(recorded, dict):
        same = isinstance(played, dict) and recorded.keys() == played.keys()
        return same and all(_agree(value, step, played[key]) for key, value in recorded.items())
    if isinstance(recorded, tuple):
        same = isinstance(played, tuple) and len(recorded) == len(played)
        return same and all(_agree(value, step, other) for value, other in zip(recorded, played, strict=True))
    return np.shape(recorded[step]) == np.shape(played) and np.allclose(recorded[step], played, equal_nan=True)
