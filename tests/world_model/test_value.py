"""The value network: plans that end in a terminal value, lambda-returns, what is learned, stored and refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from documentation import read_metrics
from problems import BUILDERS, SEED, curved, linear_quadratic, linear_quadratic_optimum, root_residual, with_value
from ruamel.yaml import YAML
from tensorflow import keras
from test_agent import ACTION_SPACE, OBSERVATIONS, make_batch
from test_optimizers import EAGER, HORIZON, SOLVED

import agents
import planning_agent
from base_agent import BaseAgent
from planners.cem import CEM
from planners.discounting import LEAST_DISCOUNT, discounted, start_survival, strip_survival
from planners.gd import GD
from planners.gn import GN
from planners.ilqr import ILQR
from planners.latco import LatCo
from planners.residuals import objective_residuals, softplus_residual
from planners.trajectories import objective_rewards, rollout
from tools.config import load_config
from tools.errors import UserError
from training.logdir import open_logdir
from world_model.value import ValueLearner, lambda_returns


def quick(names, *fast):
    """Parameters of which those not among `fast` are slow tests."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick(SOLVED, "cem", "gd", "gn", "ilqr", "latco", "grasp"))
def test_every_planner_reaches_the_linear_quadratic_optimum_with_a_terminal_value(name):
    z0 = np.array([0.5, 1.0, 0.0])
    build, error = SOLVED[name]
    actions, best = linear_quadratic_optimum(z0, HORIZON, value=True)
    plan = build(with_value(linear_quadratic()))(z0[None], SEED)
    found = float(tf.reduce_sum(plan.rewards) + plan.value[0])
    assert best - 3 * error <= found <= best + 1e-9
    np.testing.assert_allclose(plan.actions[0, :, 0], actions, atol=np.sqrt(3 * error / 0.3))
    # Without the value other actions are best, and theirs are the rewards alone.
    short, _ = linear_quadratic_optimum(z0, HORIZON)
    assert np.abs(short - actions).max() > 1.0
    states = rollout(linear_quadratic().step, tf.constant(z0[None]), plan.actions)
    np.testing.assert_allclose(plan.rewards, linear_quadratic().reward(states), rtol=1e-6)
    np.testing.assert_allclose(plan.value, with_value(linear_quadratic()).value(states[:, -1]), rtol=1e-6)


@pytest.mark.parametrize("name", quick(BUILDERS, "cem", "gd", "ilqr", "latco"))
def test_a_value_of_zero_changes_no_plan(name):
    z0, build = np.array([[0.1, 0.2], [1.0, -1.0]]), BUILDERS[name][0]
    zero = dataclasses.replace(curved(), value=lambda z: 0.0 * z[..., 0], value_steps=100.0)
    own, plan = (build(problem, 4, restarts=2, tolerance=1e-9, **EAGER)(z0, SEED) for problem in (curved(), zero))
    assert own.value is None and plan.value.shape == (2,)
    for field in ("actions", "states", "rewards", "iterations"):
        np.testing.assert_allclose(getattr(plan, field), getattr(own, field), rtol=1e-6, atol=1e-7, err_msg=field)
    for key, curve in own.curves.items():
        np.testing.assert_allclose(plan.curves[key], curve, rtol=1e-5, atol=1e-7, err_msg=key)


def test_objective_rewards_are_rewards_with_the_value_of_the_last_state():
    problem = dataclasses.replace(curved(), value=lambda z: 10.0 * z[..., 1])
    states = tf.constant([[[0.3, 0.3], [0.3, 0.3], [0.3, 0.5]]])
    np.testing.assert_allclose(objective_rewards(problem, states), [[0.0, 0.0, -0.04 + 5.0]], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(objective_rewards(curved(), states), [[0.0, 0.0, -0.04]], rtol=1e-6, atol=1e-9)


def test_a_terminal_value_is_discounted_as_the_next_reward_would_be():
    # One step from 1 to 2 on a line, discounts 0.8 in 0, 0.5 in 1, 0.25 in 2; the value is what rewards from 3 on say.
    problem = dataclasses.replace(curved(), step=lambda z, a: z + a, value=lambda z: 100.0 * z[..., 0], state_size=1)
    factor = lambda z: tf.pow(0.5, z[..., 0]) * tf.where(z[..., 0] < 0.5, 0.8, 1.0)
    found = discounted(problem, factor)
    states = rollout(found.step, start_survival(tf.zeros([1, 1])), tf.ones([1, 2, 1]))
    np.testing.assert_allclose(found.value(states[:, -1]), [200.0 * 0.8 * 0.5 * 0.25], rtol=1e-5)
    over = found.value(tf.constant([[5.0, 0.0]]))  # 2^-5 is above the least discount, 2^-20 is not
    np.testing.assert_allclose(over, [500.0 / 32], rtol=1e-5)
    np.testing.assert_allclose(found.value(tf.constant([[20.0, 0.0]])), [2000.0 * LEAST_DISCOUNT], rtol=1e-5)
    assert discounted(curved(), factor).value is None


DISCOUNTED = {
    "cem": lambda p: CEM(p, 2, 15, 300, 30, False, **EAGER),
    "gd": lambda p: GD(p, 2, 200, restarts=2, **EAGER),
    "gn": lambda p: GN(p, 2, 30, reward_residual=root_residual, restarts=2, **EAGER),
    "latco": lambda p: LatCo(p, 2, 60, reward_residual=root_residual, restarts=2, **EAGER),
}


@pytest.mark.parametrize("name", DISCOUNTED)
def test_discounted_plans_reach_the_optimum_of_the_weighted_problem(name):
    # With the same discount in every state the weights are gamma^t, so that a grid over two actions knows the optimum.
    step, goal, gamma = (lambda z, a: z + 0.5 * a), 1.0, 0.6
    problem = dataclasses.replace(
        curved(),
        step=step,
        state_size=1,
        noise_size=1,
        sample_step=lambda z, a, noise: step(z, a) + 1e-3 * noise,
        reward=lambda z: -2.0 * tf.square(z[..., 0] + goal),
        value=lambda z: -5.0 * tf.square(z[..., 0] - goal),
        value_steps=2.5,
    )
    one, two = np.meshgrid(*[np.linspace(-0.5, 0.5, 501)] * 2)
    pays = -2 * (gamma * (one + goal) ** 2 + gamma**2 * (one + two + goal) ** 2)
    pays -= 5 * gamma**3 * (one + two - goal) ** 2
    found = discounted(problem, lambda z: tf.fill(z.shape[:-1], tf.constant(gamma, z.dtype)))
    plan = DISCOUNTED[name](found)(start_survival(tf.zeros([1, 1])), SEED)
    stripped = strip_survival(plan)
    assert stripped.states.shape[-1] == 1 and stripped.value is plan.value
    objective = float(tf.reduce_sum(plan.rewards) + plan.value[0])
    assert pays.max() - 0.1 < objective < pays.max() + 1e-3
    ignoring = np.unravel_index(
        np.argmax(-2 * (gamma * (one + goal) ** 2 + gamma**2 * (one + two + goal) ** 2)), one.shape
    )
    assert pays[ignoring] < pays.max() - 0.3


def test_the_residual_of_a_value_is_that_of_the_steps_it_stands_for():
    problem = dataclasses.replace(curved(), value_steps=4.0)
    rewards = tf.constant([[0.1, 0.2, 0.3]])
    found = objective_residuals(problem, softplus_residual, rewards, tf.constant([2.0]))
    np.testing.assert_allclose(found[0, :, 0], np.log1p(np.exp([-0.1, -0.2, -0.3])), rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], [0.0, 0.0, 2.0 * np.log1p(np.exp(-0.5))], rtol=1e-6)
    # As four more rewards of 0.5, and its square with the same slope in the objective.
    assert float(found[0, 2, 1] ** 2) == pytest.approx(4 * np.log1p(np.exp(-0.5)) ** 2, rel=1e-6)
    assert objective_residuals(problem, softplus_residual, rewards, None).shape == (1, 3, 1)


def test_a_large_value_still_moves_second_order_plans():
    # A value of 100 at most, for a discount of 0.99: softplus(-V) itself would be e^-100.
    step, value = (lambda z, a: z + 0.1 * a), (lambda z: 60.0 + 40.0 * tf.tanh(z[..., 0]))
    problem = dataclasses.replace(
        curved(), step=step, reward=lambda z: 0.0 * z[..., 0], state_size=1, value=value, value_steps=100.0
    )
    for planner in (GN(problem, 5, 40, **EAGER), ILQR(problem, 5, 40, **EAGER), LatCo(problem, 5, 100, **EAGER)):
        plan = planner(np.zeros([2, 1]), SEED)
        assert np.all(plan.actions > 0.9), type(planner)


def test_both_solvers_take_the_same_step_as_the_damping_vanishes():
    problem, z0 = with_value(linear_quadratic()), tf.constant([[0.5, 1.0, 0.0]], tf.float64)
    options = {"damping": 1e-9, "reward_residual": root_residual, **EAGER}
    steps = []
    for solver in ("condensed", "block_tridiagonal"):
        planner = LatCo(problem, HORIZON, 1, solver, **options)
        steps.append(planner(z0, SEED))
        assert planner.solver == solver
    np.testing.assert_allclose(steps[0].actions, steps[1].actions, rtol=1e-4)
    np.testing.assert_allclose(steps[0].states, steps[1].states, rtol=1e-4)
    other = LatCo(linear_quadratic(), HORIZON, 1, "condensed", **options)(z0, SEED)
    assert np.abs(other.actions - steps[0].actions).max() > 0.1


def test_a_value_stands_beside_state_constraints():
    # The value pulls to 2, the constraint stops at 0.6; its multipliers are those of its own column.
    step, limit = (lambda z, a: z + 0.1 * a), (lambda z: tf.concat([z - 0.6, -3.0 - z], -1))
    problem = dataclasses.replace(
        curved(),
        step=step,
        reward=lambda z: 0.0 * z[..., 0],
        state_size=1,
        constraint=limit,
        value=lambda z: -tf.square(z[..., 0] - 2.0),
        value_steps=3.0,
    )
    plan = LatCo(problem, 10, 150, reward_residual=root_residual, eps_con=1e-6, **EAGER)(np.zeros([1, 1]), SEED)
    assert np.max(plan.states) < 0.62 and float(plan.states[0, -1, 0]) > 0.55
    assert float(plan.curves["kappa"][0, -1]) > 0.0


def test_restarts_are_compared_with_their_values():
    # Two goals: the rewards prefer the left one, the value the right one by far.
    step = lambda z, a: z + 0.5 * a
    near = lambda z, x: tf.exp(-8.0 * tf.square(z[..., 0] - x))
    problem = dataclasses.replace(curved(), step=step, state_size=1, reward=lambda z: near(z, -1.0))
    valued = dataclasses.replace(problem, value=lambda z: 10.0 * near(z, 1.0), value_steps=10.0)
    ends = []
    for x in (problem, valued):
        plan = BUILDERS["gd"][0](x, 4, restarts=32, **EAGER)(np.zeros([1, 1]), SEED)
        ends.append(float(rollout(step, tf.zeros([1, 1], tf.float64), plan.actions)[0, -1, 0]))
    assert ends[0] < -0.5 and ends[1] > 0.5


# What is learned.

SIZE = 4  # of the features in what follows


def learner(config, **changes):
    """A value learner of features of size `SIZE`."""
    return ValueLearner(config.replace(value_head=True, discount=0.9, **changes), SIZE)


def slow_returns(reward, value, discount, follows, lam):
    """Lambda-returns of one sequence, entry by entry from the last one."""
    returns = list(value)
    for t in reversed(range(len(reward) - 1)):
        if follows[t + 1]:
            mixed = (1 - lam) * value[t + 1] + lam * returns[t + 1]
            returns[t] = reward[t + 1] + discount[t + 1] * mixed
    return returns


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_lambda_returns_are_those_of_a_plain_loop(lam):
    rng = np.random.default_rng(0)
    reward, value, discount = rng.normal(size=[3, 6, 7])
    follows = rng.uniform(size=[6, 7]) < 0.7
    found = lambda_returns(*(tf.constant(x) for x in (reward, value, discount, follows)), lam)
    expected = [slow_returns(*(x[row] for x in (reward, value, discount, follows)), lam) for row in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_lambda_returns_by_hand():
    reward, value = tf.constant([[9.0, 1.0, 2.0, 4.0]]), tf.constant([[0.0, 10.0, 20.0, 40.0]])
    discount, follows = tf.constant([[9.0, 0.5, 0.5, 0.5]]), tf.constant([[True, True, True, True]])
    # The rewards of a plan, then the value at its end: 4 + 20, 2 + 12, 1 + 7; the first state's own reward is no part.
    np.testing.assert_allclose(lambda_returns(reward, value, discount, follows, 1.0), [[8.0, 14.0, 24.0, 40.0]])
    np.testing.assert_allclose(lambda_returns(reward, value, discount, follows, 0.0), [[6.0, 12.0, 24.0, 40.0]])


@pytest.mark.parametrize("words", [{}, pytest.param({"value_batch_norm": True}, marks=pytest.mark.slow)])
def test_the_values_of_a_chain_are_learned(tiny_config, words):
    # States 0, 1, 2 in a row, then 3, which is terminal; entering them pays 0, 1, 0, 5. And a ring 0 -> 1 -> 0 whose
    # value never ends: it is learned through the target network alone.
    gamma, pays = 0.9, np.array([0.0, 1.0, 0.0, 5.0], np.float32)
    options = {"value_lr": 1e-2, "value_units": 32, "value_layers": 1, "value_lambda": 0.5, "value_data": "replay"}
    found = learner(tiny_config, value_target_every=5, **options, **words)
    chain, ring = np.array([[0, 1, 2, 3]]), np.array([[0, 1, 0, 1]])
    expected = {"chain": [1 + gamma * (0 + gamma * 5), gamma * 5, 5.0]}
    expected["ring"] = [1.0 / (1 - gamma**2), gamma / (1 - gamma**2)]
    for name, path in {"chain": chain, "ring": ring}.items():
        discount = gamma * (path != 3).astype(np.float32)
        batch = [tf.constant(x) for x in (np.eye(SIZE, dtype=np.float32)[path], pays[path], discount, path >= 0)]
        for _ in range(700):
            metrics = found.learn(*batch)
        np.testing.assert_allclose(found(tf.eye(SIZE))[: len(expected[name])], expected[name], atol=0.15, err_msg=name)
    if not words:  # normalized over a batch the network in training is another one
        assert float(metrics["value"]) == pytest.approx((2 * expected["ring"][0] + expected["ring"][1]) / 3, abs=0.15)
    assert float(metrics["value_loss"]) < 0.05
    assert int(found.updates) == 1400 and found.learn.experimental_get_tracing_count() == 1


def some_batch(rows=4, length=5, seed=0):
    """Random features, rewards, discounts and what follows what."""
    rng = np.random.default_rng(seed)
    feat, reward = rng.normal(size=[rows, length, SIZE]), rng.normal(size=[rows, length])
    follows = np.ones([rows, length], bool)
    follows[0, 3:] = False  # padding
    follows[1, 2] = False  # an episode begins
    return [tf.constant(x, tf.float32) for x in (feat, reward, np.full([rows, length], 0.9))] + [tf.constant(follows)]


def test_the_loss_is_the_mean_over_the_states_that_something_follows(tiny_config):
    found = learner(tiny_config, value_data="replay", value_lambda=0.7)
    feat, reward, discount, follows = some_batch()
    value = found(feat).numpy()  # of the target as well: it starts as a copy
    errors = []
    for row in range(4):
        returns = slow_returns(reward[row].numpy(), value[row], discount[row].numpy(), follows[row].numpy(), 0.7)
        errors += [value[row, t] - returns[t] for t in range(4) if follows[row, t + 1]]
    assert len(errors) == 16 - 3
    metrics = found.learn(feat, reward, discount, follows)
    assert float(metrics["value_loss"]) == pytest.approx(0.5 * np.mean(np.square(errors)), rel=1e-4)


def test_padding_teaches_nothing(tiny_config):
    results = []
    for noise in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        found = learner(tiny_config, value_batch_norm=True, value_data="replay")
        feat, reward, discount, follows = some_batch()
        hidden = tf.constant([[[0.0]] * 4 + [[noise]]] + [[[0.0]] * 5] * 3)  # the last entry is padding after padding
        found.learn(feat + hidden, reward + hidden[..., 0], discount, follows)
        results.append([x.numpy() for x in found.weights])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_target_network_is_a_copy_now_and_then(tiny_config):
    found, feat = learner(tiny_config, value_target_every=3, value_batch_norm=True), some_batch()[0]
    first = found.target(feat).numpy()
    np.testing.assert_array_equal(first, found.net(feat))
    for update in range(1, 7):
        found.learn(*some_batch(seed=update))
        same = np.array_equal(found.target(feat), found.net(feat))
        assert same == (update % 3 == 0)
        assert np.array_equal(found.target(feat), first) == (update < 3)


def test_dropout_and_normalization_are_of_training_only(tiny_config):
    feat = some_batch()[0]
    for key, on in (("value_dropout", 0.5), ("value_batch_norm", True)):
        net = learner(tiny_config, **{key: on}).net
        np.testing.assert_array_equal(net(feat), net(feat))
        trained = net(feat, seed=tf.constant([1, 2]))
        assert np.abs(trained - net(feat)).max() > 1e-3, key
        np.testing.assert_array_equal(trained, net(feat, seed=tf.constant([1, 2])))
        assert np.array_equal(trained, net(feat, seed=tf.constant([1, 3]))) == (key == "value_batch_norm")


def test_values_are_clipped_at_their_bound(tiny_config):
    free = learner(tiny_config, value_lr=0.1, value_units=32, value_data="replay")
    bound = learner(tiny_config, value_lr=0.1, value_units=32, value_data="replay", value_bound=2.0)
    feat, _, discount, follows = some_batch()
    for _ in range(60):
        for found in (free, bound):
            metrics = found.learn(feat, tf.fill(discount.shape, 10.0), discount, follows)
    assert np.max(free(feat)) > 5.0 and np.abs(bound(feat)).max() <= 2.0
    assert float(metrics["value"]) < 3.0  # the targets are clipped as well


def test_numbers_that_are_not_finite_change_no_weight(tiny_config):
    found = learner(tiny_config, value_batch_norm=True)
    before = [x.numpy() for x in found.weights]
    feat, reward, discount, follows = some_batch()
    for bad in ((feat * np.nan, reward), (feat, reward * np.inf)):
        metrics = found.learn(*bad, discount, follows)
        assert np.isnan(metrics["value_loss"]) and np.isnan(metrics["value"])
    found.learn(feat, reward, discount, tf.zeros_like(follows))  # nothing follows anything
    assert all(np.array_equal(old, x) for old, x in zip(before, found.weights, strict=True))
    assert np.isfinite(found.learn(feat, reward, discount, follows)["value_loss"])
    assert any(not np.array_equal(old, x) for old, x in zip(before, found.weights, strict=True))


@pytest.mark.slow
def test_the_world_model_learns_the_same_beside_a_value(tiny_config):
    changes = {"value_head": True, "value_data": "replay", "discount": 0.99}
    plain, other = (BaseAgent(x, OBSERVATIONS, ACTION_SPACE) for x in (tiny_config, tiny_config.replace(**changes)))
    assert plain.value is None and "value" not in plain.checkpointed and "value" in other.checkpointed
    values = [x.numpy() for x in other.value.net.trainable_variables]
    for seed in range(3):
        batch = make_batch(tiny_config, seed)
        one, two = plain.train_step(batch), other.train_step(batch)
        assert two.keys() - one.keys() == {"value_loss", "value"}
        assert all(float(one[name]) == float(two[name]) for name in one)
    for old, new in zip(plain.model.variables, other.model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert other.train_step.experimental_get_tracing_count() == 1 and int(other.value.updates) == 3
    assert all(not np.array_equal(old, x) for old, x in zip(values, other.value.net.trainable_variables, strict=True))


def test_replay_teaches_what_follows_within_an_episode(tiny_config, monkeypatch):
    config = tiny_config.replace(value_head=True, value_data="replay", discount=0.99)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    mask, first, goes_on = np.ones([4, 8], np.float32), np.zeros([4, 8], bool), np.ones([4, 8], np.float32)
    mask[1, 5:], first[:, 0], first[2, 3], goes_on[3, 7] = 0.0, True, True, 0.0
    changes = {"mask": mask, "is_first": first, "discount": goes_on}
    batch = make_batch(config) | {key: tf.constant(value) for key, value in changes.items()}
    feat = tf.random.stateless_normal([4, 8, agent.model.dynamics.feat_size], [1, 2])
    seen = []
    monkeypatch.setattr(agent.value, "learn", lambda *args: seen.extend(args) or {})
    agent._learn_value(feat, batch)
    np.testing.assert_array_equal(seen[0], feat)
    np.testing.assert_array_equal(seen[1], agent.model.reward(feat))
    np.testing.assert_allclose(seen[2][3], [0.99] * 7 + [0.0])
    assert seen[3].numpy().sum() == 32 - 4 - 3 - 1 and not seen[3][2, 3] and not seen[3][1, 5]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_values_are_learned_in_low_precision(tiny_config, precision):
    config = tiny_config.replace(value_head=True, value_data="replay", discount=0.9, precision=precision, value_lr=1e-2)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    feat = tf.random.stateless_normal([4, 5, agent.model.dynamics.feat_size], [1, 2])
    batch = [feat, tf.ones([4, 5]), tf.fill([4, 5], 0.5), tf.ones([4, 5], tf.bool)]
    losses = [float(agent.value.learn(*batch)["value_loss"]) for _ in range(60)]
    assert agent.value(feat).dtype == tf.float32 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--value_head", "true"], ["value_head", "discount"]),
        (["--value_head", "true", "--discount", "0.9", "--strategy", "mirrored"], ["value_head", "strategy"]),
        (["--value_lambda", "1.5"], ["value_lambda", "1.5"]),
        (["--value_dropout", "1"], ["value_dropout"]),
        (["--value_data", "plan"], ["value_data", "plans"]),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(words, expected, tmp_path, capsys):
    argv = ["--configs", "defaults", "pointmass", "debug", *words, "--logdir", str(tmp_path / "new")]
    assert planning_agent.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and all(word in error for word in expected) and not (tmp_path / "new").exists()


def trained(argv, logdir):
    """An agent that a command line trained, and the metrics that it left."""
    argv = ["--configs", "defaults", *argv, "--logdir", str(logdir)]
    config = load_config(argv).resolved()
    agent = agents.make_agent(config)
    agent.train(open_logdir(config, argv), quiet=True)
    return agent, read_metrics(logdir)


@pytest.mark.slow
def test_collodreamer_trains_and_what_it_learned_is_restored(tmp_path):
    words = ["--value_batch_norm", "true", "--value_dropout", "0.1", "--value_bound", "200", "--eval_every", "0"]
    agent, rows = trained(["dmc", "collodreamer", "debug", "--task", "dmc_cheetah_run", *words], tmp_path)
    assert agent.config.latent == "categorical" and agent.planner.problem.value is not None
    assert agent.planner.problem.value_steps == pytest.approx(100.0)
    assert {"plan/value", "model/value_loss", "model/value", "plan/predicted_return"} <= set().union(*rows)
    assert all(row["model/value_loss"] is not None for row in rows if "model/value_loss" in row)
    assert agent.learn_from_plans.experimental_get_tracing_count() == 1 and agent.planner.traces == 1
    updates = int(agent.value.updates)
    assert updates > 0 and updates % agent.config.value_updates == 0
    again = agents.load_agent(tmp_path)
    assert int(again.value.updates) == updates
    feat = tf.random.stateless_normal([6, agent.model.dynamics.feat_size], [1, 2])
    fresh = agents.make_agent(agent.config)
    for name in ("net", "target"):
        own, restored, other = (getattr(x.value, name)(feat).numpy() for x in (agent, again, fresh))
        np.testing.assert_array_equal(own, restored)
        assert np.abs(own - other).max() > 0
    for one, two in zip(agent.value.optimizer.variables, again.value.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(UserError, match="value_head"):
        agents.load_agent(tmp_path, ["--value_head", "false"])


@pytest.mark.slow
@pytest.mark.parametrize("data", ["plans", "replay"])
@pytest.mark.parametrize("planner", ["latco", "cem", "gaussian_latco", "ilqr", "image_collocation"])
def test_planners_train_with_a_value(data, planner, tmp_path):
    words = ["--value_head", "true", "--discount", "0.99", "--value_data", data, "--planner", planner, "--envs", "2"]
    agent, rows = trained(["pointmass", "debug", *words], tmp_path)
    names = set().union(*rows)
    assert {"plan/value", "model/value_loss", "model/value", "eval/return"} <= names
    assert (
        agent.value.learn.experimental_get_tracing_count() <= 1 and agent.planner.traces <= 2
    )  # two environments, one
    if data == "replay":
        assert int(agent.value.updates) == int(agent.updates)


# The experiments of the paper.

FIGURES = Path(planning_agent.__file__).parent / "reproduce" / "collodreamer.yaml"


def check_dreamer(lines):
    """Figure 5, with the defaults of Dreamer's authors' code."""
    expected = {
        "planner": "dreamer", "stoch": 30, "deter": 200, "hidden": 200, "cnn_depth": 32, "act": "elu",
        "cnn_act": "relu", "reward_layers": 2, "reward_units": 400, "free_nats": 3.0, "kl_scale": 1.0,
        "discount_head": False,
        "batch_size": 50, "batch_length": 50, "train_every": 1000, "train_steps": 100, "pretrain": 100, "prefill": 5000,
        "action_repeat": 2, "model_lr": 6e-4, "value_lr": 8e-5, "actor_lr": 8e-5, "adam_eps": 1e-7, "grad_clip": 100.0,
        "imagination_horizon": 15, "imagination_discount": 0.99, "discount": 0.99, "value_lambda": 0.95,
        "value_layers": 3, "value_units": 400, "policy_layers": 4, "policy_units": 400, "expl_noise": 0.3,
        "reinforce_share": 0.0, "actor_entropy": 0.0, "value_head": True, "eval_every": 5000, "latent": "gaussian",
    }  # fmt: skip
    configs = [load_config(line.split()) for line in lines]
    for config in configs:
        assert {key: config[key] for key in expected} == expected
    steps = {
        "dmc_cheetah_run": 80000, "dmc_quadruped_walk": 40000, "dmc_reacher_easy": 30000, "dmc_reacher_hard": 40000,
        "dmc_walker_walk": 70000,
    }  # fmt: skip
    assert {config.task: config.steps for config in configs} == steps


def test_the_experiments_have_the_papers_numbers():
    rows = YAML(typ="safe", pure=True).load(FIGURES.read_text(encoding="utf-8"))
    changes = {
        "collodreamer": {},
        "latco": {"value_head": False, "discount": 1.0, "latent": "gaussian", "kl_balance": 0.0, "deter": 200},
        "dropout": {"value_dropout": 0.1},
        "value_clipping": {"value_bound": 200.0},
        "batch_normalization": {"value_batch_norm": True},
        "values_from_replay": {"value_data": "replay"},
        "augmented_objective": {"augmented_objective": True, "augmented_target_every": 100},
        "length_50": {"deter": 50},
        "length_100": {"deter": 100},
        "length_200": {"deter": 200},
        "length_500": {"deter": 500},
        "discount_09": {"discount": 0.9},
        "discount_095": {"discount": 0.95},
        "categorical_only": {"kl_balance": 0.0},
        "balancing_only": {"latent": "gaussian", "stoch": 30, "free_nats": 3.0},
        "neither": {"latent": "gaussian", "stoch": 30, "free_nats": 3.0, "kl_balance": 0.0},
    }
    check_dreamer(rows.pop("dreamer"))
    assert rows.keys() == changes.keys()
    method = {
        "planner": "latco", "value_head": True, "value_data": "plans", "discount": 0.99, "deter": 300,
        "latent": "categorical", "stoch": 32, "classes": 32, "kl_balance": 0.8, "free_nats": 0.0,
        "value_layers": 3, "value_units": 400, "value_lr": 8e-5, "value_dropout": 0.0, "value_bound": 0.0,
        "value_batch_norm": False, "augmented_objective": False,
    }  # fmt: skip
    suite = {"action_repeat": 2, "prefill": 5000, "train_every": 1000, "train_steps": 100, "eval_every": 5000}
    suite |= {"batch_size": 50, "batch_length": 50, "planning_horizon": 12, "mpc_steps": 6, "latco_iterations": 100}
    for name, lines in rows.items():
        configs = [load_config(line.split()) for line in lines]
        steps = {"dmc_cheetah_run": 25000, "dmc_quadruped_walk": 30000, "dmc_reacher_easy": 25000}
        assert {config.task: config.steps for config in configs} == steps
        base = suite if name == "latco" else suite | method
        for config in configs:
            wrong = {key: config[key] for key, value in (base | changes[name]).items() if config[key] != value}
            assert not wrong, (name, wrong)
