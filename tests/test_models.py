"""The world model against plain numpy, automatic differentiation and itself, one environment at a time."""

import numpy as np
import pytest
import tensorflow as tf

import models

STOCH, DETER, HIDDEN, ACTIONS, EMBED = 5, 7, 6, 3, 9


def make_rssm(act="relu", seed=0):
    tf.keras.utils.set_random_seed(seed)
    rssm = models.RSSM(ACTIONS, EMBED, STOCH, DETER, HIDDEN, act, min_std=0.1)
    rng = np.random.default_rng(seed)
    # Keras starts biases at zero, which would hide a bias that is left out.
    for variable in rssm.variables:
        variable.assign(rng.normal(0.0, 0.5, variable.shape).astype(np.float32))
    return rssm


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def numpy_step(rssm, stoch, deter, action):
    """The deterministic path and both distributions' inputs, written from the equations of the GRU."""
    weights = lambda layer: [np.asarray(w) for w in layer.get_weights()]  # noqa: E731
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
    prior = rssm.img_step(state, action, noise)
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


def test_observe_is_a_fold_of_single_steps_with_resets_in_mid_batch():
    rssm = make_rssm()
    batch, length = 3, 6
    embed, action = normal(batch, length, EMBED), normal(batch, length, ACTIONS, seed=1)
    noise = normal(batch, length, STOCH, seed=2)
    is_first = np.zeros([batch, length], bool)
    is_first[0, 0] = is_first[1, 3] = is_first[2, 5] = True
    post, prior = rssm.observe(*map(tf.constant, (embed, action, is_first, noise)))
    for b in range(batch):
        state = rssm.initial(1)
        for t in range(length):
            if is_first[b, t]:
                state = rssm.initial(1)
            # After a reset the action that ended the last episode must not matter either.
            act = np.zeros([1, ACTIONS], np.float32) if is_first[b, t] else action[b : b + 1, t]
            before = state
            state = rssm.obs_step(before, act, embed[b : b + 1, t], np.zeros(1, bool), noise[b : b + 1, t])
            expected = rssm.img_step(before, act, np.zeros([1, STOCH], np.float32))
            for key in ("stoch", "deter", "mean", "std"):
                np.testing.assert_allclose(post[key][b, t], state[key][0], rtol=1e-4, atol=1e-5)
            for key in ("deter", "mean", "std"):
                np.testing.assert_allclose(prior[key][b, t], expected[key][0], rtol=1e-4, atol=1e-5)


def test_imagine_is_a_fold_of_prior_steps():
    rssm = make_rssm()
    state = rssm.obs_step(rssm.initial(2), normal(2, ACTIONS), normal(2, EMBED), np.ones(2, bool), normal(2, STOCH))
    action, noise = normal(2, 4, ACTIONS, seed=3), normal(2, 4, STOCH, seed=4)
    states = rssm.imagine(state, tf.constant(action), tf.constant(noise))
    for t in range(4):
        state = rssm.img_step(state, action[:, t], noise[:, t])
        for key in state:
            np.testing.assert_allclose(states[key][:, t], state[key], rtol=1e-4, atol=1e-5)


def test_planner_steps_agree_with_the_prior():
    rssm = make_rssm()
    z, a = normal(2, 5, STOCH + DETER), normal(2, 5, ACTIONS, seed=1)
    flat = {"stoch": z[..., :STOCH].reshape(10, -1), "deter": z[..., STOCH:].reshape(10, -1)}
    prior = rssm.img_step(flat, a.reshape(10, -1), np.zeros([10, STOCH], np.float32))
    expected = np.concatenate([prior["mean"], prior["deter"]], -1).reshape(2, 5, -1)
    np.testing.assert_allclose(rssm.mean_step(z, a), expected, rtol=1e-4, atol=1e-5)
    noise = normal(2, 5, rssm.noise_size, seed=2)
    prior = rssm.img_step(flat, a.reshape(10, -1), noise.reshape(10, -1))
    expected = np.concatenate([prior["stoch"], prior["deter"]], -1).reshape(2, 5, -1)
    np.testing.assert_allclose(rssm.sample_step(z, a, noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", ["relu", "elu", "tanh"])
def test_linearize_equals_automatic_differentiation(act):
    rssm = make_rssm(act)
    z, a = tf.constant(normal(4, STOCH + DETER)), tf.constant(normal(4, ACTIONS, seed=1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, a])
        mu = rssm.mean_step(z, a)
    mean, jac_z, jac_a = rssm.linearize(z, a)
    np.testing.assert_allclose(mean, mu, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jac_z, tape.batch_jacobian(mu, z), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(jac_a, tape.batch_jacobian(mu, a), rtol=1e-3, atol=1e-5)


def moments_by_tape(rssm, z, a, noise):
    """The moments and mean Jacobians of every sample's own Jacobians, averaged in numpy."""
    samples = z.shape[1]
    zs, noises = tf.reshape(z, [-1, z.shape[-1]]), tf.reshape(noise, [-1, noise.shape[-1]])
    actions = tf.repeat(a, samples, 0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([zs, actions])
        z_next = rssm.sample_step(zs, actions, noises)
    stack = lambda x: x.numpy().reshape([-1, samples, *x.shape[1:]])  # noqa: E731
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


def test_kl_equals_the_closed_form():
    rssm = make_rssm()
    post = {"mean": normal(3, STOCH), "std": np.exp(normal(3, STOCH, seed=1))}
    prior = {"mean": normal(3, STOCH, seed=2), "std": np.exp(normal(3, STOCH, seed=3))}
    ratio = post["std"] / prior["std"]
    expected = 0.5 * (ratio**2 + ((post["mean"] - prior["mean"]) / prior["std"]) ** 2 - 1 - 2 * np.log(ratio)).sum(-1)
    np.testing.assert_allclose(rssm.kl(post, prior), expected, rtol=1e-4)


def test_first_decoder_layer_is_the_transposed_convolution_of_one_pixel():
    decoder = models.Decoder(feat_size=4, depth=2)
    deconv = tf.keras.layers.Conv2DTranspose(8, 5, strides=2, activation="relu")
    deconv.build((None, 1, 1, 64))
    kernel = np.asarray(decoder.first.kernel).reshape(64, 5, 5, 8)
    deconv.kernel.assign(kernel.transpose(1, 2, 3, 0))
    x = normal(3, 64)
    dense = np.asarray(decoder.first(x)).reshape(3, 5, 5, 8)
    np.testing.assert_allclose(dense, deconv(x[:, None, None, :]), rtol=1e-4, atol=1e-5)


def test_image_shapes_and_ranges():
    model = models.WorldModel(
        ACTIONS, stoch=STOCH, deter=DETER, hidden=HIDDEN, act="relu", min_std=0.1, cnn_depth=2, cnn_act="relu",
        reward_layers=1, reward_units=4,
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, [2, 3, 64, 64, 3], np.uint8)
    assert model.embed(tf.constant(image)).shape == (2, 3, model.encoder.embed_size)
    assert model.decode(tf.zeros([2, 3, STOCH + DETER])).shape == (2, 3, 64, 64, 3)
    assert model.reward(tf.zeros([2, 3, STOCH + DETER])).shape == (2, 3)
    scaled = models.preprocess(tf.constant(image))
    assert scaled.dtype == tf.float32 and float(tf.reduce_min(scaled)) >= -0.5 and float(tf.reduce_max(scaled)) <= 0.5
    np.testing.assert_array_equal(models.postprocess(scaled), image)
