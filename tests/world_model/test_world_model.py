"""Variants of the world model through the agent: loss terms, rewards, image bits, precision, several devices."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import agents
import models
from base_agent import BaseAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS, agent_of, make_batch, make_noise
from tools.errors import UserError
from training.data_parallel import compiles_update, make_strategy
from world_model.kl_loss import kl_loss
from world_model.loss import _head_losses
from world_model.rewards import RewardTransform

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "ssm": {"dynamics": "ssm"},
    "deterministic": {"dynamics": "deterministic"},
    "categorical": {"latent": "categorical", "classes": 3, "kl_balance": 0.8},
    "ssm_categorical": {"dynamics": "ssm", "latent": "categorical", "classes": 3, "unimix": 0.01},
    "overshooting": {"overshooting": 3},
    "perturbation": {"perturbation": 0.1},
    "bfloat16": {"precision": "bfloat16"},
}


QUICK = ("categorical",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in VARIANTS]
)
def test_an_update_of_every_variant_changes_every_variable(tiny_config, name, request):
    if name in QUICK:
        request.getfixturevalue("line_by_line")
    agent = agent_of(tiny_config, **VARIANTS[name])
    before = [v.numpy() for v in agent.model.trainable_variables]
    for seed in range(3):
        metrics = agent.train_step(make_batch(agent.config, seed))
    assert all(np.isfinite(value) for value in metrics.values()) and float(metrics["skipped_updates"]) == 0.0
    unchanged = [v.path for v, old in zip(agent.model.trainable_variables, before, strict=True) if np.all(v == old)]
    assert not unchanged and (name in QUICK or agent.train_step.experimental_get_tracing_count() == 1)


# Every planner with one variant; the other pairs are slow.
PAIRS = [
    pytest.param(planner, name, marks=[] if i % len(VARIANTS) == j else pytest.mark.slow)
    for i, planner in enumerate(agents.PLANNERS)
    for j, name in enumerate(VARIANTS)
]


@pytest.mark.parametrize("planner, name", PAIRS)
def test_every_planner_plans_with_every_variant(tiny_config, planner, name):
    config = tiny_config.replace(planner=planner, planning_horizon=3, mpc_steps=3, **VARIANTS[name])
    agent = agents.agent_class(planner)(config, OBSERVATIONS, ACTION_SPACE)
    agent.planner._compiled = agent.planner._traced  # compiling sixty pairs would take minutes
    action, plan, extras = agent.act(agent.model.dynamics.initial(2), np.ones(2, bool), None, np.zeros(2, bool))
    assert np.all(np.isfinite(action)) and np.all(np.abs(action) <= 1.0)
    assert plan.states.shape == (2, 3, agent.model.dynamics.feat_size)
    assert not np.any(extras["metrics"]["plan/non_finite"])


def test_kl_balance_splits_the_gradient(tiny_config):
    agent = agent_of(tiny_config, kl_balance=0.8)
    batch, noise = make_batch(agent.config), make_noise(agent.config)
    dynamics = agent.model.dynamics
    variables = [dynamics.prior_out.kernel, dynamics.post_out.kernel]

    def gradients(balance):
        agent.config = agent.config.replace(kl_balance=balance)
        with tf.GradientTape() as tape:
            post, prior = dynamics.observe(agent.model.embed(batch["image"]), batch["action"], batch["is_first"], noise)
            # One step only, as elsewhere posteriors reach priors through the recurrence.
            first = lambda state: {key: value[:, :1] for key, value in state.items()}
            cut = {key: value[:, :1] for key, value in batch.items()}
            loss, _ = kl_loss(agent.config, agent.model.dynamics, first(post), first(prior), cut, noise[..., :0])
        return float(loss), tape.gradient(loss, variables)

    (plain, (prior, post)), (balanced, (prior_share, post_share)) = gradients(0.0), gradients(0.8)
    assert balanced == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(prior_share, 0.8 * prior, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(post_share, 0.2 * post, rtol=1e-4, atol=1e-7)
    assert np.any(prior) and np.any(post)


def test_overshooting_terms_enter_the_loss_as_equation_7_says(tiny_config):
    plain = agent_of(tiny_config, kl_scale=0.5)
    agent = agent_of(tiny_config, kl_scale=0.5, overshooting=4, overshooting_scale=3.0)
    batch, noise = make_batch(agent.config), make_noise(agent.config)
    S = agent.model.dynamics.noise_size
    loss, metrics, _ = agent.loss(batch, noise)
    plain_loss, plain_metrics, _ = plain.loss(batch, noise[..., :S])
    assert float(metrics["kl"]) == pytest.approx(float(plain_metrics["kl"]), rel=1e-5)
    others = float(plain_loss) - 0.5 * float(metrics["kl"])
    far = 3 * float(metrics["overshooting_kl"])  # the mean of three distances
    assert float(loss) == pytest.approx(others + (0.5 * float(metrics["kl"]) + 3.0 * far) / 4, rel=1e-4)
    config = agent.config.replace(free_nats=1e6)
    agent.config = config
    assert float(agent.loss(batch, noise)[0]) == pytest.approx(others + (0.5e6 + 3 * 3e6) / 4, rel=1e-4)


@pytest.mark.parametrize("distance", [0, 8])
def test_overshooting_beyond_a_chunk_is_refused(tiny_config, distance):
    with pytest.raises(UserError, match="overshooting"):
        BaseAgent(tiny_config.replace(overshooting=distance), OBSERVATIONS, ACTION_SPACE)


def test_losses_of_the_heads_equal_numpy(tiny_config):
    rng, shape = np.random.default_rng(0), [2, 4]
    feat, state, cost = (rng.normal(size=[*shape, *size]).astype(np.float32) for size in ([3], [2], []))
    mask, goes_on = np.float32([[1, 1, 1, 0], [1, 1, 1, 1]]), np.float32([[1, 1, 0, 1], [1, 1, 1, 0]])
    batch = {"mask": mask, "discount": goes_on, "state": state, "cost": cost}
    head = {"discount": lambda z: z[..., 0], "cost": lambda z: z[..., 1], "probe": lambda z: z[..., 1:]}
    config = tiny_config.replace(discount_scale=3.0, cost_scale=5.0)
    loss, metrics = _head_losses(config, types.SimpleNamespace(**head), batch, tf.constant(feat))
    chance = 1.0 / (1.0 + np.exp(-feat[..., 0]))
    errors = {
        "discount_loss": -np.log(np.where(goes_on > 0, chance, 1.0 - chance)),
        "cost_loss": 0.5 * (feat[..., 1] - cost) ** 2,
        "state_loss": 0.5 * np.mean((feat[..., 1:] - state) ** 2, -1),
    }
    expected = {name: error[mask > 0].mean() for name, error in errors.items()}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-5)
    weighted = 3.0 * expected["discount_loss"] + 5.0 * expected["cost_loss"] + expected["state_loss"]
    assert float(loss) == pytest.approx(weighted, rel=1e-5)


def test_reward_normalization_equals_numpy_over_many_episodes():
    rng, transform = np.random.default_rng(0), RewardTransform("none", 1.0, True)
    seen = [rng.normal(1000.0, 2.0, size) for size in (1, 50, 7)]
    for rewards in seen:
        transform.add(rewards)
    everything = np.concatenate(seen)
    values = np.float32([998.0, 1003.0])
    np.testing.assert_allclose(transform(values), (values - everything.mean()) / everything.std(), rtol=1e-4)


def test_constant_rewards_are_normalized_to_zero():
    transform = RewardTransform("none", 1.0, True)
    np.testing.assert_array_equal(transform(tf.zeros(3)), np.zeros(3))  # before the first episode
    transform.add(np.full(20, 0.5))
    np.testing.assert_allclose(transform(tf.fill([3], 0.5)), np.zeros(3), atol=1e-6)


def test_rewards_are_clipped_or_squashed():
    values = np.float32([-30.0, -0.1, 0.1, 5.0])
    np.testing.assert_allclose(RewardTransform("clip", 2.0, False)(values), [-2.0, -0.1, 0.1, 2.0])
    np.testing.assert_allclose(RewardTransform("tanh", 2.0, False)(values), 2.0 * np.tanh(values / 2.0), rtol=1e-6)
    assert RewardTransform("none", 0.0, False)(values) is values
    with pytest.raises(UserError, match="reward_bound"):
        RewardTransform("clip", 0.0, False)


def test_the_model_learns_transformed_rewards_from_the_statistics_of_now(tiny_config):
    agent = agent_of(tiny_config, reward_normalization=True, reward_transform="clip", reward_bound=1.5)
    batch, noise = make_batch(agent.config), make_noise(agent.config)
    compiled = tf.function(agent.loss, autograph=False)
    for rewards in ([1.0, 2.0], [5.0, 6.0, 10.0]):
        agent.rewards.add(np.array(rewards))
        _, metrics, post = compiled(batch, noise)
        target = np.clip(agent.rewards(batch["reward"]), -1.5, 1.5)
        error = agent.model.reward(models.get_feat(post)).numpy() - target
        assert float(metrics["reward_loss"]) == pytest.approx(0.5 * np.mean(error**2), rel=1e-4)
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_images_keep_their_upper_bits(bits):
    image = np.arange(256, dtype=np.uint8).reshape(4, 64)
    width = 2 ** (8 - bits)
    center = models.reduce_bits(tf.constant(image), bits).numpy()
    np.testing.assert_array_equal(center, image // width * width + (width // 2 if bits < 8 else 0))
    noisy = models.reduce_bits(tf.constant(np.tile(image, [50, 1])), bits, tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(noisy // width, np.tile(image, [50, 1]) // width)
    low = noisy % width
    assert low.max() == width - 1 and low.mean() == pytest.approx((width - 1) / 2, abs=0.02 * width)


def test_fewer_bits_reach_the_filter(tiny_config):
    agent = agent_of(tiny_config, image_bits=1)
    state = agent.model.dynamics.initial(2)
    dark, light = (tf.fill([2, 64, 64, 3], tf.constant(value, tf.uint8)) for value in (3, 120))
    results = []
    for image in (dark, light):
        agent.rng.reset_from_seed(0)
        results.append(agent.filter(image, np.ones(2, bool), state, np.zeros([2, 2], np.float32))["stoch"].numpy())
    np.testing.assert_array_equal(*results)
    with pytest.raises(UserError, match="image_bits"):
        agent_of(tiny_config, image_bits=9)


def test_fewer_bits_reach_the_update(tiny_config):
    # These dynamics draw no numbers of their own.
    agent = agent_of(tiny_config, image_bits=1, dynamics="deterministic")
    batch, seed = make_batch(agent.config), tf.constant([1, 2])
    other = batch | {"image": tf.bitwise.bitwise_xor(batch["image"], tf.constant(127, tf.uint8))}
    first, same = agent._gradients(batch, seed), agent._gradients(other, seed)
    for one, two in zip(first[0], same[0], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)
    # The noise in the place of the lower bits is drawn from the seed.
    losses = [float(found[2]["image_loss"]) for found in (first, same, agent._gradients(batch, seed + 2))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[2] != pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_computes_nearly_the_same_and_keeps_its_weights_in_float32(tiny_config, precision):
    exact, agent = agent_of(tiny_config), agent_of(tiny_config, precision=precision)
    for variable, other in zip(agent.model.variables, exact.model.variables, strict=True):
        variable.assign(other)
    batch, noise = make_batch(agent.config), make_noise(agent.config)
    loss, metrics, post = agent.loss(batch, noise)
    assert float(loss) == pytest.approx(float(exact.loss(batch, noise)[0]), rel=2e-2)
    assert {value.dtype for value in [loss, *metrics.values(), *post.values()]} == {tf.float32}
    assert agent.model.encoder.convs[0].compute_dtype == precision == agent.model.dynamics.cell.compute_dtype
    assert {v.dtype for v in agent.model.trainable_variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32", "the policy is the model's, not everyone's"
    losses = [float(agent.train_step(batch)["loss"]) for _ in range(20)]
    assert np.all(np.isfinite(losses)) and min(losses[10:]) < losses[0]


def test_collocation_is_float32_in_low_precision(tiny_config):
    config = tiny_config.replace(precision="bfloat16")
    agent = agents.agent_class("latco")(config, OBSERVATIONS, ACTION_SPACE)
    dynamics = agent.model.dynamics
    z, a = tf.random.stateless_normal([4, dynamics.feat_size], [1, 2]), tf.random.stateless_normal([4, 2], [3, 4])
    mean, jac_z, jac_a = dynamics.linearize(z, a)
    assert mean.dtype == jac_z.dtype == jac_a.dtype == dynamics.mean_step(z, a).dtype == tf.float32
    exact = BaseAgent(tiny_config, OBSERVATIONS, ACTION_SPACE).model.dynamics
    for variable, other in zip(exact.variables, dynamics.variables, strict=True):
        variable.assign(other)
    for value, want in zip((mean, jac_z, jac_a), exact.linearize(z, a), strict=True):
        np.testing.assert_array_equal(value, want)
    agent.planner._compiled = agent.planner._traced
    plan = agent.planner(z, [1, 2])
    assert plan.states.dtype == plan.actions.dtype == tf.float32 and np.all(np.isfinite(plan.states))


def test_a_scaled_loss_gives_the_same_gradients_and_overflow_is_skipped_once(tiny_config, line_by_line):
    agent = agent_of(tiny_config, precision="float16", grad_clip=1e-3)
    batch = make_batch(agent.config)
    agent.optimizer.dynamic_scale.assign(16.0)
    scale = 16.0
    grads, norm, *_ = agent._gradients(batch, tf.constant([1, 2]))
    plain = agent_of(tiny_config, grad_clip=1e-3)
    for variable, other in zip(plain.model.variables, agent.model.variables, strict=True):
        variable.assign(other)
    assert float(norm) == pytest.approx(float(plain._gradients(batch, tf.constant([1, 2]))[1]), rel=0.1)
    assert float(tf.linalg.global_norm(grads)) == pytest.approx(1e-3 * scale, rel=1e-3)
    before = [v.numpy() for v in agent.model.trainable_variables]
    metrics = agent.train_step(batch | {"reward": tf.fill(batch["reward"].shape, np.float32("inf"))})
    assert float(metrics["skipped_updates"]) == 1.0 and float(agent.optimizer.dynamic_scale) == scale / 2
    assert all(np.array_equal(old, v) for old, v in zip(before, agent.model.trainable_variables, strict=True))


DEVICES = """
import sys, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from base_agent import BaseAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS, make_batch
from tools.config import load_config

words = ["--configs", "defaults", "debug", "--dynamics", "deterministic", "--discount_head", "true", "--grad_clip", "1"]
free = float(sys.argv[1])
config = load_config([*words, "--free_nats", str(free)])
both = BaseAgent(config.replace(strategy="mirrored"), OBSERVATIONS, ACTION_SPACE)
one = BaseAgent(config, OBSERVATIONS, ACTION_SPACE)
assert both.strategy.num_replicas_in_sync == 2 and both.device_batch_size == config.batch_size // 2
for variable, other in zip(both.model.variables, one.model.variables, strict=True):
    variable.assign(other.numpy())
for seed in range(3):
    batch = make_batch(config, seed)
    mask = np.ones(batch["mask"].shape, np.float32)
    mask[0, 3:] = 0.0  # only one of the devices has padding
    batch["mask"] = tf.constant(mask)
    halves = [{key: value[i * 2 : i * 2 + 2] for key, value in batch.items()} for i in range(2)]
    shared = both.strategy.experimental_distribute_values_from_function(
        lambda context: halves[context.replica_id_in_sync_group]
    )
    metrics, expected = both.train_step(shared), one.train_step(batch)
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=2e-4, err_msg=key)
for variable, other in zip(both.model.trainable_variables, one.model.trainable_variables, strict=True):
    np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-3, atol=1e-5, err_msg=other.path)
values = both.strategy.experimental_local_results(both.model.trainable_variables[0].value)
np.testing.assert_array_equal(values[0].numpy(), values[1].numpy())
bad = both.strategy.experimental_distribute_values_from_function(
    lambda context: halves[0] | {"reward": tf.fill([2, config.batch_length], np.float32("nan"))}
)
before = [v.numpy() for v in both.model.trainable_variables]
assert float(both.train_step(bad)["skipped_updates"]) == 1.0
assert all(np.array_equal(v, old) for v, old in zip(both.model.trainable_variables, before, strict=True))
print("equal")
"""


@pytest.mark.parametrize(
    "free_nats", [pytest.param("0", marks=pytest.mark.slow), pytest.param("1000", marks=pytest.mark.slow)]
)
def test_two_devices_train_like_one_with_the_whole_batch(free_nats):
    run = subprocess.run(
        [sys.executable, "-c", DEVICES, free_nats], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]


def test_a_compiled_update_on_several_processors_is_refused(monkeypatch):
    one, two = (types.SimpleNamespace(num_replicas_in_sync=number) for number in (1, 2))
    assert compiles_update("always", one) and not compiles_update("never", two) and not compiles_update("never", one)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert not compiles_update("auto", one) and not compiles_update("auto", two)
    with pytest.raises(UserError, match="compile_update always.*2 devices.*: use compile_update auto"):
        compiles_update("always", two)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert compiles_update("auto", one) and compiles_update("always", two)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(monkeypatch):
    # The test above has two real devices, which a process must ask for at its start.
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: two)
    assert make_strategy("mirrored", 4) is two
    with pytest.raises(UserError, match="batch_size 5 does not divide evenly over 2 devices"):
        make_strategy("mirrored", 5)
