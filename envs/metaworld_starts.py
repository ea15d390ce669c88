"""Where Meta-World's episodes start: the hand and the object as the code of LatCo's authors draws them, or near them.

The goals are fixed. For the tasks of the paper, "paper" starts are

    reach, button-press   hand anywhere between `hand_low` and `hand_high`
    window-close          slider open by 0 to 0.2 m, hand around a point in front of and above its handle
    drawer-close          drawer open by 0 to 0.15 m, hand around a point in front of and above its handle
    push                  puck in 0.6 x 0.3 m, hand above it
    hammer                hammer in 0.4 x 0.4 m, hand in front of and above it
    stick-push            Meta-World's default position

As there, some episodes of window-close and drawer-close start with the task already solved. A puck within 0.15 m of the
goal is drawn anew, which is Meta-World's own rule. Other tasks have no "paper" starts and use "near" ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numpy as np

LEAST_PUSH = 0.15  # metres between puck and goal
HANDLE = 0.16  # metres that the drawer's handle sticks out
OPENINGS = {"window_slide": 1.0, "goal_slidey": -1.0}  # joints of window and drawer, and the sign of an opening


class Start(NamedTuple):
    """One start, in metres: hand [3], object [3] (None: its default place) and how far window or drawer are open."""

    hand: np.ndarray
    thing: np.ndarray | None = None
    opening: float = 0.0


def _anywhere(rng: np.random.Generator, simulator: Any) -> Start:
    return Start(rng.uniform(simulator.hand_low, simulator.hand_high))


def _window(rng: np.random.Generator, simulator: Any) -> Start:
    opening = rng.uniform(0.0, 0.2)
    handle = default_object(simulator) + [opening, -0.1, 0.05]
    return Start(handle + rng.uniform([-0.15, -0.3, -0.15], [0.15, 0.0, 0.15]), opening=opening)


def _drawer(rng: np.random.Generator, simulator: Any) -> Start:
    opening = rng.uniform(0.0, 0.15)
    handle = default_object(simulator) + [0.0, -HANDLE - opening, 0.15]
    return Start(handle + rng.uniform([-0.15, -0.15, 0.0], [0.15, 0.15, 0.3]), opening=opening)


def _push(rng: np.random.Generator, simulator: Any) -> Start:
    puck = simulator.goal
    while np.linalg.norm(puck[:2] - simulator.goal[:2]) < LEAST_PUSH:
        puck = rng.uniform([-0.2, 0.6, 0.02], [0.4, 0.9, 0.02])
    return Start(np.array([*puck[:2], 0.05]), puck)


def _hammer(rng: np.random.Generator, simulator: Any) -> Start:
    hammer = rng.uniform([-0.1, 0.3, 0.0], [0.3, 0.7, 0.0])
    # The authors' hammer lies at height 0.04, and the hand is 0.16 above that.
    return Start(hammer + [0.0, -0.1, 0.2], hammer)


def _default(rng: np.random.Generator, simulator: Any) -> Start:
    del rng
    return Start(np.array(simulator.init_config["hand_init_pos"]))


PAPER: dict[str, Callable[[np.random.Generator, Any], Start]] = {
    "reach": _anywhere,
    "button-press": _anywhere,
    "window-close": _window,
    "drawer-close": _drawer,
    "push": _push,
    "hammer": _hammer,
    "stick-push": _default,
}


def default_object(simulator: Any) -> np.ndarray:
    """Where a task has its object if nothing is drawn, [3]."""
    names = ("obj_init_pos", "hammer_init_pos", "stick_init_pos")
    return next(np.array(simulator.init_config[name]) for name in names if name in simulator.init_config)


def reset_to(simulator: Any, start: Start, goal: np.ndarray | None) -> None:
    """Resets a simulator to a start; `goal` [3] is that of tasks which otherwise draw one."""
    thing = default_object(simulator) if start.thing is None else start.thing
    simulator.hand_init_pos = np.clip(start.hand, simulator.mocap_low, simulator.mocap_high)
    simulator._freeze_rand_vec = True
    simulator._last_rand_vec = thing if goal is None else np.concatenate([thing, goal])
    simulator.reset()
    for joint, sign in OPENINGS.items():
        if mujoco.mj_name2id(simulator.model, mujoco.mjtObj.mjOBJ_JOINT, joint) >= 0:
            simulator.data.joint(joint).qpos = sign * start.opening
            mujoco.mj_forward(simulator.model, simulator.data)
            # Meta-World's shaped rewards are relative to where the handle was.
            simulator.obj_init_pos = simulator.window_handle_pos_init = simulator._get_pos_objects()
