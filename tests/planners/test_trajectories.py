"""Rollouts, and what they are worth, against loops."""

import numpy as np
import pytest
import tensorflow as tf
from problems import SEED, curved, linear_quadratic

from planners.seeds import split_seed
from planners.trajectories import rollout, sampled_return


def test_sampled_returns_are_those_of_single_rollouts():
    problem = linear_quadratic()
    z0 = tf.constant([[0.1, 0.2, 0.0], [1.0, -1.0, 0.0]], tf.float64)
    actions = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 1)))
    seeds = split_seed(tf.constant(SEED), 2)
    found = sampled_return(problem, z0, actions, seeds, 3)
    for row in range(2):
        noise, total = tf.random.stateless_normal([3, 4, problem.noise_size], seeds[row], dtype=tf.float64), 0.0
        for sample in range(3):
            z = z0[row]
            for t in range(4):
                z = problem.sample_step(z, actions[row, t], noise[sample, t])
                total += float(problem.reward(z)) / 3
        assert float(found[row]) == pytest.approx(total, rel=1e-9)


def test_rollout_equals_a_loop():
    actions = np.random.default_rng(0).normal(size=[2, 3, 5, 1])
    state = np.random.default_rng(1).normal(size=[2, 3, 2])
    states, step = rollout(curved().step, tf.constant(state), tf.constant(actions)), curved().step
    for t in range(5):
        state = step(tf.constant(state), tf.constant(actions[:, :, t])).numpy()
        np.testing.assert_allclose(states[:, :, t], state)
