"""Episodes of evaluations: their starts, the policy that plays them, and what is kept of them."""

import types
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import envs
from envs.distance import goal_distance
from episodes.replay import Replay
from evaluation.episodes import EvaluationPolicy, episode_seeds, run_episodes
from tests.training.fakes import FakeAgent, replace_simulators
from tools.config import load_config
from training.driver import Driver, play


def random_episodes(num_envs, seeds):
    """Episodes of uniform actions, in the order of their seeds."""
    config = load_config(["--configs", "defaults", "pointmass", "debug"]).replace(time_limit=2 + num_envs)
    driver, rng = Driver(envs.make_vector_env(config, num_envs, num_envs)), np.random.default_rng(num_envs)
    policy = lambda obs, is_first, state: (rng.uniform(-1, 1, [len(is_first), 2]), state, {})
    try:
        driver.restart(seeds)
        return sorted(islice(play(driver, policy), len(seeds)), key=lambda episode: episode.number)
    finally:
        driver.close()


def test_starts_depend_on_the_seed_alone():
    seeds = episode_seeds(3, 4)
    assert len(set(seeds)) == 4 and episode_seeds(3, 2) == seeds[:2] != episode_seeds(4, 2)
    one, two = random_episodes(1, seeds), random_episodes(2, seeds)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.data["state"][0], b.data["state"][0])
        np.testing.assert_array_equal(a.data["image"][0], b.data["image"][0])
        assert a.length != b.length and (a.data["state"][1] != b.data["state"][1]).any()
        # The obstacle task pays the negative distance of the state that a step leads to.
        assert goal_distance("pointmass_obstacle", a.data["state"][1]) == pytest.approx(-a.data["reward"][1], abs=1e-5)
    assert len({tuple(episode.data["state"][0]) for episode in one}) == 4


def test_environments_that_wait_ask_for_no_plans():
    class Agent:
        def policy(self, obs, is_first, state, explore, idle):
            assert explore is False
            planned = (state >= 2) & ~idle
            extras = {"planned": planned, "metrics": {"speed/plan_seconds": np.array([0.25, 9.0, 0.25])}}
            return np.zeros([3, 2]), state, extras

    driver = types.SimpleNamespace(waiting=np.array([False, True, False]))
    policy = EvaluationPolicy(Agent(), driver, keep_plans=False)
    assert policy({}, np.zeros(3, bool), np.array([2, 2, 2]))[2]["planned"].tolist() == [True, False, True]
    policy({}, np.zeros(3, bool), np.array([1, 2, 1]))
    assert policy.plan_seconds == [0.25]


class Planner(FakeAgent):
    """Plans at every decision to go to where it is, in a third of a second for each call but the first."""

    def policy(self, obs, is_first, state, *, explore, idle):
        time = obs["image"][:, 0, 0, :1].astype(np.float32)
        seconds = np.full(len(time), np.nan if state is None else 1 / 3)
        extras = {"planned": ~idle, "metrics": {"speed/plan_seconds": seconds}}
        latent = {"stoch": tf.constant(time), "deter": tf.zeros([len(time), 0])}
        return np.zeros([len(time), 2]), types.SimpleNamespace(latent=latent), extras

    def planned_states(self, state):
        return np.repeat(state.latent["stoch"].numpy()[:, None], 3, 1)


def test_an_episode_from_each_seed_keeps_what_will_be_seen(monkeypatch, tiny_config):
    batches = replace_simulators(monkeypatch, lambda task, index: 4 + 3 * index)
    agent = Planner(tiny_config)
    agent.rng.normal([])
    episodes, seconds = run_episodes(
        agent, "pointmass_obstacle", [7, 8, 9, 10], 2, with_pictures=[0, 2], with_plans=[1]
    )
    assert [episode.number for episode in episodes] == [0, 1, 2, 3]
    assert [episode.env for episode in episodes] == [0, 1, 0, 1] and seconds == pytest.approx(1 / 3)
    assert ["image" in episode.data for episode in episodes] == [True, True, True, False]
    assert ["plan_states" in episode.extras for episode in episodes] == [False, True, False, False]
    plans = episodes[1].extras
    assert plans["plan_states"][:, :, 0].tolist() == [[t] * 3 for t in range(7)]
    assert plans["plan_start"][:, 0].tolist() == list(range(7))
    assert [seed for seed in batches[0][1:] if seed is not None] == [7, 8, 9, 10]
    # Another task before it changes nothing.
    fresh = tf.random.Generator.from_seed(tiny_config.seed)
    assert float(agent.rng.normal([])) == float(fresh.normal([]))


def test_one_compiled_call_has_no_time(monkeypatch, tiny_config):
    replace_simulators(monkeypatch, lambda task, index: 1)
    assert run_episodes(Planner(tiny_config), "pointmass_obstacle", [1, 2], 2, [], [])[1] is None


@pytest.mark.parametrize("infos", [[], [{"success": 1.0}]])
def test_outcomes_that_the_run_knows_are_zero_where_no_episode_reports_them(infos, monkeypatch, tiny_config):
    replace_simulators(monkeypatch, lambda task, index: 2, infos)
    config = tiny_config.replace(task="pointmass_obstacle")
    folder = Path(config.logdir) / "episodes"
    time = np.arange(3)
    Replay(folder, 1, 1, 1, seed=0).add(
        {
            "image": np.zeros([3, 8, 8, 3], np.uint8),
            "action": np.zeros([3, 2], np.float32),
            "is_first": time == 0,
            "reward": np.zeros(3, np.float32),
            "discount": np.ones(3, np.float32),
            "success": np.zeros(3, np.float32),
        }
    )
    (folder / "99991231T235959000000-00000000-000002.npz").write_text("damaged")
    episodes, _ = run_episodes(Planner(config), "pointmass_obstacle", [1, 2, 3], 1)
    successes = [episode.summary()["success"] for episode in episodes]
    assert successes == [float(bool(infos)), 0.0, 0.0] and "cost" not in episodes[0].data
