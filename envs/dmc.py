"""DeepMind Control suite: dmc_<domain>_<task>, through shimmy's Gymnasium wrapper."""

from typing import Any

import gymnasium as gym
import numpy as np
from dm_control import suite
from gymnasium.wrappers import FlattenObservation, RescaleAction, TimeLimit, TransformAction
from shimmy.dm_control_compatibility import DmControlCompatibilityV0

from envs.rendering import Camera
from envs.wrappers import CameraRender, LastStep
from tools.errors import unknown

# The cameras of PlaNet and Dreamer: the first of each model, and the third of quadruped, which follows it. Only
# dog_fetch is ours: its first camera sits on the ball and does not show the dog.
DEFAULT_CAMERA = 0
CAMERAS = {"quadruped": 2, "dog_fetch": 2}

UNLIMITED = 1e10  # how DM Control writes "no limit"; forces of that size (lqr) are left in newtons, up to one


def names() -> list[str]:
    """Every task of the suite, as <domain>_<task>."""
    return [f"{domain}_{task}" for domain, task in suite.ALL_TASKS]


def make(name: str, config: Any, seed: int) -> gym.Env:
    """Makes one task; its observation is the flattened observation vector of the suite.

    Raises:
        UserError: an unknown task or camera.
    """
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise unknown("task", f"dmc_{name}", [f"dmc_{task}" for task in tasks])
    domain, task = tasks[name]
    # The seed goes in here too, because a few tasks (lqr) draw their model when they are made.
    kwargs: dict[str, Any] = {"random": seed}
    if config.time_limit:
        kwargs["time_limit"] = float("inf")
    simulator = suite.load(domain, task, task_kwargs=kwargs)
    env = FlattenObservation(DmControlCompatibilityV0(simulator))
    if config.time_limit:
        env = TimeLimit(env, config.time_limit)
    elif np.isinf(simulator._step_limit):
        env = LastStep(env)
    if env.action_space.high.max() < UNLIMITED:
        env = RescaleAction(env, -1.0, 1.0)
    else:
        space = gym.spaces.Box(-1.0, 1.0, env.action_space.shape, np.float64)
        env = TransformAction(env, lambda action: action, space)
    physics = simulator.physics
    view = config.camera or CAMERAS.get(name, CAMERAS.get(domain, DEFAULT_CAMERA))
    return CameraRender(env, Camera(physics.model.ptr, physics.data.ptr, view, config.render_quality))
