"""Tasks and their environments, which are made in another process: other tests bring TensorFlow into this one."""

import subprocess
import sys
import types
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from suites import task_names

import envs
from tests.envs.rollouts import first_observations, make_config, rollout
from tools.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    "metaworld_reach",
    "dmc_reacher_easy",
    "pointmass_obstacle",
    "pointmass_lottery",
    "gym_InvertedPendulum-v5",
]


def check_contract(task: str) -> tuple[gym.Space, gym.Space]:
    from gymnasium.utils.env_checker import check_env

    env = envs.make_env(make_config(task), 0)
    check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()
    return env.observation_space, env.action_space


@pytest.mark.parametrize("task", EXAMPLES)
def test_environments_keep_gymnasium_s_contract(task, in_worker):
    observation_space, action_space = in_worker(check_contract, task)
    assert observation_space["image"] == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert observation_space["state"].dtype == np.float32 and observation_space["state"].shape[0] > 0
    assert action_space == gym.spaces.Box(-1.0, 1.0, action_space.shape, np.float32)
    if task == "pointmass_obstacle":  # asked in a process of its own
        assert envs.spaces(make_config(task)) == (observation_space, action_space)


@pytest.mark.parametrize("task", EXAMPLES)
def test_one_seed_one_course_of_events(task, in_worker):
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
    # Two resets before and others in between: the random stream goes on from episode to episode.
    config = make_config(task, time_limit=3, action_repeat=1)
    first, second = (in_worker(rollout, config, 7, actions, starts=2) for _ in range(2))
    other = in_worker(rollout, config, 8, actions, starts=2)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    assert (first["image"][0] != other["image"][0]).any() and (first["state"][0] != other["state"][0]).any()
    assert (first["state"][0] != first["state"][1]).any()


def test_reset_with_a_seed_restarts_the_stream(in_worker):
    states = in_worker(states_of_resets, "metaworld_push", [None, 3, None, 3, None])
    np.testing.assert_array_equal(states[1], states[3])
    np.testing.assert_array_equal(states[2], states[4])
    assert (states[1] != states[2]).any() and (states[0] != states[1]).any()


def states_of_resets(task: str, seeds: list[int | None]) -> list[np.ndarray]:
    env = envs.make_env(make_config(task), 0)
    states = [env.reset(seed=seed)[0]["state"] for seed in seeds]
    env.close()
    return states


def test_neighbouring_seeds_share_no_stream():
    seeds = [envs.stream_seed(seed, index) for seed in range(20) for index in range(20)]
    assert len(set(seeds)) == 400


def test_environments_beside_tensorflow_are_an_error_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    with pytest.raises(RuntimeError, match=r"make_vector_env"):
        envs.make_env(make_config("pointmass_obstacle"), 0)


def test_importing_envs_is_light():
    program = "import sys, envs; print([name for name in ('tensorflow', 'mujoco', 'gymnasium') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_suites_list_all_their_tasks(in_worker):
    metaworld, dmc, pointmass, gym_tasks = (
        in_worker(task_names, suite) for suite in ("metaworld", "dmc", "pointmass", "gym")
    )
    assert len(metaworld) == 50 and "metaworld_stick-push" in metaworld
    assert "dmc_ball_in_cup_catch" in dmc and len(dmc) >= 28
    assert pointmass == ["pointmass_obstacle", "pointmass_lottery"]
    assert "gym_HalfCheetah-v5" in gym_tasks


@pytest.mark.parametrize(
    ("task", "repeat"),
    [
        ("dmc_cartpole_swingup_sparse", 8),
        ("dmc_ball_in_cup_catch", 4),
        ("dmc_walker_run", 2),
        ("dmc_reacher_easy", 4),
        ("dmc_humanoid_CMU_run", 2),
        ("metaworld_hammer", 2),
        ("metaworld_thermos", 2),
        ("metaworld_reach", 1),
        ("pointmass_obstacle", 1),
        ("gym_Hopper-v5", 1),
    ],
)
def test_action_repeats_are_the_papers_unless_set(task, repeat):
    assert envs.action_repeat(make_config(task)) == repeat
    assert envs.action_repeat(make_config(task, action_repeat=3)) == 3


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (make_config("metaworld_reech"), "metaworld_reach"),
        (make_config("dmc_cheetah_rum"), "dmc_cheetah_run"),
        (make_config("pointmass_obstcle"), "pointmass_obstacle"),
        (make_config("gym_HalfCheeta-v5"), "gym_HalfCheetah"),
        (make_config("gym_no_such_module:Thing-v0"), "unknown task"),
        (make_config("atari_pong"), "dmc, metaworld, pointmass, gym"),
        (make_config("reach"), "<suite>_<name>"),
        (make_config("gym_CartPole-v1"), "Discrete"),
        (make_config("gym_HalfCheetah-v5", camera="track"), "no cameras"),
        (make_config("metaworld_reach", camera="corner9"), "corner2"),
        (make_config("dmc_quadruped_walk", camera="Egocentric"), "egocentric"),
    ],
)
def test_bad_tasks_and_cameras_are_refused_in_one_sentence(config, sentence, in_worker):
    with pytest.raises(UserError, match=sentence):
        in_worker(envs.make_env, config, 0)


@pytest.mark.parametrize(
    ("task", "expected"),
    [("pointmass_obstacle", True), ("pointmass_lottery", False), ("gym_InvertedPendulum-v5", False)],
)
def test_whether_a_task_reports_a_cost_is_known_without_its_environment(task, expected):
    assert envs.reports_cost(make_config(task)) is expected


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["metaworld", "dmc"])
def test_every_task_of_a_suite_runs(suite, in_worker):
    tasks = in_worker(task_names, suite)
    for task in tasks:
        obs, space, reward = in_worker(first_observations, [task])[task]
        assert space.contains(obs) and np.isfinite(reward), task
        assert obs["image"].std() > 3, f"{task} shows next to nothing"
