"""BaseAgent: the terms of the loss, what an update changes, what is padding, random actions, refusals."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from base_agent import BaseAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS, PlanlessAgent, agent_of, make_batch, make_noise, with_cost
from tools.config import load_config
from tools.errors import UserError


@pytest.fixture(scope="module")
def agent():
    """An agent with every head, whose update is compiled once for all tests."""
    config = load_config(["--configs", "defaults", "debug"])
    config = with_cost(config, discount_head=True, state_probe=True, free_nats=0.0, model_lr=1e-2)
    return BaseAgent(config, OBSERVATIONS, ACTION_SPACE)


def test_an_update_changes_every_variable(agent):
    variables = agent.model.trainable_variables
    parts = {v.path.split("/")[0] for v in variables}
    assert len(variables) == len(agent.optimizer._trainable_variables)
    before, updates = [v.numpy() for v in variables], int(agent.updates)
    # Several batches: a rectified unit may be silent on one of them.
    for seed in range(3):
        agent.train_step(make_batch(agent.config, seed))
    unchanged = [v.path for v, old in zip(variables, before, strict=True) if np.array_equal(v.numpy(), old)]
    assert not unchanged, f"never trained: {unchanged} of {parts}"
    assert int(agent.updates) == updates + 3


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_compiled_gradients_are_those_of_the_uncompiled_update(latent):
    words = ["--latent", latent, "--overshooting", "2", "--discount_head", "true"]
    updated = []
    for compiled in ("never", "always"):
        config = load_config(["--configs", "defaults", "debug", *words, "--compile_update", compiled])
        agent = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
        assert hasattr(agent.differentiate, "experimental_get_compiler_ir") == (compiled == "always")
        grads, norm, metrics, feat = agent._gradients(make_batch(config), tf.constant([1, 2]))
        updated.append([*[grad / norm for grad in grads], norm, *metrics.values(), feat])
    for plain, fast in zip(*updated, strict=True):
        np.testing.assert_allclose(plain, fast, rtol=1e-3, atol=1e-4)


def test_updates_lower_the_loss_of_a_batch(agent):
    batch = make_batch(agent.config)
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


@pytest.mark.parametrize("task", ["pointmass_lottery", "gym_InvertedPendulum-v5"])
def test_cost_head_on_a_task_without_cost_is_refused(tiny_config, task):
    with pytest.raises(UserError, match=f"{task} reports no cost.*turn it off"):
        BaseAgent(tiny_config.replace(task=task, cost_head=True), OBSERVATIONS, ACTION_SPACE)


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


def test_probe_changes_no_initial_weight_of_value_and_policy(tiny_config):
    config = tiny_config.replace(value_head=True, discount=0.9, warm_start="policy")
    agents = [PlanlessAgent(config.replace(state_probe=probe), OBSERVATIONS, ACTION_SPACE) for probe in (False, True)]
    for part in ("value", "actor"):
        for without, with_probe in zip(*(getattr(agent, part).weights for agent in agents), strict=True):
            np.testing.assert_array_equal(without, with_probe)
    kernels = [layer.kernel.numpy() for layer in agents[1].model.probe.hidden]
    assert all(np.any(kernel) for kernel in kernels)


def test_states_in_large_units_shorten_no_other_step(tiny_config, line_by_line):
    batch = make_batch(tiny_config)
    batch["state"] *= 1e6
    found = []
    for probe in (False, True):
        agent = BaseAgent(tiny_config.replace(state_probe=probe), OBSERVATIONS, ACTION_SPACE)
        grads, norm, *_ = agent._gradients(batch, tf.constant([1, 2]))
        others = len(agent.model.trainable_variables) - (len(agent.model.probe.trainable_variables) if probe else 0)
        found.append([*grads[:others], norm])
    own = tf.linalg.global_norm(grads[others:])
    assert float(own) == pytest.approx(tiny_config.grad_clip, rel=1e-3)
    for without, with_probe in zip(*found, strict=True):
        np.testing.assert_allclose(without, with_probe, rtol=1e-4, atol=1e-6)
    batch["state"] *= np.inf
    assert float(agent.train_step(batch)["skipped_updates"]) == 1.0


def test_probe_without_a_state_is_refused(tiny_config):
    images = gymnasium.spaces.Dict({"image": OBSERVATIONS["image"]})
    with pytest.raises(UserError, match="state_probe"):
        BaseAgent(tiny_config.replace(state_probe=True), images, ACTION_SPACE)


def test_a_step_without_finite_gradients_is_skipped_and_counted(agent):
    batch = make_batch(agent.config)
    before = [v.numpy() for v in agent.model.trainable_variables]
    metrics = agent.train_step(batch | {"reward": tf.fill(batch["reward"].shape, np.float32("nan"))})
    assert float(metrics["skipped_updates"]) == 1.0
    for old, variable in zip(before, agent.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert float(agent.train_step(batch)["skipped_updates"]) == 0.0


def test_weights_without_bounds_are_named_before_they_act(tiny_config, monkeypatch):
    agent = PlanlessAgent(tiny_config, OBSERVATIONS, ACTION_SPACE)
    obs = {"image": np.zeros((1, 64, 64, 3), np.uint8)}
    monkeypatch.setattr(agent, "act", lambda *_: (np.full((1, agent.action_size), np.inf), None, {}))
    assert (agent.policy(obs, np.ones(1, bool), None, explore=False)[0] == 1.0).all()
    monkeypatch.setattr(agent, "act", lambda *_: (np.full((1, agent.action_size), np.nan), None, {}))
    with pytest.raises(UserError, match="not a number, so its weights have grown beyond bounds: choose lower learning"):
        agent.policy(obs, np.ones(1, bool), None, explore=True)


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


def test_numbers_that_are_0_as_float32_are_refused_where_something_is_divided_by_them(tiny_config):
    for key in ("adam_eps", "eps_act", "latco_damping", "gd_lr"):
        for text, words in (("0", "above 0"), ("1e-40", "too small")):
            with pytest.raises(UserError, match=f"{key} is .*{words}"):
                load_config([f"--{key}", text])
    config = tiny_config.replace(adam_eps=load_config(["--adam_eps", "1e-37"]).adam_eps)
    agent, batch = agent_of(config), make_batch(config)
    # Gradients of 0, which are divided by the root of their squares.
    agent.train_step(batch | {"action": tf.zeros_like(batch["action"])})
    assert all(np.isfinite(variable.numpy()).all() for variable in agent.model.trainable_variables)
