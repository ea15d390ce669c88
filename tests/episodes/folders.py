"""Episodes, folders of them, imports and refusals, for the tests of data sets."""

import json

import numpy as np

import collect
from episodes.dataset import write_collection
from episodes.episode import episode_files, read_episode
from episodes.replay import Replay
from tools.config import load_config


def make_episode(number=0, steps=4, terminal=False, success=None, size=64, extras=()):
    """An episode whose arrays tell its number and the entry; successful at its last entry if `success`."""
    rng = np.random.default_rng(number)
    time = np.arange(steps + 1)
    action = rng.uniform(-1, 1, (steps + 1, 2)).astype(np.float32)
    action[0] = 0
    episode = {
        "image": rng.integers(0, 256, (steps + 1, size, size, 3)).astype(np.uint8),
        "action": action,
        "reward": (100 * number + time).astype(np.float32) * (time > 0),
        "discount": np.where(time == steps, 1 - terminal, 1).astype(np.float32),
        "is_first": time == 0,
    }
    if success is not None:
        episode["success"] = (time == steps).astype(np.float32) * success
    more = {"state": rng.standard_normal((steps + 1, 3)), "cost": rng.uniform(0, 1, steps + 1)}
    return episode | {key: more[key].astype(np.float32) for key in extras}


def make_config(*words):
    return load_config(["--configs", "pointmass", *words]).resolved()


def make_folder(folder, episodes, facts=None):
    replay = Replay(folder, 1, 1, 1, seed=0)
    for episode in episodes:
        replay.add(episode)
    if facts is not None:
        write_collection(folder, facts)
    return folder


def read_folder(folder):
    return [read_episode(file) for file in episode_files(folder)]


def assert_same_episodes(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def refused(capsys, *argv):
    """The one sentence with which the program refuses."""
    assert collect.main([str(word) for word in argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def import_folder(capsys, out, *words):
    """What the program says of a data set of Minari that it imports."""
    assert collect.main(["import", *words, "--out", str(out)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])
