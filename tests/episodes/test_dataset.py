"""Folders of episodes with a collection.json, and how a run takes them in."""

import numpy as np
import pytest

from collect import DataSet
from episodes.dataset import FILE, check_collection, read_collection, settings, write_collection
from episodes.episode import episode_files, write_episode
from episodes.replay import Replay
from tests.episodes.folders import make_config, make_episode, make_folder
from tools.errors import UserError


def test_a_data_set_sums_up_its_episodes_and_goes_on_where_it_stopped(tmp_path):
    data = DataSet(tmp_path, make_config())
    assert data.summary()["episodes"] == 0 and data.summary()["success_rate"] is None
    data.add(make_episode(0, steps=4, success=1), scripted_episodes=1)  # return 1 + 2 + 3 + 4
    data.add(make_episode(1, steps=2, success=0))  # 101 + 102
    known = read_collection(tmp_path)
    assert known == data.summary()
    assert known["settings"] == {
        "task": "pointmass_obstacle",
        "reward": "sparse",
        "camera": "",
        "action_repeat": 1,
        "time_limit": 30,
        "randomize": True,
        "starts": "paper",
        "render_quality": "full",
    }
    counts = {"episodes": 2, "transitions": 6, "successes": 1, "success_rate": 0.5, "mean_return": 106.5}
    assert known.items() >= counts.items() and known["scripted_episodes"] == 1
    again = DataSet(tmp_path, make_config())
    again.add(make_episode(2, steps=1, success=1))
    assert again.summary().items() >= {"episodes": 3, "transitions": 7, "successes": 2, "scripted_episodes": 1}.items()


def test_a_return_that_float32_cannot_hold_is_a_number_in_collection_json(tmp_path):
    data = DataSet(tmp_path, make_config())
    data.add(make_episode(0, steps=2) | {"reward": np.float32([0.0, 3e38, 3e38])})
    assert read_collection(tmp_path)["mean_return"] == pytest.approx(6e38)


def test_an_episode_without_success_counts_as_unsuccessful(tmp_path):
    data = DataSet(tmp_path, make_config())
    data.add(make_episode(0))
    assert data.summary()["success_rate"] == 0.0


def test_an_episode_of_another_kind_than_the_newest_is_set_aside_and_not_counted(tmp_path, capsys):
    data = DataSet(tmp_path, make_config())
    for number in range(3):
        data.add(make_episode(number))
    odd = episode_files(tmp_path)[1]
    write_episode(odd, make_episode(1, extras=["state"]))
    again = DataSet(tmp_path, make_config())
    assert (tmp_path / "damaged" / odd.name).exists() and "its keys are" in capsys.readouterr().err
    assert again.summary()["mean_return"] == (10 + 810) / 2


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


def test_a_file_in_the_place_of_a_folder_of_episodes_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: name a folder of episodes"):
        read_collection(tmp_path / "file")


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
