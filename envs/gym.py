"""Any registered Gymnasium environment with bounded actions and pictures: gym_<id>, or gym_<module>:<id>."""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers.utils import rescale_box

from envs.guard import cause, short
from envs.pictures import Split
from envs.rendering import IMAGE_SIZE, simplify
from envs.wrappers import end_at_last
from tools.errors import UserError, unknown


def names() -> list[str]:
    """Every registered environment id; whether one fits shows when it is made."""
    return list(gym.registry)


def make(name: str, config: Any, seed: int) -> gym.Env:
    """Makes one environment; its observation is its own, flattened, and its time limit its own unless one is set.

    Its picture is its rendering, or a picture among its observations: the one that `camera` names, or the only one of
    an environment that cannot render.

    Raises:
        UserError: an unknown id, a module that cannot be imported, an environment that cannot be made, actions that are
            discrete or without bounds, or no pictures.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        _import(module, name)
    env, renders = _make(module, env_id, name, config.time_limit or None)
    try:
        return _adapt(env, renders, name, config)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise cause(f"gym_{name} cannot be used", error) from error


def _adapt(env: gym.Env, renders: bool, name: str, config: Any) -> gym.Env:
    """The environment with a flat state, flat actions in [-1, 1], a time limit and a picture. Raises UserError."""
    env = end_at_last(env)
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating) or not space.is_bounded():
        found = short(str(space))
        raise UserError(f"gym_{name} has the action space {found}: choose one with bounded continuous actions (Box).")
    if 0 in space.shape:
        raise UserError(f"gym_{name} has no actions ({space}): choose one with bounded continuous actions (Box).")
    simulator = env.unwrapped
    if isinstance(simulator, MujocoEnv):
        # Drawn at the final size from the start: a large picture that is then shrunk costs several times more.
        simulator.mujoco_renderer.width = simulator.mujoco_renderer.height = IMAGE_SIZE
        simulator.model.vis.global_.offwidth = simulator.model.vis.global_.offheight = IMAGE_SIZE
        if config.render_quality == "fast":
            simplify(simulator.model)
    split = Split(FlatAction(env))
    shown = _shown_picture(name, list(split.pictures), config.camera, renders)
    if shown:
        split.show(shown)
    return split


class FlatAction(gym.Wrapper):
    """Takes actions [A] in [-1, 1] for an environment whose actions are a Box of any shape between finite bounds."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._box = box = env.action_space
        self._low, self._high = box.low.ravel(), box.high.ravel()
        # An entry whose bounds are equal has only one value, and no scale.
        self._free = self._low < self._high
        low, high = self._low[self._free], self._high[self._free]
        ones = np.ones(low.shape, box.dtype)
        self._scale = rescale_box(gym.spaces.Box(low, high, dtype=box.dtype), -ones, ones)[2]
        self.action_space = gym.spaces.Box(-1.0, 1.0, self._low.shape, box.dtype)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict]:
        """One step with an action [A]."""
        own = self._low.copy()
        with np.errstate(over="ignore"):  # the widest bounds
            own[self._free] = self._scale(action[self._free])
        # Rounding may lead over the edge, which environments may refuse.
        return self.env.step(np.clip(own, self._low, self._high).reshape(self._box.shape))


def _import(module: str, name: str) -> None:
    """Imports a person's module, which registers its environments."""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise UserError(
                f"unknown task 'gym_{name}': there is no module {missing!r}; put the folder that has it on PYTHONPATH, "
                "or install it."
            ) from error
        raise cause(f"the module {module} of gym_{name} cannot be imported", error) from error


def _make(module: str, env_id: str, name: str, time_limit: int | None) -> tuple[gym.Env, bool]:
    """The environment, and whether it renders pictures."""
    options = {"max_episode_steps": time_limit}
    try:
        try:
            env = gym.make(env_id, render_mode="rgb_array", **options)
        except TypeError as error:
            if "render_mode" not in str(error):
                raise
            return gym.make(env_id, **options), False  # its observation may be the picture
        return env, "rgb_array" in ((env.metadata or {}).get("render_modes") or ())
    except gym.error.UnregisteredEnv as error:
        if env_id in gym.registry:  # an environment that makes another one
            raise cause(f"gym_{name} cannot be made", error) from error
        raise _unknown(module, name) from error
    except (Exception, SystemExit) as error:
        raise cause(f"gym_{name} cannot be made", error) from error


def _unknown(module: str, name: str) -> UserError:
    """The error for an id that is not registered, with the nearest one of its module."""
    if not module:
        return unknown("task", f"gym_{name}", [f"gym_{known}" for known in names()])
    package = module.partition(".")[0]
    known = [env_id for env_id, spec in gym.registry.items() if _home(spec).partition(".")[0] == package]
    if not known:
        return UserError(f"the module {module} of gym_{name} registers no environment: call gymnasium.register in it.")
    return unknown("task", f"gym_{name}", [f"gym_{module}:{env_id}" for env_id in known])


def _home(spec: gym.envs.registration.EnvSpec) -> str:
    """The module of a registered environment."""
    entry = spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")


def _shown_picture(name: str, pictures: list[str], camera: str, renders: bool) -> str | None:
    """The picture among the observations that the model sees, None for the environment's rendering."""
    if camera:
        if camera in pictures:
            return camera
        others = f", or name a picture of its observations ({', '.join(pictures)})" if pictures else ""
        raise UserError(f"gym_{name} has no cameras to choose from: leave the key camera empty{others}.")
    if renders:
        return None
    if not pictures:
        raise UserError(
            f"gym_{name} cannot render pictures (render_mode 'rgb_array') and has none among its observations: choose "
            "one that has."
        )
    if len(pictures) > 1 and "image" not in pictures:
        raise UserError(f"gym_{name} observes several pictures: choose one with --camera ({', '.join(pictures)}).")
    return "image" if "image" in pictures else pictures[0]
