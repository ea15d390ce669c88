"""The parts of plan_quality.py by hand: the best plans known, what plans lose, and their execution open loop."""

import types

import numpy as np
import pytest
import tensorflow as tf
from problems import BUILDERS, TARGET, WEIGHTS, A, B, linear_quadratic, linear_quadratic_optimum, with_value

import envs
from benchmarks import plan_losses, plan_variants
from benchmarks.execution import play_open_loop, play_scripted
from benchmarks.plan_losses import Plans
from evaluation.episodes import episode_seeds
from planners.trajectories import rollout
from tests.benchmarks.executions import DEBUG, Line, plans
from tools.config import load_config
from training.driver import Episode

# The best plans


def test_best_plan_of_each_start_is_the_best_of_all_candidates():
    best, names = plan_variants.best_known({"a": plans(1, 2, np.nan), "b": plans(0, 5, -3), "c": plans(1, 4, -np.inf)})
    assert names == ["a", "b", "b"]
    np.testing.assert_array_equal(best.score, [1, 5, -3])
    np.testing.assert_array_equal(best.actions[:, 0, 0], [1, 5, -3])


def test_search_finds_the_optimum_of_every_start():
    planner = BUILDERS["gd"][0](linear_quadratic(), 4, restarts=3, jit_compile=False)
    agent = types.SimpleNamespace(planner=planner, planner_start=lambda z: z)
    z0 = np.array([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]], np.float32)
    starts = types.SimpleNamespace(features=tf.constant(z0), seed=7)
    many = plan_variants.search(agent, starts, "gd")
    single = plan_losses.found(BUILDERS["gd"][0](linear_quadratic(), 4, jit_compile=False)(z0, [7, 0]))
    best, _ = plan_variants.best_known({"many": many, "single": single})
    optimum = [linear_quadratic_optimum(z, 4)[1] for z in z0]
    assert many.actions.shape == (2, 4, 1) and planner.traces == 1
    assert np.all(best.score >= np.maximum(many.score, single.score)) and np.all(best.score <= optimum)


def test_plans_that_nobody_found_are_judged_by_the_mean_dynamics():
    z0, actions = np.array([[0.5, -0.5, 0.0]]), np.array([[[0.3], [-0.2]]])
    z, returns = z0[0], 0.0
    for action in actions[0]:
        z = A @ z + B @ action
        returns -= np.sum(WEIGHTS * (z - TARGET) ** 2)
    judged = plan_losses.judged(linear_quadratic(), tf.constant(z0), actions)
    assert judged.returns == pytest.approx([returns]) and judged.score == pytest.approx([returns])
    problem = with_value(linear_quadratic())
    valued = plan_losses.judged(problem, tf.constant(z0), actions)
    value = problem.value(rollout(problem.step, tf.constant(z0), tf.constant(actions))[:, -1]).numpy()
    assert valued.returns == pytest.approx([returns]) and valued.score == pytest.approx(returns + value)


def test_pool_is_as_large_as_wanted():
    config = load_config([*DEBUG, "--cem_candidates", "50", "--discount", "0.9"])
    agent = types.SimpleNamespace(config=config)
    pool = plan_variants.pool(agent, 32)
    assert list(pool) == ["latco x 32", "gd x 16", "cem, 4 x candidates"]
    made = load_config([*DEBUG, *pool["cem, 4 x candidates"]])
    assert (made.cem_candidates, made.sample_states, made.discount, made.planning_horizon) == (200, False, 0.9, 5)
    many = load_config([*DEBUG, "--restart_samples", "9", *pool["gd x 16"]])
    assert (many.n_parallel_plans, many.restart_samples) == (16, 0)
    assert plan_variants.pool(agent, 0) == {}
    agent.config = config.replace(cost_head=True)
    assert list(plan_variants.pool(agent, 4)) == ["latco x 4"]


def test_pool_leaves_out_the_augmented_objective_which_gd_and_cem_refuse_and_no_score_has():
    config = load_config([*DEBUG, "--discount", "0.9", "--value_head", "true", "--augmented_objective", "true"])
    pool = plan_variants.pool(types.SimpleNamespace(config=config), 32)
    assert len(pool) == 3
    assert not any(load_config(words, saved=config).augmented_objective for words in pool.values())
    plain = types.SimpleNamespace(config=config.replace(augmented_objective=False))
    assert not any("--augmented_objective" in words for words in plan_variants.pool(plain, 32).values())


def test_violations_before_the_finish_are_told():
    planner = BUILDERS["latco"][0](linear_quadratic(), 4, finish=2, jit_compile=False)
    row, plan, _ = plan_losses.measure(planner, np.array([[9.0, -0.5, 0.0]], np.float32), 3)
    for name in ("dynamics_violation", "action_violation"):
        assert row[name] == 0.0
        assert row[f"search_{name}"] == pytest.approx(float(plan.curves[name][0, -3]), rel=1e-3)
    assert row["search_dynamics_violation"] > 0.0 and row["return_se"] is None


# Losses


def test_losses_by_hand():
    found = Plans(np.zeros([2, 1, 1]), np.array([2.0, 4.0]), np.array([3.0, 5.0]))  # a terminal value of 1
    line = plan_losses.losses(found, plans(4, 6), np.array([1.0, 3.5]), np.array([2.5, 1.5]))
    assert line["return_best"] == 5.0 and line["return_best_se"] == pytest.approx(1.0)
    assert (line["search_gap"], line["search_loss"], line["search_loss_se"]) == (0.8, 1.0, 0.0)
    assert line["noise_loss"] == 0.75 and line["noise_loss_se"] == pytest.approx(0.25)
    assert line["achieved_open_loop"] == 2.0 and line["achieved_open_loop_se"] == pytest.approx(0.5)
    assert line["model_loss"] == 1.0 and line["model_loss_se"] == pytest.approx(1.5)
    negative = plan_losses.losses(plans(-3), plans(-2), np.array([-3.0]), np.array([-4.0]))
    assert (negative["search_gap"], negative["search_loss"], negative["search_loss_se"]) == (None, 1.0, None)


def test_numbers_of_a_line_are_json():
    line = plan_losses.rounded({"a": np.array([1.0000001, np.nan]), "b": [np.int64(3), None, "x"], "c": {"d": True}})
    assert line == {"a": [1.0, None], "b": [3, None, "x"], "c": {"d": True}}


def test_open_loop_execution_by_hand():
    seeds = [2, 3, 4]
    actions = np.float32([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [9.0]], [[-0.1], [0.0], [0.6]]])
    played = play_open_loop(Line(), seeds, actions)
    np.testing.assert_allclose(played.rewards, [[2.1, 2.2, 2.3], [3.4, 3.5, 0.0], [3.9, 4.0, 4.6]])
    np.testing.assert_array_equal(played.alive, [[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(played.success.any(1), [False, False, True])
    agent = types.SimpleNamespace(rewards=lambda r: 2.0 * r + 1.0, config=types.SimpleNamespace(discount=0.5))
    expected = [5.2 / 2 + 5.4 / 4 + 5.6 / 8, 7.8 / 2 + 8.0 / 4, 8.8 / 2 + 9.0 / 4 + 10.2 / 8]
    np.testing.assert_allclose(plan_losses.achieved(agent, played), expected, rtol=1e-6)
    assert played.first(2).rewards.shape == (3, 2)


def test_starts_whose_environment_is_lost_are_played_again():
    class Losing(Line):
        """Loses its second environment at the second step of all."""

        steps_left = 2

        def step(self, action):
            self.steps_left -= 1
            obs, reward, *ended, info = super().step(action)
            lost = np.array([False, self.steps_left == 0])
            return obs, np.where(lost, 0.0, reward), *ended, info | ({"lost": lost} if lost.any() else {})

    seeds, actions = [2, 4, 6], np.float32(np.arange(9).reshape(3, 3, 1)) / 10
    for right, played in zip(
        play_open_loop(Line(), seeds, actions), play_open_loop(Losing(), seeds, actions), strict=True
    ):
        np.testing.assert_array_equal(played, right)


def test_episodes_are_weighted_as_their_plans_were():
    data = {"reward": np.float32([0, 1, 1, 1, 1, 1])}
    extras = {"planned": np.array([1, 0, 0, 1, 0], bool), "predicted_reward": np.float32([0.5, 0.25, 0.1, 0.5, 0.3])}
    agent = types.SimpleNamespace(rewards=lambda r: r, config=types.SimpleNamespace(discount=0.5))
    predicted, came = plan_losses.episode_returns(agent, Episode(0, data, extras))
    assert predicted == pytest.approx(1.65) and came == pytest.approx(0.5 + 0.25 + 0.125 + 0.5 + 0.25)


def test_actions_bring_what_they_bring_when_played_by_hand():
    config, seeds = load_config(DEBUG).resolved(), episode_seeds(0, 3)
    actions = np.random.default_rng(0).uniform(-1, 1, [3, 4, 2]).astype(np.float32)
    rewards = np.zeros([3, 4])
    batch, single = envs.make_vector_env(config, 2, 1), envs.make_vector_env(config, 1, 2)
    try:
        played = play_open_loop(batch, seeds, actions)
        for row, seed in enumerate(seeds):
            single.reset(seed=[seed])
            rewards[row] = [single.step(action[None])[1][0] for action in actions[row]]
    finally:
        batch.close()
        single.close()
    np.testing.assert_allclose(played.rewards, rewards, rtol=1e-6)
    assert played.alive.all() and not played.success.any()


@pytest.mark.slow
def test_scripted_actions_bring_the_same_in_the_environments():
    config = load_config(["--configs", "defaults", "metaworld", "debug"]).resolved()
    seeds = episode_seeds(0, 2)
    scripted = play_scripted(config, "metaworld_reach", seeds, 3, 5)
    assert scripted.actions.shape == (2, 3, 5) and not scripted.actions[..., 4].any() and scripted.actions.any()
    assert play_scripted(config, "pointmass_obstacle", seeds, 3, 2) is None
    batch = envs.make_vector_env(config.replace(reward="dense"), 2, 9)
    try:
        dense = play_scripted(config.replace(reward="dense"), "metaworld_reach", seeds, 3, 4)
        played = play_open_loop(batch, seeds, dense.actions)
    finally:
        batch.close()
    np.testing.assert_allclose(played.rewards, dense.rewards, rtol=1e-5)
    np.testing.assert_array_equal(dense.actions, scripted.actions[..., :4])
