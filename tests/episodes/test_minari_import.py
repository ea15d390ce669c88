"""Other people's Minari data sets: pictures, replayed episodes, refusals."""

import itertools
import multiprocessing
import os
import sys
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import optree
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

import collect
from episodes import minari_import
from episodes.dataset import read_collection
from episodes.episode import episode_files
from tests.episodes.folders import assert_same_episodes, import_folder, make_episode, make_folder, read_folder, refused

pytestmark = [
    pytest.mark.filterwarnings("ignore:env_spec is None"),
    pytest.mark.filterwarnings("ignore:.*not in the possible render_modes"),
]


class Strip(gym.Env):
    """A point on a strip, pushed by the first of two actions; it observes its place, or a picture of it, or both."""

    metadata = {"render_modes": ["rgb_array"]}
    drift = 0.0

    def __init__(self, shows="state", render_mode=None):
        self.shows, self.render_mode = shows, render_mode
        state = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        picture = spaces.Box(0, 255, (128, 128, 3), np.uint8)
        both = spaces.Dict({"view": picture, "place": state, "goal": spaces.Discrete(2)})
        self.observation_space = {"state": state, "picture": picture, "both": both}[shows]
        self.action_space = spaces.Box(np.float32([-2, 0]), np.float32([2, 4]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = float((options or {}).get("place", self.np_random.uniform(-1, 1)))
        self.time = 0
        return self._observe(), {"success": 0.0}

    def step(self, action):
        self.time += 1
        self.place += 0.1 * float(action[0]) + self.drift * (self.time == 2)
        done = abs(self.place) > 1.2
        return self._observe(), self.place, done, self.time == 6 and not done, {"success": float(self.time == 2)}

    def _observe(self):
        state = np.array([self.place, self.time])
        if self.shows == "both":
            return {"view": self.render(), "place": state, "goal": 1}
        return state if self.shows == "state" else self.render()

    def render(self):
        """Blocks of 2 x 2 equal pixels, which shrinking leaves as they are."""
        row = np.arange(64) + round(100 + 50 * self.place) + self.time
        small = np.broadcast_to(row[:, None, None], (64, 64, 3)) + np.arange(3) * 10
        return np.repeat(np.repeat(small.astype(np.uint8), 2, 0), 2, 1)


@pytest.fixture
def strip():
    gym.register("Strip-v0", entry_point=f"{__name__}:Strip")
    yield "Strip-v0"
    del gym.registry["Strip-v0"]


def record(name, env, places=(None, 0.9, None), infos=True):
    """A data set as Minari's own collector records it, and the actions [episodes][T, A]."""
    # The collector asks JAX for one function only, which optree has as well.
    jax = types.ModuleType("jax")
    jax.tree_util = types.ModuleType("jax.tree_util")
    jax.tree_util.tree_map = optree.tree_map
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jax", jax)
        patch.setitem(sys.modules, "jax.tree_util", jax.tree_util)
        collector = minari.DataCollector(env, record_infos=infos, jpeg_encoding=False)
        rng = np.random.default_rng(0)
        actions = []
        for seed, place in enumerate(places):
            collector.reset(seed=seed, options=None if place is None else {"place": place})
            actions.append([])
            done = False
            while not done:
                actions[-1].append(rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32))
                done = any(collector.step(actions[-1][-1])[2:4])
        with pytest.warns(UserWarning, match="is set to None"):
            collector.create_dataset(name, description="for a test")
        collector.close()
    return [np.array(episode) for episode in actions]


def test_a_recorded_data_set_is_imported_from_pictures_and_by_replay(strip, tmp_path, store, capsys):
    actions = record("test/both-v0", gym.make(strip, shows="both"))
    record("test/picture-v0", gym.make(strip, shows="picture"))
    record("test/state-v0", gym.make(strip))
    known = import_folder(capsys, tmp_path / "both", "test/both-v0", "--task", "gym_Strip-v0")
    assert known["settings"] == {"task": "gym_Strip-v0"} and known["episodes"] == 3
    used = {"dataset": "test/both-v0", "environment": strip, "image": "view", "state": "place", "replayed": False}
    assert known["minari"] == used
    episodes = read_folder(tmp_path / "both")
    for episode, expected in zip(episodes, actions, strict=True):
        np.testing.assert_allclose(episode["action"][1:], (expected - [0, 2]) / 2, atol=1e-6)
        assert not episode["action"][0].any() and episode["reward"][0] == 0
        np.testing.assert_allclose(np.diff(episode["state"][:, 0]), 0.1 * expected[:, 0], atol=1e-6)
        np.testing.assert_array_equal(episode["reward"][1:], episode["state"][1:, 0])
        time = episode["state"][:, 1]
        np.testing.assert_array_equal(time, np.arange(len(expected) + 1))
        corner = np.round(100 + 50 * np.float64(episode["state"][:, 0])) + time
        assert episode["image"].shape[1:] == (64, 64, 3)
        np.testing.assert_allclose(episode["image"][:, 3, 5, 1], corner + 3 + 10, atol=1)
        assert episode["success"].tolist() == (time == 2).astype(float).tolist()
    ends = [(len(episode["reward"]) - 1, episode["discount"][-1]) for episode in episodes]
    assert (6, 1.0) in ends and any(steps < 6 and discount == 0 for steps, discount in ends)
    replayed = import_folder(capsys, tmp_path / "state", "test/state-v0", "--replay")
    used = {"dataset": "test/state-v0", "environment": strip, "image": None, "state": "", "replayed": True}
    assert replayed["minari"] == used and replayed["settings"] == {}
    assert_same_episodes(episodes, read_folder(tmp_path / "state"))
    import_folder(capsys, tmp_path / "picture", "test/picture-v0")
    without = [{key: value for key, value in episode.items() if key != "state"} for episode in episodes]
    assert_same_episodes(without, read_folder(tmp_path / "picture"))


def buffers(observation, action=lambda: np.zeros((3, 2), np.float32), **more):
    """One episode of three steps."""
    usual = {"rewards": np.zeros(3), "terminations": np.zeros(3, bool), "truncations": np.arange(3) == 2, "infos": {}}
    return [EpisodeBuffer(observations=observation, actions=action(), **{**usual, **more})]


def make_dataset(name, episodes, observation_space, action_space=None, env=None):
    action_space = action_space or spaces.Box(-1, 1, (2,))
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers(
            name, episodes, env=env, observation_space=observation_space, action_space=action_space, jpeg_encoding=False
        )
    return name


PICTURE = spaces.Box(0, 255, (64, 64, 3), np.uint8)
PICTURES = np.zeros((4, 64, 64, 3), np.uint8)
STATE = spaces.Box(-np.inf, np.inf, (2,), np.float64)


def test_data_sets_that_do_not_fit_are_refused(tmp_path, store, capsys):
    out = tmp_path / "out"
    error = refused(capsys, "import", "test/none-v0", "--out", out)
    assert "minari download test/none-v0" in error
    discrete = lambda: np.zeros(3, np.int64)
    cases = [
        ("discrete", buffers(PICTURES, discrete), PICTURE, spaces.Discrete(3), "only continuous actions"),
        ("unbounded", buffers(PICTURES), PICTURE, spaces.Box(-np.inf, np.inf, (2,)), "finite bounds"),
        ("state", buffers(np.zeros((4, 2))), STATE, None, "--replay"),
        ("gray", buffers(PICTURES[..., :1]), spaces.Box(0, 255, (64, 64, 1), np.uint8), None, "no pictures"),
        (
            "beyond",
            buffers(PICTURES, lambda: np.float32([[0, 0], [0, 1.5], [0, 0]])),
            PICTURE,
            None,
            "(episode 0, step 1, entry 1: 1.5)",
        ),
        ("nan", buffers(PICTURES, lambda: np.full((3, 2), np.nan, np.float32)), PICTURE, None, "out of its bounds"),
        ("rewards", buffers(PICTURES, rewards=np.zeros(2)), PICTURE, None, "3 actions and 2 rewards in episode 0"),
        ("pairs", buffers(PICTURES, rewards=np.zeros((3, 2))), PICTURE, None, "rewards of shape (3, 2) in episode 0"),
        ("short", buffers(PICTURES[:3]), PICTURE, None, "numbers of entries differ"),
        ("empty", [], PICTURE, None, "has no episodes"),
    ]
    for name, episodes, observation_space, action_space, words in cases:
        make_dataset(f"{name}-v0", episodes, observation_space, action_space)
        assert words in refused(capsys, "import", f"{name}-v0", "--out", out)
        assert not out.exists() or not list(out.iterdir())


def test_numbers_in_columns_huge_states_and_fixed_actions_are_imported(tmp_path, store, capsys):
    column = np.arange(3.0)[:, None]
    episodes = buffers(
        {"image": PICTURES, "state": np.full((4, 2), 1e300)},
        lambda: np.float32([[1, 3]] * 3),
        rewards=column,
        terminations=column == 2,
        infos={"success": column > 1, "cost": np.ones((4, 1), np.uint8)},
    )
    space = spaces.Dict({"image": PICTURE, "state": STATE})
    make_dataset("columns-v0", episodes, space, spaces.Box(np.float32([-1, 3]), np.float32([1, 3])))
    import_folder(capsys, tmp_path / "out", "columns-v0")
    (episode,) = read_folder(tmp_path / "out")
    assert episode["reward"].tolist() == [0, 0, 1, 2] and episode["discount"].tolist() == [1, 1, 1, 0]
    assert episode["success"].tolist() == [0, 0, 0, 1] and episode["cost"].tolist() == [1, 1, 1, 1]
    assert (episode["state"] == np.finfo(np.float32).max).all()
    assert episode["action"][1:].tolist() == [[1, 0]] * 3


def test_nothing_is_imported_over_episodes(tmp_path, store, capsys):
    make_dataset("good-v0", buffers(PICTURES), PICTURE)
    folder = make_folder(tmp_path / "data", [make_episode()])
    assert "has episodes already" in refused(capsys, "import", "good-v0", "--out", folder)
    assert_same_episodes(read_folder(folder), [make_episode()])
    assert "unrecognized arguments: --seed" in refused(capsys, "import", "good-v0", "--out", tmp_path, "--seed", "3")


@pytest.mark.parametrize("moved", [0, 1])
def test_a_stopped_import_leaves_no_episodes_of_unknown_origin(tmp_path, monkeypatch, moved):
    rename, calls = Path.rename, itertools.count()

    def stop(self, target):
        if next(calls) == moved:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        minari_import._fill(tmp_path, [make_episode(0), make_episode(1)], {"settings": {"task": "pointmass_obstacle"}})
    assert len(episode_files(tmp_path)) == moved
    assert read_collection(tmp_path)["settings"] == {"task": "pointmass_obstacle"}


def test_what_a_killed_import_left_behind_is_removed(tmp_path):
    left = tmp_path / ".import-1234"
    make_folder(left, [make_episode(0)])
    minari_import._fill(tmp_path, [make_episode(1)], {"settings": {}})
    assert not left.exists() and len(episode_files(tmp_path)) == 1


def test_a_damaged_data_set_is_refused(tmp_path, store, capsys):
    make_dataset("torn-v0", buffers(PICTURES), PICTURE)
    file = store / "torn-v0" / "data" / "main_data.hdf5"
    os.truncate(file, file.stat().st_size // 2)
    assert "cannot be read" in refused(capsys, "import", "torn-v0", "--out", tmp_path / "out")
    (store / "torn-v0" / "data" / "metadata.json").write_text("{")
    assert "cannot be read" in refused(capsys, "import", "torn-v0", "--out", tmp_path / "out")


def test_one_of_several_pictures_is_chosen(tmp_path, store, capsys):
    space = spaces.Dict({"left": PICTURE, "right": PICTURE, "sound": spaces.Box(-1, 1, (5,)), "arm": STATE})
    views = {"left": PICTURES + 1, "right": PICTURES + 2, "sound": np.zeros((4, 5), np.float32), "arm": np.ones((4, 2))}
    make_dataset("views-v0", buffers(views), space)
    assert "left, right" in refused(capsys, "import", "views-v0", "--out", tmp_path / "out")
    assert "did you mean 'left'" in refused(capsys, "import", "views-v0", "--out", tmp_path / "out", "--image", "lift")
    known = import_folder(capsys, tmp_path / "out", "views-v0", "--image", "right")
    assert known["minari"]["image"] == "right" and known["minari"]["state"] is None
    (episode,) = read_folder(tmp_path / "out")
    assert (episode["image"] == 2).all() and "state" not in episode
    named = spaces.Dict({"image": PICTURE, "right": PICTURE, "sound": spaces.Box(-1, 1, (5,)), "state": STATE})
    views = {"image": PICTURES + 3, "right": views["right"], "sound": views["sound"], "state": views["arm"]}
    make_dataset("named-v0", buffers(views), named)
    known = import_folder(capsys, tmp_path / "named", "named-v0")
    assert (known["minari"]["image"], known["minari"]["state"]) == ("image", "state")
    (episode,) = read_folder(tmp_path / "named")
    assert (episode["image"] == 3).all() and episode["state"].tolist() == [[1.0, 1.0]] * 4


def test_what_cannot_be_played_again(strip, tmp_path, store, capsys, monkeypatch):
    words = ["--out", tmp_path / "out", "--replay"]
    make_dataset("picture-v0", buffers(PICTURES), PICTURE)
    assert "leave out --replay" in refused(capsys, "import", "picture-v0", *words)
    place = np.zeros((4, 2))
    make_dataset("nowhere-v0", buffers(place), STATE)
    assert "does not say which environment" in refused(capsys, "import", "nowhere-v0", *words)
    make_dataset("seedless-v0", buffers(place), STATE, env=gym.make(strip))
    assert "no seed of episode 0" in refused(capsys, "import", "seedless-v0", *words)
    make_dataset("other-v0", buffers(place, seed=3), STATE, env=gym.make(strip))
    assert "differs from the recorded one at step 0" in refused(capsys, "import", "other-v0", *words)
    record("drift-v0", gym.make(strip))
    monkeypatch.setattr(Strip, "drift", 0.01)  # the environment has changed
    error = refused(capsys, "import", "drift-v0", *words)
    assert "Episode 0 of drift-v0" in error and "at step 2" in error
    monkeypatch.setattr(Strip, "metadata", {"render_modes": ["human"]})
    assert "cannot render" in refused(capsys, "import", "drift-v0", *words)
    metadata = store / "drift-v0" / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(f"{__name__}:Strip", "missing_module:Strip"))
    assert "cannot be made" in refused(capsys, "import", "drift-v0", *words)
    assert not list(tmp_path.glob("out/*"))


def test_an_environment_that_fails_when_it_is_played_again_is_one_sentence(strip, tmp_path, store, capsys, monkeypatch):
    record("strip-v0", gym.make(strip), places=[None])
    words = ["import", "strip-v0", "--replay", "--out", tmp_path / "out"]

    def fails(error):
        def method(self, *_, **__):
            raise error

        return method

    cases = [
        ("__init__", fails(RuntimeError("no licence")), "cannot be made: RuntimeError: no licence"),
        ("reset", fails(KeyError("place")), "failed at step 0 of episode 0, played again: KeyError: 'place'"),
        ("step", fails(OSError("lost")), "failed at step 1 of episode 0, played again: OSError: lost"),
        ("step", fails(SystemExit(3)), "failed at step 1 of episode 0, played again: SystemExit: 3"),
        ("render", fails(ZeroDivisionError("width")), "cannot render here: ZeroDivisionError: width"),
        ("render", lambda self: None, "cannot render here: what render() returns is None"),
        ("metadata", {"render_modes": None}, "cannot render (render_mode 'rgb_array')"),
    ]
    for attribute, value, expected in cases:
        with monkeypatch.context() as patch:
            patch.setattr(Strip, attribute, value)
            assert f"The environment Strip-v0 of strip-v0 {expected}" in refused(capsys, *words)
        assert not list(tmp_path.glob("out/*"))
    monkeypatch.setattr(Strip, "close", fails(OSError("busy")))
    assert import_folder(capsys, tmp_path / "out", "strip-v0", "--replay")["episodes"] == 1


def record_pendulum():
    return record("pendulum-v0", gym.make("InvertedPendulum-v5", max_episode_steps=8), [None] * 3, infos=False)


@pytest.mark.slow
def test_episodes_of_mujoco_are_played_again(tmp_path, store):
    # In a process without TensorFlow, for MuJoCo renders there.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        actions = pool.submit(record_pendulum).result(timeout=300)
        words = ["import", "pendulum-v0", "--out", str(tmp_path / "out"), "--replay"]
        assert pool.submit(collect.main, words).result(timeout=300) == 0
    episodes = read_folder(tmp_path / "out")
    for episode, expected, recorded in zip(episodes, actions, minari.load_dataset("pendulum-v0"), strict=True):
        np.testing.assert_allclose(episode["action"][1:], expected / 3, atol=1e-6)
        np.testing.assert_array_equal(episode["state"], recorded.observations.astype(np.float32))
        assert episode["discount"][-1] == 1 - recorded.terminations[-1]
        pictures = np.float32(episode["image"])
        assert np.ptp(pictures[0]) > 50 and np.abs(np.diff(pictures, axis=0)).max() > 20  # it moves
