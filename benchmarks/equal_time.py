"""How large a search each planner can afford in a given time, and which of its settings are tuned.

A planner's *size* is what grows with its time: iterations, or candidates of the sampling planners. The other settings
are tuned, by as many trials for each planner.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from tools.config import Config

Settings = dict[str, float | int | bool]
Tuned = Mapping[str, float | int | bool]

# Of LatCo's steps at most so many end the search (finish.py), as in the preset closed_loop.
FINISH_SHARE = 0.25
ELITES = 0.1  # of the candidates, unless tuned
TOLERANCE = 0.1  # a plan takes a time if it takes it to within this fraction
TRIES = 4  # sizes that are compiled and timed to meet a budget
GROWTH = 30  # at most, from one of them to the next


class Space(NamedTuple):
    """What the size of a planner is, and what is tuned.

    Attributes:
        size: the setting that grows with time.
        first: the size that is timed first.
        values: setting -> values to choose from. "elites" is a share of the candidates.
    """

    size: str
    first: int
    values: Mapping[str, Sequence[float | int | bool]]


_SAMPLING = {"sampling_iterations": (3, 5, 10, 20), "elites": (0.03, 0.1, 0.3), "sample_states": (True, False)}
_FEW = (1, 2, 4)  # restarts of planners whose iterations are expensive
_DAMPING = {"n_parallel_plans": _FEW, "latco_damping": (1e-6, 1e-5, 1e-4, 1e-3), "latco_lam_init": (0.1, 1.0, 10.0)}
SPACES = {
    "random_shooting": Space(
        "cem_candidates", 100, {"sampling_iterations": (1, 3, 10, 30), "sample_states": (True, False)}
    ),
    "cem": Space("cem_candidates", 100, _SAMPLING),
    "mppi": Space("mppi_candidates", 100, _SAMPLING | {"mppi_gamma": (1.0, 10.0, 100.0)}),
    "icem": Space(
        "icem_candidates",
        100,
        {
            "icem_iterations": (3, 5, 8),
            "icem_beta": (0.5, 1.5, 2.5),
            "icem_std": (0.3, 0.5, 0.8),
            "elites": (0.01, 0.03, 0.1),
            "sample_states": (True, False),
        },
    ),
    "gd": Space("gd_iterations", 10, {"gd_lr": (0.01, 0.03, 0.05, 0.1, 0.2), "n_parallel_plans": (1, 4, 16)}),
    "gn": Space("gn_iterations", 10, {"gn_damping": (1e-4, 1e-3, 1e-2, 1e-1), "n_parallel_plans": _FEW}),
    "ilqr": Space("ilqr_iterations", 10, {"ilqr_damping": (1e-4, 1e-3, 1e-2, 1e-1), "n_parallel_plans": _FEW}),
    "latco": Space("latco_iterations", 10, _DAMPING),
    "gaussian_latco": Space("gaussian_iterations", 4, _DAMPING | {"gaussian_samples": (10, 20, 50)}),
    "latco_first_order": Space(
        "first_order_iterations",
        50,
        {"first_order_lr": (0.01, 0.03, 0.05, 0.1), "first_order_dual_lr": (0.5, 1.5, 5.0)},
    ),
    "image_collocation": Space(
        "first_order_iterations", 2, {"image_lr": (0.005, 0.02, 0.05, 0.1), "first_order_dual_lr": (0.5, 1.5, 5.0)}
    ),
    "grasp": Space(
        "grasp_iterations",
        20,
        {
            "grasp_lr": (0.02, 0.05, 0.1),
            "grasp_lam": (2.0, 8.0, 32.0),
            "grasp_noise": (0.0, 0.1, 0.3),
            "grasp_sync_steps": (5, 20),
        },
    ),
}


def trials(planner: str, count: int, seed: int) -> list[Settings]:
    """`count` settings to try: first the run's own, then different ones by random search, as far as there are."""
    values = SPACES[planner].values
    others = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    return [{}, *random.Random(f"{planner} {seed}").sample(others, min(count - 1, len(others)))]


def smallest(planner: str) -> int:
    """The smallest size of a planner: one iteration, or candidates of which two or more are elites."""
    return 4 if SPACES[planner].size.endswith("candidates") else 1


def sized(config: Config, planner: str, size: int, tuned: Tuned) -> Config:
    """The settings of a planner of a size.

    LatCo's steps are divided between its search and its finish, elites are a share of the candidates.
    """
    settings: Settings = {key: value for key, value in tuned.items() if key != "elites"}
    settings[SPACES[planner].size] = size
    elites = tuned.get("elites", ELITES) * size
    if planner in ("cem", "mppi"):
        settings["sampling_elites"] = min(max(2, round(elites)), size)
    elif planner == "icem":
        settings["icem_elites"] = min(max(2, round(elites)), size // 2)
    elif planner in ("latco", "gaussian_latco"):
        # Gaussian LatCo's finish is one step at most, which improves nothing.
        most = config.latco_finish if planner == "latco" else min(config.latco_finish, 1)
        settings["latco_finish"] = min(most, int(FINISH_SHARE * size))
        settings["latco_keep_start"] = config.latco_keep_start and settings["latco_finish"] > 0
        settings[SPACES[planner].size] = size - settings["latco_finish"]
    return config.replace(**settings)


def fit_size(measure: Callable[[int], float], budget: float, known: dict[int, float], first: int, least: int) -> int:
    """The largest size whose plan takes a number of seconds, as far as a few measurements can tell.

    Args:
        measure: size -> seconds of a plan.
        budget: seconds that it may take, to within `TOLERANCE`.
        known: size -> seconds, from other budgets; what is measured is added.
        first: the size to begin with where none is known.
        least: the smallest size.

    Returns:
        the size, which is `known`; `least` if no plan is fast enough.
    """
    for _ in range(TRIES):
        size = _guess(budget, known, first, least)
        if size in known:
            break
        known[size] = measure(size)
        if abs(known[size] / budget - 1.0) <= TOLERANCE:
            break
    fitting = [size for size, seconds in known.items() if fits(seconds, budget)]
    if not fitting and least not in known:
        known[least] = measure(least)
    return max(fitting, default=least)


def fits(seconds: float, budget: float) -> bool:
    """Whether a plan of so many seconds is within the budget."""
    return seconds <= (1.0 + TOLERANCE) * budget


def _guess(budget: float, known: Mapping[int, float], first: int, least: int) -> int:
    """The size that takes the budget: on the line through the two known ones that are nearest to it."""
    if not known:
        return first
    near = sorted(known, key=lambda size: abs(math.log(known[size] / budget)))[:2]
    size = near[0] * budget / known[near[0]]
    if len(near) == 2:
        slope = (known[near[1]] - known[near[0]]) / (near[1] - near[0])
        if slope > 0.0:
            size = near[0] + (budget - known[near[0]]) / slope
    return max(least, int(min(size, GROWTH * max(known))))
