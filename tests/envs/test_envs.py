"""Environments. They are made in another process, because other tests bring TensorFlow into this one."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from suites import task_names

import envs
from envs.contact_sheet import MARGIN, SCALE, TITLE_HEIGHT, contact_sheet
from envs.distance import goal_distance
from envs.wrappers import ActionRepeat, PixelEnv
from tools.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    "metaworld_reach",
    "dmc_reacher_easy",
    "pointmass_obstacle",
    "pointmass_lottery",
    "gym_InvertedPendulum-v5",
]


def make_config(task: str, **changes) -> types.SimpleNamespace:
    settings = {
        "task": task,
        "action_repeat": 0,
        "time_limit": 0,
        "render_quality": "fast",
        "camera": "",
        "reward": "sparse",
        "randomize": True,
        "starts": "near",
    }
    return types.SimpleNamespace(**{**settings, **changes})


@pytest.fixture(scope="module")
def in_worker() -> Iterator[Callable]:
    """Calls a function of this file in a process without TensorFlow."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(timeout=300)


# What runs in the worker ----------------------------------------------------------------------------------------------


def rollout(config, seed: int, actions: np.ndarray, starts: int = 1) -> dict[str, np.ndarray]:
    """Plays the first A columns of actions [T, >= A], after `starts` resets in a row and with one after each end."""
    env = envs.make_env(config, seed)
    actions = actions[:, : env.action_space.shape[0]]
    rows = []
    for _ in range(starts):
        obs, info = env.reset()
        rows.append((obs, 0.0, False, False, info))
    for action in actions:
        rows.append(env.step(action))
        if rows[-1][2] or rows[-1][3]:
            obs, info = env.reset()
            rows.append((obs, 0.0, False, False, info))
    env.close()
    obs, reward, terminated, truncated, info = zip(*rows, strict=True)
    return {
        "image": np.stack([o["image"] for o in obs]),
        "state": np.stack([o["state"] for o in obs]),
        "reward": np.array(reward),
        "terminated": np.array(terminated),
        "truncated": np.array(truncated),
        "success": np.array([i.get("success", np.nan) for i in info]),
    }


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


def check_contract(task: str) -> None:
    from gymnasium.utils.env_checker import check_env

    env = envs.make_env(make_config(task), 0)
    check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()


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


def first_observations(tasks: list[str]) -> dict[str, tuple[dict, gym.Space, float]]:
    """First observation, its space, and the reward of one random action, of each task."""
    results = {}
    for task in tasks:
        env = envs.make_env(make_config(task), 0)
        obs, _ = env.reset()
        reward = env.step(env.action_space.sample())[1]
        results[task] = (obs, env.observation_space, reward)
        env.close()
    return results


def lengthy_episode(limit: int) -> list[bool]:
    """Whether each step of a Meta-World episode truncates, without pictures."""
    from envs.metaworld import make

    env = make("reach", make_config("metaworld_reach", time_limit=limit), 0)
    env.reset(seed=0)
    return [env.step(np.zeros(4, np.float32))[3] for _ in range(limit)]


def dm_control_pictures(domain: str, task: str, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """The same state drawn by us in full quality and by dm_control itself."""
    env = envs.make_env(make_config(f"dmc_{domain}_{task}", render_quality="full"), 3)
    ours = env.reset()[0]["image"]
    theirs = env.unwrapped.physics.render(64, 64, camera_id=camera)
    env.close()
    return ours, theirs


class CameraRoll(gym.Env):
    """Observes a picture and no state; the left half of the picture is white. Reports a cost at steps only."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = gym.spaces.Box(np.array([0.0, 10.0], np.float32), np.array([1.0, 30.0], np.float32))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((96, 96, 3), np.uint8), {}

    def step(self, action):
        self.actions.append(action)
        return np.zeros((96, 96, 3), np.uint8), 1.0, False, False, {"cost": len(self.actions), "noise": 1}

    def render(self):
        picture = np.zeros((128, 192, 3), np.uint8)
        picture[:, :96] = 255
        return picture


def play_camera_roll() -> tuple[dict, list[np.ndarray], gym.Space, list[dict], bool]:
    """First observation, actions, space, every info, and whether the task is said to report a cost."""
    gym.register("CameraRoll-v0", CameraRoll)
    config = make_config("gym_CameraRoll-v0", time_limit=3)
    env = envs.make_env(config, 0)
    obs, info = env.reset()
    infos = [info]
    for action in ([-1.0, -1.0], [0.0, 0.0], [5.0, 1.0]):
        *_, truncated, info = env.step(np.array(action))
        infos.append(info)
    assert truncated
    # What envs.reports_cost asks, in this process, where the environment is registered.
    return obs, env.unwrapped.actions, env.observation_space, infos, envs._play_for_cost(config)


# The contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", EXAMPLES)
def test_environments_keep_gymnasium_s_contract(task, in_worker):
    in_worker(check_contract, task)
    observation_space, action_space = envs.spaces(make_config(task))
    assert observation_space["image"] == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert observation_space["state"].dtype == np.float32 and observation_space["state"].shape[0] > 0
    assert action_space == gym.spaces.Box(-1.0, 1.0, action_space.shape, np.float32)


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


def test_the_first_picture_shows_the_new_episode_not_the_last_one(in_worker):
    """Meta-World moves the window after its last forward pass, so that a stale picture would be easy to get."""
    ended = in_worker(rollout, make_config("metaworld_window-close"), 5, np.zeros((1, 4)), starts=1)
    assert np.abs(ended["image"][0].astype(int) - ended["image"][1]).max(axis=2).mean() < 3.0
    np.testing.assert_allclose(ended["state"][0][4:7], ended["state"][1][4:7], atol=0.01)


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


def test_environments_beside_tensorflow_are_an_error_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    with pytest.raises(RuntimeError, match=r"make_vector_env"):
        envs.make_env(make_config("pointmass_obstacle"), 0)


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


def test_terminal_states_terminate(in_worker):
    falling = in_worker(rollout, make_config("gym_InvertedPendulum-v5"), 0, np.ones((40, 1)))
    end = int(np.argmax(falling["terminated"]))
    assert 0 < end < 40 and not falling["truncated"][end] and np.isnan(falling["success"]).all()


@pytest.mark.parametrize(
    ("task", "decisions"),
    [("dmc_cartpole_balance", 125), ("metaworld_hammer", 75), ("pointmass_lottery", 30)],
)
def test_a_suite_s_own_time_limit_truncates(task, decisions, in_worker):
    """DM Control's 1000, Meta-World's 150, the point mass's 30 environment steps over the papers' action repeats."""
    course = in_worker(rollout, make_config(task), 0, np.zeros((decisions, 4)))
    assert np.flatnonzero(course["truncated"]).tolist() == [decisions]
    assert not course["terminated"].any()


def test_a_task_of_dm_control_without_a_time_limit_ends(in_worker):
    course = in_worker(rollout, make_config("dmc_lqr_lqr_2_1", action_repeat=500), 0, np.zeros((2, 4)))
    assert np.flatnonzero(course["truncated"]).tolist() == [2]


# Batches --------------------------------------------------------------------------------------------------------------


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
    config = make_config("dmc_reacher_easy")
    results = []
    for num_envs in (2, 1):
        batch = envs.make_vector_env(config, num_envs, seed=5)
        obs, _ = batch.reset()
        obs, reward, *_ = batch.step(np.ones((num_envs, 2), np.float32))
        results.append((obs, reward))
        batch.close()
    (two, _), (one, _) = results
    alone = in_worker(rollout, config, envs.stream_seed(5, 0), np.ones((1, 4)))
    for key in ("image", "state"):
        np.testing.assert_array_equal(two[key][0], one[key][0])
        np.testing.assert_array_equal(two[key][0], alone[key][1])
        assert (two[key][0] != two[key][1]).any()


def test_neighbouring_seeds_share_no_stream():
    seeds = [envs.stream_seed(seed, index) for seed in range(20) for index in range(20)]
    assert len(set(seeds)) == 400


def test_agent_and_simulator_do_not_meet_in_one_process(tmp_path):
    """Neither does the agent's process import a simulator, nor a worker the agent's script, and TensorFlow with it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, types
        import envs
        sys.modules["tensorflow"] = types.ModuleType("tensorflow")
        config = types.SimpleNamespace(task="dmc_cartpole_balance", action_repeat=8, time_limit=0, camera="",
                                       render_quality="fast", reward="sparse", randomize=True, starts="near")
        batch = envs.make_vector_env(config, 1, 0)
        print(batch.reset()[0]["image"].shape, [name for name in ("mujoco", "dm_control") if name in sys.modules])
        batch.close()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert result.stdout == "(1, 64, 64, 3) []\n" and result.returncode == 0, result.stderr


# Several tasks --------------------------------------------------------------------------------------------------------

SEVERAL = "gym_InvertedPendulum-v5,pointmass_obstacle,dmc_cartpole_swingup"


def test_several_tasks_share_pictures_and_the_largest_action():
    observation_space, action_space = envs.spaces(make_config(SEVERAL))
    assert observation_space == gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    assert action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert envs.split_tasks(SEVERAL) == ["gym_InvertedPendulum-v5", "pointmass_obstacle", "dmc_cartpole_swingup"]
    assert envs.split_tasks("dmc_reacher_easy") == ["dmc_reacher_easy"]


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
        batch = envs.make_vector_env(config, 2, 5, task)
        pictures[task] = batch.reset()[0]["image"]
        assert batch.single_action_space.shape == (2,)
        obs, _, _, _, info = batch.step(np.ones((2, 2), np.float32))
        assert set(obs) == {"image"} and ("cost" in info) == (task == "pointmass_obstacle")
        batch.close()
    alone = envs.make_vector_env(make_config("pointmass_obstacle", time_limit=3), 2, 5)
    np.testing.assert_array_equal(pictures["pointmass_obstacle"], alone.reset()[0]["image"])
    alone.close()
    np.testing.assert_array_equal(pictures[None], pictures["gym_InvertedPendulum-v5"])
    assert (pictures[None] != pictures["pointmass_obstacle"]).any()


def test_several_tasks_report_a_cost_if_each_of_them_does():
    assert envs.reports_cost(make_config("pointmass_obstacle"))
    assert not envs.reports_cost(make_config("pointmass_obstacle,pointmass_lottery"))


def test_an_unknown_task_among_several_is_refused():
    with pytest.raises(UserError, match="dmc_reacher_esay.*dmc_reacher_easy"):
        envs.spaces(make_config("pointmass_obstacle,dmc_reacher_esay"))


# Suites ---------------------------------------------------------------------------------------------------------------


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


def test_a_refusal_in_another_process_reaches_the_user():
    with pytest.raises(UserError, match="metaworld_reach"):
        envs.make_vector_env(make_config("metaworld_reech"), 2, 0)


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
    drawn = in_worker(rollout, make_config(f"metaworld_{task}", starts="paper"), 0, np.zeros((0, 4)), starts=30)
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


def test_metaworld_episodes_may_be_longer_than_meta_world_s_own(in_worker):
    assert in_worker(lengthy_episode, 520) == [False] * 519 + [True]


def test_latco_cameras_hang_the_right_way_up(in_worker):
    picture = in_worker(first_observations, ["metaworld_reach"])["metaworld_reach"][0]["image"].astype(int)
    wall, table = picture[:6, :20].mean((0, 1)), picture[-6:, 20:40].mean((0, 1))
    assert np.ptp(wall) < 15, "grey background above"
    assert table[0] - table[2] > 20, "brown table below"


@pytest.mark.parametrize(("domain", "task", "camera"), [("walker", "walk", 0), ("quadruped", "escape", 2)])
def test_full_quality_is_the_suite_s_own_picture(domain, task, camera, in_worker):
    ours, theirs = in_worker(dm_control_pictures, domain, task, camera)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 5


def test_fast_quality_shows_the_same_scene(in_worker):
    fast, full = (
        in_worker(rollout, make_config("dmc_cheetah_run", render_quality=quality), 0, np.zeros((0, 6)))["image"][0]
        for quality in ("fast", "full")
    )
    difference = np.abs(fast.astype(int) - full)
    assert difference.max() > 0 and difference.mean() < 12


def test_gym_environments_are_rescaled_and_shrunk(in_worker):
    obs, actions, space, *_ = in_worker(play_camera_roll)
    assert list(space) == ["image"], "a picture is no state"
    np.testing.assert_allclose(actions, [[0, 10], [0.5, 20], [1, 30]])
    # 192 columns become 64, of which 32 are white; each is an average of three.
    assert (obs["image"][:, :32] == 255).all() and (obs["image"][:, 32:] == 0).all()


def test_gym_environments_that_report_a_cost_at_steps_only_pass_it_on(in_worker):
    *_, infos, reported = in_worker(play_camera_roll)
    assert infos == [{}, {"cost": 1.0}, {"cost": 2.0}, {"cost": 3.0}] and reported
    assert all(type(info["cost"]) is float for info in infos[1:])


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


# The point mass -------------------------------------------------------------------------------------------------------


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


# Programs -------------------------------------------------------------------------------------------------------------


def run_rendering_check(**environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "envs.rendering"]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_the_rendering_check_names_a_back_end_that_works():
    result = run_rendering_check()
    assert result.returncode == 0 and result.stdout.strip() in ("egl", "osmesa", os.environ["MUJOCO_GL"])
    assert run_rendering_check(MUJOCO_GL="nonsense").stdout.strip() in ("egl", "osmesa"), "it falls back"


def test_the_rendering_check_names_the_packages_where_nothing_works(monkeypatch, capsys):
    from envs import rendering

    monkeypatch.setattr(rendering, "works", lambda backend: False)
    assert rendering.main() == 2
    message = capsys.readouterr().err
    assert all(package in message for package in ("libegl1", "libgl1-mesa-dri", "libosmesa6"))


def test_a_missing_opengl_library_is_one_sentence():
    program = (
        "import types, envs; from tools.errors import UserError\n"
        "try: envs.make_env(types.SimpleNamespace(task='pointmass_obstacle'), 0)\n"
        "except UserError as error: print(error)"
    )
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "libegl1" in result.stdout, result.stderr


def test_the_contact_sheet_puts_each_picture_below_its_title():
    pictures = {str(index): np.full((64, 64, 3), 30 * index, np.uint8) for index in range(8)}
    sheet = np.asarray(contact_sheet(pictures))
    width, height = 64 * SCALE + MARGIN, 64 * SCALE + MARGIN + TITLE_HEIGHT
    assert sheet.shape == (2 * height + MARGIN, 6 * width + MARGIN, 3)
    row, column = height + MARGIN + TITLE_HEIGHT, width + MARGIN  # of the eighth: second row, second column
    assert (sheet[row : row + 64 * SCALE, column : column + 64 * SCALE] == 210).all()
    assert (sheet[row - TITLE_HEIGHT : row, column : column + 20] < 100).any(), "a title"
