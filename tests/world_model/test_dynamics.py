"""Latent dynamics against plain numpy, automatic differentiation and themselves, one environment at a time."""

import numpy as np
import pytest
import tensorflow as tf

from tests.world_model.small_dynamics import (
    ACTIONS,
    DETER,
    EMBED,
    STOCH,
    VARIANTS,
    feature,
    img_step,
    make,
    make_rssm,
    normal,
    split,
)
from tools.errors import UserError
from world_model import dynamics, latents
from world_model.ssm import get_feat


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def numpy_step(rssm, stoch, deter, action):
    """The deterministic path and both distributions' inputs, written from the equations of the GRU."""
    weights = lambda layer: [np.asarray(w) for w in layer.get_weights()]
    (ws, bs), (wa,) = weights(rssm.stoch_in), weights(rssm.action_in)
    kernel, recurrent, (b_in, b_rec) = weights(rssm.cell)
    x = np.maximum(stoch @ ws + bs + action @ wa, 0.0)
    xu, xr, xc = np.split(x @ kernel + b_in, 3, -1)
    hu, hr, hc = np.split(deter @ recurrent + b_rec, 3, -1)
    update, reset = sigmoid(xu + hu), sigmoid(xr + hr)
    return update * deter + (1 - update) * np.tanh(xc + reset * hc)


def numpy_gaussian(layer_in, layer_out, deter, embed_in=0.0):
    (w1, b1), (w2, b2) = layer_in.get_weights(), layer_out.get_weights()
    mean, raw = np.split(np.maximum(deter @ w1 + b1 + embed_in, 0.0) @ w2 + b2, 2, -1)
    return mean, np.log1p(np.exp(raw)) + 0.1


def test_prior_step_equals_numpy():
    rssm = make_rssm()
    state = {key: normal(4, size, seed=i) for i, (key, size) in enumerate([("stoch", STOCH), ("deter", DETER)])}
    action, noise = normal(4, ACTIONS, seed=2), normal(4, STOCH, seed=3)
    deter = numpy_step(rssm, state["stoch"], state["deter"], action)
    mean, std = numpy_gaussian(rssm.prior_in, rssm.prior_out, deter)
    prior = img_step(rssm, state, action, noise)
    np.testing.assert_allclose(prior["deter"], deter, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior["std"], std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior["stoch"], mean + std * noise, rtol=1e-4, atol=1e-5)


def test_posterior_step_equals_numpy():
    rssm = make_rssm()
    state = {"stoch": normal(4, STOCH, seed=1), "deter": normal(4, DETER, seed=2)}
    action, embed, noise = normal(4, ACTIONS, seed=3), normal(4, EMBED, seed=4), normal(4, STOCH, seed=5)
    deter = numpy_step(rssm, state["stoch"], state["deter"], action)
    mean, std = numpy_gaussian(rssm.post_in, rssm.post_out, deter, embed @ rssm.embed_in.get_weights()[0])
    post = rssm.obs_step(state, action, embed, np.zeros(4, bool), noise)
    np.testing.assert_allclose(post["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(post["stoch"], mean + std * noise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_observe_is_a_fold_of_single_steps_with_resets_in_mid_batch(variant):
    model = make(variant)
    batch, length = 3, 6
    embed, action = normal(batch, length, EMBED), normal(batch, length, ACTIONS, seed=1)
    noise = normal(batch, length, model.noise_size, seed=2)
    is_first = np.zeros([batch, length], bool)
    is_first[0, 0] = is_first[1, 3] = is_first[2, 5] = True
    post, prior = model.observe(*map(tf.constant, (embed, action, is_first, noise)))
    assert set(prior) == {"deter", *model.latent.keys} and set(post) == {"stoch", *prior}
    for b in range(batch):
        state = model.initial(1)
        for t in range(length):
            if is_first[b, t]:
                state = model.initial(1)
            # After a reset the action that ended the last episode must not matter either.
            act = np.zeros([1, ACTIONS], np.float32) if is_first[b, t] else action[b : b + 1, t]
            before = state
            state = model.obs_step(before, act, embed[b : b + 1, t], np.zeros(1, bool), noise[b : b + 1, t])
            expected = img_step(model, before, act)
            for key in state:
                np.testing.assert_allclose(post[key][b, t], state[key][0], rtol=1e-4, atol=1e-5)
            for key in prior:
                np.testing.assert_allclose(prior[key][b, t], expected[key][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_imagine_is_a_fold_of_prior_steps(variant):
    model = make(variant)
    start = split(model, feature(model, 2)) | {key: tf.zeros([2, size]) for key, size in model.latent.keys.items()}
    action, noise = normal(2, 4, ACTIONS, seed=3), normal(2, 4, model.noise_size, seed=4)
    for numbers in (noise, None):
        states, state = model.imagine(start, tf.constant(action), numbers), start
        for t in range(4):
            state = img_step(model, state, action[:, t], None if numbers is None else numbers[:, t])
            for key in state:
                np.testing.assert_allclose(states[key][:, t], state[key], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states["stoch"], model.latent.mean(states), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_planner_steps_agree_with_prior_and_posterior(variant):
    model = make(variant)
    z, a = feature(model, 2, 5), normal(2, 5, ACTIONS, seed=1)
    flat = split(model, tf.reshape(z, [10, -1]))
    noise, embed = normal(2, 5, model.noise_size, seed=2), normal(2, 5, EMBED, seed=3)
    join = lambda state: tf.reshape(get_feat(state), z.shape)
    prior = img_step(model, flat, a.reshape(10, -1))
    np.testing.assert_allclose(model.mean_step(z, a), join(prior), rtol=1e-4, atol=1e-5)
    sample = img_step(model, flat, a.reshape(10, -1), noise.reshape(10, -1))
    np.testing.assert_allclose(model.sample_step(z, a, noise), join(sample), rtol=1e-4, atol=1e-5)
    post = model.obs_step(flat, a.reshape(10, -1), embed.reshape(10, -1), np.zeros(10, bool))
    np.testing.assert_allclose(model.post_step(z, a, embed), join(post), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "variant, act",
    [(variant, "relu") for variant in VARIANTS] + [("rssm-gaussian", "elu"), ("ssm-categorical", "tanh")],
)
def test_linearize_equals_automatic_differentiation(variant, act):
    model = make(variant, act)
    z, a = feature(model, 4), tf.constant(normal(4, ACTIONS, seed=1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, a])
        mu = model.mean_step(z, a)
    mean, jac_z, jac_a = model.linearize(z, a)
    np.testing.assert_allclose(mean, mu, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jac_z, tape.batch_jacobian(mu, z), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(jac_a, tape.batch_jacobian(mu, a), rtol=1e-3, atol=1e-5)


def test_ssm_prior_equals_numpy():
    model = make("ssm-gaussian")
    (ws, bs), (wa,) = model.stoch_in.get_weights(), model.action_in.get_weights()
    stoch, action = normal(4, STOCH), normal(4, ACTIONS, seed=1)
    mean, std = numpy_gaussian(model.prior_in, model.prior_out, np.maximum(stoch @ ws + bs + action @ wa, 0.0))
    prior = img_step(model, {"stoch": stoch, "deter": np.zeros([4, 0], np.float32)}, action)
    np.testing.assert_allclose(prior["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior["std"], std, rtol=1e-4, atol=1e-5)
    assert get_feat(prior).shape == (4, STOCH) and model.feat_size == STOCH


def slow_overshooting(model, post, action, is_first, mask, distances, noise):
    """A rollout for every chunk, start and distance, one step at a time: sums and counts by distance 2 ... D."""
    sums, counts = np.zeros(distances - 1), np.zeros(distances - 1)
    batch, length = mask.shape
    for b in range(batch):
        for d in range(2, distances + 1):
            for start in range(length - d):
                end = start + d
                if is_first[b, start + 1 : end + 1].any() or not mask[b, start : end + 1].all():
                    continue
                state = {key: value[b : b + 1, start] for key, value in post.items()}
                for t in range(start + 1, end + 1):
                    # The sample of the state at t that was predicted over t - start steps; the last one needs none.
                    eps = noise[b : b + 1, t, t - start - 1] if t < end else None
                    state = img_step(model, state, action[b : b + 1, t], eps)
                target = {key: value[b : b + 1, end] for key, value in post.items()}
                sums[d - 2] += float(model.kl(target, state)[0])
                counts[d - 2] += 1
    return sums, counts


@pytest.mark.parametrize("variant", ["rssm-gaussian", "rssm-categorical", "rssm-point", "ssm-gaussian"])
@pytest.mark.parametrize("distances", [2, 5])
def test_overshooting_equals_a_rollout_for_each_distance(variant, distances):
    model, batch, length = make(variant), 3, 7
    action = normal(batch, length, ACTIONS)
    is_first, mask = np.zeros([batch, length], bool), np.ones([batch, length], np.float32)
    is_first[0, 0] = is_first[1, 3] = True
    mask[2, 4:] = 0.0
    inputs = [normal(batch, length, EMBED, seed=1), action, is_first, normal(batch, length, model.noise_size, seed=2)]
    post, prior = model.observe(*map(tf.constant, inputs))
    noise = normal(batch, length, distances - 1, model.noise_size, seed=3)
    sums, counts = model.overshoot(post, prior, *map(tf.constant, (action, is_first, mask, noise)))
    slow_sums, slow_counts = slow_overshooting(model, post, action, is_first, mask, distances, noise)
    np.testing.assert_array_equal(counts, slow_counts)
    np.testing.assert_allclose(sums, slow_sums, rtol=1e-4)


def test_overshooting_trains_predictions_but_not_what_they_aim_at():
    model = make_rssm()
    shape = [2, 5]
    action, noise = tf.constant(normal(*shape, ACTIONS)), tf.constant(normal(*shape, STOCH, seed=1))
    is_first, mask = tf.zeros(shape, tf.bool), tf.ones(shape)
    post, prior = model.observe(tf.constant(normal(*shape, EMBED, seed=2)), action, is_first, noise)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([post, prior])
        sums, _ = model.overshoot(post, prior, action, is_first, mask, noise[:, :, None])
        loss = tf.reduce_sum(sums)
    assert tape.gradient(loss, post["mean"]) is None and tape.gradient(loss, post["std"]) is None
    assert np.any(tape.gradient(loss, prior["mean"])), "the chain of predictions starts from the sampled prior"
    assert np.any(tape.gradient(loss, model.cell.kernel)) and np.any(tape.gradient(loss, model.prior_out.kernel))


@pytest.mark.slow
def test_categorical_plans_that_meet_the_dynamics_stay_on_the_simplex():
    from optimizers import LatentProblem
    from planners.latco import LatCo

    model, eps = make("rssm-categorical"), 1e-4
    for variable in model.variables:
        variable.assign(0.6 * variable)
    reward = lambda z: tf.reduce_sum(z[..., :3], -1) - tf.square(z[..., 5])
    problem = LatentProblem(
        model.mean_step,
        reward,
        model.feat_size,
        ACTIONS,
        sample_step=model.sample_step,
        noise_size=model.noise_size,
        linearize=model.linearize,
    )
    plan = LatCo(problem, 5, 200, eps_dyn=eps, damping=1e-3, finish=0)(feature(model, 2), [1, 2])
    probs = plan.states.numpy()[..., : model.latent.size].reshape(2, 5, 3, 4)
    violation = plan.curves["dynamics_violation"][:, -1].numpy()
    assert np.all(violation < 5 * eps)  # summed over 5 steps
    # A point's distance to the simplex is at most its distance to a point on it, its prediction.
    outside = np.minimum(probs, 0.0)
    off_sum = (probs.sum(-1) - 1.0) / np.sqrt(4)
    assert np.all((off_sum**2).sum((1, 2)) <= violation) and np.all((outside**2).sum((1, 2, 3)) <= violation)
    assert np.abs(probs - np.round(probs)).max() > 0.05, "probabilities, not one-hot vectors"


def test_deterministic_dynamics_refuse_a_categorical_latent():
    sizes = {"stoch": 4, "deter": 4, "hidden": 4, "act": "relu", "min_std": 0.1, "classes": 4, "unimix": 0.0}
    with pytest.raises(UserError, match="categorical"):
        dynamics.make_dynamics("deterministic", "categorical", ACTIONS, EMBED, **sizes)
    model = dynamics.make_dynamics("deterministic", "gaussian", ACTIONS, EMBED, **sizes)
    assert isinstance(model.latent, latents.Point) and model.noise_size == 0
    assert dynamics.make_dynamics("ssm", "categorical", ACTIONS, EMBED, **sizes).feat_size == 16


def moments_by_tape(rssm, z, a, noise):
    """The moments and mean Jacobians of every sample's own Jacobians, averaged in numpy."""
    samples = z.shape[1]
    zs, noises = tf.reshape(z, [-1, z.shape[-1]]), tf.reshape(noise, [-1, noise.shape[-1]])
    actions = tf.repeat(a, samples, 0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([zs, actions])
        z_next = rssm.sample_step(zs, actions, noises)
    stack = lambda x: x.numpy().reshape([-1, samples, *x.shape[1:]])
    z_next, jac_z, jac_a = map(stack, (z_next, tape.batch_jacobian(z_next, zs), tape.batch_jacobian(z_next, actions)))
    return z_next.mean(1), z_next.std(1), jac_z.mean(1), jac_a.mean(1)


@pytest.mark.parametrize(("act", "samples"), [("relu", 8), ("elu", 40), ("tanh", 1)])
def test_linearize_moments_equals_the_average_of_automatic_differentiation(act, samples):
    rssm = make_rssm(act)
    z, a, noise = normal(3, samples, STOCH + DETER), normal(3, ACTIONS, seed=1), normal(3, samples, STOCH, seed=2)
    inputs = [tf.constant(x) for x in (z, a, noise)]
    eager = rssm.linearize_moments(*inputs)
    expected = moments_by_tape(rssm, *inputs)
    compiled = tf.function(rssm.linearize_moments, jit_compile=True)(*inputs)
    for value, want, other in zip(eager, expected, compiled, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-5)


def test_linearize_moments_of_one_sample_without_noise_is_linearize():
    rssm = make_rssm()
    z, a = tf.constant(normal(4, STOCH + DETER)), tf.constant(normal(4, ACTIONS, seed=1))
    mean, std, jac_z, jac_a = rssm.linearize_moments(z[:, None], a, tf.zeros([4, 1, STOCH]))
    for value, want in zip((mean, jac_z, jac_a), rssm.linearize(z, a), strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(std, np.zeros_like(std))


def test_linearize_moments_of_equal_samples_has_no_spread():
    rssm = make_rssm()
    z, a = tf.constant(normal(2, 1, STOCH + DETER)), tf.constant(normal(2, ACTIONS, seed=1))
    noise = tf.constant(normal(2, 1, STOCH, seed=2))
    one = rssm.linearize_moments(z, a, noise)
    # Seven, because a sum of seven equal floats divided by seven is off by rounding, which must not become a NaN.
    many = rssm.linearize_moments(tf.repeat(z, 7, 1), a, tf.repeat(noise, 7, 1))
    for value, want in zip(many, one, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)
