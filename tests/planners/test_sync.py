"""Sampling and smaller state gradients in the middle of collocation."""

import numpy as np
import tensorflow as tf

from optimizers import split_seed
from planners.latco import LatCo
from planners.sync import resampled
from tests.problems import SEED, linear_quadratic

PROBLEM = linear_quadratic()
Z0 = tf.constant([[0.5, 1.0, 0.0], [-1.0, 0.3, 0.0]])
ACTIONS = tf.constant(np.random.default_rng(0).normal(size=[2, 6, 1]).astype(np.float32))


def score(actions):
    from planners.trajectories import candidate_returns

    return candidate_returns(PROBLEM, Z0, actions[:, None])[:, 0]


def test_a_plan_that_follows_the_dynamics_stays_and_another_one_improves_where_it_does_not():
    seeds = split_seed(tf.constant(SEED), 2)
    violation = tf.concat([tf.zeros([2, 3]), tf.fill([2, 3], 0.25)], 1)
    actions = resampled(PROBLEM, Z0, ACTIONS, violation, seeds, 200)
    np.testing.assert_allclose(actions[:, :3], ACTIONS[:, :3], rtol=1e-6)
    assert np.all(score(actions) > score(ACTIONS)) and np.all(np.abs(actions[:, 3:] - ACTIONS[:, 3:]) > 0)


def test_the_search_goes_on_from_a_rollout_after_each_refit():
    plan = LatCo(PROBLEM, 6, 6, sync_every=3, lam_init=1e-3, nu_init=1.0)(Z0, SEED)
    plain = LatCo(PROBLEM, 6, 6, lam_init=1e-3, nu_init=1.0)(Z0, SEED)
    violations = plan.curves["dynamics_violation"].numpy()
    np.testing.assert_allclose(violations[:, [2, 5]], 0.0, atol=1e-10)
    assert np.all(violations[:, 1] == plain.curves["dynamics_violation"][:, 1]) and np.all(violations[:, 1] > 1e-6)


def test_smaller_state_gradients_change_the_first_steps():
    slow = LatCo(PROBLEM, 6, 2, state_gradient=0.2)(Z0, SEED)
    plain = LatCo(PROBLEM, 6, 2)(Z0, SEED)
    assert np.all(np.abs(slow.curves["reward"][:, 0] - plain.curves["reward"][:, 0]) > 1e-3)
