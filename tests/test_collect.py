"""Which episodes collect.py plays and keeps."""

import json
import re
import subprocess
import sys
import types
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import collect
import envs
from collect import DataSet, Quota
from episodes.dataset import check_collection, read_collection
from episodes.episode import episode_files
from tests.episodes.folders import make_config, make_episode, read_folder, refused
from tools.errors import UserError
from tools.lock import locked
from training.driver import Driver, Episode
from training.driver import play as play_episodes

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.filterwarnings("ignore:env_spec is None"),
    pytest.mark.filterwarnings("ignore:.*not in the possible render_modes"),
]

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
    """Collects with fake environments, four episodes, half of which are to succeed; `seeds` gets that of the start."""

    def collect_from(steps, episodes=4, success_rate=0.5, seeds=None):
        driver = FakeDriver(steps)
        monkeypatch.setattr(envs, "scripted_policy", lambda task: lambda state: np.zeros(2))
        remember = lambda config, count, seed: None if seeds is None else seeds.append(seed)
        monkeypatch.setattr(envs, "make_vector_env", remember)
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
    assert (done["episodes"], done["successes"], done["attempts"], done["scripted_episodes"]) == (4, 2, 9, 4)
    assert done["wanted_success_rate"] == 0.5 and len(episode_files(tmp_path)) == 4


def test_the_options_of_every_start_are_kept(play):
    assert "earlier" not in play([[1], [0]], episodes=2, success_rate=None)
    done = play([[1], [0]])
    [earlier] = done["earlier"]
    assert (earlier["wanted_success_rate"], earlier["episodes"], done["wanted_success_rate"]) == (None, 2, 0.5)
    assert earlier.keys() >= {"seed", "noise", "detours", "command", "commit"}
    assert play([[1], [0]], episodes=6)["earlier"] == [earlier]  # the same options again


def test_more_episodes_than_are_wanted_at_once_are_no_failure(play):
    assert play([[1], [1, 0], [0, 0, 0, 0, 0]])["episodes"] == 4


def test_a_simulator_without_success_cannot_be_mixed(play):
    with pytest.raises(UserError, match="--success_rate 0"):
        play([[None]])
    assert play([[None]] * 4, success_rate=0.0)["success_rate"] == 0.0


class StopError(Exception):
    """A kill."""


@pytest.mark.parametrize("episodes", [1, 2])
def test_a_kill_between_an_episode_and_the_collection_loses_and_repeats_nothing(play, tmp_path, monkeypatch, episodes):
    add = collect.Replay.add

    def stop(self, data):
        add(self, data)
        if self.episodes == episodes:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(collect.Replay, "add", stop)
        with pytest.raises(StopError):
            play([[1], [0], [1], [0]])
    assert len(episode_files(tmp_path)) == episodes and read_collection(tmp_path)["attempts"] == episodes
    done = play([[0], [1], [0], [1]])
    assert (done["episodes"], done["successes"]) == (4, 2) and done["attempts"] >= 4


def test_a_collection_that_a_kill_left_complete_is_counted_by_the_next_start(play, tmp_path, monkeypatch):
    add = collect.Replay.add

    def stop(self, data):
        add(self, data)
        if self.episodes == 4:
            raise StopError

    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(collect.Replay, "add", stop)
        play([[1], [0], [1], [0]])
    assert read_collection(tmp_path)["episodes"] == 3
    assert collect.collect(make_config(), tmp_path, 4, 0.5, 0.3) == read_collection(tmp_path)
    assert read_collection(tmp_path)["episodes"] == 4


@pytest.mark.parametrize("kept", [0, 1])
def test_a_second_start_does_not_repeat_discarded_attempts(play, tmp_path, monkeypatch, kept):
    seeds = []
    for _ in range(2):
        with pytest.raises(UserError, match="None of the last 3 episodes was successful"):
            play([[1]] * kept + [[0]] * 5, success_rate=1.0, seeds=seeds)
    assert read_collection(tmp_path)["attempts"] == 2 * (kept + 3)
    assert len(set(seeds)) == 2


def test_a_collection_without_episodes_may_become_one_of_another_task(play, tmp_path):
    with pytest.raises(UserError, match="None of the last 3"):
        play([[0]] * 3, success_rate=1.0)
    known = DataSet(tmp_path, make_config("--task", "pointmass_lottery")).summary()
    assert known["settings"]["task"] == "pointmass_lottery" and known["attempts"] == 3 and "command" not in known


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


def test_the_help_names_every_setting_that_is_read(capsys):
    with pytest.raises(SystemExit):
        collect.parse_options(["episodes", "--help"])
    text = " ".join(capsys.readouterr().out.split()).partition("Settings of config.yaml")[2]
    used = re.findall(r"\bconfig\.(\w+)", Path(collect.__file__).read_text())
    read = {*envs.setting_keys(), "step_timeout", *used}
    assert read & make_config().keys() == set(re.findall(r"\w+", text)) & make_config().keys()


def test_two_processes_do_not_collect_into_one_folder(tmp_path, capsys):
    words = ["--task", "pointmass_obstacle", "--success_rate", "0"]
    with locked(tmp_path, 0.0, "the other host"):
        assert "the other host" in refused(capsys, "episodes", "--out", tmp_path, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]


def test_a_share_that_has_no_room_any_more_is_refused(tmp_path):
    config = make_config()
    data = DataSet(tmp_path, config)
    for seed in range(3):
        data.add(make_episode(seed, steps=4, success=1))
    with pytest.raises(UserError, match="3 successful episodes of 3, which leaves no room for a share of 0 among 4"):
        collect.collect(config, tmp_path, 4, 0.0, 0.3)
