"""How far the goal is, by the simulator's state at the start of an episode: what makes one start harder than another.

One function for each suite that knows it, of the task's name within the suite and a state of it. No simulator is
imported, so that the process of the agent may ask.
"""

from collections.abc import Callable

import numpy as np

from envs import split_task

# Middles of the goals, which the scenes of `envs.pointmass` draw there; of Lottery's two, Top is the one that counts as
# success.
POINTMASS_GOALS = {"obstacle": (0.6, -0.4), "lottery": (0.15, 0.4)}

# In these tasks of Meta-World the hand itself goes to the goal; an object is in the state nevertheless.
METAWORLD_HAND_ONLY = ("reach", "reach-wall")


def metaworld(name: str, state: np.ndarray) -> float:
    """Metres from the hand to the object and from there to the goal; straight to the goal where no object plays a part.

    Of the state's 39 numbers [0:3] are the hand, [4:7] the object (the tool, where there is one), [36:39] the goal.
    """
    hand, thing, goal = state[0:3], state[4:7], state[36:39]
    if name in METAWORLD_HAND_ONLY:
        return float(np.linalg.norm(goal - hand))
    return float(np.linalg.norm(thing - hand) + np.linalg.norm(goal - thing))


def pointmass(name: str, state: np.ndarray) -> float:
    """Straight from the point to the goal, in units of the arena (half its side), through the wall if need be."""
    return float(np.linalg.norm(state[:2] - np.array(POINTMASS_GOALS[name])))


DISTANCES: dict[str, Callable[[str, np.ndarray], float]] = {"metaworld": metaworld, "pointmass": pointmass}


def goal_distance(task: str, state: np.ndarray | None) -> float | None:
    """Distance to the goal of a task in a state [S], None where the suite does not know it or there is no state."""
    suite, name = split_task(task)
    return None if state is None or suite not in DISTANCES else DISTANCES[suite](name, np.asarray(state, np.float64))
