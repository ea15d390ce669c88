"""Meta-World v3: metaworld_<task>, with the cameras, sparse reward and random starts of LatCo (ICML, section 5)."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.wrappers import TimeLimit
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from envs import metaworld_starts
from envs.rendering import Camera, FreeCamera
from envs.wrappers import CameraRender
from tools.errors import unknown

ALIASES = {"thermos": "stick-push"}  # LatCo's name
TIME_LIMIT = 150  # environment steps (T_tot in LatCo, ICML, section 5.1)

LATCO_CAMERA = FreeCamera(205.0, -165.0, 2.6, (1.1, 1.1, -0.1))
HAMMER_CAMERA = FreeCamera(220.0, -140.0, 0.8, (0.2, 0.65, -0.1))
CAMERAS = {
    **dict.fromkeys(("reach", "button-press", "window-close", "drawer-close", "push", "stick-push"), LATCO_CAMERA),
    "hammer": HAMMER_CAMERA,
}
DEFAULT_CAMERA = LATCO_CAMERA
HANGING_CAMERAS = ("corner", "corner2", "corner3", "corner4")  # Meta-World mounted these upside down

HAND_RANGE = np.array([0.1, 0.1, 0.05])  # metres around the task's own initial hand position


def names() -> list[str]:
    """Every task of Meta-World v3, without the version."""
    return [name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS]


def make(name: str, config: Any, seed: int) -> gym.Env:
    """Makes one task; its observation is Meta-World's state vector [39] with the goal in the last three places.

    Raises:
        UserError: an unknown task or camera.
    """
    name = _known(name)
    limit = config.time_limit or TIME_LIMIT
    env = MetaWorld(name, config.reward, config.starts if config.randomize else "fixed", limit)
    view = config.camera or CAMERAS.get(name, DEFAULT_CAMERA)
    simulator = env.simulator
    camera = Camera(simulator.model, simulator.data, view, config.render_quality, view in HANGING_CAMERAS)
    return CameraRender(TimeLimit(env, limit), camera)


def scripted(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Meta-World's own policy for a task: state [39] to action [4], which may leave [-1, 1].

    Raises:
        UserError: an unknown task.
    """
    policy = ENV_POLICY_MAP[f"{_known(name)}-v3"]()  # type: ignore[abstract]  # declared as its base class
    # It warns that its actions leave [-1, 1], which is what we say above.
    warnings.filterwarnings("ignore", "Constant\\(s\\) may be too high", UserWarning)
    return policy.get_action


def _known(name: str) -> str:
    name = ALIASES.get(name, name)
    if name not in names():
        raise unknown("task", f"metaworld_{name}", [f"metaworld_{task}" for task in [*names(), *ALIASES]])
    return name


class MetaWorld(gym.Env):
    """One Meta-World task whose seed decides everything, with one fixed goal."""

    def __init__(self, name: str, reward: str, starts: str, limit: int) -> None:
        self.simulator = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
        self._sparse = reward == "sparse"
        self._randomize = starts != "fixed"
        self._draw = metaworld_starts.PAPER.get(name) if starts == "paper" else None
        self._hand = np.array(self.simulator.hand_init_pos)
        self._goal = _prepare(self.simulator, limit)
        size = self.simulator.sawyer_observation_space.shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, size, np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, self.simulator.action_space.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; without randomization every episode of every seed starts alike."""
        super().reset(seed=seed)
        simulator = self.simulator
        # Meta-World ignores reset(seed=) and draws from its own generator, so ours stands in for it.
        simulator.np_random = self.np_random if self._randomize else np.random.default_rng(0)
        if self._draw:
            metaworld_starts.reset_to(simulator, self._draw(self.np_random, simulator), self._goal)
        elif self._randomize:
            hand = self.np_random.uniform(self._hand - HAND_RANGE, self._hand + HAND_RANGE)
            simulator.hand_init_pos = np.clip(hand, simulator.mocap_low, simulator.mocap_high)
        if not self._draw:
            simulator.reset()
        # Some tasks move bodies after their last forward pass; without this one the first picture is out of date.
        mujoco.mj_forward(simulator.model, simulator.data)
        simulator._prev_obs = simulator._get_curr_obs_combined_no_goal()
        return simulator._get_obs(), {"success": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One simulator step (12.5 ms); Meta-World has no terminal states."""
        obs, reward, _, _, info = self.simulator.step(action)
        success = float(info["success"])
        return obs, success if self._sparse else float(reward), False, False, {"success": success}

    def close(self) -> None:
        """Closes the simulator."""
        self.simulator.close()


def _prepare(simulator: Any, limit: int) -> np.ndarray | None:
    """Sets what Meta-World's benchmark classes would set: a task, a visible goal, seeded random starts.

    Returns the fixed goal [3] of a task that would draw one, else None.
    """
    simulator._partially_observable = False
    simulator._set_task_called = True
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True
    simulator.max_path_length = limit  # stepping past it raises
    # The space is cached with the hidden goal's bounds.
    del simulator.sawyer_observation_space
    # A random vector of six numbers is the object's position, then the goal's: the papers fix the goal.
    space = simulator._random_reset_space
    goal = None
    if space.shape == (6,):
        goal = np.clip(simulator.goal, space.low[3:], space.high[3:])
        low, high = (np.concatenate([bound[:3], goal]) for bound in (space.low, space.high))
        simulator._random_reset_space = gym.spaces.Box(low, high, dtype=np.float64)
    return goal
