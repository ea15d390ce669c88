"""Action repeat, clipped actions and time limits."""

import gymnasium as gym
import numpy as np
import pytest

from envs.wrappers import ActionRepeat, PixelEnv
from tests.envs.rollouts import make_config, rollout


class Recorder(gym.Env):
    """Rewards 1, 10, 100, ...; succeeds in step 2 only; ends after `length` steps; counts its pictures."""

    costs = (0.0, 0.75, 0.25, -2.0, -1.0)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length: int) -> None:
        self.length, self.steps, self.pictures, self.actions = length, 0, 0, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1), {"success": 0.0, "noise": 1}

    def step(self, action):
        self.steps += 1
        self.actions.append(action)
        info = {"success": float(self.steps == 2), "cost": self.costs[self.steps - 1], "noise": 1}
        return np.array([self.steps]), 10.0 ** (self.steps - 1), self.steps == self.length, False, info

    def render(self):
        self.pictures += 1
        return np.full((64, 64, 3), self.steps, np.uint8)


def test_action_repeat_sums_rewards_stops_at_the_end_and_draws_once():
    simulator = Recorder(length=5)
    env = PixelEnv(ActionRepeat(simulator, 3), seed=0)
    obs, info = env.reset()
    assert simulator.pictures == 1 and info == {"success": 0.0}
    obs, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, truncated, info) == (111.0, False, False, {"success": 1.0, "cost": 0.75})
    assert simulator.pictures == 2 and obs["state"] == 3 and (obs["image"] == 3).all()
    obs, reward, terminated, truncated, info = env.step(np.zeros(2))
    # The largest cost of negative ones is not zero.
    assert (reward, terminated, truncated, info) == (11000.0, True, False, {"success": 0.0, "cost": -1.0})
    assert simulator.pictures == 3 and obs["state"] == 5


def test_actions_are_clipped_and_must_be_finite():
    simulator = Recorder(length=5)
    env = PixelEnv(simulator, seed=0)
    env.reset()
    env.step(np.array([-3.0, 0.5]))
    np.testing.assert_array_equal(simulator.actions[0], np.array([-1.0, 0.5], np.float32))
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan, 0.0]))


@pytest.mark.parametrize("task", ["dmc_cartpole_swingup", "metaworld_reach", "pointmass_obstacle"])
def test_action_repeat_equals_a_slow_loop(task, in_worker):
    actions = np.random.default_rng(1).uniform(-1, 1, (3, 4)).astype(np.float32)
    settings = {"time_limit": 7, "reward": "dense"}
    repeated = in_worker(rollout, make_config(task, action_repeat=3, **settings), 4, actions)
    slow = in_worker(rollout, make_config(task, action_repeat=1, **settings), 4, np.repeat(actions, 3, axis=0)[:7])
    # Seven simulator steps are two decisions of three steps and one of a single step; then both start again.
    expected = [slow["reward"][1:4].sum(), slow["reward"][4:7].sum(), slow["reward"][7]]
    np.testing.assert_allclose(repeated["reward"][1:4], expected, rtol=1e-12)
    np.testing.assert_array_equal(repeated["image"][[1, 2, 3, 4]], slow["image"][[3, 6, 7, 8]])
    assert repeated["truncated"].tolist() == [False, False, False, True, False]
    assert not repeated["terminated"].any()


@pytest.mark.parametrize(
    ("task", "decisions"),
    [("dmc_cartpole_balance", 125), ("metaworld_hammer", 75), ("pointmass_lottery", 30)],
)
def test_a_suite_s_own_time_limit_truncates(task, decisions, in_worker):
    """DM Control's 1000, Meta-World's 150, the point mass's 30 environment steps over the papers' action repeats."""
    course = in_worker(rollout, make_config(task), 0, np.zeros((decisions, 4)))
    assert np.flatnonzero(course["truncated"]).tolist() == [decisions]
    assert not course["terminated"].any()
