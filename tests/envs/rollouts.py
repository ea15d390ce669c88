"""The settings of a task, and what is played in a process without TensorFlow."""

import types

import gymnasium as gym
import numpy as np

import envs


def make_config(task: str, **changes) -> types.SimpleNamespace:
    settings = {
        "task": task,
        "action_repeat": 0,
        "time_limit": 0,
        "render_quality": "fast",
        "camera": "",
        "reward": "sparse",
        "randomize": True,
        "starts": "near",
        "step_timeout": 300,
    }
    return types.SimpleNamespace(**{**settings, **changes})


def rollout(config, seed: int, actions: np.ndarray, starts: int = 1) -> dict[str, np.ndarray]:
    """Plays the first A columns of actions [T, >= A], after `starts` resets in a row and with one after each end."""
    env = envs.make_env(config, seed)
    actions = actions[:, : env.action_space.shape[0]]
    rows = []
    for _ in range(starts):
        obs, info = env.reset()
        rows.append((obs, 0.0, False, False, info))
    for action in actions:
        rows.append(env.step(action))
        if rows[-1][2] or rows[-1][3]:
            obs, info = env.reset()
            rows.append((obs, 0.0, False, False, info))
    env.close()
    obs, reward, terminated, truncated, info = zip(*rows, strict=True)
    return {
        "image": np.stack([o["image"] for o in obs]),
        "state": np.stack([o["state"] for o in obs]),
        "reward": np.array(reward),
        "terminated": np.array(terminated),
        "truncated": np.array(truncated),
        "success": np.array([i.get("success", np.nan) for i in info]),
    }


def first_observations(tasks: list[str]) -> dict[str, tuple[dict, gym.Space, float]]:
    """First observation, its space, and the reward of one random action, of each task."""
    results = {}
    for task in tasks:
        env = envs.make_env(make_config(task), 0)
        obs, _ = env.reset()
        reward = env.step(env.action_space.sample())[1]
        results[task] = (obs, env.observation_space, reward)
        env.close()
    return results
