"""An environment that does what a test tells it."""

import types
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

RED = np.full((64, 64, 3), (255, 0, 0), np.uint8)
BLUE = np.full((64, 64, 3), (0, 0, 255), np.uint8)
BOX = gym.spaces.Box


class Own(gym.Env):
    """An environment that does what it is told."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        render_mode: str | None = None,
        action_space: gym.Space = BOX(-1.0, 1.0, (2,), np.float32),  # noqa: B008
        observation_space: gym.Space = BOX(-np.inf, np.inf, (2,), np.float64),  # noqa: B008
        observation: Any = np.zeros(2),  # noqa: B008
        picture: Any = RED,
        rewards: Any = 1.0,
        infos: tuple = ({},),
        length: int | None = 3,
        error: Callable[[], BaseException] | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.action_space, self.observation_space = action_space, observation_space
        self.told = types.SimpleNamespace(
            observation=observation, picture=picture, rewards=rewards, infos=infos, length=length, error=error
        )
        self.actions: list[Any] = []
        self.options: list[Any] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.options.append(options)
        return self.told.observation, self.told.infos[0]

    def step(self, action):
        self.time += 1
        self.actions.append(action)
        if self.told.error and self.time == 2:
            raise self.told.error()
        info = self.told.infos[self.time] if self.time < len(self.told.infos) else {}
        return self.told.observation, self.told.rewards, self.time == self.told.length, False, info

    def render(self):
        return self.told.picture


def play(env: gym.Env, steps: int = 3) -> list[tuple]:
    """Everything that a reset and some steps return."""
    return [env.reset(), *(env.step(env.action_space.sample()) for _ in range(steps))]
