"""Agents with a policy: what learns from what, when teachers plan, what is saved, loaded and refused."""

import numpy as np
import pytest
import tensorflow as tf
from documentation import read_metrics

import agents
import models
import optimizers
import planning_agent
from base_agent import BaseAgent
from planner_agents import CEMAgent, GDAgent, ICEMAgent
from policy_agents import DreamerAgent, PolicyAgent
from tests.tiny_agents import ACTION_SPACE, ACTIONS, OBSERVATIONS, make_batch
from tools.config import load_config
from tools.errors import UserError
from training.initial_weights import PLAN_MEMORY, check_parts, restore_parts
from training.logdir import CHECKPOINTS, open_logdir


def make(cls, config, **changes):
    agent = cls(config.replace(**changes), OBSERVATIONS, ACTION_SPACE)
    agent.planner._compiled = agent.planner._traced  # compiling takes longer than planning
    if getattr(agent, "teacher", None) is not None:
        agent.teacher._compiled = agent.teacher._traced
    return agent


def copies(part):
    return [x.numpy() for x in part.variables]


def changed(before, part):
    return [not np.array_equal(old, x) for old, x in zip(before, part.variables, strict=True)]


# Dreamer


@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dreamer_learns_beside_the_world_model_and_changes_none_of_its_weights(tiny_config, updates, request):
    if updates == 1:  # two are worth compiling
        request.getfixturevalue("line_by_line")
    config = tiny_config.replace(discount_head=True, latent="categorical")
    plain, dreamer = (cls(config, OBSERVATIONS, ACTION_SPACE) for cls in (BaseAgent, DreamerAgent))
    before = copies(dreamer.actor.net), copies(dreamer.value.net)
    for seed in range(updates):
        batch = make_batch(config, seed)
        one, two = plain.train_step(batch), dreamer.train_step(batch)
        assert two.keys() - one.keys() == {"actor_loss", "actor_return", "actor_entropy", "value_loss", "value"}
        assert all(np.isfinite(value) for value in two.values())
        assert all(float(one[name]) == float(two[name]) for name in one)
    for old, new in zip(plain.model.variables, dreamer.model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(changed(before[0], dreamer.actor.net)) and all(changed(before[1], dreamer.value.net))
    assert int(dreamer.actor.updates) == int(dreamer.value.updates) == updates
    assert dreamer.train_step.experimental_get_tracing_count() == updates - 1
    assert {"actor", "value"} <= dreamer.checkpointed.keys() and PLAN_MEMORY not in dreamer.checkpointed


def test_dreamer_starts_from_states_that_are_neither_padding_nor_terminal(tiny_config, monkeypatch):
    agent = make(DreamerAgent, tiny_config)
    mask, goes_on = np.ones([4, 8], np.float32), np.ones([4, 8], np.float32)
    mask[1, 5:], goes_on[2, 7] = 0.0, 0.0
    batch = make_batch(agent.config) | {"mask": tf.constant(mask), "discount": tf.constant(goes_on)}
    feat, seen = tf.random.stateless_normal([4, 8, agent.model.dynamics.feat_size], [1, 2]), []
    monkeypatch.setattr(agent.behavior, "learn", lambda *args: seen.extend(args) or {})
    agent._learn_behavior(feat, batch)
    np.testing.assert_array_equal(seen[0], tf.reshape(feat, [32, -1]))
    np.testing.assert_array_equal(seen[1], (mask * goes_on).ravel())


@pytest.mark.parametrize("head", [False, True])
def test_imagination_is_discounted_by_gamma_and_the_head(tiny_config, head):
    agent = make(DreamerAgent, tiny_config, discount_head=head, imagination_discount=0.9)
    z = tf.random.stateless_normal([3, 2, agent.model.dynamics.feat_size], [1, 2])
    factor = 1 / (1 + np.exp(-agent.model.discount(z).numpy())) if head else np.ones([3, 2])
    np.testing.assert_allclose(agent.imagined_discount(z), 0.9 * factor, rtol=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_dreamers_plans_end_in_its_critic_only_with_value_head(tiny_config, head):
    """As those of other planners, with which benchmarks/plan_quality.py compares them."""
    agent = make(DreamerAgent, tiny_config, value_head=head, discount=0.9)
    assert agent.value is not None and (agent.planner.problem.value is not None) == head


def test_dreamer_acts_in_every_decision_and_explores_by_samples(tiny_config):
    agent = make(DreamerAgent, tiny_config, expl_noise=0.0)
    obs, first = {"image": np.zeros([32, 64, 64, 3], np.uint8)}, np.ones(32, bool)
    quiet, state, extras = agent.policy(obs, first, None, explore=False)
    np.testing.assert_allclose(quiet, agent.actor(models.get_feat(state.latent)), atol=1e-6)
    assert extras["planned"].all() and state.plan.actions.shape == (32, agent.config.planning_horizon, ACTIONS)
    again, later, extras = agent.policy(obs, ~first, state, explore=False)
    np.testing.assert_allclose(again, agent.actor(models.get_feat(later.latent)), atol=1e-6)
    assert extras["planned"].all()
    noisy, *_ = agent.policy(obs, first, None, explore=True)
    # At first the standard deviation before the tanh is 5, so that most samples are near a bound.
    assert np.mean(np.abs(noisy) > 0.9) > 0.5 and np.ptp(noisy, axis=0).min() > 1.0


# Policies that are learned from plans


def test_without_a_policy_there_is_none(tiny_config):
    agent = make(GDAgent, tiny_config)
    assert agent.actor is None and agent.distiller is None and agent.latent_problem().policy is None
    assert not {"actor", PLAN_MEMORY} & agent.checkpointed.keys() and agent.planner.keep_plans == 0


@pytest.mark.parametrize("changes", [{"warm_start": "policy"}, {"policy_candidates": 0.25}])
def test_executed_plans_and_the_best_restarts_teach_the_policy(tiny_config, changes):
    sizes = {"planning_horizon": 4, "mpc_steps": 2, "n_parallel_plans": 3, "policy_memory": 30, "policy_updates": 3}
    agent = make(CEMAgent, tiny_config, **sizes, **changes)
    assert agent.planner.policy_start == ("warm_start" in changes) and agent.planner.keep_plans == 2
    assert agent.planner.policy_share == changes.get("policy_candidates", 0.0)
    before, obs = copies(agent.actor.net), {"image": np.zeros([2, 64, 64, 3], np.uint8)}
    first, state = np.array([True, True]), None
    _, state, extras = agent.policy(obs, first, state, explore=False)
    assert int(agent.distiller.memory.filled) == 0 and "model/policy_loss" not in extras["metrics"]
    _, state, extras = agent.policy(obs, first, None, explore=True)
    memory = agent.distiller.memory
    assert int(memory.filled) == 2 * 2 * 2 and int(agent.actor.updates) == 3  # environments, plans and steps
    assert all(changed(before, agent.actor.net)) and np.all(np.isfinite(extras["metrics"]["model/policy_loss"]))
    np.testing.assert_allclose(memory.action[:2], state.plan.actions[0, :2], atol=1e-6)
    np.testing.assert_allclose(memory.feat[0], models.get_feat(state.latent)[0], atol=1e-6)
    np.testing.assert_allclose(memory.score[:4], np.repeat(state.plan.kept_scores[0], 2), rtol=1e-6)
    _, state, extras = agent.policy(obs, ~first, state, explore=True)
    assert int(memory.filled) == 8 and np.all(np.isnan(extras["metrics"]["model/policy_loss"]))


def test_icem_s_own_share_of_elites_does_not_hide_the_plans_that_teach(tiny_config):
    sizes = {"planning_horizon": 4, "mpc_steps": 2, "policy_memory": 30, "policy_updates": 1, "icem_elites": 4}
    agent = make(ICEMAgent, tiny_config, n_parallel_plans=3, policy_candidates=0.25, icem_keep=0.5, **sizes)
    assert agent.planner.keep_plans == 2 and agent.planner.num_kept == 2
    agent.policy({"image": np.zeros([2, 64, 64, 3], np.uint8)}, np.ones(2, bool), None, explore=True)
    assert int(agent.distiller.memory.filled) == 2 * 2 * 2


def test_a_teacher_plans_every_few_decisions_and_the_policy_acts(tiny_config):
    sizes = {"planning_horizon": 4, "mpc_steps": 3, "policy_memory": 30, "policy_updates": 1, "gd_iterations": 2}
    agent = make(PolicyAgent, tiny_config, policy_teacher="gd", expl_noise=0.0, warm_start=True, **sizes)
    obs, state, planned = {"image": np.zeros([2, 64, 64, 3], np.uint8)}, None, []
    for is_first in ([True, True], [False, False], [False, True], [False, False], [False, False]):
        action, state, extras = agent.policy(obs, np.array(is_first), state, explore=True)
        planned.append(np.isfinite(extras["metrics"]["model/policy_loss"]).tolist())
        if not any(planned[-1]):  # otherwise the policy has learned since
            np.testing.assert_allclose(action, agent.actor(models.get_feat(state.latent)), atol=1e-5)
    assert planned == [[True, True], [False, False], [False, True], [True, False], [False, False]]
    assert int(agent.distiller.memory.filled) == 4 * 3 and state.plan.teacher.cursor.tolist() == [2, 3]
    assert isinstance(agent.teacher, optimizers.Planner) and agent.teacher.iterations == 2
    assert state.plan.teacher.warm_starts is not None


def test_without_a_teacher_the_policy_stays_as_it_is(tiny_config):
    agent = make(PolicyAgent, tiny_config, policy_teacher="none")
    before, obs = copies(agent.actor.net), {"image": np.zeros([2, 64, 64, 3], np.uint8)}
    _, state, _ = agent.policy(obs, np.ones(2, bool), None, explore=True)
    assert state.plan.teacher is None and not any(changed(before, agent.actor.net))


def test_agents_that_execute_no_plans_need_none_of_mpc_steps_actions(tiny_config):
    for agent, changes in ((DreamerAgent, {"planner": "dreamer"}), (PolicyAgent, {"policy_teacher": "none"})):
        assert make(agent, tiny_config, planning_horizon=3, mpc_steps=4, **changes).planner.horizon == 3
    with pytest.raises(UserError, match="mpc_steps is 4 but a plan has only 3 actions"):
        make(PolicyAgent, tiny_config, planning_horizon=3, mpc_steps=4, policy_teacher="gd")  # its plans are used


def test_offline_the_policy_learns_from_the_recorded_actions(tiny_config):
    batch = make_batch(tiny_config)
    for steps in (0, 100):
        agent = make(GDAgent, tiny_config, warm_start="policy", steps=steps)
        feat = tf.random.stateless_normal([4, 8, agent.model.dynamics.feat_size], [1, 2])
        before, metrics = copies(agent.actor.net), agent._learn_behavior(feat, batch)
        assert ("policy_loss" in metrics) == (steps == 0) == all(changed(before, agent.actor.net))


# Programs


def train(words, logdir):
    argv = ["--configs", "defaults", "pointmass", "debug", *words, "--logdir", str(logdir)]
    config = load_config(argv).resolved()
    agent = agents.make_agent(config)
    agent.train(open_logdir(config, argv), quiet=True)
    return agent, set().union(*read_metrics(logdir))


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["dreamer", "policy"])
def test_a_trained_policy_is_restored_and_used_by_other_planners(planner, tmp_path):
    words = ["--planner", planner, "--policy_teacher", "gd", "--eval_every", "0"]
    agent, names = train(words, tmp_path / "run")
    assert ({"model/actor_loss", "model/value"} if planner == "dreamer" else {"model/policy_loss"}) <= names
    feat = tf.random.stateless_normal([4, agent.model.dynamics.feat_size], [1, 2])
    for overrides in ([], ["--planner", "gd", "--warm_start", "policy"], ["--planner", "policy"]):
        again = agents.load_agent(tmp_path / "run", overrides)
        np.testing.assert_array_equal(again.actor(feat), agent.actor(feat))
        plan = again.plan_from(feat, tf.constant([0, 1]), iterations=0)
        np.testing.assert_allclose(plan.actions[:, 0], agent.actor(feat), atol=1e-5)
    assert agents.load_agent(tmp_path / "run", ["--planner", "gd"]).actor is None
    # A new run starts with it, and another resumes.
    start = ["--init_from", str(tmp_path / "run"), "--offline_dir", str(tmp_path / "run" / "episodes")]
    new, _ = train([*words, *start, "--steps", "0", "--pretrain", "1"], tmp_path / "new")
    assert int(new.actor.updates) >= int(agent.actor.updates) > 0
    resumed, _ = train([*words, "--steps", "160"], tmp_path / "run")
    assert int(resumed.actor.updates) > int(agent.actor.updates)


@pytest.mark.slow
def test_runs_without_a_policy_start_one_and_are_not_evaluated_with_one(tmp_path, capsys):
    train(["--planner", "gd", "--eval_every", "0"], tmp_path / "run")
    with pytest.raises(UserError, match="learned no policy"):
        agents.load_agent(tmp_path / "run", ["--planner", "policy"])
    words = ["--init_from", str(tmp_path / "run"), "--planner", "dreamer", "--eval_every", "0", "--pretrain", "99"]
    agent, _ = train(words, tmp_path / "new")
    assert "no policy and no value" in capsys.readouterr().err and int(agent.actor.updates) > 0


def test_dreamer_does_not_act_in_runs_without_a_critic(tmp_path):
    checkpoint = tf.train.Checkpoint(actor=tf.Variable(1.0))
    tf.train.CheckpointManager(checkpoint, str(tmp_path / CHECKPOINTS), max_to_keep=1).save()
    actor, value = tf.Variable(0.0), tf.Variable(0.0)
    with pytest.raises(UserError, match="learned no value, as Dreamer does: add --planner policy"):
        restore_parts({"actor": actor, "value": value}, tmp_path)
    restore_parts({"actor": actor}, tmp_path)
    assert float(actor) == 1.0


@pytest.mark.parametrize(
    ("saved", "own", "expected"),
    [
        ([], ["actor", PLAN_MEMORY], "lacks a policy and the plans that a policy learns from, which .* need:"),
        (["actor", PLAN_MEMORY], [], "has a policy and the plans that a policy learns from, which .* do not use:"),
        (["actor", "value"], ["actor", PLAN_MEMORY], "lacks the plans that a policy learns from, which these"),
        (["actor", "value"], ["value"], "has a policy, which these settings do not use:"),
    ],
)
def test_a_run_does_not_go_on_with_another_kind_of_policy(tmp_path, saved, own, expected):
    parts = lambda names: {name: tf.Variable(1.0) for name in ["model", *names]}
    check_parts(parts(own), tmp_path)  # there is nothing yet
    tf.train.CheckpointManager(tf.train.Checkpoint(**parts(saved)), str(tmp_path / CHECKPOINTS), max_to_keep=1).save()
    check_parts(parts(saved), tmp_path)
    with pytest.raises(UserError, match=f"The checkpoint in {tmp_path} {expected}.* resume the run with"):
        check_parts(parts(own), tmp_path)


def test_several_devices_are_refused(tmp_path, capsys):
    for words in (["--planner", "dreamer"], ["--warm_start", "policy"]):
        argv = ["--configs", "defaults", "pointmass", "debug", *words, "--strategy", "mirrored"]
        assert planning_agent.main([*argv, "--logdir", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err.strip()
        assert "strategy" in error and "\n" not in error and not (tmp_path / "new").exists()
