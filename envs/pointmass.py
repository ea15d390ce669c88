"""Two-dimensional navigation from images, seen from above: the toy tasks of the LatCo papers, in MuJoCo.

obstacle (ICLR paper, section 6.1): reach a goal on the other side of a wall; the reward of a step is the negative
distance to the goal. Going straight ends at the wall; the way round it takes about 17 of the 30 steps. A keep-out disc,
neither drawn nor punished in the reward, lies in front of the wall: the cost of a state is the depth in it, 1 at its
centre and 0 from its rim outwards. It covers the straight way and the place at the wall where that ends; every start is
outside, and so is a way round.

lottery (ICML paper, section 5.5): the Top goal pays 1; the Bottom goal pays 20 with 65% and -40 with 35%, -1 in the
mean. Only one goal can be taken; then both fade, except that Bottom turns white when it won and black when it lost, and
there is no reward any more.
"""

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.wrappers import TimeLimit

from envs.distance import POINTMASS_GOALS
from envs.rendering import Camera
from envs.wrappers import CameraRender
from tools.errors import unknown

TIME_LIMIT = 30  # steps
SUBSTEPS = 10  # of the simulation per step

# The arena is [-1, 1] in x and y. An action pushes the point against viscous drag, so that after a few milliseconds it
# is a velocity: at most 0.12 arena units per step in x and in y.
POINT_RADIUS = 0.08
GOAL_RADIUS = 0.15
KEEP_OUT_CENTER = (-0.25, -0.35)  # of the obstacle task
KEEP_OUT_RADIUS = 0.2
SCENE = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <visual>
    <global offwidth="64" offheight="64"/>
    <headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/>
  </visual>
  <default>
    <geom condim="1" solref=".01 1" solimp=".95 .99 .001"/>
    <default class="wall"><geom type="box" rgba=".35 .37 .45 1"/></default>
    <default class="goal">
      <geom type="cylinder" size="{goal_radius} .01" contype="0" conaffinity="0"/>
    </default>
  </default>
  <asset>
    <texture name="floor" type="2d" builtin="checker" width="64" height="64" rgb1=".93 .92 .88" rgb2=".87 .86 .82"/>
    <material name="floor" texture="floor" texrepeat="4 4"/>
  </asset>
  <worldbody>
    <camera name="top" pos="0 0 3" fovy="40.2"/>
    <geom name="floor" type="plane" size="1.1 1.1 .1" pos="0 0 -.1" material="floor" contype="0" conaffinity="0"/>
    <geom class="wall" size=".05 1.1 .1" pos="-1.05 0 0"/>
    <geom class="wall" size=".05 1.1 .1" pos="1.05 0 0"/>
    <geom class="wall" size="1.1 .05 .1" pos="0 -1.05 0"/>
    <geom class="wall" size="1.1 .05 .1" pos="0 1.05 0"/>
    {scene}
    <body name="point">
      <joint name="x" type="slide" axis="1 0 0" damping="40"/>
      <joint name="y" type="slide" axis="0 1 0" damping="40"/>
      <geom type="sphere" size="{point_radius}" mass="1" rgba=".15 .4 .85 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" gear="48" ctrlrange="-1 1" ctrllimited="true"/>
    <motor joint="y" gear="48" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
</mujoco>
"""
OBSTACLE = """
    <geom name="obstacle" class="wall" size=".07 .65 .1" pos="0 -.35 0" rgba=".8 .3 .25 1"/>
    <geom name="goal" class="goal" pos="{goal[0]} {goal[1]} -.05" rgba=".2 .7 .3 1"/>
""".format(goal=POINTMASS_GOALS["obstacle"])
LOTTERY = """
    <geom name="top" class="goal" pos="{goal[0]} {goal[1]} -.05" rgba=".2 .7 .3 1"/>
    <geom name="bottom" class="goal" pos=".15 -.4 -.05" rgba=".95 .7 .1 1"/>
""".format(goal=POINTMASS_GOALS["lottery"])
FADED = (0.7, 0.7, 0.68, 1.0)
WON, LOST = (1.0, 1.0, 1.0, 1.0), (0.05, 0.05, 0.05, 1.0)


def names() -> list[str]:
    """The tasks of this suite."""
    return list(TASKS)


def make(name: str, config: Any, seed: int) -> gym.Env:
    """Makes one task; its observation is the state vector that the task's class describes.

    Raises:
        UserError: an unknown task or camera.
    """
    if name not in TASKS:
        raise unknown("task", f"pointmass_{name}", [f"pointmass_{task}" for task in TASKS])
    env = TASKS[name]()
    camera = Camera(env.model, env.data, config.camera or "top", config.render_quality)
    return CameraRender(TimeLimit(env, config.time_limit or TIME_LIMIT), camera)


class PointMass(gym.Env):
    """A point pushed around the arena; a task adds a scene, a start, a reward and perhaps more state."""

    scene = ""
    start = (0.0, 0.0)
    start_noise = 0.1  # half the side of the square in which episodes start

    def __init__(self) -> None:
        xml = SCENE.format(scene=self.scene, point_radius=POINT_RADIUS, goal_radius=GOAL_RADIUS)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, self._state().shape, np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Puts the point at rest near the start."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.start + self.np_random.uniform(-self.start_noise, self.start_noise, 2)
        mujoco.mj_forward(self.model, self.data)
        return self._state(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Moves for a tenth of a second; episodes end only by the time limit."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        # MuJoCo's poses are those at the beginning of the last step; the image has to show its end.
        mujoco.mj_forward(self.model, self.data)
        reward, success = self._outcome()
        return self._state(), reward, False, False, self._info(success)

    def _distance(self, goal: str) -> float:
        return float(np.linalg.norm(self.data.geom(goal).xpos[:2] - self.data.qpos))

    def _state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def _info(self, success: bool) -> dict[str, float]:
        return {"success": float(success)}

    def _outcome(self) -> tuple[float, bool]:
        raise NotImplementedError


class Obstacle(PointMass):
    """State: position, velocity. Success: the point is on the goal. Cost: its centre's depth in the keep-out disc."""

    scene = OBSTACLE
    start = (-0.6, -0.4)

    def _outcome(self) -> tuple[float, bool]:
        distance = self._distance("goal")
        return -distance, distance < GOAL_RADIUS

    def _info(self, success: bool) -> dict[str, float]:
        distance = float(np.linalg.norm(self.data.qpos - KEEP_OUT_CENTER))
        return super()._info(success) | {"cost": max(0.0, 1.0 - distance / KEEP_OUT_RADIUS)}


class Lottery(PointMass):
    """State: position, velocity, whether a goal was taken. Success: Top, the better goal in the mean, was taken."""

    scene = LOTTERY
    start = (-0.3, 0.0)  # so near that uniformly random actions find each goal in about one episode of twelve
    goals = ("top", "bottom")

    def __init__(self) -> None:
        self._taken: str | None = None
        super().__init__()
        self._colors = {goal: self.model.geom(goal).rgba.copy() for goal in self.goals}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Puts the point at rest near the start; both goals can be taken again."""
        self._taken = None
        for goal, color in self._colors.items():
            self.model.geom(goal).rgba = color
        return super().reset(seed=seed)

    def _state(self) -> np.ndarray:
        return np.append(super()._state(), float(self._taken is not None))

    def _outcome(self) -> tuple[float, bool]:
        reward = 0.0
        reached = [goal for goal in self.goals if self._distance(goal) < GOAL_RADIUS]
        if reached and self._taken is None:
            self._taken = reached[0]
            reward = 1.0 if self._taken == "top" else self._draw()
            for goal in self.goals:
                self.model.geom(goal).rgba = FADED
            # A model can only tell the outcomes apart, and a planner hope for one, where an image shows them.
            if self._taken == "bottom":
                self.model.geom("bottom").rgba = WON if reward > 0 else LOST
        return reward, self._taken == "top"

    def _draw(self) -> float:
        return 20.0 if self.np_random.random() < 0.65 else -40.0


TASKS = {"obstacle": Obstacle, "lottery": Lottery}
