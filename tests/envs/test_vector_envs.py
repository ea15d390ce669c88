"""Batches of environments, and several tasks for one agent."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import envs
from tests.envs.rollouts import make_config, rollout
from tools.errors import UserError

ROOT = Path(__file__).parents[2]


def test_a_masked_reset_starts_new_episodes_only_where_it_says():
    batch = envs.make_vector_env(make_config("pointmass_obstacle", time_limit=4), 2, seed=0)
    try:
        first, info = batch.reset()
        assert first["image"].shape == (2, 64, 64, 3) and first["image"].dtype == np.uint8
        assert info["success"].tolist() == [0.0, 0.0]
        before, *_ = batch.step(np.ones((2, 2), np.float32))
        mask = np.array([False, True])
        after, _ = batch.reset(options={"reset_mask": mask})
        np.testing.assert_array_equal(after["state"][0], before["state"][0])
        np.testing.assert_array_equal(after["image"][0], before["image"][0])
        assert np.abs(after["state"][1, :2] - [-0.6, -0.4]).max() <= 0.1 and (after["state"][1, 2:] == 0).all()
        assert (after["state"][1] != first["state"][1]).any()
        ends = [batch.step(np.zeros((2, 2), np.float32))[3].tolist() for _ in range(3)]
        # Autoreset is off: environment 0 has made its four steps, environment 1 one fewer.
        assert ends == [[False, False], [False, False], [True, False]]
    finally:
        batch.close()


def test_batches_of_one_seed_are_identical_and_their_environments_differ(in_worker):
    config = make_config("pointmass_obstacle")
    results = []
    for num_envs in (2, 1):
        batch = envs.make_vector_env(config, num_envs, seed=5)
        obs, _ = batch.reset()
        obs, reward, *_ = batch.step(np.ones((num_envs, 2), np.float32))
        results.append((obs, reward))
        batch.close()
    (two, _), (one, _) = results
    single = in_worker(rollout, config, envs.stream_seed(5, 0), np.ones((1, 4)))
    for key in ("image", "state"):
        np.testing.assert_array_equal(two[key][0], one[key][0])
        np.testing.assert_array_equal(two[key][0], single[key][1])
        assert (two[key][0] != two[key][1]).any()


def test_a_refusal_in_another_process_reaches_the_user():
    with pytest.raises(UserError, match="metaworld_reach"):
        envs.make_vector_env(make_config("metaworld_reech"), 2, 0)


def test_the_time_to_answer_is_a_setting():
    """Of the process that tries a task out, and of those that play: 0.001 s is too short for any."""
    with pytest.raises(UserError, match=r"tries out an environment did not answer in time \(step_timeout\), twice"):
        envs.spaces(make_config("pointmass_lottery", step_timeout=0.001))
    batch = envs.make_vector_env(make_config("pointmass_obstacle", step_timeout=77), 1, seed=0)
    batch.close()
    assert batch.timeout == 77


def test_more_processes_than_fit_into_the_memory_are_refused_before_one_starts():
    with pytest.raises(UserError, match="the processes of 100000000 environments need 3,125,000 GiB of memory"):
        envs.make_vector_env(make_config("pointmass_obstacle"), 100_000_000, seed=0)


def test_the_cost_passes_through_the_workers():
    batch = envs.make_vector_env(make_config("pointmass_obstacle"), 2, seed=0)
    try:
        infos = [batch.reset()[1]]
        for _ in range(3):
            # Environment 0 drives into the disc, environment 1 stays at its start.
            obs, _, _, _, info = batch.step(np.array([[1.0, 0.2], [0.0, 0.0]], np.float32))
            infos.append(info)
        costs = np.array([info["cost"] for info in infos])
        assert costs.shape == (4, 2) and (costs[0] == 0).all() and (costs[:, 1] == 0).all()
        depth = 1.0 - np.linalg.norm(obs["state"][0, :2] - [-0.25, -0.35]) / 0.2
        assert depth > 0.2 and costs[-1, 0] == pytest.approx(depth, abs=1e-5)
        masked = batch.reset(options={"reset_mask": np.array([True, False])})[1]
        assert masked["cost"].tolist() == [0.0, 0.0]
    finally:
        batch.close()


def test_agent_and_simulator_do_not_meet_in_one_process(tmp_path):
    """Neither does the agent's process import a simulator, nor a worker the agent's script, and TensorFlow with it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, types
        import envs
        sys.modules["tensorflow"] = types.ModuleType("tensorflow")
        config = types.SimpleNamespace(task="dmc_cartpole_balance", action_repeat=8, time_limit=0, camera="",
                                       render_quality="fast", reward="sparse", randomize=True, starts="near",
                                       step_timeout=300)
        batch = envs.make_vector_env(config, 1, 0)
        print(batch.reset()[0]["image"].shape, [name for name in ("mujoco", "dm_control") if name in sys.modules])
        batch.close()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert result.stdout == "(1, 64, 64, 3) []\n" and result.returncode == 0, result.stderr


SEVERAL = "gym_InvertedPendulum-v5,pointmass_obstacle,dmc_cartpole_swingup"


def test_several_tasks_share_pictures_and_the_largest_action():
    observation_space, action_space = envs.spaces(make_config(SEVERAL))
    assert observation_space == gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    assert action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert envs.split_tasks(SEVERAL) == ["gym_InvertedPendulum-v5", "pointmass_obstacle", "dmc_cartpole_swingup"]
    assert envs.split_tasks("dmc_reacher_easy") == ["dmc_reacher_easy"]


def shared_rollout(task: str, actions: np.ndarray) -> dict[str, list]:
    """What a task with shared spaces makes of the actions, [T, action_size], and what it makes of its own alone."""
    results = {}
    size = actions.shape[1]
    for name in ("shared", "alone"):
        config = make_config(task, time_limit=4)
        env = envs.make_shared_env(config, 3, size) if name == "shared" else envs.make_env(config, 3)
        steps = [env.reset()[0]]
        rewards = []
        for action in actions:
            obs, reward, *_ = env.step(action if name == "shared" else action[: env.action_space.shape[0]])
            steps.append(obs)
            rewards.append(reward)
        results[name] = [sorted(steps[0]), env.action_space.shape, np.stack([o["image"] for o in steps]), rewards]
        if name == "shared":
            from gymnasium.utils.env_checker import check_env

            check_env(env, skip_render_check=True, skip_close_check=True)
        env.close()
    return results


@pytest.mark.parametrize(("task", "size"), [("gym_InvertedPendulum-v5", 1), ("pointmass_obstacle", 2)])
def test_a_task_ignores_the_entries_of_an_action_that_it_has_not(task, size, in_worker):
    actions = np.random.default_rng(2).uniform(-1, 1, (3, 4)).astype(np.float32)
    results = in_worker(shared_rollout, task, actions)
    keys, shape, images, rewards = results["shared"]
    assert keys == ["image"] and shape == (4,)
    assert results["alone"][:2] == [["image", "state"], (size,)]
    np.testing.assert_array_equal(images, results["alone"][2])
    assert rewards == results["alone"][3] and (images[0] != images[-1]).any()


def test_batches_of_several_tasks_are_of_one_of_them_and_the_first_by_default():
    config = make_config(SEVERAL, time_limit=3)
    pictures = {}
    for task in (None, "gym_InvertedPendulum-v5", "pointmass_obstacle"):
        batch = envs.make_vector_env(config, 1, 5, task)
        pictures[task] = batch.reset()[0]["image"]
        assert batch.single_action_space.shape == (2,)
        obs, _, _, _, info = batch.step(np.ones((1, 2), np.float32))
        assert set(obs) == {"image"} and ("cost" in info) == (task == "pointmass_obstacle")
        batch.close()
    single = envs.make_vector_env(make_config("pointmass_obstacle", time_limit=3), 1, 5)
    np.testing.assert_array_equal(pictures["pointmass_obstacle"], single.reset()[0]["image"])
    single.close()
    np.testing.assert_array_equal(pictures[None], pictures["gym_InvertedPendulum-v5"])
    assert (pictures[None] != pictures["pointmass_obstacle"]).any()


def test_several_tasks_report_a_cost_if_each_of_them_does():
    assert envs.reports_cost(make_config("pointmass_obstacle"))
    assert not envs.reports_cost(make_config("pointmass_obstacle,pointmass_lottery"))


def test_an_unknown_task_among_several_is_refused():
    with pytest.raises(UserError, match="dmc_reacher_esay.*dmc_reacher_easy"):
        envs.spaces(make_config("pointmass_obstacle,dmc_reacher_esay"))
