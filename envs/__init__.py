"""Environments: every task is a Gymnasium environment with image observations and actions in [-1, 1].

    observation  Dict(image=Box(0, 255, (64, 64, 3), uint8)[, state=Box(-inf, inf, (S,), float32)])
    action       Box(-1, 1, (A,), float32)
    info         'success' (0.0 or 1.0) and 'cost' (float), each where the simulator reports it, and nothing else

The cost is how far a state violates a constraint; it is never part of the reward. Where success or cost is missing, at
a reset or at a step, it counts as 0.

Several tasks for one agent (PlaNet section 5) share spaces: actions have the largest size, each task ignores the
entries that it does not use, and there is no state.

A task is named `<suite>_<name>`. The table `SUITES` names the function that makes the environments of a suite. It is
imported on first use, so that importing this package stays cheap (no simulator, no TensorFlow) and workers start fast.

Simulators and TensorFlow run in separate processes: Mesa's software renderer and TensorFlow each load an LLVM, and a
process with both crashes, at the first image or (DM Control) at exit. The agent's process uses `spaces` and
`make_vector_env`, which start other processes; `make_env` is for programs without TensorFlow.
"""

import copy
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tools.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

# MuJoCo chooses its OpenGL back-end when it is first imported; without this it looks for a display.
os.environ.setdefault("MUJOCO_GL", "egl")

SUITES = {
    "dmc": "envs.dmc:make",
    "metaworld": "envs.metaworld:make",
    "pointmass": "envs.pointmass:make",
    "gym": "envs.gym:make",
}

# Suites whose tasks come with a policy that solves them from the simulator's state.
SCRIPTED = {"metaworld": "envs.metaworld:scripted"}

# Simulator steps per agent decision in the papers: PlaNet section 5 by domain, the other DM Control tasks 2 (Dreamer);
# LatCo (ICML) section 5: 2 for Thermos and Hammer. Everything else, 1.
PAPER_ACTION_REPEAT = {
    "dmc": 2,
    "dmc_ball_in_cup": 4,
    "dmc_cartpole": 8,
    "dmc_cheetah": 4,
    "dmc_finger": 2,
    "dmc_reacher": 4,
    "dmc_walker": 2,
    "metaworld_hammer": 2,
    "metaworld_stick-push": 2,
    "metaworld_thermos": 2,
}

TRIAL_STEPS = 2  # enough for Gymnasium's own checks
COST_STEPS = 100  # decisions in which a task has to report a cost if there is one
EVAL_SEED = 1_000_000  # added to the seed of a run for its evaluation episodes, so that no other shares their seeds


def make_env(config: Any, seed: int) -> "gym.Env":
    """Makes one environment of `config.task` in this process, which must not have imported TensorFlow.

    Args:
        config: an object with the attributes `setting_keys()`; its task is a single one.
        seed: determines everything random: two environments with the same seed and task are identical. It takes effect
            at the first reset, unless that reset gets its own seed.

    Raises:
        UserError: an unknown suite, task or camera, an environment that does not fit (discrete actions, no pictures),
            or a machine that lacks the library to draw.
    """
    if "tensorflow" in sys.modules:
        raise RuntimeError("Environments crash beside TensorFlow: use envs.spaces or envs.make_vector_env instead.")
    from envs.guard import Guard
    from envs.wrappers import ActionRepeat, PixelEnv

    _import_mujoco()
    suite, name = split_task(config.task)
    module, function = SUITES[suite].split(":")
    env = getattr(importlib.import_module(module), function)(name, config, seed)
    return PixelEnv(ActionRepeat(Guard(env, config.task), action_repeat(config)), seed)


def make_shared_env(config: Any, seed: int, action_size: int) -> "gym.Env":
    """`make_env` with the spaces shared by several tasks: actions of length `action_size`, and no state."""
    import numpy as np
    from gymnasium import spaces, wrappers

    env = wrappers.FilterObservation(make_env(config, seed), ["image"])
    used = env.action_space.shape[0]
    shared = spaces.Box(-1.0, 1.0, (action_size,), np.float32, seed=seed)
    return wrappers.TransformAction(env, lambda action: action[:used], shared)


def make_vector_env(config: Any, num_envs: int, seed: int, task: str | None = None) -> "gym.vector.VectorEnv":
    """Makes a batch of environments of one task, each in its own process with a random stream derived from `seed`.

    The task is `task`, one of those in the config, or the config's first.

    Episodes do not restart by themselves: `reset(options={'reset_mask': mask})`, bool [num_envs], starts new ones where
    the mask is true and repeats the last observation elsewhere.

    Raises:
        UserError: as `make_env`, or so many processes do not fit into the memory.
    """
    from envs.workers import WorkerEnvs
    from tools.memory import check_processes

    check_processes(num_envs)
    tasks = split_tasks(config.task)
    shared = spaces(config)
    settings = _single(_settings(config), task or tasks[0])
    make = make_env if len(tasks) == 1 else functools.partial(make_shared_env, action_size=shared[1].shape[0])
    seeds = [stream_seed(seed, index) for index in range(num_envs)]
    batch = WorkerEnvs(functools.partial(make, settings), seeds, shared, config.step_timeout)
    batch.action_space.seed(seed)
    return batch


def spaces(config: Any) -> tuple["gym.spaces.Dict", "gym.spaces.Box"]:
    """Observation and action space of one environment, determined in another process (about two seconds, then cached).

    For several tasks: images, and actions of the largest size. Other people's environments are tried out first, so that
    most of what is wrong with one shows before anything is collected.

    Raises:
        UserError: as `make_env`.
    """
    found, notes = _ask_new_process(_try_out, _values(config), config.step_timeout)
    for text in notes:
        _note(text)
    return copy.deepcopy(found)


def reports_cost(config: Any) -> bool:
    """Whether a step of the first `COST_STEPS` has a cost, in every task; found in another process, like `spaces`.

    Raises:
        UserError: as `make_env`.
    """
    return _ask_new_process(_play_for_cost, _values(config), config.step_timeout)


def scripted_policy(task: str) -> Callable[["np.ndarray"], "np.ndarray"]:
    """The policy that comes with a task: simulator state [S] to action [A], not clipped. Imports the simulator.

    Raises:
        UserError: an unknown suite or task, or one without such a policy.
    """
    suite, name = split_task(task)
    if suite not in SCRIPTED:
        raise UserError(f"{task} has no scripted policy, only {', '.join(SCRIPTED)} has: set --success_rate 0.")
    _import_mujoco()
    module, function = SCRIPTED[suite].split(":")
    return getattr(importlib.import_module(module), function)(name)


def action_repeat(config: Any) -> int:
    """Simulator steps per agent decision: `config.action_repeat`, or the papers' value for the task where that is 0."""
    if config.action_repeat:
        return config.action_repeat
    suite, name = split_task(config.task)
    words = f"{suite}_{name}".split("_")
    prefixes = ("_".join(words[:length]) for length in range(len(words), 0, -1))
    return next((PAPER_ACTION_REPEAT[prefix] for prefix in prefixes if prefix in PAPER_ACTION_REPEAT), 1)


def split_tasks(text: str) -> list[str]:
    """The tasks of a config, whose names have commas between them."""
    return text.split(",")


def split_task(task: str) -> tuple[str, str]:
    """Splits `<suite>_<name>`; a name may hold underscores itself.

    Raises:
        UserError: an unknown suite.
    """
    suite, _, name = task.partition("_")
    if suite not in SUITES or not name:
        raise UserError(
            f"'{task}' is not a task: name it <suite>_<name>, where the suite is one of {', '.join(SUITES)} "
            "(for example metaworld_reach)."
        )
    return suite, name


def stream_seed(seed: int, index: int) -> int:
    """Seed of environment `index` of a batch: streams of neighbouring seeds and indices do not overlap."""
    import numpy as np

    return int(np.random.SeedSequence(entropy=seed, spawn_key=(index,)).generate_state(1)[0])


def _import_mujoco() -> None:
    from envs.rendering import NO_OPENGL, no_opengl

    try:
        importlib.import_module("mujoco")
    except NO_OPENGL as error:
        raise no_opengl() from error


def setting_keys() -> tuple[str, ...]:
    """What environments read of the configuration."""
    from tools.config import keys_of  # workers need not import it

    return keys_of("transitions", "episodes", "collection")


def _values(config: Any) -> tuple:
    return tuple(getattr(config, key) for key in setting_keys())


def _settings(config: Any) -> types.SimpleNamespace:
    # Workers get plain values, so that they need not import the code of the configuration.
    return types.SimpleNamespace(**dict(zip(setting_keys(), _values(config), strict=True)))


def _single(config: Any, task: str) -> types.SimpleNamespace:
    """The settings of one of the config's tasks."""
    return types.SimpleNamespace(**{**vars(config), "task": task})


@functools.cache
def _note(text: str) -> None:
    """Prints a note, once."""
    from tools.command_line import note

    note(text)


@functools.lru_cache
def _ask_new_process(function: Callable, values: tuple, timeout: float) -> Any:
    """The answer of a function of the settings, which may make environments: it runs in another process, once."""
    from envs.workers import in_new_process

    settings = types.SimpleNamespace(**dict(zip(setting_keys(), values, strict=True)))
    return in_new_process(function, settings, timeout=timeout)


def _try_out(config: Any) -> tuple[tuple["gym.spaces.Dict", "gym.spaces.Box"], list[str]]:
    """The spaces, and what the user should know."""
    from envs.wrappers import LAST_STEP, LastStep, find_wrapper

    found, notes = [], []
    for task in split_tasks(config.task):
        env = make_env(_single(config, task), seed=0)
        if split_task(task)[0] == "gym":
            _play(env, TRIAL_STEPS)
        if find_wrapper(env, LastStep):
            notes.append(f"{task} has no time limit: its episodes end after {LAST_STEP} steps, or at --time_limit")
        env.close()
        found.append((env.observation_space, env.action_space))
    if len(found) == 1:
        return found[0], notes
    from gymnasium import spaces

    images = spaces.Dict({"image": found[0][0]["image"]})
    return (images, max((action_space for _, action_space in found), key=lambda space: space.shape[0])), notes


def _play_for_cost(config: Any) -> bool:
    for task in split_tasks(config.task):
        env = make_env(_single(config, task), seed=0)
        found = _play(env, COST_STEPS, until="cost")
        env.close()
        if not found:
            return False
    return True


def _play(env: "gym.Env", steps: int, until: str = "") -> bool:
    """Plays random actions, until the `info` of a step has a key; returns whether one had."""
    env.reset()
    for _ in range(steps):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        if until in info:
            return True
        if terminated or truncated:
            env.reset()
    env.reset()
    return False
