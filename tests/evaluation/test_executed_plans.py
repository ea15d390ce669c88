"""Plans above their execution."""

import types

import numpy as np
import pytest
import tensorflow as tf

from evaluation import executed_plans, side_by_side
from evaluation.plan_frames import spread
from training.driver import Episode


def numbered(values):
    """Pictures of one grey each."""
    return np.broadcast_to(np.uint8(values)[:, None, None, None], [len(values), 64, 64, 3])


@pytest.fixture
def episode():
    """An agent, and its plans of four actions after 0 and 3 of 5 decisions.

    States of plans say 10 (plan) + time, pictures 100 + time.
    """
    states = np.array([[11, 12, 13, 14]] * 3 + [[24, 25, 26, 27]] * 2, np.float32)[..., None]
    extras = {
        "planned": np.array([True, False, False, True, False]),
        "plan_start": np.array([10, 0, 0, 23, 0], np.float32)[:, None],
        "plan_states": states,
        "predicted_reward": np.array([1, 2, 3, 40, 50], np.float32),
    }
    data = {"image": numbered(100 + np.arange(6)), "reward": np.array([0, 5, 6, 7, 8, 9], np.float32)}
    decode = lambda feat: tf.constant(feat)[..., None, None] / 255.0 - 0.5 + np.zeros([64, 64, 3], np.float32)
    config = types.SimpleNamespace(discount=1.0, planner="cem")
    agent = types.SimpleNamespace(model=types.SimpleNamespace(decode=decode), rewards=lambda r: r, config=config)
    return agent, Episode(0, data, extras, number=7)


@pytest.fixture
def drawn(episode):
    return executed_plans.executed_plans(*episode)


def test_rewards_are_counted_as_the_plans_counted_them(episode):
    agent = episode[0]
    agent.rewards, agent.config.discount = lambda rewards: 2.0 * rewards, 0.5
    assert executed_plans.achieved_rewards(*episode).tolist() == [5.0, 3.0, 1.75, 8.0, 4.5]
    assert [plan.achieved for plan in executed_plans.executed_plans(*episode)] == [9.75, 12.5]
    z = tf.zeros([1, 1])
    plan = types.SimpleNamespace(states=tf.zeros([1, 4, 1]), curves={"reward": tf.zeros([1, 2])})
    side = side_by_side.make_side(agent, z, [(0, plan), (2, plan)], episode[1])
    assert side.predicted.tolist() == [1, 2, 3, 40, 50]
    assert side.executed.rewards.tolist() == [5.0, 3.0, 1.75, 8.0, 4.5]


def test_plans_are_shown_with_what_came_of_them(drawn):
    first, second = drawn
    assert (first.time, first.executed, first.predicted, first.achieved) == (0, 3, 6.0, 18.0)
    assert (second.time, second.executed, second.predicted, second.achieved) == (3, 2, 90.0, 17.0)
    planned, executed = (row[:, 0, 0, 0].tolist() for row in first.rows(np.array([0, 1, 3, 4])))
    assert planned == [10, 11, 13, 14] and executed == [100, 101, 103, 255 - (255 - 104) // 3]  # the last one paler
    planned, executed = (row[:, 0, 0, 0].tolist() for row in second.rows(np.arange(5)))
    assert planned == [23, 24, 25, 26, 27] and executed == [103, 104, 105, 255, 255]  # the episode was over
    labels = [label.get_text() for label in executed_plans.draw_plans(drawn, "").axes[0].get_yticklabels()]
    assert labels[0] == "plan at 0\npredicted 6.00" and labels[3] == "execution\nachieved 17.00"


def test_video_shows_each_decision_as_planned_and_executed(drawn):
    video = executed_plans.plan_video(drawn)
    assert video.shape == (5, 64, 132, 3) and video.dtype == np.uint8
    assert video[:, 0, 0, 0].tolist() == [11, 12, 13, 24, 25]
    assert video[:, 0, -1, 0].tolist() == [101, 102, 103, 104, 105]


def test_columns_are_spread_evenly_from_the_first_to_the_last():
    assert spread(4, 10).tolist() == [0, 1, 2, 3, 4]
    assert spread(30, 4).tolist() == [0, 10, 20, 30] and spread(0, 10).tolist() == [0]
