"""Dreamer: trajectories, objective and lambda-returns by hand, and a linear-quadratic problem whose answer is known."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import tensorflow as tf
from tensorflow import keras

from optimizers import LatentProblem
from policies.actor import Actor
from policies.imagination import ActorCritic, Imagined, actor_loss, imagine, step_weights
from world_model.latents import Categorical
from world_model.value import ValueLearner, lambda_returns

EAGER = {"jit_compile": False}  # of XLA only: compiling takes longer than these problems


def make_actor(config, size=2, actions=1, lr=1e-2, **changes):
    return Actor(config.replace(**changes), size, actions, lr)


def line(noise=0.0):
    """A point on a line that the action moves, with the last action beside it."""
    step = lambda z, a: tf.concat([z[..., :1] + a, a], -1)
    sample = lambda z, a, e: step(z, a) + noise * e
    return LatentProblem(step, lambda z: -tf.square(z[..., 0]), 2, 1, sample_step=sample, noise_size=2)


def test_a_trajectory_is_what_a_loop_makes(tiny_config):
    actor, problem = make_actor(tiny_config), line(noise=0.1)
    start, noise = tf.constant([[0.3, 0.0], [-1.0, 0.5]]), tf.random.stateless_normal([2, 4, 1], [1, 2])
    found = imagine(problem, actor, start, noise, tf.constant([3, 4]))
    state_noise = tf.random.stateless_normal([4, 2, 2], [3, 4])
    assert found.feat.shape == (2, 5, 2) and found.log_prob.shape == found.entropy.shape == (2, 4)
    z = start
    for t in range(4):
        np.testing.assert_allclose(found.feat[:, t], z, rtol=1e-5, atol=1e-6)
        z = problem.sample_step(z, actor(z, noise[:, t]), state_noise[t])
    np.testing.assert_allclose(found.feat[:, 4], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.log_prob, -found.entropy, rtol=1e-6)


def test_the_policy_sees_states_as_constants(tiny_config):
    """d z_2 / d theta is what two separate actions give, without the way through the policy's input."""
    actor, start, noise = make_actor(tiny_config), tf.constant([[0.3, 0.0]]), tf.zeros([1, 2, 1])
    variables = actor.net.trainable_variables
    with tf.GradientTape() as tape:
        end = imagine(line(), actor, start, noise, tf.constant([0, 0])).feat[0, 2, 0]
    found = tape.gradient(end, variables)
    middle = imagine(line(), actor, start, noise, tf.constant([0, 0])).feat[:, 1]
    with tf.GradientTape() as tape:
        actions = tf.reduce_sum(actor(start) + actor(tf.constant(middle.numpy())))
    expected = tape.gradient(actions, variables)
    compared = [(one, two) for one, two in zip(found, expected, strict=True) if two is not None]
    assert len(compared) == len(variables) and any(np.any(two) for _, two in compared)
    for one, two in compared:
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_lambda_returns_of_an_imagined_trajectory_by_hand():
    # Two steps with rewards 1 and 2, values 10, 20 and 40, and pcont 0.5 after z_1, 0.25 after z_2.
    reward, value = tf.constant([[7.0, 1.0, 2.0]]), tf.constant([[10.0, 20.0, 40.0]])
    discount, follows = tf.constant([[9.0, 0.5, 0.25]]), tf.ones([1, 3], tf.bool)
    # G_1 = 2 + 0.25 * 40 = 12 and G_0 = 1 + 0.5 (0.2 * 20 + 0.8 * 12) = 7.8.
    np.testing.assert_allclose(lambda_returns(reward, value, discount, follows, 0.8)[:, :2], [[7.8, 12.0]], rtol=1e-6)


def test_weights_are_what_is_left_of_a_trajectory():
    # The discount of z_0 is not part of the weights: it belongs to what came before.
    discount = tf.constant([[0.9, 0.5, 0.2, 0.7], [0.9, 0.5, 0.2, 0.7]])
    np.testing.assert_allclose(step_weights(tf.constant([1.0, 0.0]), discount), [[1.0, 0.5, 0.1], [0.0, 0.0, 0.0]])


HAND = Imagined(tf.zeros([2, 3, 1]), tf.constant([[-1.0, -2.0], [-3.0, -4.0]]), tf.constant([[0.5, 0.25], [9.0, 9.0]]))


@pytest.mark.parametrize(
    ("reinforce", "entropy", "expected"),
    [
        (0.0, 0.0, -(1.0 * 6.0 + 0.5 * 4.0) / 2),  # the second trajectory starts in padding
        (1.0, 0.0, -(1.0 * -1.0 * (6.0 - 5.0) + 0.5 * -2.0 * (4.0 - 7.0)) / 2),
        (0.25, 0.1, -(0.75 * 8.0 + 0.25 * (-1.0 + 3.0) + 0.1 * (0.5 + 0.5 * 0.25)) / 2),
    ],
)
def test_the_actors_loss_by_hand(reinforce, entropy, expected):
    returns, value = tf.constant([[6.0, 4.0], [8.0, 8.0]]), tf.constant([[5.0, 7.0], [1.0, 1.0]])
    weights = tf.constant([[1.0, 0.5], [0.0, 0.0]])
    assert float(actor_loss(returns, value, weights, HAND, reinforce, entropy)) == pytest.approx(expected, rel=1e-6)


def test_gradients_of_the_loss_by_hand():
    with tf.GradientTape(persistent=True) as tape:
        returns, value, logs = (tf.constant(x) for x in ([[6.0, 4.0]], [[5.0, 7.0]], [[-1.0, -2.0]]))
        tape.watch([returns, value, logs])
        imagined = Imagined(tf.zeros([1, 3, 1]), logs, tf.zeros([1, 2]))
        loss = actor_loss(returns, value, tf.constant([[1.0, 0.5]]), imagined, 0.25, 0.0)
    # The advantage is a constant: returns move the loss by their own share only, the baseline does not at all.
    np.testing.assert_allclose(tape.gradient(loss, returns), [[-0.375, -0.1875]])
    np.testing.assert_allclose(tape.gradient(loss, logs), [[-0.125 * 1.0, -0.125 * 0.5 * -3.0]])
    assert tape.gradient(loss, value) is None


def test_the_critic_learns_where_trajectories_count(tiny_config, line_by_line):
    settings = {"imagination_horizon": 3, "value_lambda": 0.5}
    start, counts, seen = tf.constant([[0.3, 0.0], [-1.0, 0.5]]), tf.constant([1.0, 0.0]), []
    value = SimpleNamespace(bootstrap=lambda z: 2.0 * z[..., 0], regress=lambda *args: seen.extend(args) or {})
    fading = lambda z: tf.sigmoid(z[..., 0])
    actor = make_actor(tiny_config)
    ActorCritic(tiny_config.replace(**settings), line(), fading, actor, value, **EAGER).learn(start, counts)
    feat, returns, weights = (x.numpy() for x in seen)
    assert feat.shape == (2, 3, 2)
    np.testing.assert_array_equal(feat[:, 0], start)
    alive = fading(feat).numpy()
    np.testing.assert_allclose(weights[0], [1.0, alive[0, 1], alive[0, 1] * alive[0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(weights[1], 0.0)
    # r = -x^2, and half of what follows a state is its value of 2 x.
    x, d = feat[0, :, 0], alive[0]
    for t in range(2):
        expected = -(x[t + 1] ** 2) + d[t + 1] * (0.5 * 2.0 * x[t + 1] + 0.5 * returns[0, t + 1])
        assert returns[0, t] == pytest.approx(expected, rel=1e-4)


# A choice: the action decides with what probability a one-hot latent of two classes is its second one, which pays 1.


def choice():
    latent = Categorical(1, 2, 0.0)
    logits = lambda a: tf.concat([0.0 * a, 2.0 * a], -1)
    sample = lambda z, a, noise: latent.sample(latent.stats(logits(a)), noise)
    step = lambda z, a: latent.mean(latent.stats(logits(a)))
    return LatentProblem(step, lambda z: z[..., 1], 2, 1, sample_step=sample, noise_size=1)


@pytest.mark.parametrize("reinforce", [0.0, pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_categorical_latents_teach_the_actor_either_way(tiny_config, reinforce):
    keras.utils.set_random_seed(0)
    settings = {"reinforce_share": reinforce, "imagination_horizon": 1, "imagination_discount": 0.0}
    config = tiny_config.replace(policy_units=16, **settings)
    actor = Actor(config, 2, 1, lr=1e-2)
    value = ValueLearner(config.replace(value_lr=1e-2), 2)
    learner = ActorCritic(config, choice(), lambda z: tf.zeros(z.shape[:-1]), actor, value, **EAGER)
    start = tf.tile(tf.constant([[1.0, 0.0]]), [256, 1])
    for _ in range(60):
        metrics = learner.learn(start, tf.ones([256]))
    # With the action at its bound the second class has probability 1 / (1 + e^-2) = 0.88; at 0 it has 0.5.
    assert float(actor(start[:1])[0, 0]) > 0.95
    assert float(metrics["actor_return"]) == pytest.approx(0.88, abs=0.08)
    assert learner.learn.experimental_get_tracing_count() == 1


# Linear-quadratic: z = (x, last action), reward -(x^T x + c a^2). Actions stay small, where tanh is nearly linear.

GAMMA, C, SPREAD, A_MAX = 0.8, 0.6, 1.0, 20.0
ONE = np.array([[0.95]]), np.array([[0.3]])
TWO = np.array([[0.95, 0.2], [-0.1, 0.9]]), np.array([[0.1], [0.3]])


def quadratic(A, B):
    n = len(A)
    weights = tf.constant([1.0] * n + [C], tf.float32)
    matrix = tf.constant(np.pad(A, [[0, 1], [0, 1]]), tf.float32)
    column = tf.constant([*B[:, 0], 1.0], tf.float32)
    step = lambda z, a: tf.linalg.matvec(matrix, z) + a * column
    return LatentProblem(step, lambda z: -tf.reduce_sum(weights * tf.square(z), -1), n + 1, 1, a_max=A_MAX)


def solution(A, B):
    """K of the best action -K z, and P of its value -z^T P z, by scipy. Neither depends on the last action.

    x^T P x = min_a x'^T (1 + gamma P) x' + c a^2, and so H = 1 + gamma P solves a Riccati equation.
    """
    n, root = len(A), np.sqrt(GAMMA)
    H = scipy.linalg.solve_discrete_are(root * A, root * B, np.eye(n), GAMMA * C * np.eye(1))
    K, P = np.linalg.solve(C + B.T @ H @ B, B.T @ H @ A), (H - np.eye(n)) / GAMMA
    return np.pad(K, [[0, 0], [0, 1]]), np.pad(P, [[0, 1], [0, 1]])


def with_action(A, B):
    """F, G and the costs W of the state z, which ends with the last action."""
    return np.pad(A, [[0, 1], [0, 1]]), np.pad(B, [[0, 1], [0, 0]], constant_values=1.0), np.diag([1.0] * len(A) + [C])


def value_of_gain(A, B, K):
    """P of the policy -K z."""
    F, G, W = with_action(A, B)
    H = scipy.linalg.solve_discrete_lyapunov(np.sqrt(GAMMA) * (F - G @ K).T, W)
    return (H - W) / GAMMA


def dreamers_gain(A, B, horizon, lam):
    """The gain at which Dreamer's gradient vanishes, and P of that policy.

    Its objective sums the returns of all imagined states, and all of them have gradients through the dynamics. So a
    reward counts once for every state before it, sum_{j <= t} gamma^j (gamma lam)^{t - j} times, and later rewards more
    often than the problem says. The critic's values count likewise. Within a trajectory an action does not react to
    earlier ones, since the policy sees states as constants. What is best then depends on the step, and the last action
    says something about it: an imagined state follows from that action, the first one does not. So it has a gain too.
    """
    F, G, W = with_action(A, B)
    best = solution(A, B)[0]
    alpha = [sum(GAMMA**j * (GAMMA * lam) ** (t - j) for j in range(t + 1)) for t in range(horizon)]
    beta = [GAMMA * (1 - lam) * x for x in alpha[:-1]] + [GAMMA * alpha[-1]]

    def gradient(flat):
        K = flat.reshape(best.shape)
        P, states = value_of_gain(A, B, K), [np.eye(len(F))]
        for _ in range(horizon):
            states.append((F - G @ K) @ states[-1])
        total, adjoint = np.zeros_like(K), np.zeros_like(F)
        for t in reversed(range(horizon)):
            adjoint = (alpha[t] * W + beta[t] * P) @ states[t + 1] + F.T @ adjoint
            total += G.T @ adjoint @ states[t].T
        return total.ravel()

    K = scipy.optimize.root(gradient, best.ravel(), tol=1e-10).x.reshape(best.shape)
    assert np.abs(gradient(K.ravel())).max() < 1e-6
    return K, value_of_gain(A, B, K)


def trained(config, A, B, updates, **changes):
    """Actor and critic after so many updates, the last half of them at a tenth of the learning rate."""
    keras.utils.set_random_seed(1)
    settings = {
        "policy_layers": 0,
        "value_layers": 2,
        "value_units": 64,
        "value_lr": 1e-2,
        "value_target_every": 5,
        "act": "elu",
        "adam_eps": 1e-8,
        "imagination_horizon": 8,
        "imagination_discount": GAMMA,
        "value_lambda": 0.95,
    }
    config = config.replace(**settings | changes)
    problem = quadratic(A, B)
    actor, value = Actor(config, problem.state_size, 1, lr=3e-3), ValueLearner(config, problem.state_size)
    # From Dreamer's standard deviation of 5, and from a gain that makes the system unstable, it takes longer.
    actor.net.out.bias.assign([0.0, -9.0])
    actor.net.out.kernel.assign(0.01 * actor.net.out.kernel)
    learner = ActorCritic(config, problem, lambda z: tf.fill(z.shape[:-1], GAMMA), actor, value, **EAGER)
    rng = np.random.default_rng(0)
    for update in range(updates):
        if update == updates // 2:
            for part in (actor, value):
                part.optimizer.learning_rate.assign(part.optimizer.learning_rate / 10)
        start = rng.uniform(-SPREAD, SPREAD, [64, problem.state_size])
        learner.learn(tf.constant(start, tf.float32), tf.ones([64]))
    return actor, value


def check_solution(actor, value, A, gain, P):
    z = np.random.default_rng(1).uniform(-SPREAD, SPREAD, [500, len(A) + 1])
    actions, values = A_MAX * actor(tf.constant(z)).numpy()[:, 0], value(tf.constant(z, tf.float32)).numpy()
    slope = np.linalg.lstsq(z, actions, rcond=None)[0]
    np.testing.assert_allclose(slope, -gain[0], atol=0.06 * np.abs(gain).max())
    expected = -np.einsum("bi,ij,bj->b", z, P, z)
    assert np.sqrt(np.mean((values - expected) ** 2)) < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("problem", [ONE, TWO])
def test_the_gain_of_one_imagined_step_is_the_best_one_and_that_of_more_is_larger(problem):
    gain, P = solution(*problem)
    np.testing.assert_allclose(value_of_gain(*problem, gain), P, rtol=1e-6)
    for lam in (0.0, 0.95):
        np.testing.assert_allclose(dreamers_gain(*problem, 1, lam)[0], gain, rtol=1e-5, atol=1e-7)
    found = dreamers_gain(*problem, 8, 0.95)[0]
    ratio = found[:, :-1] / gain[:, :-1]
    assert np.all((ratio > 1.4) & (ratio < 2.1)) and abs(found[0, -1]) > 0.01  # docs/decisions.md has the numbers


@pytest.mark.parametrize("horizon", [1, 8])
def test_the_actors_gradient_vanishes_at_that_gain(tiny_config, horizon):
    """With the exact value in place of the critic and almost no noise."""
    gain, P = dreamers_gain(*TWO, horizon, 0.95)
    exact = SimpleNamespace(bootstrap=lambda z: -tf.einsum("...i,ij,...j->...", z, tf.constant(P, tf.float32), z))
    settings = {"policy_layers": 0, "imagination_horizon": horizon, "value_lambda": 0.95}
    actor = make_actor(tiny_config, 3, **settings)
    actor.net.out.bias.assign([0.0, -20.0])
    # Corners of a cube: their mean of z z^T is the identity without an error of sampling.
    start = tf.constant(list(itertools.product([-SPREAD, SPREAD], repeat=3)), tf.float32)
    learner = ActorCritic(
        tiny_config.replace(**settings), quadratic(*TWO), lambda z: tf.fill(z.shape[:-1], GAMMA), actor, exact, **EAGER
    )

    def gradient(scale):
        actor.net.out.kernel.assign(np.stack([-scale * gain[0] / A_MAX, np.zeros(3)], 1))
        return learner._imagined_gradients(start, tf.ones([8]), tf.constant([1, 2]))[0][0].numpy()[:, 0]

    assert np.abs(gradient(1.0)).max() < 0.03 * np.abs(gradient(1.1)).max()


def test_policy_and_value_of_a_linear_quadratic_problem_are_learned(tiny_config):
    actor, value = trained(tiny_config, *ONE, 900, imagination_horizon=1)
    check_solution(actor, value, ONE[0], *solution(*ONE))


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 8])
def test_policy_and_value_of_two_states_are_learned(tiny_config, horizon):
    actor, value = trained(tiny_config, *TWO, 3000, imagination_horizon=horizon)
    check_solution(actor, value, TWO[0], *dreamers_gain(*TWO, horizon, 0.95))


@pytest.mark.slow
def test_reinforce_finds_the_best_gain_whatever_the_horizon(tiny_config):
    actor, value = trained(tiny_config, *ONE, 3000, imagination_horizon=4, reinforce_share=1.0)
    check_solution(actor, value, ONE[0], *solution(*ONE))
