"""Episodes whose arrays tell their number, and what was drawn of them."""

import numpy as np

from episodes.replay import Replay


def make_episode(number, transitions, state=False, size=8, cost=False):
    """An episode whose every array tells its number and the entry: sample() can be checked from its output alone."""
    entries = transitions + 1
    time = np.arange(entries)
    image = np.zeros((entries, size, size, 3), np.uint8)
    image[..., 0] = number
    image[..., 1] = (time % 256)[:, None, None]
    action = np.stack([np.full(entries, number / 256), time / 1024], 1).astype(np.float32)
    action[0] = 0
    episode = {
        "image": image,
        "action": action,
        "reward": (1000 * number + time).astype(np.float32),
        "discount": np.ones(entries, np.float32),
        "is_first": time == 0,
    }
    if state:
        episode["state"] = np.stack([np.full(entries, number), time, time**2], 1).astype(np.float32)
    if cost:
        episode["cost"] = (0.5 + 1000 * number + time).astype(np.float32)
    return episode


def make_replay(folder, batch_size=16, batch_length=5, capacity=10**6, seed=0):
    return Replay(folder, batch_size, batch_length, capacity, seed)


def drawn_episodes(batch):
    return batch["image"][:, 0, 0, 0, 0].astype(int)


def drawn_starts(batch):
    return batch["reward"][:, 0].astype(int) % 1000


def chi_square(counts, probabilities):
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())
