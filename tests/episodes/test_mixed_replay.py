"""The episodes of several tasks in one batch."""

import json

import numpy as np
import pytest

from episodes.mixed_replay import MixedReplay
from tests.episodes.numbered import chi_square, drawn_episodes, drawn_starts, make_episode, make_replay
from tools.errors import UserError


def make_mixture(folder, batch_size=16, lengths=((9,), (9, 19), (39,)), seed=0, **optional):
    """A replay for each tuple of lengths; episode k of replay i is number 10 i + k, only replay 0 has `optional`."""
    replays = [make_replay(folder / str(index), batch_size, seed=index) for index in range(len(lengths))]
    for index, (replay, transitions) in enumerate(zip(replays, lengths, strict=True)):
        for number, count in enumerate(transitions if not replay.episodes else ()):
            replay.add(make_episode(10 * index + number, count, size=1, **(optional if index == 0 else {})))
    return MixedReplay(replays, batch_size, seed)


def test_mixture_draws_each_task_as_often_whatever_its_episodes(tmp_path):
    mixture = make_mixture(tmp_path, batch_size=3000)
    assert mixture.episodes == 4
    batches = [mixture.sample() for _ in range(4)]
    number = np.concatenate([drawn_episodes(batch) for batch in batches])
    # 99.9% quantiles of chi-square: 13.8 with 2 degrees of freedom, 10.8 with 1. The seed is fixed.
    assert chi_square(np.bincount(number // 10, minlength=3), np.full(3, 1 / 3)) < 13.8
    # Within a task by length, as without a mixture: 10 and 20 entries.
    inside = np.bincount(number[number // 10 == 1] - 10, minlength=2)
    assert chi_square(inside, np.array([10, 20]) / 30) < 10.8
    # Neighbouring rows are of tasks drawn independently, not sorted by task.
    same = np.mean(number[1:] // 10 == number[:-1] // 10)
    assert same == pytest.approx(1 / 3, abs=0.02)


def test_mixture_keeps_chunks_whole_and_the_keys_that_all_tasks_have(tmp_path):
    mixture = make_mixture(tmp_path, batch_size=50, cost=True, state=True)
    batch = mixture.sample()
    assert set(batch) == {"image", "action", "reward", "discount", "is_first", "mask"}
    time = drawn_starts(batch)[:, None] + np.arange(5)
    np.testing.assert_array_equal(batch["reward"], 1000 * drawn_episodes(batch)[:, None] + time)
    np.testing.assert_array_equal(batch["action"][..., 1], time / 1024)
    np.testing.assert_array_equal(batch["is_first"], time == 0)
    assert batch["mask"].all()
    alike = MixedReplay(mixture.replays[:1], 50, 0)
    assert {"cost", "state"} <= set(alike.sample())


def test_mixture_pads_the_short_episodes_of_one_task_only(tmp_path):
    mixture = make_mixture(tmp_path, batch_size=40, lengths=((2,), (9,)))
    batch = mixture.sample()
    short = drawn_episodes(batch) < 10
    assert 0 < short.sum() < 40
    np.testing.assert_array_equal(batch["mask"][short], [[1, 1, 1, 0, 0]] * short.sum())
    assert batch["mask"][~short].all() and not batch["reward"][short, 3:].any()


def test_mixture_goes_on_from_its_random_state(tmp_path):
    mixture = make_mixture(tmp_path)
    mixture.sample()
    state = json.loads(json.dumps(mixture.random_state))
    expected = [mixture.sample() for _ in range(3)]
    again = make_mixture(tmp_path, seed=7)
    again.random_state = state
    for batch in expected:
        for key, value in again.sample().items():
            np.testing.assert_array_equal(value, batch[key], err_msg=key)
    for bad in ({}, state | {"replays": state["replays"][:2]}, state | {"mixture": 3}):
        with pytest.raises(UserError, match="random state"):
            again.random_state = bad


def test_mixture_needs_an_episode_of_every_task(tmp_path):
    mixture = make_mixture(tmp_path, lengths=((9,), ()))
    for use in (mixture.sample, mixture.dataset):
        with pytest.raises(UserError, match=f"{tmp_path / '1'} has no episode"):
            use()


def test_mixture_as_a_dataset(tmp_path):
    mixture = make_mixture(tmp_path, batch_size=6, cost=True)
    dataset = mixture.dataset()
    assert {key: tuple(spec.shape) for key, spec in dataset.element_spec.items()} == {
        key: value.shape for key, value in mixture.sample().items()
    }
    tasks = {int(number) // 10 for batch in dataset.take(20) for number in drawn_episodes(batch_of(batch))}
    assert tasks == {0, 1, 2}


def batch_of(tensors):
    return {key: value.numpy() for key, value in tensors.items()}
