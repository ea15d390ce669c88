"""Data sets of episodes: what collect.py plays, how runs take them in, and the exchange with Minari."""

import json
import multiprocessing
import os
import subprocess
import sys
import types
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import optree
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

import collect
import envs
from collect import DataSet, Quota
from episodes import minari_export
from episodes.dataset import FILE, check_collection, read_collection, settings, write_collection
from episodes.episode import episode_files, read_episode
from episodes.replay import Replay
from tools.config import load_config
from tools.errors import UserError
from tools.lock import locked
from training.driver import Driver, Episode
from training.driver import play as play_episodes

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.filterwarnings("ignore:env_spec is None"),
    pytest.mark.filterwarnings("ignore:.*not in the possible render_modes"),
]


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


# Which episodes a data set needs --------------------------------------------------------------------------------------


class Draws:
    """A random generator with given numbers."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def test_without_a_success_rate_every_episode_is_scripted_and_taken():
    quota = Quota(3, None)
    assert quota.scripted(Draws()) and quota.any
    assert [quota.take(success) for success in (True, False, False, True)] == [True, True, True, False]
    assert quota.left == 0


def test_a_success_rate_of_half_takes_as_many_of_each_kind():
    quota = Quota(4, 0.5)
    assert (quota.successes, quota.failures) == (2, 2)
    assert [quota.take(success) for success in (True, True, True, False)] == [True, True, False, True]
    assert (quota.left, quota.successes, quota.failures) == (1, 0, 1)
    assert not quota.scripted(Draws(0.0))  # only an unsuccessful one is missing
    assert quota.take(False) and not quota.take(False) and quota.left == 0


def test_a_success_rate_of_one_refuses_failures():
    quota = Quota(2, 1.0)
    assert quota.scripted(Draws(0.999))
    assert [quota.take(success) for success in (False, True, False, True, True)] == [False, True, False, True, False]


def test_a_resumed_quota_asks_for_what_is_missing():
    quota = Quota(10, 0.5, successes=3, failures=1)
    assert (quota.left, quota.successes, quota.failures) == (6, 2, 4)
    # Two of the six missing ones are for the scripted policy.
    assert quota.scripted(Draws(0.33)) and not quota.scripted(Draws(0.34))
    full = Quota(4, 0.5, successes=4)  # more successes than are wanted now
    assert full.left == 0 and not full.take(True) and not full.take(False)


# Folders and their collection.json ------------------------------------------------------------------------------------


def test_a_data_set_sums_up_its_episodes_and_goes_on_where_it_stopped(tmp_path):
    data = DataSet(tmp_path, make_config())
    assert data.summary()["episodes"] == 0 and data.summary()["success_rate"] is None
    data.add(make_episode(0, steps=4, success=1), scripted_episodes=1)  # return 1 + 2 + 3 + 4
    data.add(make_episode(1, steps=2, success=0))  # 101 + 102
    known = read_collection(tmp_path)
    assert known == data.summary()
    assert known["settings"] == {
        "task": "pointmass_obstacle", "reward": "sparse", "camera": "", "action_repeat": 1,
        "time_limit": 30, "randomize": True, "starts": "paper", "render_quality": "full",
    }  # fmt: skip
    counts = {"episodes": 2, "transitions": 6, "successes": 1, "success_rate": 0.5, "mean_return": 106.5}
    assert known.items() >= counts.items() and known["scripted_episodes"] == 1
    again = DataSet(tmp_path, make_config())
    again.add(make_episode(2, steps=1, success=1))
    assert again.summary().items() >= {"episodes": 3, "transitions": 7, "successes": 2, "scripted_episodes": 1}.items()


def test_an_episode_without_success_counts_as_unsuccessful(tmp_path):
    data = DataSet(tmp_path, make_config())
    data.add(make_episode(0))
    assert data.summary()["success_rate"] == 0.0


def test_folders_of_unknown_origin_or_with_other_settings_are_not_added_to(tmp_path):
    make_folder(tmp_path / "run", [make_episode()])
    with pytest.raises(UserError, match="unknown origin"):
        DataSet(tmp_path / "run", make_config())
    DataSet(tmp_path / "known", make_config()).add(make_episode())
    with pytest.raises(UserError, match="'action_repeat': 1"):
        DataSet(tmp_path / "known", make_config("--action_repeat", "2"))


def test_a_run_refuses_episodes_of_another_task_or_action_repeat(tmp_path):
    config = make_config()
    check_collection(tmp_path, config)  # nothing is known
    write_collection(tmp_path, {"settings": settings(config)})
    check_collection(tmp_path, config)
    with pytest.raises(UserError, match="task = 'pointmass_obstacle', this run 'pointmass_lottery'"):
        check_collection(tmp_path, make_config("--task", "pointmass_lottery"))
    with pytest.raises(UserError, match="action_repeat = 1, this run 3"):
        check_collection(tmp_path, make_config("--action_repeat", "3"))
    write_collection(tmp_path, {"settings": {"task": config.task}})  # the rest is not known
    check_collection(tmp_path, make_config("--action_repeat", "3"))


@pytest.mark.parametrize("key", ["attempts", "scripted_episodes"])
@pytest.mark.parametrize("value", ["three", None, -1, 1.5, True, [3], 2**70])
def test_counts_of_another_type_are_refused(key, value, tmp_path):
    DataSet(tmp_path, make_config()).add(make_episode())
    write_collection(tmp_path, read_collection(tmp_path) | {key: value})
    with pytest.raises(UserError, match=f"{key} must be a whole number from 0, not"):
        DataSet(tmp_path, make_config())


def test_a_damaged_episode_is_set_aside_and_another_takes_its_place(tmp_path, capsys):
    data = DataSet(tmp_path, make_config())
    for _ in range(3):
        data.add(make_episode())
    episode_files(tmp_path)[1].write_bytes(b"damaged")
    again = DataSet(tmp_path, make_config())
    assert again.summary()["episodes"] == again.replay.episodes == 2
    assert "1 of 3 episodes" in capsys.readouterr().err and len(list((tmp_path / "damaged").iterdir())) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "pointmass_obstacle"}', "[" * 100_000])
def test_a_damaged_collection_is_refused(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="repair it, or remove it"):
        check_collection(tmp_path, make_config())


def offline_replay(tmp_path, capacity=1000):
    return Replay(tmp_path / "own", 4, 2, capacity, seed=0, offline=tmp_path / "offline")


def numbers_in_memory(replay):
    return [int(episode["reward"][1]) // 100 for episode in replay.memory]


def test_offline_episodes_are_the_oldest_in_memory_and_count_for_nothing_else(tmp_path):
    make_folder(tmp_path / "own", [make_episode(8, size=8)])
    make_folder(tmp_path / "offline", [make_episode(number, size=8) for number in (1, 2)])  # newer files
    replay = offline_replay(tmp_path)
    assert numbers_in_memory(replay) == [1, 2, 8]
    assert (replay.episodes, replay.steps, replay.entries) == (1, 4, 15)
    replay.add(make_episode(9, size=8))
    assert numbers_in_memory(replay) == [1, 2, 8, 9]
    assert (replay.episodes, replay.steps) == (2, 8)
    assert len(episode_files(tmp_path / "own")) == len(episode_files(tmp_path / "offline")) == 2
    assert {int(reward) // 100 for _ in range(20) for reward in replay.sample()["reward"][:, 1]} == {1, 2, 8, 9}


def test_offline_episodes_leave_memory_first(tmp_path):
    make_folder(tmp_path / "offline", [make_episode(number, size=8) for number in (1, 2)])
    replay = offline_replay(tmp_path, capacity=15)  # three episodes of five entries
    for number, expected in ((7, [1, 2, 7]), (8, [2, 7, 8]), (9, [7, 8, 9])):
        replay.add(make_episode(number, size=8))
        assert numbers_in_memory(replay) == expected
    assert numbers_in_memory(offline_replay(tmp_path, capacity=15)) == [7, 8, 9]
    assert numbers_in_memory(offline_replay(tmp_path, capacity=20)) == [2, 7, 8, 9]


def test_an_offline_folder_must_have_episodes_like_the_run_s(tmp_path):
    with pytest.raises(UserError, match=r"no episodes.*collect\.py"):
        offline_replay(tmp_path)
    make_folder(tmp_path / "offline", [make_episode(1, size=8, extras=["state"])])
    replay = offline_replay(tmp_path)
    with pytest.raises(UserError, match="its keys are"):
        replay.add(make_episode(2, size=8))


# Playing --------------------------------------------------------------------------------------------------------------


class FakeDriver:
    """Ends episodes of given successes, a list of them at each step."""

    def __init__(self, steps):
        self.steps = list(steps)
        self.envs = types.SimpleNamespace(single_action_space=spaces.Box(-1, 1, (2,)))
        self.closed = False

    def step(self, policy):
        ended = self.steps.pop(0)
        return [Episode(0, make_episode(0, 2, success=one), {"scripted": np.ones(2, bool)}) for one in ended]

    def close(self):
        self.closed = True


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Collects with fake environments, four episodes of which half shall succeed."""

    def collect_from(steps, episodes=4, success_rate=0.5):
        driver = FakeDriver(steps)
        monkeypatch.setattr(envs, "scripted_policy", lambda task: lambda state: np.zeros(2))
        monkeypatch.setattr(envs, "make_vector_env", lambda *_: None)
        monkeypatch.setattr(collect, "Driver", lambda *_: driver)
        monkeypatch.setattr(collect, "PATIENCE", 3)
        try:
            return collect.collect(make_config(), tmp_path, episodes, success_rate, 0.3)
        finally:
            assert driver.closed

    return collect_from


def test_an_unreachable_success_rate_ends_and_keeps_the_episodes(play, tmp_path):
    with pytest.raises(UserError, match=r"last 3 episodes was successful, of which 2 .*\(2 episodes stay"):
        play([[0]] * 5)
    assert len(episode_files(tmp_path)) == read_collection(tmp_path)["episodes"] == 2
    done = play([[0], [1], [0, 1]])  # a second start goes on
    assert (done["episodes"], done["successes"], done["attempts"], done["scripted_episodes"]) == (4, 2, 6, 4)
    assert done["wanted_success_rate"] == 0.5 and len(episode_files(tmp_path)) == 4


def test_more_episodes_than_are_wanted_at_once_are_no_failure(play):
    assert play([[1], [1, 0], [0, 0, 0, 0, 0]])["episodes"] == 4


def test_a_simulator_without_success_cannot_be_mixed(play):
    with pytest.raises(UserError, match="--success_rate 0"):
        play([[None]])
    assert play([[None]] * 4, success_rate=0.0)["success_rate"] == 0.0


def still(obs, is_first, state):
    """A policy without actions."""
    return np.zeros([1, 2], np.float32), None, {}


def test_random_episodes_of_a_task_without_scripted_policy(tmp_path, capsys):
    words = ["episodes", "--configs", "pointmass", "--out", str(tmp_path / "data"), "--episodes", "2", "--envs", "1"]
    assert "pointmass_obstacle has no scripted policy" in refused(capsys, *words)
    assert not (tmp_path / "data").exists()
    assert collect.main([*words, "--success_rate", "0", "--seed", "5"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_collection(tmp_path / "data")
    known = {"episodes": 2, "transitions": 60, "scripted_episodes": 0, "attempts": 2, "seed": 5}
    assert printed.items() >= known.items()
    first, second = read_folder(tmp_path / "data")
    assert first["image"].shape == (31, 64, 64, 3) and (first["action"] != second["action"])[1:].all()
    # A run with this seed starts its episodes elsewhere: a model knows the starts of its data by heart.
    driver = Driver(envs.make_vector_env(make_config().replace(seed=5), 1, 5))
    starts = [episode.data["state"][0] for episode in islice(play_episodes(driver, still), 2)]
    driver.close()
    assert not any((start == episode["state"][0]).all() for start in starts for episode in (first, second))
    check_collection(tmp_path / "data", make_config())
    assert collect.main([*words, "--success_rate", "0"]) == 0  # it has them already
    assert json.loads(capsys.readouterr().out) == printed


def test_a_scripted_episode_without_noise_succeeds(tmp_path):
    # In a program of its own, which imports the simulator beside no TensorFlow.
    words = ["--episodes", "1", "--noise", "0", "--envs", "1", "--render_quality", "fast", "--out", str(tmp_path)]
    command = ["collect.py", "episodes", "--configs", "metaworld", "--task", "metaworld_reach", *words]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    assert (known["episodes"], known["successes"], known["scripted_episodes"]) == (1, 1, 1)
    assert known["settings"]["task"] == "metaworld_reach"
    (episode,) = read_folder(tmp_path)
    assert episode["success"].max() == 1 and np.ptp(episode["image"]) > 0


@pytest.mark.parametrize(
    "words, named",
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--success_rate", "1.5"], "--success_rate is 1.5"),
        (["--noise", "-1"], "--noise is -1.0"),
        (["--noise", "nan"], "--noise is nan"),
        (["--task", "pointmass_obstacle,pointmass_lottery"], "one at a time"),
        (["--episods", "3"], "episods"),
        (["--task", "pointmass_lotery", "--success_rate", "0"], "pointmass_lottery"),  # refused by the environment
    ],
)
def test_bad_options_are_refused(words, named, tmp_path, capsys):
    assert named in refused(capsys, "episodes", "--out", tmp_path / "new", "--task", "pointmass_obstacle", *words)
    assert not (tmp_path / "new").exists()


def test_two_processes_do_not_collect_into_one_folder(tmp_path, capsys):
    words = ["--task", "pointmass_obstacle", "--success_rate", "0"]
    with locked(tmp_path, 0.0, "the other host"):
        assert "the other host" in refused(capsys, "episodes", "--out", tmp_path, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]


# Minari ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Where Minari keeps its data sets during a test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def import_folder(capsys, out, *words):
    assert collect.main(["import", *words, "--out", str(out)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("success, extras", [(None, ()), (1, ("state",)), (0, ("cost",)), (1, ("state", "cost"))])
def test_episodes_come_back_from_minari_bit_by_bit(terminal, success, extras, tmp_path, store, capsys):
    episodes = [make_episode(n, 3 + n, terminal, success, extras=extras) for n in range(3)]
    facts = {"settings": settings(make_config()), "command": ["collect.py"], "seed": 3, "noise": 0.3}
    folder = make_folder(tmp_path / "there", episodes, facts)
    assert collect.main(["export", str(folder), "latent-planning/there-v0"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["episodes"], printed["transitions"]) == (3, 12)
    known = import_folder(capsys, tmp_path / "back", "latent-planning/there-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known == read_collection(tmp_path / "back") and known.items() >= facts.items()
    assert known["successes"] == 3 * (success or 0) and known["episodes"] == 3 and known["transitions"] == 12
    check_collection(tmp_path / "back", make_config())
    assert sorted(path.suffix for path in (tmp_path / "back").iterdir()) == [".json"] + [".npz"] * 3


def test_episodes_that_report_different_outcomes_come_back_too(tmp_path, store, capsys):
    folder = make_folder(
        tmp_path / "there", [make_episode(0), make_episode(1, success=1), make_episode(2, extras=["cost"])]
    )
    assert collect.main(["export", str(folder), "there-v0"]) == 0
    known = import_folder(capsys, tmp_path / "back", "there-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known["successes"] == 1


def test_success_under_another_name_is_imported(tmp_path, store, capsys):
    folder = make_folder(tmp_path / "there", [make_episode(0, success=1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minari_export, "OUTCOMES", {"is_success": ()})
        renamed = lambda episode: original({"is_success" if key == "success" else key: v for key, v in episode.items()})  # noqa: E731, E501
        original = minari_export._buffer
        patch.setattr(minari_export, "_buffer", renamed)
        assert collect.main(["export", str(folder), "sb3-v0"]) == 0
    known = import_folder(capsys, tmp_path / "back", "sb3-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known["successes"] == 1


def test_an_exported_data_set_reads_as_minari_s_do(tmp_path, store, capsys):
    episodes = [make_episode(1, 3, True, 1, extras=["state"]), make_episode(2, 2, False, 0, extras=["state"])]
    make_folder(tmp_path / "data", episodes)
    assert collect.main(["export", str(tmp_path / "data"), "hammer-v1"]) == 0
    dataset = minari.load_dataset("hammer-v1")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 5)
    assert list(minari.list_local_datasets()) == ["hammer-v1"]
    assert dataset.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    one, other = dataset
    np.testing.assert_array_equal(one.observations["image"], episodes[0]["image"])  # no JPEG
    np.testing.assert_array_equal(one.observations["state"], episodes[0]["state"])
    np.testing.assert_array_equal(one.actions, episodes[0]["action"][1:])
    assert one.rewards.tolist() == [101, 102, 103] and other.rewards.tolist() == [201, 202]
    assert one.terminations.tolist() == [False, False, True] and not one.truncations.any()
    assert other.truncations.tolist() == [False, True] and not other.terminations.any()
    assert one.infos["success"].tolist() == [0, 0, 0, 1] and other.infos["success"].tolist() == [0, 0, 0]
    assert dataset.observation_space.contains({key: value[0] for key, value in one.observations.items()})
    # Without collection.json nothing is known of the episodes, so that every run may have them.
    known = import_folder(capsys, tmp_path / "back", "hammer-v1")
    assert known["settings"] == {} and known["minari"]["dataset"] == "hammer-v1"


@pytest.mark.parametrize("name", ["hammer", "hammer-v", "two words-v0", "../hammer-v0", "/hammer-v0", ""])
def test_names_that_minari_does_not_accept(name, tmp_path, store, capsys):
    make_folder(tmp_path / "data", [make_episode()])
    assert "does not accept the name" in refused(capsys, "export", tmp_path / "data", name)
    assert "does not accept the name" in refused(capsys, "import", name, "--out", tmp_path / "out")
    assert not store.exists() and not (tmp_path / "out").exists()


def test_what_cannot_be_exported(tmp_path, store, capsys):
    assert "no episodes to export" in refused(capsys, "export", tmp_path / "none", "none-v0")
    good = make_folder(tmp_path / "good", [make_episode()])
    assert collect.main(["export", str(good), "good-v0"]) == 0
    assert "already" in refused(capsys, "export", good, "good-v0")
    assert len(minari.load_dataset("good-v0")) == 1
    early = make_episode()
    early["reward"][0] = 1
    fraction = make_episode()
    fraction["discount"][2] = 0.5
    for name, bad, words in (
        ("keys", make_episode(1, extras=["state"]), "its keys are"),
        ("reward", early, "before its first action"),
        ("discount", fraction, "discount between 0 and 1"),
    ):
        folder = make_folder(tmp_path / name, [bad])
        make_folder(folder / "first", [make_episode()])
        (first,) = episode_files(folder / "first")
        first.rename(folder / f"2020{first.name[4:]}")
        assert words in refused(capsys, "export", folder, f"{name}-v0")
        assert not (store / f"{name}-v0").exists()  # what was begun is gone
    assert "unrecognized arguments: --configs" in refused(capsys, "export", good, "other-v0", "--configs", "metaworld")


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
    flags = {"terminations": np.zeros(3, bool), "truncations": np.array([False, False, True])}
    return [EpisodeBuffer(observations=observation, actions=action(), rewards=np.zeros(3), infos={}, **flags, **more)]


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
    discrete = lambda: np.zeros(3, np.int64)  # noqa: E731
    cases = [
        ("discrete", buffers(PICTURES, discrete), PICTURE, spaces.Discrete(3), "only continuous actions"),
        ("unbounded", buffers(PICTURES), PICTURE, spaces.Box(-np.inf, np.inf, (2,)), "finite bounds"),
        ("state", buffers(np.zeros((4, 2))), STATE, None, "--replay"),
        ("gray", buffers(PICTURES[..., :1]), spaces.Box(0, 255, (64, 64, 1), np.uint8), None, "no pictures"),
        ("beyond", buffers(PICTURES, lambda: np.float32([[0, 0], [0, 1.5], [0, 0]])), PICTURE, None,
         "(episode 0, step 1, entry 1: 1.5)"),
        ("nan", buffers(PICTURES, lambda: np.full((3, 2), np.nan, np.float32)), PICTURE, None, "out of its bounds"),
        ("short", buffers(PICTURES[:3]), PICTURE, None, "numbers of entries differ"),
        ("empty", [], PICTURE, None, "has no episodes"),
    ]  # fmt: skip
    for name, episodes, observation_space, action_space, words in cases:
        make_dataset(f"{name}-v0", episodes, observation_space, action_space)
        assert words in refused(capsys, "import", f"{name}-v0", "--out", out)
        assert not out.exists() or not list(out.iterdir())


def test_nothing_is_imported_over_episodes(tmp_path, store, capsys):
    make_dataset("good-v0", buffers(PICTURES), PICTURE)
    folder = make_folder(tmp_path / "data", [make_episode()])
    assert "has episodes already" in refused(capsys, "import", "good-v0", "--out", folder)
    assert_same_episodes(read_folder(folder), [make_episode()])
    assert "unrecognized arguments: --seed" in refused(capsys, "import", "good-v0", "--out", tmp_path, "--seed", "3")


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


def test_the_task_of_an_exported_data_set_cannot_be_changed(tmp_path, store, capsys):
    facts = {"settings": settings(make_config())}
    folder = make_folder(tmp_path / "data", [make_episode()], facts)
    assert collect.main(["export", str(folder), "data-v0"]) == 0
    words = ["import", "data-v0", "--out", tmp_path / "out"]
    assert "of pointmass_obstacle, not of" in refused(capsys, *words, "--task", "pointmass_lottery")
    assert "'mass' is not a task" in refused(capsys, *words, "--task", "mass")
    assert (
        import_folder(capsys, tmp_path / "out", "data-v0", "--task", "pointmass_obstacle")["settings"]
        == facts["settings"]
    )


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


def test_a_share_that_has_no_room_any_more_is_refused(tmp_path):
    config = make_config()
    data = DataSet(tmp_path, config)
    for seed in range(3):
        data.add(make_episode(seed, steps=4, success=1))
    with pytest.raises(UserError, match="3 successful episodes of 3, which leaves no room for a share of 0 among 4"):
        collect.collect(config, tmp_path, 4, 0.0, 0.3)
