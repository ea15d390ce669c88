"""Initial actions: their distribution, their choice, and a peak that only a start near it finds."""

import numpy as np
import pytest
import tensorflow as tf
from problems import SEED, curved, line, paper_gaussian_latco, paper_latco
from scipy import stats

from optimizers import LatentProblem, WarmStart
from planners.cem import CEM
from planners.finish import Finished
from planners.gd import GD
from planners.gn import GN
from planners.icem import ICEM
from planners.initial import best_initial, random_sequences
from planners.trajectories import candidate_returns, rollout

EAGER = {"jit_compile": False}
H = 20


def two_peaks() -> LatentProblem:
    """A point on a line, x' = x + 0.3 a. From 0 the reward's gradient leads to the low peak at 1 (0.5), away from the
    high one at -3 (2)."""

    def reward(z):
        x = z[..., 0]
        return 0.5 * tf.exp(-tf.square(x - 1.0)) + 2.0 * tf.exp(-tf.square(x + 3.0))

    return line(reward, 0.3, 1e-3)


def test_random_sequences_are_uniform_and_correlated_as_asked():
    seeds = tf.constant([SEED, [5, 6]])
    actions = random_sequences(two_peaks(), 4000, 6, seeds, tf.float64, 0.8).numpy()
    assert actions.shape == (2, 4000, 6, 1) and np.abs(actions).max() <= 1.0
    assert np.any(actions[0] != actions[1])
    assert stats.kstest(actions[0, :, 5, 0], stats.uniform(-1, 2).cdf).pvalue > 1e-4
    gaussian = stats.norm.ppf((actions[..., 0] + 1) / 2)
    for lag in (1, 3):
        found = np.corrcoef(gaussian[..., :-lag].ravel(), gaussian[..., lag:].ravel())[0, 1]
        assert found == pytest.approx(0.8**lag, abs=0.03)


def test_independent_actions_are_not_correlated():
    actions = random_sequences(two_peaks(), 4000, 4, tf.constant([SEED]), tf.float64, 0.0).numpy()[0, ..., 0]
    assert abs(np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]) < 0.03


def slow_returns(problem, z0, actions):
    """Returns [B, J] by plain loops."""
    found = np.zeros(actions.shape[:2])
    for i, j in np.ndindex(*found.shape):
        z = tf.constant(z0[i])
        for action in actions[i, j]:
            z = problem.step(z, tf.constant(action))
            found[i, j] += problem.reward(z).numpy()
    return found


def test_returns_and_the_choice_are_those_of_plain_loops():
    rng, problem = np.random.default_rng(0), curved()
    z0, actions = rng.normal(size=[2, 2]), rng.uniform(-1, 1, [2, 7, 5, 1])
    expected = slow_returns(problem, z0, actions)
    np.testing.assert_allclose(candidate_returns(problem, tf.constant(z0), tf.constant(actions)), expected)
    chosen = best_initial(problem, tf.constant(z0), None, tf.constant(actions), 3).numpy()
    order = np.argsort(-expected, 1)[:, :3]
    np.testing.assert_array_equal(chosen, np.take_along_axis(actions, order[..., None, None], 1))


def test_the_warm_start_is_one_of_the_candidates():
    problem, z0 = two_peaks(), tf.zeros([2, 1], tf.float64)
    random = np.random.default_rng(1).uniform(-1, 1, [2, 5, H, 1])
    good = np.full([2, 1, H, 1], -1.0)
    good[:, :, 10:] = 0.0  # to the high peak, and to stay there
    warm = WarmStart(tf.constant(good), tf.constant([H, 0]))  # the second plan has none
    chosen = best_initial(problem, z0, warm, tf.constant(random), 1).numpy()
    np.testing.assert_array_equal(chosen[0], good[0])
    best = np.argmax(slow_returns(problem, z0.numpy(), random)[1])
    np.testing.assert_array_equal(chosen[1, 0], random[1, best])


def test_missing_actions_of_a_warm_start_are_those_of_a_random_sequence():
    problem, z0 = two_peaks(), tf.zeros([1, 1], tf.float64)
    random = np.zeros([1, 1, H, 1])
    random[0, 0, 8:] = -1.0  # on its own it gets nowhere in time
    warm = WarmStart(tf.constant(-np.ones([1, 1, H, 1])), tf.constant([8]))
    chosen = best_initial(problem, z0, warm, tf.constant(random), 1).numpy()
    np.testing.assert_array_equal(chosen, -np.ones([1, 1, H, 1]))


def test_a_plan_does_not_depend_on_its_batch():
    planner = GD(two_peaks(), H, 3, initial_candidates=20, initial_correlation=0.9, **EAGER)
    z0 = tf.constant([[0.0], [0.5]], tf.float64)
    both = planner(z0, [[1, 2], [3, 4]])
    np.testing.assert_allclose(planner(z0[1:], [[3, 4]]).actions[0], both.actions[1])
    assert planner.traces == 2  # one per batch size


PLANNERS = {
    "gd": lambda problem, **options: GD(problem, H, 50, **options),
    "gn": lambda problem, **options: GN(problem, H, 20, **options),
    "latco": lambda problem, **options: paper_latco(problem, H, 20, finish=10, keep_start=True, **options),
    "gaussian_latco": lambda problem, **options: paper_gaussian_latco(
        problem, H, 10, samples=20, finish=1, keep_start=True, **options
    ),
    "cem": lambda problem, **options: CEM(problem, H, 2, 20, 4, sample_states=False, **options),
    "icem": lambda problem, **options: ICEM(problem, H, 2, 20, 4, sample_states=False, **options),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_a_good_start_finds_the_high_peak(name):
    z0 = tf.fill([6, 1], tf.constant(0.5, tf.float64))
    planner = PLANNERS[name](two_peaks(), initial_candidates=300, initial_correlation=0.9, **EAGER)
    # Twelve steps to the high peak and eight on it bring 16; the low one never brings more than 10.
    assert np.all(tf.reduce_sum(planner(z0, SEED).rewards, 1) > 10.5)


def test_most_gradients_from_one_random_start_lead_to_the_low_peak():
    z0 = tf.fill([6, 1], tf.constant(0.5, tf.float64))
    found = tf.reduce_sum(PLANNERS["gd"](two_peaks(), **EAGER)(z0, SEED).rewards, 1)
    assert np.sum(found < 10.0) >= 4


@pytest.mark.slow
def test_a_plan_is_no_worse_than_its_start():
    problem, z0 = two_peaks(), tf.constant([[0.0], [-0.5], [0.3]], tf.float64)
    options = {"finish": 2, "initial_candidates": 300, "initial_correlation": 0.9, **EAGER}
    planner = paper_latco(problem, H, 10, lam_init=1e-3, keep_start=True, **options)
    start, plan = planner(z0, SEED, iterations=0), planner(z0, SEED)
    assert np.all(tf.reduce_sum(plan.rewards, 1) >= tf.reduce_sum(start.rewards, 1) - 1e-9)
    np.testing.assert_allclose(rollout(problem.step, z0, plan.actions), plan.states)
    # The curves end with the plan that is returned.
    np.testing.assert_allclose(plan.curves["reward"][:, -1], tf.reduce_sum(plan.rewards, 1))
    without = paper_latco(problem, H, 10, lam_init=1e-3, **options)(z0, SEED)
    assert np.any(tf.reduce_sum(without.rewards, 1) < tf.reduce_sum(start.rewards, 1))


def test_the_kept_start_is_the_better_plan_where_both_are_finite():
    nan, one, two = np.nan, 1.0, 2.0
    searched, started, best = [one, two, nan, one, nan], [two, one, one, nan, nan], [two, two, one, one, nan]
    planner, z0 = paper_latco(two_peaks(), H, 1, finish=1, keep_start=True, **EAGER), tf.zeros([5, 1], tf.float64)

    def run_finish(z0, actions, noise, steps):
        score = tf.constant([*searched, *started], z0.dtype)
        states = tf.zeros([10, H, 1], z0.dtype)
        return Finished(states, actions, score, tf.zeros_like(score), tf.zeros_like(score)), score[:, None]

    planner._run_finish = run_finish
    actions = tf.zeros([5, H, 1], tf.float64)
    end, scores = planner._better_finish(z0, actions, actions + 1.0, (), 1)
    np.testing.assert_array_equal(end.score, best)
    np.testing.assert_array_equal(scores[:, 0], best)
    np.testing.assert_array_equal(end.actions[:, 0, 0], [1.0, 0.0, 1.0, 0.0, 0.0])
