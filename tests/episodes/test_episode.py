"""One episode: what it must hold, and how it is written."""

import os
from pathlib import Path

import numpy as np
import pytest

from episodes.episode import read_episode
from tests.episodes.numbered import make_episode, make_replay
from tools.errors import UserError


@pytest.mark.parametrize(
    ("episode", "words"),
    [
        (make_episode(1, 0), "no transition"),
        ({**make_episode(1, 4), "depth": np.zeros(5)}, "unknown depth"),
        ({"image": np.zeros((5, 8, 8, 3), np.uint8)}, "missing action, reward, discount, is_first"),
        ({**make_episode(1, 4), "image": np.zeros((5, 8, 8, 3), np.float32)}, "image is float32 instead of uint8"),
        ({**make_episode(1, 4), "image": np.zeros((5, 3, 8, 8), np.uint8)}, "image has shape"),
        ({**make_episode(1, 4), "reward": np.zeros(5)}, "reward is float64 instead of float32"),
        ({**make_episode(1, 4), "reward": np.zeros((5, 1), np.float32)}, r"reward has shape \(5, 1\)"),
        ({**make_episode(1, 4), "reward": np.zeros(4, np.float32)}, "numbers of entries differ"),
        (
            {**make_episode(1, 4), "reward": np.array([0, 1, np.nan, 3, 4], np.float32)},
            "reward is not finite at entry 2",
        ),
        ({**make_episode(1, 4), "state": np.full((5, 2), np.inf, np.float32)}, "state is not finite at entry 0"),
        (
            {**make_episode(1, 4), "cost": np.array([0, 1, 2, np.inf, 4], np.float32)},
            "cost is not finite at entry 3",
        ),
        ({**make_episode(1, 4), "cost": np.zeros(5)}, "cost is float64 instead of float32"),
        ({**make_episode(1, 4), "cost": np.zeros((5, 1), np.float32)}, r"cost has shape \(5, 1\)"),
        ({**make_episode(1, 4), "action": np.array([[0]] + [[1.5]] * 4, np.float32)}, r"action leaves \[-1, 1\].* 1.5"),
        ({**make_episode(1, 4), "action": np.full((5, 2), 0.5, np.float32)}, r"action\[0\] must be zero"),
        ({**make_episode(1, 4), "is_first": np.zeros(5, bool)}, "is_first"),
        ({**make_episode(1, 4), "is_first": np.array([True, False, True, False, False])}, "is_first"),
        ({**make_episode(1, 4), "discount": np.full(5, 1.5, np.float32)}, r"discount leaves \[0, 1\]"),
        ({**make_episode(1, 4), "discount": np.array([1, 1, 0, 1, 1], np.float32)}, "discount is 0 before the last"),
    ],
)
def test_episode_that_breaks_a_convention_is_refused_and_not_written(tmp_path, episode, words):
    replay = make_replay(tmp_path)
    with pytest.raises(UserError, match=words):
        replay.add(episode)
    assert list(tmp_path.iterdir()) == []
    assert (replay.steps, replay.episodes, replay.entries) == (0, 0, 0)


def test_terminal_episode_is_accepted(tmp_path):
    episode = make_episode(1, 4)
    episode["discount"][-1] = 0
    replay = make_replay(tmp_path, batch_length=5)
    replay.add(episode)
    np.testing.assert_array_equal(replay.sample()["discount"][0], [1, 1, 1, 1, 0])


def test_a_state_may_hold_what_is_unknown(tmp_path):
    episode = make_episode(1, 4, state=True)
    episode["state"][2, 1] = np.nan
    path = make_replay(tmp_path).add(episode)
    np.testing.assert_array_equal(read_episode(path)["state"], episode["state"])


def test_leftover_temporary_file_is_ignored(tmp_path):
    path = make_replay(tmp_path).add(make_episode(1, 4))
    (tmp_path / f".{path.name}.host.1").write_bytes(b"half an epis")
    again = make_replay(tmp_path)
    assert (again.episodes, again.steps) == (1, 4)


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_crash_while_writing_leaves_no_half_episode(tmp_path, monkeypatch, moment):
    replay = make_replay(tmp_path)
    replay.add(make_episode(1, 4))

    def crash(*_):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{moment}", crash)
        with pytest.raises(UserError, match="the disk is gone"):
            replay.add(make_episode(2, 4))
    assert (replay.episodes, replay.steps, replay.entries) == (1, 4, 5)
    assert make_replay(tmp_path).episodes == 1
    replay.add(make_episode(3, 4))
    assert make_replay(tmp_path).episodes == 2


def test_file_appears_only_when_complete(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def look(temporary, path):
        seen.append((list(tmp_path.glob("*.npz")), Path(temporary).parent == Path(path).parent))
        with np.load(temporary, allow_pickle=False) as arrays:
            seen.append(sorted(arrays.files))
        replace(temporary, path)

    monkeypatch.setattr("os.replace", look)
    path = make_replay(tmp_path).add(make_episode(1, 4))
    assert seen == [([], True), sorted(make_episode(1, 4))]
    assert path.exists() and path.name.endswith("-000004.npz")


def test_names_sort_in_the_order_of_adding_when_the_clock_goes_back(tmp_path):
    first = make_replay(tmp_path).add(make_episode(1, 4))
    first = first.rename(tmp_path / f"29990101T000000000000{first.name[21:]}")
    replay = make_replay(tmp_path)
    paths = [first] + [replay.add(make_episode(number, 4)) for number in (2, 3, 4)]
    assert paths == sorted(paths)


def test_transposed_arrays_are_stored_in_reading_order(tmp_path):
    episode = make_episode(1, 9)
    episode["image"] = episode["image"].transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0)
    replay = make_replay(tmp_path)
    path = replay.add(episode)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["image"].flags.c_contiguous
    np.testing.assert_array_equal(make_replay(tmp_path).sample()["image"], replay.sample()["image"])
