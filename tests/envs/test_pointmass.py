"""The point mass: wall, keep-out disc and lottery."""

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.rollouts import make_config, rollout


def drive(env: gym.Env, waypoints: list[tuple[float, float]], seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Steers at full speed through waypoints; positions [T + 1, 2], rewards [T] and the last success."""
    state, _ = env.reset(seed=seed)
    waypoints, positions, rewards = list(waypoints), [state[:2]], []
    for _ in range(30):
        if len(waypoints) > 1 and np.abs(waypoints[0] - state[:2]).max() < 0.1:
            waypoints.pop(0)
        action = np.clip((waypoints[0] - state[:2]) / 0.12, -1, 1)
        state, reward, terminated, truncated, info = env.step(action)
        assert not terminated and not truncated
        positions.append(state[:2])
        rewards.append(reward)
    return np.array(positions), np.array(rewards), bool(info["success"])


def test_the_wall_blocks_the_straight_way_and_there_is_a_way_round():
    from envs.pointmass import GOAL_RADIUS, Obstacle

    env, goal = Obstacle(), (0.6, -0.4)
    for seed in range(10):
        straight, _, success = drive(env, [goal], seed)
        assert not success and straight[:, 0].max() < -0.13, "the point touches the wall with its rim and stays there"
        around, rewards, success = drive(env, [(-0.1, 0.55), (0.1, 0.55), goal], seed)
        np.testing.assert_allclose(rewards, -np.linalg.norm(around[1:] - goal, axis=1))
        assert success and np.flatnonzero(-rewards < GOAL_RADIUS)[0] < 26, "it arrives with steps to spare"


@pytest.mark.parametrize(
    ("position", "cost"),
    [
        ((-0.25, -0.35), 1.0),  # the centre
        ((-0.25, -0.25), 0.5),
        ((-0.31, -0.27), 0.5),  # 0.06 and 0.08 aside are 0.1 away
        ((-0.40, -0.35), 0.25),
        ((-0.45, -0.35), 0.0),  # the rim
        ((-0.25, -0.56), 0.0),
        ((0.60, -0.40), 0.0),  # the goal
    ],
)
def test_the_cost_of_the_obstacle_task_is_the_depth_in_the_keep_out_disc(position, cost):
    from envs.pointmass import Obstacle

    env = Obstacle()
    env.start, env.start_noise = position, 0.0
    assert env.reset(seed=0)[1]["cost"] == pytest.approx(cost, abs=1e-9)
    _, reward, _, _, info = env.step(np.zeros(2, np.float32))
    assert info["cost"] == pytest.approx(cost, abs=1e-9)
    assert reward == pytest.approx(-np.hypot(0.6 - position[0], -0.4 - position[1])), "never punished in the reward"


def test_the_keep_out_disc_lies_on_the_straight_way_and_a_way_round_is_free():
    from envs.pointmass import KEEP_OUT_CENTER, KEEP_OUT_RADIUS, Obstacle

    env, goal = Obstacle(), (0.6, -0.4)
    for seed in range(10):
        straight, _, _ = drive(env, [goal], seed)
        # It rests where the cost is far above `cost_limit`, 0.1.
        assert env._info(False)["cost"] > 0.3
        depth = 1.0 - np.linalg.norm(straight - KEEP_OUT_CENTER, axis=1) / KEEP_OUT_RADIUS
        assert depth[0] < 0 and depth[-1] == pytest.approx(env._info(False)["cost"], abs=1e-6)
        around, _, success = drive(env, [(-0.6, 0.0), (-0.1, 0.55), (0.1, 0.55), goal], seed)
        assert success and (np.linalg.norm(around - KEEP_OUT_CENTER, axis=1) > KEEP_OUT_RADIUS).all()
    nearest_start = (-0.5, -0.35)
    assert np.linalg.norm(np.subtract(nearest_start, KEEP_OUT_CENTER)) > KEEP_OUT_RADIUS


def test_full_speed_is_what_the_arena_says():
    from envs.pointmass import Obstacle

    env = Obstacle()
    env.reset(seed=0)
    positions = np.array([env.step(np.array([0.0, 1.0]))[0][:2] for _ in range(5)])
    np.testing.assert_allclose(np.diff(positions, axis=0)[1:], [[0.0, 0.12]] * 3, atol=1e-3)


def test_the_lottery_pays_once_and_as_advertised():
    from envs.pointmass import Lottery

    env = Lottery()
    _, rewards, success = drive(env, [(0.15, 0.4), (0.15, -0.4)], seed=0)
    assert success and np.flatnonzero(rewards).size == 1 and rewards.sum() == 1.0, "the second goal pays nothing"
    _, rewards, success = drive(env, [(0.15, -0.4), (0.15, 0.4)], seed=0)
    assert not success and np.flatnonzero(rewards).size == 1 and rewards.sum() in (20.0, -40.0)
    env.reset(seed=0)
    draws = np.array([env._draw() for _ in range(20_000)])
    # Standard errors: 0.0034 of the share, 0.2 of the mean.
    assert abs((draws == 20.0).mean() - 0.65) < 0.014 and abs(draws.mean() + 1.0) < 0.85
    assert set(draws) == {20.0, -40.0}


def test_a_taken_goal_shows_in_picture_and_state_until_the_reset(in_worker):
    towards_top = np.tile([1.0, 0.9], (7, 1))
    course = in_worker(rollout, make_config("pointmass_lottery", time_limit=7), 0, towards_top)
    assert course["reward"].sum() == 1.0 and course["state"][-2, -1] == 1.0 and course["state"][-1, -1] == 0.0
    bottom_goal = course["image"][:, 42:45, 35:38].astype(int).mean((1, 2))  # yellow, then grey, then yellow again
    yellow = bottom_goal[:, 0] - bottom_goal[:, 2]
    assert yellow[0] > 80 and yellow[-2] < 20 and yellow[-1] > 80


def test_the_outcome_of_the_gamble_shows_in_the_picture(in_worker):
    towards_bottom = np.tile([1.0, -0.9], (7, 1))
    seen = {}
    for seed in (0, 2):  # wins, loses
        course = in_worker(rollout, make_config("pointmass_lottery", time_limit=7), seed, towards_bottom)
        seen[float(course["reward"].sum())] = course["image"][-2, 42:45, 35:38].astype(int).mean()  # the point went on
    assert set(seen) == {20.0, -40.0} and seen[20.0] > 190 and seen[-40.0] < 60
