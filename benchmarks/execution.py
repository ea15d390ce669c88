"""Plays actions open loop (without feedback), and a task's scripted policy.

No TensorFlow here, which crashes beside a simulator.
"""

import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import envs
from envs.workers import in_new_process


class Played(NamedTuple):
    """Actions played from N starts and what came of them; after the end of an episode everything is 0.

    Attributes:
        actions: float32 [N, H, m].
        rewards: float32 [N, H], as the environment gives them.
        alive: bool [N, H], whether the action was still part of the episode.
        success: bool [N, H], whether the simulator reported success after the action; None where it does not know.
    """

    actions: np.ndarray
    rewards: np.ndarray
    alive: np.ndarray
    success: np.ndarray | None

    def first(self, steps: int) -> "Played":
        """The same, as if it had stopped after so many actions."""
        return Played(*(None if part is None else part[:, :steps] for part in self))


def chunks(count: int, size: int) -> Iterator[np.ndarray]:
    """The numbers 0 ... count - 1, `size` at a time; the last one is repeated to fill the last chunk."""
    for first in range(0, count, size):
        yield np.minimum(np.arange(first, first + size), count - 1)


def play_open_loop(batch: Any, seeds: Sequence[int], actions: np.ndarray) -> Played:
    """Plays actions [N, H, m] open loop from N starts, as many at a time as there are environments.

    Starts during which an environment is lost are played again, see `envs.workers`.
    """
    shape, reports = actions.shape[:2], False
    rewards, alive, success = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for rows in chunks(len(seeds), batch.num_envs):
        played = None
        while played is None:  # after a few losses the batch itself gives up
            played = _play_together(batch, [seeds[row] for row in rows], actions[rows])
        rewards[rows], alive[rows] = played.rewards, played.alive
        if played.success is not None:
            reports, success[rows] = True, played.success
    return Played(actions, rewards, alive, success if reports else None)


def _play_together(batch: Any, seeds: Sequence[int], actions: np.ndarray) -> Played | None:
    """As `play_open_loop`, for a start in every environment; None if one was lost."""
    shape, reports = actions.shape[:2], False
    rewards, alive, success = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    batch.reset(seed=seeds)
    going = np.ones(batch.num_envs, bool)
    for step in range(shape[1]):
        _, reward, terminated, truncated, info = batch.step(actions[:, step])
        if "lost" in info:
            return None
        rewards[:, step], alive[:, step] = reward * going, going
        if "success" in info:
            reports, success[:, step] = True, going & (info["success"] > 0)
        ended = terminated | truncated
        going &= ~ended
        if not going.any():
            break
        if ended.any():  # simulators refuse to be stepped beyond the end
            batch.reset(options={"reset_mask": ended})
    return Played(actions, rewards, alive, success if reports else None)


def play_scripted(config: Any, task: str, seeds: list[int], steps: int, size: int) -> Played | None:
    """The scripted policy without noise for `steps` decisions from the start of each seed, in another process.

    Args:
        config: the settings of the environments.
        task: which of its tasks.
        seeds: of the N starts.
        steps: H.
        size: m; the task ignores the entries that it lacks (see `envs`).

    Returns:
        what was played, None for a task without such a policy.
    """
    if envs.split_task(task)[0] not in envs.SCRIPTED:
        return None
    settings = {key: getattr(config, key) for key in envs.setting_keys()} | {"task": task}
    return in_new_process(_play, types.SimpleNamespace(**settings), list(seeds), steps, size)


def _play(config: Any, seeds: list[int], steps: int, size: int) -> Played:
    shape, reports = (len(seeds), steps), False
    actions = np.zeros([*shape, size], np.float32)
    rewards, alive, success = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    env = envs.make_env(config, 0)
    try:
        for row, seed in enumerate(seeds):
            policy = envs.scripted_policy(config.task)
            obs, _ = env.reset(seed=seed)
            for step in range(steps):
                action = np.clip(policy(obs["state"]), -1.0, 1.0).astype(np.float32)
                obs, rewards[row, step], terminated, truncated, info = env.step(action)
                actions[row, step, : len(action)], alive[row, step] = action, True
                reports |= "success" in info
                success[row, step] = info.get("success", 0.0) > 0
                if terminated or truncated:
                    break
    finally:
        env.close()
    return Played(actions, rewards, alive, success if reports else None)
