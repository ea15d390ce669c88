"""Problems whose episodes end: returns by hand, explicit derivatives, and plans that live on instead of falling."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from problems import (
    BUILDERS,
    SEED,
    cliff,
    cliff_discount,
    cliff_optimum,
    curved,
    explicit,
    paper_gaussian_latco,
    paper_latco,
    quick_planner,
)

from optimizers import LatentProblem, WarmStart
from planners.cem import CEM
from planners.discounting import LEAST_DISCOUNT, discounted, start_survival, strip_survival
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import moments_by_tape
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.linearization import linearize_by_tape
from planners.seeds import split_seed
from planners.trajectories import rollout

HORIZON = 10
EAGER = {"jit_compile": False}


def fade(z):
    """A discount that depends on both entries of the states of `curved`, and is below the least one far out."""
    return tf.exp(-tf.reduce_sum(tf.square(z), -1))


def survivals(discount, z0, states):
    """Products of the discounts of z_0 ... z_t [..., H], for z_0 [..., n] and states [..., H, n], by a loop."""
    alive, weights, z = 1.0, [], z0
    for t in range(states.shape[-2]):
        alive = alive * np.maximum(discount(tf.constant(z)), LEAST_DISCOUNT)
        weights.append(alive)
        z = states[..., t, :]
    return np.stack(weights, -1)


def test_a_discounted_return_by_hand():
    # Steps of one from 0; the episode ends in state 2. The reward of entering it counts in full, what follows does not.
    problem = LatentProblem(lambda z, a: z + a, lambda z: 10.0 * z[..., 0], 1, 1)
    found = discounted(problem, lambda z: tf.where(z[..., 0] < 0.5, 0.8, tf.where(z[..., 0] < 1.5, 0.5, 0.0)))
    states = rollout(found.step, start_survival(tf.zeros([1, 1])), tf.ones([1, 4, 1]))
    np.testing.assert_allclose(states[0, :, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(np.exp(states[0, :, 1]), [0.8, 0.4, 0.4e-3, 0.4e-6], rtol=1e-5)
    np.testing.assert_allclose(found.reward(states)[0], [8.0, 8.0, 0.012, 0.4e-6 * 40], rtol=1e-5)


def test_rewards_of_rollouts_are_weighted_by_the_product_of_the_discounts():
    rng, problem, found = np.random.default_rng(0), curved(), discounted(curved(), fade)
    z0, actions, noise = rng.normal(size=[3, 5, 2]), rng.uniform(-1, 1, [3, 5, 8, 1]), rng.normal(size=[3, 5, 8, 2])
    moves = {
        "step": (lambda z, x: problem.step(z, x[..., :1]), lambda z, x: found.step(z, x[..., :1])),
        "sample_step": tuple(lambda z, x, p=p: p.sample_step(z, x[..., :1], x[..., 1:]) for p in (problem, found)),
        "filter": tuple(lambda z, x, p=p: p.filter(z, x[..., :1], x[..., 1:]) for p in (problem, found)),
    }
    inputs = tf.constant(np.concatenate([actions, noise], -1))
    for name, (plain, weighted) in moves.items():
        states = rollout(plain, tf.constant(z0), inputs).numpy()
        lifted = rollout(weighted, start_survival(tf.constant(z0)), inputs)
        np.testing.assert_allclose(lifted[..., :2], states, err_msg=name)
        expected = problem.reward(tf.constant(states)) * survivals(fade, z0, states)
        np.testing.assert_allclose(found.reward(lifted), expected, rtol=1e-9, err_msg=name)
        assert np.ptp(expected / problem.reward(tf.constant(states))) > 0.5, name


def test_a_survival_above_one_earns_no_more():
    found = discounted(curved(), fade)
    states = tf.constant([[0.1, 0.2, 0.0], [0.1, 0.2, 200.0], [0.1, 0.2, -1.0]])
    with tf.GradientTape() as tape:
        tape.watch(states)
        rewards = found.reward(states)
    plain = curved().reward(states[0, :2]).numpy()
    np.testing.assert_allclose(rewards, [plain, plain, np.exp(-1.0) * plain], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(rewards, states)[:, 2], [0.0, 0.0, np.exp(-1.0) * plain], rtol=1e-6)


def test_explicit_derivatives_equal_those_of_automatic_differentiation():
    rng = np.random.default_rng(0)
    plain = curved()
    problem = dataclasses.replace(
        plain,
        linearize=lambda z, a: linearize_by_tape(plain.step, z, a),
        linearize_moments=lambda z, a, noise: moments_by_tape(plain.sample_step, z, a, noise),
    )
    x, a, noise = (tf.constant(rng.normal(size=shape)) for shape in ([6, 4, 3], [6, 1], [6, 4, 2]))
    x *= tf.constant([1.0, 0.8, 1.2, 0.5, 0.1, 3.0], tf.float64)[
        :, None, None
    ]  # the last ones: below the least discount
    assert 0 < np.sum(fade(x[..., :2]) < LEAST_DISCOUNT) < 24
    for factor in (fade, lambda z: tf.fill(z.shape[:-1], tf.constant(0.9, z.dtype))):
        found = discounted(problem, factor)
        for own, right in zip(found.linearize(x[:, 0], a), linearize_by_tape(found.step, x[:, 0], a), strict=True):
            assert own.shape == right.shape
            np.testing.assert_allclose(own, right, atol=1e-12)
        by_tape = moments_by_tape(found.sample_step, x, a, noise)
        for own, right in zip(found.linearize_moments(x, a, noise), by_tape, strict=True):
            assert own.shape == right.shape
            np.testing.assert_allclose(own, right, atol=1e-12)
    # d log fade / dz = -2 z, as a row of its own.
    jacobian = discounted(problem, fade).linearize(x[:, 0], a)[1]
    np.testing.assert_allclose(jacobian[4, 2], [*(-2 * x[4, 0, :2]), 1.0])


def test_what_a_problem_does_not_offer_stays_missing_and_the_rest_sees_no_survival():
    bare = discounted(LatentProblem(lambda z, a: z + a, lambda z: z[..., 0], 1, 1, a_max=0.7), cliff_discount)
    missing = ("sample_step", "linearize", "linearize_moments", "constraint", "encode", "filter", "decode")
    assert all(getattr(bare, name) is None for name in missing)
    assert (bare.state_size, bare.action_size, bare.a_max) == (2, 1, 0.7)
    full = discounted(dataclasses.replace(curved(), constraint=lambda z: z - 0.1), fade)
    x = tf.constant([[1.0, 2.0, -5.0]])
    np.testing.assert_allclose(full.constraint(x), [[0.9, 1.9]], rtol=1e-6)
    np.testing.assert_array_equal(full.decode(x), [[1.0, 2.0]])
    np.testing.assert_array_equal(full.encode(x), x)  # of images, which nothing is taken from
    assert full.noise_size == curved().noise_size


# Not GRASP, which draws noise for every entry of the states: with one more, other numbers.
@pytest.mark.parametrize("name", ["cem", "gd", "gn", "ilqr", "latco", "gaussian_latco", "latco_first_order"])
def test_where_nothing_ends_plans_are_those_of_the_problem_itself(name):
    z0, problem, planner = np.array([[0.1, 0.2], [1.0, -1.0]]), explicit(), quick_planner(name)
    if name == "gaussian_latco":  # draws for every entry too; without spread it does not matter what
        sure = lambda z, a, noise: curved().step(z, a)
        problem = dataclasses.replace(problem, sample_step=sure, linearize_moments=None)
        planner = BUILDERS[name][0](problem, 4, **EAGER)
    never, seeds = discounted(problem, lambda z: tf.ones_like(z[..., 0])), split_seed(tf.constant(SEED), 2)
    own, plan = planner(z0, seeds), BUILDERS[name][0](never, 4, **EAGER)(start_survival(tf.constant(z0)), seeds)
    assert plan.states.shape[-1] == 3
    np.testing.assert_array_equal(plan.states[..., 2], 0.0)
    plan = strip_survival(plan)
    for field in ("actions", "states", "rewards", "iterations"):
        np.testing.assert_allclose(getattr(plan, field), getattr(own, field), rtol=1e-6, atol=1e-7, err_msg=field)
    for key, curve in own.curves.items():
        np.testing.assert_allclose(plan.curves[key], curve, rtol=1e-5, atol=1e-7, err_msg=key)
    assert (plan.gains is None) == (own.gains is None)
    if own.gains is not None:
        np.testing.assert_allclose(plan.gains, own.gains, rtol=1e-6, atol=1e-9)


# name -> (planner, share of the largest return that it finds on average from random starts)
CAREFUL = {
    "cem": (lambda p: CEM(p, HORIZON, 15, 300, 30, False, **EAGER), 0.99),
    "icem": (lambda p: ICEM(p, HORIZON, 6, 300, 30, False, **EAGER), 0.95),
    "gd": (lambda p: GD(p, HORIZON, 300, **EAGER), 0.95),
    "gn": (lambda p: GN(p, HORIZON, 60, **EAGER), 0.99),
    "ilqr": (lambda p: ILQR(p, HORIZON, 60, **EAGER), 0.99),
    "latco": (lambda p: paper_latco(p, HORIZON, 150, **EAGER), 0.95),
    "latco_block_tridiagonal": (lambda p: paper_latco(p, HORIZON, 150, "block_tridiagonal", **EAGER), 0.9),
    "gaussian_latco": (lambda p: paper_gaussian_latco(p, HORIZON, 50, **EAGER), 0.75),
    "latco_first_order": (lambda p: FirstOrderLatCo(p, HORIZON, 1500, **EAGER), 0.75),
    "image_collocation": (lambda p: ImageCollocation(p, HORIZON, 1500), 0.75),
    "grasp": (lambda p: GRASP(p, HORIZON, 300, **EAGER), 0.9),
}


SLOW = ("icem", "latco_block_tridiagonal", "latco_first_order", "image_collocation")


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else []) for x in CAREFUL])
def test_planners_stop_before_a_cliff_only_if_they_know_that_it_ends_the_episode(name):
    build, share = CAREFUL[name]
    z0, true = np.zeros([4, 1], np.float32), discounted(cliff(), cliff_discount)
    returns = []
    for problem, start in ((true, start_survival(tf.constant(z0))), (cliff(), z0)):
        plan = build(problem)(start, SEED)
        states = rollout(true.step, start_survival(tf.constant(z0)), plan.actions)
        returns.append(np.mean(tf.reduce_sum(true.reward(states), 1)))
        over = np.max(plan.states[..., 0], 1) > 1.5
        assert not np.any(over) if problem is true else np.all(over)
    best = cliff_optimum(0.0, HORIZON)
    careful, greedy = returns
    assert greedy < 0.5 * best < share * best < careful < 1.01 * best
    assert int(np.sum(plan.non_finite)) == 0


@pytest.mark.parametrize("name", ["gd", "ilqr", "latco"])
def test_plans_that_start_beyond_the_cliff_come_back(name):
    problem, z0 = discounted(cliff(), cliff_discount), start_survival(tf.zeros([2, 1]))
    warm = WarmStart(np.ones([2, 1, HORIZON, 1]), [HORIZON, HORIZON])
    planner = CAREFUL[name][0](problem)
    start = tf.reduce_sum(planner(z0, SEED, warm, iterations=0).rewards, 1)
    plan, best = planner(z0, SEED, warm), cliff_optimum(0.0, HORIZON)
    assert np.all(start < 0.5 * best) and np.all(tf.reduce_sum(plan.rewards, 1) > 0.9 * best)


def test_the_best_restart_is_the_one_that_lives():
    problem, z0, seeds = discounted(cliff(), cliff_discount), start_survival(tf.zeros([1, 1])), split_seed(SEED, 1)
    planner = GD(problem, HORIZON, 1, restarts=2, **EAGER)
    fall = WarmStart(np.ones([1, 1, HORIZON, 1]), [HORIZON])  # the first restart starts beyond the cliff
    plan = planner(z0, seeds, fall, iterations=0)
    assert np.max(plan.states[..., 0]) < 1.0 and float(plan.states[0, -1, 1]) > np.log(0.5)
