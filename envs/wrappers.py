"""Wrappers that every suite shares; the suites' own environments observe a state vector and render one image."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from envs.guard import LARGEST, outcomes, to_state
from envs.rendering import IMAGE_SIZE, Camera
from tools.errors import UserError

LAST_STEP = 1000  # of an episode that no time limit ends, as in MuJoCo's and DM Control's tasks


class CameraRender(gym.Wrapper):
    """Renders a MuJoCo environment with our `Camera` instead of the simulator's own renderer."""

    def __init__(self, env: gym.Env, camera: Camera) -> None:
        super().__init__(env)
        self._camera = camera

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Resets the environment; what a reset may change beyond poses reaches the renderer too."""
        result = self.env.reset(seed=seed, options=options)
        self._camera.model_changed()
        return result

    def render(self) -> np.ndarray:
        """The current picture, uint8 [64, 64, 3]."""
        return self._camera.render()

    def close(self) -> None:
        """Frees the OpenGL context, then the environment."""
        self._camera.close()
        super().close()


class ActionRepeat(gym.Wrapper):
    """Repeats each action and sums the rewards; stops early where the episode ends (PlaNet section 3).

    Success and cost are the largest of the repeated steps': an outcome that lasted one simulator step counts, and a
    region that was entered for one simulator step was entered.
    """

    def __init__(self, env: gym.Env, repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """One agent decision: up to `repeat` simulator steps."""
        total = 0.0
        largest: dict[str, float] = {}
        for _ in range(self._repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            for key, value in outcomes(info).items():
                largest[key] = max(largest.get(key, value), value)
            if terminated or truncated:
                break
        if not abs(total) <= LARGEST:
            raise UserError(
                f"The rewards of {self._repeat} simulator steps add up to {total:g}, which float32 cannot hold: scale "
                "them down in the environment, or lower action_repeat."
            )
        return obs, total, terminated, truncated, largest


class LastStep(TimeLimit):
    """Truncates episodes after `LAST_STEP` steps."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env, LAST_STEP)


def end_at_last(env: gym.Env) -> gym.Env:
    """The environment, with the last resort `LastStep` if it has no time limit: its episodes might never end."""
    return env if find_wrapper(env, TimeLimit) else LastStep(env)


def find_wrapper(env: gym.Env, kind: type) -> gym.Env | None:
    """The outermost wrapper of a kind, None if there is none."""
    while not isinstance(env, kind) and isinstance(env, gym.Wrapper):
        env = env.env
    return env if isinstance(env, kind) else None


class PixelEnv(gym.Wrapper):
    """The project's contract (top of `envs/__init__.py`) on an environment with a flat state [S] and `render()`.

    An environment without a state observes a vector of length zero. The wrapper renders once per decision, hands out
    the seed at the first reset, takes float32 actions in [-1, 1] (values beyond are clipped: exploration noise reaches
    over the edge) and drops everything but success and cost from `info`. In a state, numbers beyond float32 become its
    largest ones; what is not a number stays so.
    """

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env)
        self._seed: int | None = seed
        spaces = {"image": gym.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)}
        self._has_state = env.observation_space.shape != (0,)
        if self._has_state:
            spaces["state"] = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)
        self.action_space.seed(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict]:
        """Starts an episode; the first reset uses the environment's own seed unless one is given."""
        if seed is None:
            seed = self._seed
        self._seed = None
        state, info = self.env.reset(seed=seed, options=options)
        return self._observe(state), outcomes(info)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """One agent decision with an action of shape [A].

        Raises:
            ValueError: an action that is not finite.
        """
        if not np.isfinite(action).all():
            raise ValueError(f"The action {action} is not finite.")
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        state, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(state), float(reward), bool(terminated), bool(truncated), outcomes(info)

    def _observe(self, state: np.ndarray) -> dict[str, np.ndarray]:
        observation = {"image": self.env.render()}
        if self._has_state:
            observation["state"] = to_state(state)
        return observation
