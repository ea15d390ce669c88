"""GD, first-order LatCo, image collocation and GRASP: Adam by hand, and where gradients stop."""

import numpy as np
import pytest
import tensorflow as tf
from problems import SEED, curved, curved_jacobians
from tensorflow import keras

from optimizers import LatentProblem, WarmStart
from planners.first_order_latco import FirstOrderLatCo
from planners.gd import GD
from planners.grasp import GRASP
from planners.image_collocation import ImageCollocation
from planners.trajectories import rollout

EAGER = {"jit_compile": False}
Z0 = np.array([[0.1, 0.2]])


def test_gd_is_keras_adam_on_the_return_of_the_rollout():
    problem, planner = curved(), GD(curved(), 4, 5, lr=0.05, **EAGER)
    start = planner(Z0, SEED, iterations=0).actions
    actions, adam = tf.Variable(start), keras.optimizers.Adam(0.05, epsilon=1e-8)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(problem.reward(rollout(problem.step, tf.constant(Z0), actions)))
        adam.apply([tape.gradient(loss, actions)], [actions])
    assert np.max(np.abs(actions)) < 1.0  # no bound is met on the way
    np.testing.assert_allclose(planner(Z0, SEED).actions, actions, atol=1e-5)


def test_a_search_that_goes_back_makes_the_steps_of_a_new_adam_with_half_the_learning_rate():
    """Adam's steps along a constant gradient are as long as its learning rate, from the first one on."""
    cliff, lr, place, last, rewards = 2.02, 0.1, 0.0, 0.0, []
    for _ in range(40):
        place, last, lr = (place + lr, place, lr) if place <= cliff else (last, last, lr / 2)
        # The step from the last finite place is made in the next iteration.
        rewards.append(place if place <= cliff else last)
    assert lr < 0.02 and rewards[20] == pytest.approx(2.0) and rewards[-1] > 2.01, "back several times, and on"
    reward = lambda z: tf.where(z[..., 0] <= cliff, z[..., 0], tf.constant(np.nan, z.dtype))
    problem = LatentProblem(lambda z, a: a, reward, 1, 1, a_max=10.0)
    start = WarmStart(np.zeros([1, 1, 1, 1]), [1])
    plan = GD(problem, 1, 40, lr=0.1, **EAGER)(np.zeros([1, 1]), SEED, start)
    np.testing.assert_allclose(plan.curves["reward"][0], rewards, atol=1e-6)
    assert plan.non_finite[0] == round(np.log2(0.1 / lr))


def test_multipliers_move_every_few_steps_only():
    plan = GD(curved(), 4, 12, dual_every=5, **EAGER)(Z0, SEED)
    changes = np.flatnonzero(np.diff(plan.curves["nu"][0])) + 1
    assert changes.tolist() == [4, 9]  # the entries after 5 and 10 steps
    assert plan.curves["nu"][0, 0] == 1.0


def test_plain_dual_ascent_by_hand():
    planner = FirstOrderLatCo(curved(), 4, 3, eps_dyn=0.1, eps_act=0.2, dual_lr=1.5, **EAGER)
    duals = {"lam": tf.constant([[1.0, 0.1]]), "nu": tf.constant([[1.0, 0.1]])}
    violations = {"lam": tf.constant([[0.3, 0.0]]), "nu": tf.constant([[0.2, 0.0]])}
    found = planner._new_duals(duals, violations)
    np.testing.assert_allclose(found["lam"], [[1.3, 0.0]], atol=1e-6)  # 1 + 1.5 * 0.2; never negative
    np.testing.assert_allclose(found["nu"], [[1.0, 0.0]], atol=1e-6)


def test_lagrangians_by_hand():
    # An action of 1.5 from 0.2 is 0.5 beyond its bound and leads to 1.7, and the planned state is 1.4.
    problem = LatentProblem(lambda z, a: z + a, lambda z: -tf.square(z[..., 0] - 1.0), 1, 1)
    z0, states, actions = tf.constant([[0.2]]), tf.constant([[[1.4]]]), tf.constant([[[1.5]]])
    lifted, shooting = FirstOrderLatCo(problem, 1, 1, **EAGER), GD(problem, 1, 1, **EAGER)
    duals = {"lam": tf.constant([[2.0]]), "nu": tf.constant([[3.0]])}
    terms = lifted._terms(z0, (states, actions), duals)
    np.testing.assert_allclose(terms.loss, [2.0 * 0.09 + 3.0 * 0.25 + 0.16], rtol=1e-5)
    np.testing.assert_allclose(lifted._metrics(terms, duals), [[-0.16, 0.09, 0.25, 2.0, 3.0]], rtol=1e-5)
    terms = shooting._terms(z0, (actions,), duals)
    np.testing.assert_allclose(terms.loss, [3.0 * 0.25 + 0.49], rtol=1e-5)
    np.testing.assert_allclose(shooting._metrics(terms, duals), [[-0.49, 0.25, 3.0]], rtol=1e-5)


def test_grasp_s_dynamics_pass_no_gradient_to_the_states_they_start_from():
    planner = GRASP(curved(), 3, 4, lam=8.0, **EAGER)
    states = tf.constant(np.random.default_rng(0).normal(size=[1, 3, 2]))
    actions = tf.constant(np.random.default_rng(1).normal(size=[1, 3, 1]))
    with tf.GradientTape() as tape:
        tape.watch([states, actions])
        loss = planner._terms(tf.constant(Z0), (states, actions), {}).loss
    by_state, by_action = tape.gradient(loss, [states, actions])
    before = np.concatenate([Z0[:, None], states[:, :-1]], 1)
    predicted = curved().step(tf.constant(before), actions)
    # Only z_{t+1} - mu and the reward of z_{t+1} itself: r = -|z - 0.3|^2.
    np.testing.assert_allclose(by_state, 16.0 * (states - predicted) + 2.0 * (states - 0.3), rtol=1e-6)
    # The action moves the prediction, which is paid its reward too.
    by_prediction = 16.0 * (predicted - states) + 2.0 * (predicted - 0.3)
    jacobian = curved_jacobians(tf.constant(before), actions)[2]
    np.testing.assert_allclose(by_action, tf.einsum("bhnm,bhn->bhm", jacobian, by_prediction), rtol=1e-6)


def test_grasp_ends_with_a_plan_that_keeps_the_dynamics():
    plan = GRASP(curved(), 4, 30, sync_every=7, sync_steps=10, **EAGER)(Z0, SEED)
    assert float(plan.curves["dynamics_violation"][0, -1]) < 1e-12  # the last step is a refinement
    np.testing.assert_allclose(plan.curves["reward"][0, -1], tf.reduce_sum(plan.rewards), rtol=1e-9)
    assert np.max(plan.curves["dynamics_violation"][0]) > 1e-4  # the others are not


def test_grasp_refines_a_plan_that_stops_early_too():
    planner = GRASP(curved(), 4, 300, noise=1e-2, sync_every=1000, sync_steps=5, tolerance=1e-2, **EAGER)
    z0 = np.array([[0.1, 0.2], [2.0, -2.0]])
    plan = planner(z0, SEED)
    assert np.all(plan.iterations < 300) and plan.iterations[0] != plan.iterations[1]
    np.testing.assert_allclose(plan.curves["dynamics_violation"][:, -1], 0.0, atol=1e-12)
    np.testing.assert_allclose(plan.curves["reward"][:, -1], tf.reduce_sum(plan.rewards, 1), rtol=1e-9)
    asked = planner(z0, SEED, iterations=4)  # the iterate as it is
    assert np.all(asked.curves["dynamics_violation"][:, -1] > 1e-6)


def image_problem():
    """One number is seen as two pixels; the filter believes the image and remembers half of its old state."""
    encode = lambda image: tf.reduce_mean(image, -1, keepdims=True)
    return LatentProblem(
        step=lambda z, a: z + 0.1 * a,
        reward=lambda z: -tf.square(z[..., 0] - 1.0),
        state_size=1,
        action_size=1,
        encode=encode,
        filter=lambda z, a, embed: 0.5 * (z + 0.1 * a) + 0.5 * embed,
        decode=lambda z: tf.concat([z, 2 * z], -1),
    )


def test_image_collocation_s_constraints_reach_two_images_only():
    planner = ImageCollocation(image_problem(), 4, 3)
    images = tf.constant(np.random.default_rng(0).normal(size=[1, 4, 2]))
    actions = tf.constant(np.random.default_rng(1).uniform(-1, 1, [1, 4, 1]))
    duals = {name: tf.ones([1, 4], tf.float64) for name in planner.DUALS}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        terms = planner._terms(tf.zeros([1, 1], tf.float64), (images, actions), duals)
        dynamics, rewards = (tf.unstack(x[0]) for x in (terms.violations["lam"], terms.rewards))
    for t in range(4):
        reached = np.any(tape.gradient(dynamics[t], images)[0].numpy() != 0, -1)
        assert reached.tolist() == [t - 1 <= i <= t for i in range(4)]
        reached = np.any(tape.gradient(rewards[t], images)[0].numpy() != 0, -1)
        assert reached.tolist() == [i <= t for i in range(4)]  # the reward is evaluated recurrently


def test_image_collocation_s_terms_by_hand():
    planner = ImageCollocation(image_problem(), 2, 3)
    images, actions = tf.constant([[[0.2, 0.6], [1.0, 2.0]]]), tf.constant([[[1.0], [-1.0]]])
    duals = {name: tf.ones([1, 2]) for name in planner.DUALS}
    terms = planner._terms(tf.zeros([1, 1]), (images, actions), duals)
    # z_1 = 0.5 * 0.1 + 0.5 * 0.4 = 0.25; z_2 = 0.5 * (0.25 - 0.1) + 0.5 * 1.5 = 0.825.
    np.testing.assert_allclose(terms.states[0, :, 0], [0.25, 0.825], rtol=1e-6)
    np.testing.assert_allclose(terms.rewards[0], [-(0.75**2), -(0.175**2)], rtol=1e-5)
    # Predictions: from z_0 = 0: 0.1 -> (0.1, 0.2); from z_1: 0.15 -> (0.15, 0.3).
    expected = [0.1**2 + 0.4**2, 0.85**2 + 1.7**2]
    np.testing.assert_allclose(terms.violations["lam"][0], expected, rtol=1e-5)
