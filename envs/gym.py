"""Any registered Gymnasium environment with continuous actions and an `rgb_array` picture: gym_<id>."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import FlattenObservation, RescaleAction, TransformObservation

from envs.rendering import IMAGE_SIZE, shrink, simplify
from tools.errors import UserError, unknown


def names() -> list[str]:
    """Every registered environment id; whether one fits shows when it is made."""
    return list(gym.registry)


def make(name: str, config: Any, seed: int) -> gym.Env:
    """Makes one environment; its observation is its own, flattened, and its time limit its own unless one is set.

    A 'success' or 'cost' that it puts into `info` is passed on.

    Raises:
        UserError: an unknown id, a missing dependency, discrete actions, actions without bounds, or no pictures.
    """
    if config.camera:
        raise UserError(f"gym_{name} has no cameras to choose from: leave the key camera empty.")
    try:
        env = gym.make(name, render_mode="rgb_array", max_episode_steps=config.time_limit or None)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"gym_{name} needs a package that is not installed: {error}") from error
    except (gym.error.UnregisteredEnv, ModuleNotFoundError) as error:
        raise unknown("task", f"gym_{name}", [f"gym_{known}" for known in names()]) from error
    except (gym.error.Error, TypeError) as error:
        raise UserError(f"gym_{name} cannot be made with render_mode 'rgb_array': {error}") from error
    _check(name, env)
    simulator = env.unwrapped
    if isinstance(simulator, MujocoEnv):
        # Drawn at the final size from the start: a large picture that is then shrunk costs several times more.
        simulator.mujoco_renderer.width = simulator.mujoco_renderer.height = IMAGE_SIZE
        simulator.model.vis.global_.offwidth = simulator.model.vis.global_.offheight = IMAGE_SIZE
        if config.render_quality == "fast":
            simplify(simulator.model)
    if len(env.observation_space.shape or ()) == 3:  # images are not a state, and ours replaces them
        nothing = gym.spaces.Box(-np.inf, np.inf, (0,), np.float32)
        env = TransformObservation(env, lambda picture: np.zeros(0, np.float32), nothing)
    low = np.full(env.action_space.shape, -1.0, env.action_space.dtype)
    return SmallPicture(RescaleAction(FlattenObservation(env), low, -low))


def _check(name: str, env: gym.Env) -> None:
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating) or not space.is_bounded():
        raise UserError(f"gym_{name} has the action space {space}: choose one with bounded continuous actions (Box).")
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise UserError(f"gym_{name} cannot render pictures (render_mode 'rgb_array'): choose one that can.")


class SmallPicture(gym.Wrapper):
    """Shrinks the environment's picture to [64, 64, 3] by averaging areas."""

    def render(self) -> np.ndarray:
        """The current picture, uint8 [64, 64, 3].

        Raises:
            UserError: the environment needs a package to draw that is not installed.
        """
        try:
            picture = np.asarray(self.env.render(), np.uint8)
        except gym.error.DependencyNotInstalled as error:
            raise UserError(f"{self.spec.id} needs a package that is not installed: {error}") from error
        return shrink(picture)
