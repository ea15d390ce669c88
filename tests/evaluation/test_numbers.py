"""Evaluations in numbers, by hand."""

import numpy as np
import pytest

from envs.distance import goal_distance
from evaluation import numbers
from training.driver import Episode


def test_interval_of_a_mean_is_students():
    # 2.5 +- 3.182446 sqrt(5 / 3) / sqrt(4); the factor is tabulated for three degrees of freedom.
    interval = numbers.mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval["mean"] == 2.5 and interval["std"] == pytest.approx(1.2909944)
    assert interval["low"] == pytest.approx(2.5 - 2.0542604, abs=1e-5)
    assert interval["high"] == pytest.approx(2.5 + 2.0542604, abs=1e-5)
    assert numbers.mean_interval([7.0]) == {"mean": 7.0, "low": None, "high": None, "std": None}
    assert numbers.mean_interval([3.0, 3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "std": 0.0}
    assert numbers.mean_interval([np.inf, 1.0])["mean"] is None


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(8, 10, 0.4901625, 0.9433178), (0, 4, 0.0, 0.4898908), (4, 4, 0.5101092, 1.0)]
)
def test_interval_of_a_share_is_wilsons(hits, count, low, high):
    z = 1.959964
    middle, half = hits + z**2 / 2, z * np.sqrt(hits * (count - hits) / count + z**2 / 4)
    assert ((middle - half) / (count + z**2), (middle + half) / (count + z**2)) == pytest.approx((low, high), abs=1e-6)
    interval = numbers.share_interval([1.0] * hits + [0.0] * (count - hits))
    assert interval["mean"] == hits / count
    assert (interval["low"], interval["high"]) == pytest.approx((low, high), abs=1e-6)


def test_bins_of_the_distance_have_as_many_episodes_each():
    distances = [5.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0]
    near, far = numbers.by_distance(distances, [float(distance < 4.5) for distance in distances])
    assert (near["low"], near["high"], near["episodes"], near["success"]["mean"]) == (1.0, 4.5, 4, 1.0)
    assert (far["low"], far["high"], far["episodes"], far["success"]["mean"]) == (4.5, 8.0, 4, 0.0)
    assert near["success"] == numbers.share_interval([1.0] * 4)
    assert len(numbers.by_distance(np.arange(100.0), np.ones(100))) == numbers.BINS
    (same,) = numbers.by_distance([2.0] * 8, [1.0, 0.0] * 4)
    assert (same["low"], same["high"], same["episodes"], same["success"]["mean"]) == (2.0, 2.0, 8, 0.5)


def test_distances_by_hand():
    state = np.zeros(39)
    state[0:3], state[4:7], state[36:39] = [1, 0, 0], [1, 3, 4], [1, 3, 2]
    assert goal_distance("metaworld_push", state) == pytest.approx(5.0 + 2.0)
    assert goal_distance("metaworld_reach", state) == pytest.approx(np.sqrt(9.0 + 4.0))
    assert goal_distance("pointmass_obstacle", np.array([0.6, 0.1, 9.0, 9.0])) == pytest.approx(0.5)
    assert goal_distance("pointmass_lottery", np.array([0.15, 0.0, 9.0, 9.0, 0.0])) == pytest.approx(0.4)
    assert goal_distance("dmc_walker_walk", state) is None and goal_distance("metaworld_push", None) is None


def test_the_row_of_an_episode_by_hand():
    state = np.zeros([5, 4], np.float32)
    state[:, 0] = [0.6, 0.9, 0.9, 0.9, 0.9]
    data = {"reward": np.arange(5.0), "success": np.array([0.0, 0.0, 1.0, 0.0, 0.0]), "state": state}
    metrics = {"plan/nu": np.array([1.0, 50.0, 3.0, np.nan]), "plan/lam": np.full(4, np.nan), "model/loss": np.ones(4)}
    planned = np.array([True, False, True, True])
    extras = {"predicted_reward": np.array([1.0, 2.0, 3.0, 5.0]), "planned": planned, "metrics": metrics}
    row = numbers.describe(Episode(1, data, extras, number=2), [7, 8, 9], "pointmass_obstacle")
    assert np.isnan(row.pop("lam"))
    assert row == {
        "episode": 2,
        "seed": 9,
        "return": 10.0,
        "length": 4.0,
        "success": 1.0,
        "success_final": 0.0,
        "predicted_return": 11.0,
        "distance": goal_distance("pointmass_obstacle", state[0]),
        "plans": 3,
        "nu": 2.0,
    }
