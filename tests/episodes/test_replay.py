"""The replay: which chunks are drawn, what is in memory, and batches for training."""

import json
import tempfile
import threading
import unittest.mock
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from episodes import replay as replay_module
from episodes.replay import PREFETCH
from tests.episodes.numbered import chi_square, drawn_episodes, drawn_starts, make_episode, make_replay
from tools.errors import UserError


def test_chunks_are_consecutive_entries_of_one_episode(tmp_path):
    replay = make_replay(tmp_path, batch_size=64)
    for number in range(1, 6):
        replay.add(make_episode(number, transitions=4 + 7 * number, state=True, cost=True))
    for _ in range(20):
        batch = replay.sample()
        number, start = drawn_episodes(batch), drawn_starts(batch)
        time = start[:, None] + np.arange(5)
        ones = np.ones((64, 5), int)
        np.testing.assert_array_equal(
            batch["image"][..., 0], (number[:, None] * ones)[..., None, None] + np.zeros((8, 8))
        )
        np.testing.assert_array_equal(batch["image"][:, :, 3, 3, 1], time)
        np.testing.assert_array_equal(batch["reward"], 1000 * number[:, None] + time)
        np.testing.assert_array_equal(batch["cost"], 0.5 + 1000 * number[:, None] + time)
        np.testing.assert_array_equal(batch["action"][..., 1], time / 1024)
        np.testing.assert_array_equal(batch["action"][..., 0], np.where(time > 0, number[:, None] / 256, 0))
        np.testing.assert_array_equal(batch["state"], np.stack([number[:, None] * ones, time, time**2], -1))
        np.testing.assert_array_equal(batch["is_first"], time == 0)
        assert (time[:, -1] <= 4 + 7 * number).all()
        assert batch["mask"].min() == 1


def test_batch_keys_dtypes_and_shapes(tmp_path):
    replay = make_replay(tmp_path, batch_size=3, batch_length=4)
    episode = make_episode(1, 9, state=True, cost=True) | {"success": np.zeros(10, np.float32)}
    replay.add(episode)
    got = {key: (value.dtype.name, value.shape) for key, value in replay.sample().items()}
    assert got == {
        "image": ("uint8", (3, 4, 8, 8, 3)),
        "action": ("float32", (3, 4, 2)),
        "reward": ("float32", (3, 4)),
        "discount": ("float32", (3, 4)),
        "is_first": ("bool", (3, 4)),
        "state": ("float32", (3, 4, 3)),
        "cost": ("float32", (3, 4)),
        "mask": ("float32", (3, 4)),
    }


def test_batches_are_fresh_and_memory_is_a_copy(tmp_path):
    replay = make_replay(tmp_path)
    episode = make_episode(7, 4)
    replay.add(episode)
    episode["image"][:] = 0
    replay.sample()["image"][:] = 9
    assert (drawn_episodes(replay.sample()) == 7).all()


def test_episodes_are_drawn_by_length_and_starts_uniformly(tmp_path):
    replay = make_replay(tmp_path, batch_size=4000, batch_length=5)
    lengths = np.array([8, 16, 40])
    for number, length in enumerate(lengths):
        replay.add(make_episode(number, length - 1, size=1))
    batches = [replay.sample() for _ in range(5)]
    number = np.concatenate([drawn_episodes(batch) for batch in batches])
    start = np.concatenate([drawn_starts(batch) for batch in batches])
    # 99.9% quantiles of chi-square: 13.8 with 2 degrees of freedom, 66.6 with 35. The seed is fixed.
    assert chi_square(np.bincount(number, minlength=3), lengths / lengths.sum()) < 13.8
    starts = np.bincount(start[number == 2])
    assert len(starts) == 40 - 5 + 1
    assert chi_square(starts, np.full(36, 1 / 36)) < 66.6


def test_short_episode_is_padded_with_zeros_under_mask_zero(tmp_path):
    replay = make_replay(tmp_path, batch_size=4, batch_length=6)
    replay.add(make_episode(3, transitions=2, state=True, cost=True))
    batch = replay.sample()
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 1, 0, 0, 0]] * 4)
    np.testing.assert_array_equal(batch["reward"], [[3000, 3001, 3002, 0, 0, 0]] * 4)
    np.testing.assert_array_equal(batch["is_first"], [[True] + [False] * 5] * 4)
    for key, value in batch.items():
        assert not value[:, 3:].any(), key


def test_episode_exactly_as_long_as_a_chunk_is_not_padded(tmp_path):
    replay = make_replay(tmp_path, batch_length=6)
    replay.add(make_episode(3, transitions=5))
    batch = replay.sample()
    assert batch["mask"].all() and (drawn_starts(batch) == 0).all()


def test_capacity_drops_the_oldest_from_memory_never_from_disk(tmp_path):
    replay = make_replay(tmp_path, batch_size=200, capacity=25)
    for number in range(1, 5):
        replay.add(make_episode(number, transitions=9))
    assert replay.entries == 20
    assert (replay.episodes, replay.steps) == (4, 36)
    assert len(list(tmp_path.glob("*.npz"))) == 4
    assert set(drawn_episodes(replay.sample())) == {3, 4}

    again = make_replay(tmp_path, batch_size=200, capacity=25)
    assert (again.entries, again.episodes, again.steps) == (20, 4, 36)
    assert set(drawn_episodes(again.sample())) == {3, 4}


@hypothesis.given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 30), st.integers(1, 6))
@hypothesis.settings(max_examples=40)
def test_memory_is_the_newest_episodes_that_fit_now_and_after_a_restart(lengths, capacity, batch_length):
    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch("os.fsync"):
        replay = make_replay(Path(folder), 8, batch_length, capacity)
        for number, transitions in enumerate(lengths):
            replay.add(make_episode(number, transitions, size=1))
        sizes = [transitions + 1 for transitions in lengths]
        kept = max(n for n in range(1, len(sizes) + 1) if n == 1 or sum(sizes[-n:]) <= capacity)
        for memory in (replay, make_replay(Path(folder), 8, batch_length, capacity)):
            assert (memory.episodes, memory.steps, memory.entries) == (len(lengths), sum(lengths), sum(sizes[-kept:]))
            batch = memory.sample()
            first, count = drawn_starts(batch), batch["mask"].sum(1)
            drawn = drawn_episodes(batch)
            assert (drawn >= len(lengths) - kept).all()
            assert (count == np.minimum(np.array(sizes)[drawn], batch_length)).all()
            assert (first + count <= np.array(sizes)[drawn]).all()


def test_newest_episode_stays_even_above_the_capacity(tmp_path):
    replay = make_replay(tmp_path, capacity=3)
    replay.add(make_episode(1, transitions=9))
    replay.add(make_episode(2, transitions=9))
    for memory in (replay, make_replay(tmp_path, capacity=3)):
        assert memory.entries == 10
        assert set(drawn_episodes(memory.sample())) == {2}


def test_files_beyond_the_capacity_are_counted_but_not_opened(tmp_path):
    replay = make_replay(tmp_path)
    old = replay.add(make_episode(1, transitions=4))
    replay.add(make_episode(2, transitions=6))
    old.write_bytes(b"nothing reads this")
    again = make_replay(tmp_path, capacity=7)
    assert (again.episodes, again.steps, again.entries) == (2, 10, 7)


def test_reload_gives_the_same_batches(tmp_path):
    replay = make_replay(tmp_path, seed=3)
    for number in range(1, 8):  # quicker than a clock with seconds would tell apart
        replay.add(make_episode(number, transitions=3 + number, state=True, cost=True))
    again = make_replay(tmp_path, seed=3)
    assert (again.steps, again.episodes, again.entries) == (replay.steps, replay.episodes, replay.entries)
    for _ in range(3):
        expected, got = replay.sample(), again.sample()
        assert expected.keys() == got.keys()
        for key in expected:
            np.testing.assert_array_equal(expected[key], got[key])


def test_random_state_goes_through_json_and_continues_the_samples(tmp_path):
    replay = make_replay(tmp_path)
    replay.add(make_episode(1, transitions=200))
    replay.sample()
    state = json.loads(json.dumps(replay.random_state))
    expected = [drawn_starts(replay.sample()) for _ in range(3)]
    again = make_replay(tmp_path, seed=99)
    assert not np.array_equal(drawn_starts(again.sample()), expected[0])
    again.random_state = state
    np.testing.assert_array_equal([drawn_starts(again.sample()) for _ in range(3)], expected)


@pytest.mark.parametrize("state", [None, {}, {"bit_generator": "other"}, "text"])
def test_wrong_random_state_is_refused(tmp_path, state):
    with pytest.raises(UserError, match="random state"):
        make_replay(tmp_path).random_state = state


def test_sampling_without_episodes_is_refused(tmp_path):
    replay = make_replay(tmp_path)
    for draw in (replay.sample, replay.dataset):
        with pytest.raises(UserError, match="no episode.*collect"):
            draw()


@pytest.mark.parametrize("setting", ["batch_size", "batch_length", "capacity"])
def test_settings_below_one_are_refused(tmp_path, setting):
    with pytest.raises(UserError, match=f"{setting} is 0"):
        make_replay(tmp_path, **{setting: 0})


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        make_replay(tmp_path / "file" / "episodes")


def test_episode_of_another_kind_is_refused(tmp_path):
    replay = make_replay(tmp_path)
    replay.add(make_episode(1, 4))
    with pytest.raises(UserError, match="keys"):
        replay.add(make_episode(2, 4, state=True))
    with pytest.raises(UserError, match=r"image has shape \(16, 16, 3\) an entry, \(8, 8, 3\) in the others"):
        replay.add(make_episode(2, 4, size=16))
    assert replay.episodes == 1


def test_costs_are_zero_where_an_episode_reports_none(tmp_path):
    replay = make_replay(tmp_path, batch_size=40, batch_length=3)
    success = {"success": np.ones(5, np.float32)}
    for episode in (make_episode(1, 4), make_episode(2, 4, cost=True), make_episode(3, 4) | success):
        replay.add(episode)
    for source in (replay, make_replay(tmp_path, batch_size=40, batch_length=3)):
        batch = source.sample()
        reported = drawn_episodes(batch) == 2
        assert 0 < reported.sum() < 40
        assert batch["cost"][reported].any(1).all() and not batch["cost"][~reported].any()


def test_a_data_set_keeps_its_keys_when_episodes_report_more_or_less(tmp_path):
    replay = make_replay(tmp_path, capacity=10)
    replay.add(make_episode(1, 4, cost=True))
    batches = iter(replay.dataset())
    assert "cost" in next(batches)
    for number in range(2, 6):  # of which memory holds two
        replay.add(make_episode(number, 4))
    for _ in range(PREFETCH + 3):
        batch = next(batches)
    assert not batch["cost"].numpy().any()


def test_file_of_another_kind_is_refused_by_name(tmp_path):
    other = make_replay(tmp_path / "other").add(make_episode(1, 4, size=16))
    make_replay(tmp_path / "run").add(make_episode(1, 4))
    foreign = other.rename(tmp_path / "run" / other.name)
    with pytest.raises(UserError, match=f"{foreign.name}.*image has shape.*move them out"):
        make_replay(tmp_path / "run")
    assert foreign.exists()


def test_sampling_while_another_thread_adds(tmp_path, monkeypatch):
    # The race is about memory, not the disk.
    monkeypatch.setattr(replay_module, "write_episode", lambda path, episode: None)
    replay = make_replay(tmp_path, batch_size=32, batch_length=4, capacity=60)
    replay.add(make_episode(0, transitions=9, size=2))
    errors, enough = [], threading.Event()
    added = 0

    def add():
        nonlocal added
        try:
            # On a busy machine a thread may run to its end before the other begins: this one waits for enough batches.
            while added < 400 or not enough.is_set():
                added += 1
                replay.add(make_episode(added % 250, transitions=3 + added % 17, size=2))
        except Exception as error:
            errors.append(error)

    adder = threading.Thread(target=add)
    adder.start()
    batches = 0
    while adder.is_alive():
        batch = replay.sample()
        time = drawn_starts(batch)[:, None] + np.arange(4)
        np.testing.assert_array_equal(batch["reward"], 1000 * drawn_episodes(batch)[:, None] + time)
        np.testing.assert_array_equal(batch["image"][:, :, 1, 1, 1], time)
        batches += 1
        if batches > 5:
            enough.set()
    adder.join()
    assert errors == [] and batches > 5
    assert replay.episodes == 1 + added and replay.entries <= 60


def test_dataset_has_static_shapes_and_the_content_of_sample(tmp_path):
    replay = make_replay(tmp_path, batch_size=6, batch_length=5)
    replay.add(make_episode(1, 30, state=True, cost=True))
    dataset = replay.dataset()
    shapes = {key: tuple(spec.shape) for key, spec in dataset.element_spec.items()}
    expected = make_replay(tmp_path, batch_size=6, batch_length=5)
    assert shapes == {key: value.shape for key, value in expected.sample().items()}
    assert all(None not in shape for shape in shapes.values())

    expected = make_replay(tmp_path, batch_size=6, batch_length=5)
    for batch in dataset.take(3):
        reference = expected.sample()
        assert batch.keys() == reference.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value.numpy(), reference[key])


def test_a_dataset_of_so_many_batches_draws_no_more(tmp_path):
    make_replay(tmp_path).add(make_episode(1, transitions=200))
    replay, other = (make_replay(tmp_path, seed=3) for _ in range(2))
    drawn = [drawn_starts(batch) for batch in replay.dataset(3).as_numpy_iterator()]
    np.testing.assert_array_equal(drawn, [drawn_starts(other.sample()) for _ in range(3)])
    assert replay.random_state == other.random_state, "a resumed run goes on from here"


def test_dataset_sees_episodes_that_are_added_later(tmp_path):
    replay = make_replay(tmp_path, batch_size=64)
    replay.add(make_episode(1, 10))
    batches = iter(replay.dataset())
    assert set(next(batches)["image"][:, 0, 0, 0, 0].numpy()) == {1}
    replay.add(make_episode(2, 200))
    ahead = replay_module.PREFETCH + 3
    assert 2 in {int(number) for _ in range(ahead) for number in next(batches)["image"][:, 0, 0, 0, 0].numpy()}
