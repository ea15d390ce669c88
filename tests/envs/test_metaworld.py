"""Meta-World: rewards, starts, goals and cameras."""

import numpy as np
import pytest

import envs
from envs.distance import goal_distance
from tests.envs.rollouts import first_observations, make_config, rollout


def test_the_first_picture_shows_the_new_episode_not_the_last_one(in_worker):
    """Meta-World moves the window after its last forward pass, so that a stale picture would be easy to get."""
    ended = in_worker(rollout, make_config("metaworld_window-close"), 5, np.zeros((1, 4)), starts=1)
    assert np.abs(ended["image"][0].astype(int) - ended["image"][1]).max(axis=2).mean() < 3.0
    np.testing.assert_allclose(ended["state"][0][4:7], ended["state"][1][4:7], atol=0.01)


def scripted_episode(config, seed: int) -> dict[str, np.ndarray]:
    """One episode of Meta-World's own policy for the task, which reads the state."""
    from metaworld.policies import ENV_POLICY_MAP

    env = envs.make_env(config, seed)
    policy = ENV_POLICY_MAP[config.task.removeprefix("metaworld_") + "-v3"]()
    obs, _ = env.reset()
    reward, success, ended = [], [], False
    while not ended:
        obs, r, terminated, truncated, info = env.step(policy.get_action(obs["state"].astype(np.float64)))
        ended = terminated or truncated
        reward.append(r)
        success.append(info["success"])
    env.close()
    return {"reward": np.array(reward), "success": np.array(success), "terminated": terminated}


def test_sparse_reward_is_success_and_a_scripted_policy_earns_it(in_worker):
    sparse = in_worker(scripted_episode, make_config("metaworld_reach"), 1)
    np.testing.assert_array_equal(sparse["reward"], sparse["success"])
    assert len(sparse["reward"]) == 150 and not sparse["terminated"]
    assert sparse["reward"][0] == 0 and 0 < sparse["reward"].sum() < 150
    dense = in_worker(scripted_episode, make_config("metaworld_reach", reward="dense"), 1)
    np.testing.assert_array_equal(dense["success"], sparse["success"])
    # Meta-World's reward lies in [0, 10] and is 10 at the goal.
    assert dense["reward"][0] < dense["reward"][-1] and 9.0 < dense["reward"].max() <= 10.0


@pytest.mark.parametrize("task", ["metaworld_push", "metaworld_button-press", "metaworld_thermos"])
def test_metaworld_randomizes_hand_and_object_but_not_the_goal(task, in_worker):
    drawn = in_worker(rollout, make_config(task), 0, np.zeros((0, 4)), starts=6)["state"]
    hand, thing, goal = drawn[:, :3], drawn[:, 4:7], drawn[:, -3:]
    assert np.ptp(hand, axis=0).max() > 0.05 and np.ptp(hand, axis=0).max() < 0.25
    assert np.ptp(thing, axis=0).max() > 0.01
    if task != "metaworld_button-press":  # whose goal is on the button
        assert np.ptp(goal, axis=0).max() < 1e-4
    config = make_config(task, randomize=False)
    fixed = [in_worker(rollout, config, seed, np.zeros((0, 4)), starts=2)["state"] for seed in (0, 1)]
    np.testing.assert_allclose(fixed, np.broadcast_to(fixed[0][0], (2, *fixed[0].shape)), atol=1e-6)


@pytest.mark.parametrize(
    ("task", "hand_low", "hand_high", "thing_low", "thing_high"),
    [  # the object is the button, the handle of window (open by 0 to 0.2) and drawer (0 to 0.15), puck, hammer or stick
        ("reach", (-0.5, 0.4, 0.05), (0.5, 1.0, 0.5), (0.0, 0.6, 0.02), (0.0, 0.6, 0.02)),
        ("button-press", (-0.5, 0.4, 0.05), (0.5, 1.0, 0.5), (0.0, 0.71, 0.12), (0.0, 0.71, 0.12)),
        ("window-close", (-0.05, 0.4, 0.06), (0.45, 0.685, 0.36), (0.11, 0.69, 0.16), (0.31, 0.69, 0.16)),
        ("drawer-close", (-0.15, 0.44, 0.15), (0.15, 0.89, 0.45), (0.0, 0.59, 0.14), (0.0, 0.74, 0.14)),
        ("push", (-0.2, 0.6, 0.05), (0.4, 0.9, 0.05), (-0.2, 0.6, 0.02), (0.4, 0.9, 0.02)),
        ("hammer", (-0.1, 0.4, 0.2), (0.3, 0.6, 0.2), (-0.1, 0.3, 0.0), (0.3, 0.7, 0.0)),
        ("thermos", (0.0, 0.6, 0.2), (0.0, 0.6, 0.2), (-0.1, 0.6, 0.02), (-0.1, 0.6, 0.02)),
    ],
)
def test_metaworld_starts_are_the_papers(task, hand_low, hand_high, thing_low, thing_high, in_worker):
    drawn = in_worker(rollout, make_config(f"metaworld_{task}", starts="paper"), 0, np.zeros((0, 4)), starts=20)
    for found, low, high in (
        (drawn["state"][:, :3], hand_low, hand_high),
        (drawn["state"][:, 4:7], thing_low, thing_high),
    ):
        low, high = np.array(low), np.array(high)
        # The arm gets to the corners of its workspace only roughly.
        assert (found > low - 0.05).all() and (found < high + 0.05).all()
        wide = high - low > 0.06
        assert (np.ptp(found, axis=0)[wide] > 0.6 * (high - low)[wide]).all()
    assert np.ptp(drawn["state"][:, -3:], axis=0).max() < 2e-3, "one goal"


def test_distances_are_those_of_the_simulator(in_worker):
    found, expected = in_worker(metaworld_distances, "metaworld_push")
    assert found == pytest.approx(expected, abs=1e-6) and found > 0.05


def metaworld_distances(task: str) -> tuple[float, float]:
    env = envs.make_env(make_config(task), 0)
    state = env.reset()[0]["state"]
    simulator = env.unwrapped.simulator
    hand, thing, goal = simulator.get_endeff_pos(), simulator._get_pos_objects(), simulator._target_pos
    env.close()
    return goal_distance(task, state), np.linalg.norm(thing - hand) + np.linalg.norm(goal - thing)


def lengthy_episode(limit: int) -> list[bool]:
    """Whether each step of a Meta-World episode truncates, without pictures."""
    from envs.metaworld import make

    env = make("reach", make_config("metaworld_reach", time_limit=limit), 0)
    env.reset(seed=0)
    return [env.step(np.zeros(4, np.float32))[3] for _ in range(limit)]


def test_metaworld_episodes_may_be_longer_than_meta_world_s_own(in_worker):
    assert in_worker(lengthy_episode, 520) == [False] * 519 + [True]


def test_latco_cameras_hang_the_right_way_up(in_worker):
    picture = in_worker(first_observations, ["metaworld_reach"])["metaworld_reach"][0]["image"].astype(int)
    wall, table = picture[:6, :20].mean((0, 1)), picture[-6:, 20:40].mean((0, 1))
    assert np.ptp(wall) < 15, "grey background above"
    assert table[0] - table[2] > 20, "brown table below"
