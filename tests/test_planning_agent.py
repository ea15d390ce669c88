"""PlanningAgent: what planners are asked, when a plan is made, warm starts, feedback, and what is logged of plans."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import agents
import optimizers
from planners.gaussian_latco import moments_by_tape
from planners.initial import random_actions
from planners.linearization import linearize_by_tape
from planning_agent import PlanningAgent
from tests.tiny_agents import ACTION_SPACE, ACTIONS, OBSERVATIONS, PlanlessAgent, with_cost
from tools.errors import UserError


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
    metrics = agent.make_plans(tf.random.stateless_normal([2, agent.model.dynamics.feat_size], [1, 2])).metrics
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
    for name in ("cem", "latco"):  # the others, and compiled: tests/test_optimizers.py
        agent = agents.agent_class(name)(config, OBSERVATIONS, ACTION_SPACE)
        agent.planner._compiled = agent.planner._traced
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


def test_the_planner_in_the_guide_for_contributors_works_as_it_stands():
    guide = (Path(agents.__file__).parent / "CONTRIBUTING.md").read_text()
    code = next(block for block in guide.split("```")[1::2] if "Planner)" in block)
    names = {"optimizers": optimizers, "random_actions": random_actions, "tf": tf, "PlanningAgent": PlanningAgent}
    exec(code.removeprefix("python").split("PLANNERS = ")[0], names)
    problem = optimizers.LatentProblem(lambda z, a: z + a, lambda z: -tf.abs(z[..., 0]), 1, 1)
    plan = names["OneRandomPlan"](problem, 3, iterations=1, restarts=50)(tf.zeros([2, 1]), [1, 2])
    single = names["OneRandomPlan"](problem, 3, iterations=1)(tf.zeros([2, 1]), [1, 2])
    assert plan.actions.shape == (2, 3, 1)
    assert np.all(plan.curves["reward"] > single.curves["reward"])
    assert issubclass(names["OneRandomPlanAgent"], PlanningAgent)
