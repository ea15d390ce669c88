"""BaseAgent and PlanningAgent: what is trained, what is padding, when a plan is made, what a log directory refuses."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

import agents
import optimizers
from base_agent import BaseAgent
from planners.gaussian_latco import moments_by_tape
from planners.linearization import linearize_by_tape
from planning_agent import PlanningAgent
from tools.errors import UserError
from training.logdir import open_logdir
from training.schedules import Every

ACTIONS = 2
OBSERVATIONS = gymnasium.spaces.Dict(
    {
        "image": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        "state": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
    }
)
ACTION_SPACE = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def make_batch(config, seed=0):
    rng = np.random.default_rng(seed)
    shape = [config.batch_size, config.batch_length]
    batch = {
        "image": rng.integers(0, 256, [*shape, 64, 64, 3], np.uint8),
        "action": rng.uniform(-1, 1, [*shape, ACTIONS]).astype(np.float32),
        "reward": rng.uniform(0, 1, shape).astype(np.float32),
        "discount": np.ones(shape, np.float32),
        "is_first": np.zeros(shape, bool),
        "mask": np.ones(shape, np.float32),
        "state": rng.normal(size=[*shape, 3]).astype(np.float32),
        "cost": rng.uniform(0, 1, shape).astype(np.float32),
    }
    return {key: tf.constant(value) for key, value in batch.items()}


def make_noise(config, seed=1):
    noise_size = {"gaussian": config.stoch, "categorical": config.stoch}[config.latent]
    noise_size = 0 if config.dynamics == "deterministic" else noise_size
    shape = [config.batch_size, config.batch_length, config.overshooting * noise_size]
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def with_cost(config, **changes):
    """The config with a cost head, on the task that reports a cost."""
    return config.replace(task="pointmass_obstacle", cost_head=True, **changes)


def test_an_update_changes_every_variable(tiny_config):
    config = with_cost(tiny_config, discount_head=True, state_probe=True, free_nats=0.0)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    variables = agent.model.trainable_variables
    parts = {v.path.split("/")[0] for v in variables}
    assert len(variables) == len(agent.optimizer._trainable_variables)
    before = [v.numpy() for v in variables]
    # Several batches: a rectified unit may be silent on one of them.
    for seed in range(3):
        agent.train_step(make_batch(config, seed))
    unchanged = [v.path for v, old in zip(variables, before, strict=True) if np.array_equal(v.numpy(), old)]
    assert not unchanged, f"never trained: {unchanged} of {parts}"
    assert int(agent.updates) == 3


def test_updates_lower_the_loss_of_a_batch(tiny_config):
    agent = BaseAgent(tiny_config.replace(free_nats=0.0, model_lr=1e-2), OBSERVATIONS, ACTION_SPACE)
    batch = make_batch(tiny_config)
    # Images of one colour, since noise cannot be learned in a few steps.
    batch["image"] = tf.fill(batch["image"].shape, tf.constant(200, tf.uint8))
    first = float(agent.train_step(batch)["loss"])
    for _ in range(20):
        last = float(agent.train_step(batch)["loss"])
    assert last < 0.8 * first


def test_loss_is_what_it_says(tiny_config):
    config = tiny_config.replace(free_nats=0.0, reward_scale=3.0, kl_scale=0.5)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    batch, noise = make_batch(config), make_noise(config)
    loss, metrics, post = agent.loss(batch, noise)
    feat = np.concatenate([post["stoch"], post["deter"]], -1)
    decoded = agent.model.decode(tf.constant(feat)).numpy()
    image = batch["image"].numpy() / 255.0 - 0.5
    image_loss = 0.5 * ((decoded - image) ** 2).sum((2, 3, 4)).mean()
    reward_loss = 0.5 * ((agent.model.reward(tf.constant(feat)).numpy() - batch["reward"].numpy()) ** 2).mean()
    assert float(metrics["image_loss"]) == pytest.approx(image_loss, rel=1e-4)
    assert float(metrics["reward_loss"]) == pytest.approx(reward_loss, rel=1e-4)
    assert float(loss) == pytest.approx(image_loss + 3.0 * reward_loss + 0.5 * float(metrics["kl"]), rel=1e-4)


def test_cost_loss_is_what_it_says_and_trains_the_features(tiny_config):
    config = with_cost(tiny_config, free_nats=0.0, cost_scale=7.0)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    batch, noise = make_batch(config), make_noise(config)
    mask = np.ones([config.batch_size, config.batch_length], np.float32)
    mask[1, 5:] = 0.0
    with tf.GradientTape(persistent=True) as tape:
        loss, metrics, post = agent.loss(batch | {"mask": tf.constant(mask)}, noise)
    predicted = agent.model.cost(tf.concat([post["stoch"], post["deter"]], -1)).numpy()
    cost_loss = 0.5 * ((predicted - batch["cost"].numpy()) ** 2)[mask > 0].mean()
    assert float(metrics["cost_loss"]) == pytest.approx(cost_loss, rel=1e-4)
    others = float(metrics["image_loss"] + metrics["reward_loss"] + metrics["kl"])
    assert float(loss) - others == pytest.approx(7.0 * cost_loss, rel=1e-3)
    for part in (agent.model.cost, agent.model.dynamics, agent.model.encoder):
        grads = tape.gradient(metrics["cost_loss"], part.trainable_variables)
        assert any(grad is not None and np.any(grad) for grad in grads), part.name


def test_without_a_cost_head_costs_change_nothing(tiny_config):
    agent = PlanlessAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    batch, noise = make_batch(tiny_config), make_noise(tiny_config)
    loss, metrics, _ = agent.loss(batch, noise)
    del batch["cost"]
    assert float(agent.loss(batch, noise)[0]) == float(loss) and "cost_loss" not in metrics
    assert agent.model.cost is None and agent.latent_problem().constraint is None


def test_planners_are_asked_to_keep_the_predicted_cost_below_its_limit(tiny_config):
    agent = PlanlessAgent(with_cost(tiny_config, cost_limit=0.25), OBSERVATIONS, ACTION_SPACE)
    z = tf.random.stateless_normal([2, 5, tiny_config.stoch + tiny_config.deter], [1, 2])
    asked = agent.latent_problem().constraint(z)
    assert asked.shape == (2, 5, 1) and np.ptp(asked) > 0
    np.testing.assert_allclose(asked[..., 0], agent.model.cost(z) - 0.25, atol=1e-6)


@pytest.mark.parametrize("head, factor", [(True, 0.9), (False, 0.9)])
def test_planners_weigh_rewards_by_the_predicted_survival(tiny_config, head, factor):
    agent = PlanlessAgent(tiny_config.replace(discount_head=head, discount=factor), OBSERVATIONS, ACTION_SPACE)
    n, problem, model = tiny_config.stoch + tiny_config.deter, agent.latent_problem(), agent.model
    draw = lambda shape, seed: tf.random.stateless_normal(shape, [1, seed])
    z, actions = agent.planner_start(draw([3, n], 0)), draw([3, 4, ACTIONS], 1)
    alive = np.ones(3)
    for t in range(4):
        feat = z[:, :n]
        alive *= factor * (1 / (1 + np.exp(-model.discount(feat).numpy())) if head else 1.0)
        z = problem.step(z, actions[:, t])
        np.testing.assert_allclose(z[:, :n], model.dynamics.mean_step(feat, actions[:, t]), atol=1e-6)
        np.testing.assert_allclose(problem.reward(z), model.reward(z[:, :n]) * alive, rtol=1e-4, atol=1e-6)
    assert np.all(alive < 0.9)
    by_tape = linearize_by_tape(problem.step, z, actions[:, 0])
    for own, right in zip(problem.linearize(z, actions[:, 0]), by_tape, strict=True):
        np.testing.assert_allclose(own, right, atol=1e-5)
    samples, noise = z[:, None] + 0.3 * draw([3, 5, n + 1], 2), draw([3, 5, tiny_config.stoch], 3)
    by_tape = moments_by_tape(problem.sample_step, samples, actions[:, 0], noise)
    for own, right in zip(problem.linearize_moments(samples, actions[:, 0], noise), by_tape, strict=True):
        np.testing.assert_allclose(own, right, atol=1e-5)


def test_without_discounts_planners_see_the_features_alone(tiny_config):
    agent = PlanlessAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    assert agent.latent_problem().state_size == agent.model.dynamics.feat_size
    with pytest.raises(UserError, match="discount is 0.0: choose a number from 0.001 to 1"):
        PlanlessAgent(tiny_config.replace(discount=0.0), OBSERVATIONS, ACTION_SPACE)
    with pytest.raises(UserError, match="discount is 1.5: choose"):
        PlanlessAgent(tiny_config.replace(discount=1.5), OBSERVATIONS, ACTION_SPACE)


@pytest.mark.parametrize("name", ["ilqr", "gaussian_latco", "image_collocation"])
def test_nobody_but_the_planner_sees_the_survival(tiny_config, name):
    changes = {"discount_head": True, "ilqr_feedback": True, "warm_start": True, "planning_horizon": 4, "mpc_steps": 4}
    agent = agents.agent_class(name)(tiny_config.replace(**changes), OBSERVATIONS, ACTION_SPACE)
    agent.planner._compiled = agent.planner._traced  # compiling takes longer than planning
    latent, n = agent.model.dynamics.initial(2), tiny_config.stoch + tiny_config.deter
    idle = np.zeros(2, bool)
    _, plan, _ = agent.act(latent, np.ones(2, bool), None, idle)
    assert agent.planner.problem.state_size == n + 1
    assert plan.states.shape == (2, 4, n) and plan.warm_starts.shape[-2:] == (4, ACTIONS)
    assert (plan.gains is not None) == (name == "ilqr")
    if name == "ilqr":
        assert plan.gains.shape == (2, 4, ACTIONS, n) and np.any(plan.gains)
    action, _, extras = agent.act(latent, np.zeros(2, bool), plan, idle)
    assert action.shape == (2, ACTIONS) and np.all(np.isfinite(action)) and not np.any(extras["planned"])


@pytest.mark.parametrize("task", ["pointmass_lottery", "gym_InvertedPendulum-v5"])
def test_cost_head_on_a_task_without_cost_is_refused(tiny_config, task):
    with pytest.raises(UserError, match=f"{task} reports no cost.*turn it off"):
        BaseAgent(tiny_config.replace(task=task, cost_head=True), OBSERVATIONS, ACTION_SPACE)


class PlanlessAgent(PlanningAgent):
    """An agent of which only the model and the latent problem matter."""

    @classmethod
    def make_planner(cls, c, problem):
        return None


def test_free_nats_are_free(tiny_config):
    batch, noise = make_batch(tiny_config), make_noise(tiny_config)
    agent = BaseAgent(tiny_config.replace(free_nats=1e6), OBSERVATIONS, ACTION_SPACE)
    with tf.GradientTape() as tape:
        loss, metrics, _ = agent.loss(batch, noise)
    assert float(loss) == pytest.approx(1e6 + float(metrics["image_loss"] + metrics["reward_loss"]), rel=1e-6)
    # Only the KL term trains the prior's output layer.
    gradient = tape.gradient(loss, agent.model.dynamics.prior_out.kernel)
    assert gradient is None or not np.any(gradient)


def test_padding_counts_in_no_term(tiny_config):
    config = with_cost(tiny_config, discount_head=True, state_probe=True)
    agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
    batch, other, noise = make_batch(config, 0), make_batch(config, 1), make_noise(config)
    mask = np.ones([config.batch_size, config.batch_length], np.float32)
    mask[1, 5:] = 0.0
    padded = {
        key: tf.where(tf.reshape(mask, [*mask.shape, *[1] * (value.ndim - 2)]) > 0, value, other[key])
        for key, value in batch.items()
    }
    loss, metrics, _ = agent.loss(batch | {"mask": tf.constant(mask)}, noise)
    padded_loss, padded_metrics, _ = agent.loss(padded | {"mask": tf.constant(mask)}, noise)
    assert float(loss) == pytest.approx(float(padded_loss), rel=1e-5)
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(padded_metrics[name]), rel=1e-5), name


def test_probe_changes_no_other_weight(tiny_config):
    batch, noise = make_batch(tiny_config), make_noise(tiny_config)
    grads = []
    for probe in (False, True):
        agent = BaseAgent(tiny_config.replace(state_probe=probe), OBSERVATIONS, ACTION_SPACE)
        shared = [agent.model.encoder, agent.model.dynamics, agent.model.decoder, agent.model.reward]
        with tf.GradientTape() as tape:
            loss = agent.loss(batch, noise)[0]
        grads.append(tape.gradient(loss, [v for part in shared for v in part.trainable_variables]))
    for without, with_probe in zip(*grads, strict=True):
        np.testing.assert_allclose(without, with_probe, rtol=1e-4, atol=1e-6)


def test_probe_without_a_state_is_refused(tiny_config):
    images = gymnasium.spaces.Dict({"image": OBSERVATIONS["image"]})
    with pytest.raises(UserError, match="state_probe"):
        BaseAgent(tiny_config.replace(state_probe=True), images, ACTION_SPACE)


def test_a_step_without_finite_gradients_is_skipped_and_counted(tiny_config):
    agent = BaseAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    batch = make_batch(tiny_config)
    before = [v.numpy() for v in agent.model.trainable_variables]
    metrics = agent.train_step(batch | {"reward": tf.fill(batch["reward"].shape, np.float32("nan"))})
    assert float(metrics["skipped_updates"]) == 1.0
    for old, variable in zip(before, agent.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert float(agent.train_step(batch)["skipped_updates"]) == 0.0


def test_every_counts_passed_multiples():
    every = Every(10, start=5)
    assert [every(count) for count in (9, 10, 19, 45, 45, 50)] == [0, 1, 0, 3, 0, 1]
    assert [Every(0)(count) for count in (0, 10)] == [0, 0]


class CountingPlanner(optimizers.Planner):
    """Plan k says action 0.01 (10 k + t) at time t, in every environment, and remembers what it was given."""

    calls, gain, warm = 0, None, None

    def __call__(self, z0, seed, warm=None):
        batch, self.calls, self.warm = z0.shape[0], self.calls + 1, warm
        actions = 0.01 * (10 * self.calls + tf.range(self.horizon, dtype=tf.float32))
        actions = tf.broadcast_to(actions[None, :, None], [batch, self.horizon, ACTIONS])
        states = tf.ones([batch, self.horizon, z0.shape[1]])
        curves = {"reward": tf.zeros([batch, 2]), "lam": tf.fill([batch, 2], float(self.calls))}
        counts = tf.zeros([batch], tf.int32)
        gains = None
        if self.gain:
            gains = tf.fill([batch, self.horizon, ACTIONS, z0.shape[1]], self.gain)
        return optimizers.Plan(actions, states, actions[..., 0], curves, counts, counts, actions[:, None], gains)

    def _optimize(self, z0, seeds, warm, limit):
        raise AssertionError("not compiled in this test")


class CountingAgent(PlanningAgent):
    @classmethod
    def make_planner(cls, c, problem):
        return CountingPlanner(problem, c.planning_horizon, 1)


def act(agent, is_first, plan, idle=(False, False)):
    latent = agent.model.dynamics.initial(len(is_first))
    action, plan, extras = agent.act(latent, np.array(is_first), plan, np.array(idle[: len(is_first)]))
    return (100 * action[:, 0]).round().astype(int).tolist(), plan, extras


def test_plans_are_made_when_missing_or_used_up_and_only_there(tiny_config):
    agent = CountingAgent(tiny_config.replace(planning_horizon=5, mpc_steps=3), OBSERVATIONS, ACTION_SPACE)
    actions, plan, extras = act(agent, [True, True], None)
    assert actions == [10, 10] and extras["planned"].tolist() == [True, True]
    actions, plan, _ = act(agent, [False, False], plan)
    assert actions == [11, 11] and agent.planner.calls == 1
    # Environment 1 starts a new episode: it gets plan 2, environment 0 goes on with the last action of plan 1.
    actions, plan, extras = act(agent, [False, True], plan)
    assert actions == [12, 20] and extras["planned"].tolist() == [False, True]
    assert extras["metrics"]["plan/lam"].tolist() == [1.0, 2.0]
    actions, plan, extras = act(agent, [False, False], plan)
    assert actions == [30, 21] and extras["planned"].tolist() == [True, False]
    np.testing.assert_allclose(extras["predicted_reward"], [0.30, 0.21], atol=1e-6)


def test_environments_that_idle_ask_for_no_plans(tiny_config):
    agent = CountingAgent(tiny_config.replace(planning_horizon=2, mpc_steps=2), OBSERVATIONS, ACTION_SPACE)
    plan, idle = None, (False, True)
    for is_first in ([True, True], [False, False], [False, False]):
        _, plan, extras = act(agent, is_first, plan, idle if plan else (False, False))
    assert agent.planner.calls == 2 and extras["planned"].tolist() == [True, False]
    for _ in range(3):  # longer than its plan is
        _, plan, extras = act(agent, [False, False], plan, (True, True))
    assert agent.planner.calls == 2 and not extras["planned"].any()


@pytest.mark.parametrize(("name", "finish"), [("latco", 0), ("latco", 3), ("gaussian_latco", 3)])
def test_violations_are_logged_from_before_the_finish(tiny_config, monkeypatch, name, finish):
    sizes = {"latco_iterations": 2, "gaussian_iterations": 2, "gaussian_samples": 3}
    config = tiny_config.replace(planning_horizon=3, mpc_steps=3, latco_finish=finish, **sizes)
    agent = agents.agent_class(name)(config, OBSERVATIONS, ACTION_SPACE)
    agent.planner._compiled = agent.planner._traced  # compiling takes longer than planning
    plans, plan_from = [], agent.plan_from
    monkeypatch.setattr(agent, "plan_from", lambda *args: plans.append(plan_from(*args)) or plans[-1])
    metrics = agent.plan(tf.random.stateless_normal([2, agent.model.dynamics.feat_size], [1, 2])).metrics
    curve = plans[0].curves["dynamics_violation"].numpy()
    assert np.all(curve[:, -1] == 0.0) == (finish > 0)
    last = max(np.flatnonzero(curve[0]))  # of the search
    np.testing.assert_array_equal(metrics["plan/dynamics_violation"], curve[:, last])
    bounds = plans[0].curves["action_violation"].numpy()
    np.testing.assert_array_equal(metrics["plan/action_violation"], bounds[:, last])
    np.testing.assert_array_equal(metrics["plan/lam"], plans[0].curves["lam"][:, -1])


def test_an_episode_taken_over_from_another_policy_gets_a_plan_at_once(tiny_config):
    agent = CountingAgent(tiny_config.replace(planning_horizon=5, mpc_steps=3), OBSERVATIONS, ACTION_SPACE)
    actions, _, extras = act(agent, [False, True], None)
    assert actions == [10, 10] and extras["planned"].tolist() == [True, True]


def test_a_warm_start_is_what_is_left_of_each_environment_s_own_plan(tiny_config):
    config = tiny_config.replace(planning_horizon=5, mpc_steps=3, warm_start=True)
    agent = CountingAgent(config, OBSERVATIONS, ACTION_SPACE)
    _, plan, _ = act(agent, [True, True], None)
    assert agent.planner.warm.steps.tolist() == [0, 0] and agent.planner.warm.actions.shape == (2, 1, 5, ACTIONS)
    _, plan, _ = act(agent, [False, False], plan)
    # Environment 1 starts an episode after two actions: nothing of its plan holds; environment 0 is asked nothing.
    _, plan, _ = act(agent, [False, True], plan)
    assert agent.planner.warm.steps.tolist() == [3, 0]
    _, plan, _ = act(agent, [False, False], plan)  # environment 0 has executed 3 actions, environment 1 one
    warm = agent.planner.warm
    assert warm.steps.tolist() == [2, 4]
    np.testing.assert_allclose(warm.actions[0, 0, :2, 0], [0.13, 0.14], atol=1e-6)
    np.testing.assert_allclose(warm.actions[1, 0, :4, 0], [0.21, 0.22, 0.23, 0.24], atol=1e-6)


def test_without_warm_start_planners_start_afresh(tiny_config):
    agent = CountingAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    act(agent, [True], act(agent, [True], None)[1])
    assert agent.planner.calls == 2 and agent.planner.warm is None


def test_feedback_corrects_for_the_distance_to_the_planned_state(tiny_config):
    agent = CountingAgent(tiny_config.replace(planning_horizon=5, mpc_steps=5), OBSERVATIONS, ACTION_SPACE)
    agent.planner.gain = 0.01
    n = tiny_config.stoch + tiny_config.deter
    actions, plan, _ = act(agent, [True], None)
    assert actions == [10]  # the plan starts where the environment is
    actions, _, _ = act(agent, [False], plan)
    assert actions == [11 - n]  # the planned state is one in all of its n entries, the environment's zero


def test_rewards_that_are_no_numbers_are_counted_and_survived(tiny_config):
    config = tiny_config.replace(planning_horizon=4, mpc_steps=4)
    for name in ("cem", "latco"):  # the others: tests/test_optimizers.py
        agent = agents.agent_class(name)(config, OBSERVATIONS, ACTION_SPACE)
        agent.model.reward.out.bias.assign([np.nan])
        first = np.ones(2, bool)
        action, _, extras = agent.act(agent.model.dynamics.initial(2), first, None, ~first)
        assert np.all(np.isfinite(action)) and np.all(np.abs(action) <= 1.0), name
        assert np.all(extras["metrics"]["plan/non_finite"] > 0), name


def test_policy_filters_each_environment_as_if_it_were_alone(tiny_config):
    agent = CountingAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    noise = tf.constant(np.random.default_rng(0).normal(size=[3, 2, tiny_config.stoch]).astype(np.float32))
    images = np.random.default_rng(1).integers(0, 256, [3, 2, 64, 64, 3], np.uint8)
    actions = np.random.default_rng(2).uniform(-1, 1, [3, 2, ACTIONS]).astype(np.float32)
    firsts = np.array([[True, True], [False, False], [False, True]])

    def run(envs):
        dynamics, state = agent.model.dynamics, agent.model.dynamics.initial(len(envs))
        for t in range(3):
            embed = agent.model.embed(tf.constant(images[t, envs][None]))[0]
            state = dynamics.obs_step(state, actions[t, envs], embed, firsts[t, envs], tf.gather(noise[t], envs))
        return state

    together = run([0, 1])
    for env in (0, 1):
        for key, value in run([env]).items():
            np.testing.assert_allclose(together[key][env], value[0], rtol=1e-4, atol=1e-5)


def test_exploration_noise_is_added_and_clipped(tiny_config):
    agent = CountingAgent(tiny_config.replace(expl_noise=0.3), OBSERVATIONS, ACTION_SPACE)
    obs = {"image": np.zeros([64, 64, 64, 3], np.uint8)}
    first = np.ones(64, bool)
    without_noise, _, _ = agent.policy(obs, first, None, explore=False)
    np.testing.assert_allclose(without_noise, 0.1, atol=1e-6)
    noisy, state, _ = agent.policy(obs, first, None, explore=True)
    assert noisy.std() == pytest.approx(0.3, rel=0.25) and np.abs(noisy).max() <= 1.0
    # The model must see the action that was executed, noise included.
    np.testing.assert_array_equal(state.action, noisy)


def test_more_executed_steps_than_planned_ones_are_refused(tiny_config):
    with pytest.raises(UserError, match="mpc_steps"):
        CountingAgent(tiny_config.replace(planning_horizon=3, mpc_steps=4), OBSERVATIONS, ACTION_SPACE)


def test_unknown_planner_names_the_nearest(tiny_config):
    with pytest.raises(UserError, match="'latco'"):
        agents.make_agent(tiny_config.replace(planner="laco"))


def test_log_directory_of_another_model_is_refused_and_left_alone(tiny_config):
    logdir = open_logdir(tiny_config, [])
    saved = (logdir / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="deter = 8"):
        open_logdir(tiny_config.replace(deter=16), [])
    with pytest.raises(UserError, match="cost_head = False"):
        open_logdir(tiny_config.replace(cost_head=True), [])
    with pytest.raises(UserError, match="randomize = True"):
        open_logdir(tiny_config.replace(randomize=False), [])
    with pytest.raises(UserError, match="render_quality = fast"):
        open_logdir(tiny_config.replace(render_quality="full"), [])
    assert (logdir / "config.yaml").read_bytes() == saved
    open_logdir(tiny_config.replace(steps=999), ["--steps", "999"])
    assert len((logdir / "runs.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_random_actions_are_uniform_with_the_given_correlation_and_start_anew(tiny_config, rho):
    agent = BaseAgent(tiny_config.replace(prefill_correlation=rho), OBSERVATIONS, ACTION_SPACE)
    batch, actions, state = 4000, [], None
    for t in range(3):
        is_first = np.full(batch, t == 0)
        is_first[:2000] |= t == 2
        action, state, _ = agent.random_policy({}, is_first, state)
        actions.append(action[:, 0])
    for action in actions:
        np.testing.assert_allclose(np.quantile(action, [0.25, 0.5, 0.75]), [-0.5, 0.0, 0.5], atol=0.06)
    correlation = lambda rows, t: np.corrcoef(actions[t - 1][rows], actions[t][rows])[0, 1]
    # Correlation of uniform marginals: 6 / pi arcsin(rho / 2).
    expected = 6.0 / np.pi * np.arcsin(rho / 2.0)
    assert correlation(slice(None), 1) == pytest.approx(expected, abs=0.05)
    assert correlation(slice(2000, None), 2) == pytest.approx(expected, abs=0.06)
    assert correlation(slice(0, 2000), 2) == pytest.approx(0.0, abs=0.08)


def test_the_planner_in_the_guide_for_contributors_works_as_it_stands():
    guide = (Path(agents.__file__).parent / "CONTRIBUTING.md").read_text()
    code = next(block for block in guide.split("```")[1::2] if "Planner)" in block)
    names = {"optimizers": optimizers, "tf": tf, "PlanningAgent": PlanningAgent}
    exec(code.removeprefix("python").split("PLANNERS = ")[0], names)
    problem = optimizers.LatentProblem(lambda z, a: z + a, lambda z: -tf.abs(z[..., 0]), 1, 1)
    plan = names["OneRandomPlan"](problem, 3, iterations=1, restarts=50)(tf.zeros([2, 1]), [1, 2])
    single = names["OneRandomPlan"](problem, 3, iterations=1)(tf.zeros([2, 1]), [1, 2])
    assert plan.actions.shape == (2, 3, 1)
    assert np.all(plan.curves["reward"] > single.curves["reward"])
    assert issubclass(names["OneRandomPlanAgent"], PlanningAgent)
