"""Random shooting, CEM, MPPI and iCEM: refits by hand, coloured noise, what is kept."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from problems import SEED, curved, far

from optimizers import LatentProblem, WarmStart
from planners.cem import CEM, RandomShooting
from planners.icem import ICEM, colored_noise_basis
from planners.sampling import refit
from planners.seeds import CANDIDATES, POLICY, SCORES, fold_in, split_seed
from planners.trajectories import rollout
from tools.errors import UserError

EAGER = {"jit_compile": False}
Z0 = np.array([[0.1, 0.2]])


def test_sampled_rollouts_follow_the_seed():
    planner = CEM(curved(), 4, 3, 40, 8, sample_states=True, **EAGER)
    first, again, other = planner(Z0, [1, 2]), planner(Z0, [1, 2]), planner(Z0, [1, 3])
    np.testing.assert_array_equal(first.actions, again.actions)
    assert np.any(first.actions.numpy() != other.actions.numpy())


def test_populations_share_no_random_numbers_with_policies_and_the_choice_of_restarts():
    seeds = split_seed(tf.constant(SEED), 1)
    populations = [fold_in(seeds, k).numpy().tolist() for k in range(20)]
    for stream in (SCORES, POLICY, CANDIDATES):
        assert fold_in(seeds, stream).numpy().tolist() not in populations


def test_candidates_are_judged_by_the_return_of_their_rollout():
    planner = CEM(curved(), 4, 1, 6, 2, sample_states=False, **EAGER)
    actions = np.random.default_rng(0).uniform(-1, 1, [2, 6, 4, 1])
    z0 = np.array([[0.1, 0.2], [1.0, -1.0]])
    found = planner._returns(tf.constant(z0), tf.constant(actions), tf.constant([SEED, SEED]))
    states = rollout(curved().step, tf.repeat(tf.constant(z0)[:, None], 6, 1), tf.constant(actions))
    np.testing.assert_allclose(found, tf.reduce_sum(curved().reward(states), -1))


def test_refits_by_hand():
    elites = tf.constant([[[[1.0]], [[3.0]], [[9.0]]]])  # [1, 3, 1, 1]
    lowest = np.finfo(np.float32).min
    mean, std, score, enough = (x.numpy().item() for x in refit(elites, tf.constant([[2.0, 1.0, lowest]])))
    assert (mean, std, score, enough) == (2.0, 1.0, 1.5, True)  # the third is not an elite
    mean, std, score, _ = (x.numpy().item() for x in refit(elites, tf.constant([[2.0, 1.0, lowest]]), np.log(3.0)))
    # softmax(log 3 * (2, 1)) = (3/4, 1/4): mean 1.5, variance 0.75.
    assert mean == pytest.approx(1.5) and std == pytest.approx(np.sqrt(0.75)) and score == pytest.approx(1.75)
    assert not refit(elites, tf.constant([[2.0, lowest, lowest]]))[3].numpy().item()


@pytest.mark.parametrize("name", ["cem", "mppi", "icem"])
def test_one_refit_is_that_of_numpy(name, line_by_line):
    options = {"sample_states": False, **EAGER}
    planner, seen = (
        {
            "cem": lambda: CEM(curved(), 4, 1, 40, 8, **options),
            "mppi": lambda: CEM(curved(), 4, 1, 40, 8, gamma=3.0, **options),
            "icem": lambda: ICEM(curved(), 4, 1, 40, 8, keep=0.0, momentum=0.25, **options),
        }[name](),
        [],
    )
    returns = planner._returns
    planner._returns = lambda z0, actions, seeds: seen.append((actions, returns(z0, actions, seeds))) or seen[-1][1]
    plan = planner(Z0, SEED, WarmStart(np.full([1, planner.num_warm_starts, 4, 1], 0.3), [4]))
    actions, scores = (x[0].numpy() for x in seen[0])
    best = np.argsort(-scores)[:8]
    weights = np.exp((3.0 if name == "mppi" else 0.0) * (scores[best] - scores[best[0]]))
    mean = np.average(actions[best], 0, weights)
    assert float(plan.curves["reward"][0, 0]) == pytest.approx(np.average(scores[best], 0, weights))
    if name != "icem":
        np.testing.assert_allclose(plan.actions[0], mean)
        return
    np.testing.assert_allclose(actions[0], 0.3)  # the mean is a candidate of the last population
    np.testing.assert_array_equal(plan.actions[0], actions[best[0]])
    np.testing.assert_array_equal(plan.warm_starts[0, 1:], actions[best])
    np.testing.assert_allclose(plan.warm_starts[0, 0], 0.25 * 0.3 + 0.75 * mean)


def test_the_elites_of_the_last_plan_are_candidates_of_icem_with_random_ends(line_by_line):
    planner, seen = ICEM(curved(), 4, 2, 40, 8, sample_states=False, keep=0.5, **EAGER), []
    returns = planner._returns
    planner._returns = lambda z0, actions, seeds: seen.append(actions[0, ..., 0].numpy()) or returns(z0, actions, seeds)
    last = np.tile(0.01 * np.arange(9)[None, :, None, None], [1, 1, 4, 1])  # the mean, then eight elites
    planner(Z0, SEED, WarmStart(last, [3]))
    candidates = seen[0]
    np.testing.assert_allclose(candidates[1:5, :3], np.tile([[0.01], [0.02], [0.03], [0.04]], 3))
    assert np.ptp(candidates[1:5, 3]) > 0.1 and np.ptp(candidates[5:, 0]) > 0.1 and len(candidates) == 40


def test_icem_keeps_a_share_of_its_elites_and_of_its_belief():
    planner, seeds = ICEM(curved(), 4, 3, 40, 4, sample_states=False, keep=0.5, momentum=0.25), tf.constant([SEED])
    known = tf.constant(np.random.default_rng(0).uniform(-1, 1, [1, 4, 4, 1]))
    old = planner._first_belief(tf.constant(Z0), None, 0.5, 4)
    old = old._replace(best=known, scores=tf.constant([[9.0, 8.0, 7.0, 6.0]], tf.float64))
    new = planner._iterate(1, 20, tf.constant(Z0), seeds, None, old, None)
    # No new candidate has a return above 0.
    np.testing.assert_array_equal(new.scores[0, :2], [9.0, 8.0])
    np.testing.assert_array_equal(new.best[0, :2], known[0, :2])
    assert np.all(new.scores[0, 2:] < 0.0) and np.all(np.diff(new.scores[0]) < 0.0)
    np.testing.assert_allclose(new.mean[0], 0.75 * np.mean(new.best[0], 0))
    np.testing.assert_allclose(new.std[0], 0.25 * 0.5 + 0.75 * np.std(new.best[0], 0))


def test_random_shooting_returns_the_best_of_its_candidates():
    plan = RandomShooting(curved(), 12, 8, 50, sample_states=False, **EAGER)(np.tile(Z0, [6, 1]), SEED)
    curves = plan.curves["reward"].numpy()
    assert np.all(np.diff(curves) >= 0) and np.all(curves[:, -1] >= curves[:, 0]) and np.any(np.diff(curves) > 0)
    np.testing.assert_allclose(tf.reduce_sum(plan.rewards, 1), curves[:, -1])
    uniform = tf.random.stateless_uniform([20000, 12, 1], SEED, -1, 1, tf.float64)
    states = rollout(curved().step, tf.repeat(tf.constant(Z0), 20000, 0), uniform)
    returns = np.sort(tf.reduce_sum(curved().reward(states), 1))
    # The best of 400 lies at about the 99.75% quantile of single ones, above the 98% one with probability 0.9997.
    assert np.all(curves[:, -1] > returns[int(0.98 * 20000)]) and np.median(curves[:, -1]) < returns[-1]


@pytest.mark.parametrize("length", [1, 2, 7, 30])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_coloured_noise_has_variance_one_and_its_spectrum(length, beta):
    basis = colored_noise_basis(length, beta)
    covariance = basis.T @ basis
    assert np.mean(np.diag(covariance)) == pytest.approx(1.0)
    np.testing.assert_allclose(np.diag(covariance), 1.0, atol=1e-9)  # stationary
    if length < 7:
        return
    power = np.array([np.sum(np.abs(np.fft.rfft(basis, axis=1)) ** 2, 0)])[0]
    frequencies = np.fft.rfftfreq(length)
    inner = slice(1, (length - 1) // 2)
    np.testing.assert_allclose(power[inner] * frequencies[inner] ** beta, power[1] * frequencies[1] ** beta, rtol=1e-9)
    if beta == 0:
        np.testing.assert_allclose(covariance, np.eye(length), atol=1e-9)  # white


def test_icem_s_populations_shrink_and_its_elites_stay():
    planner = ICEM(curved(), 6, 4, 100, 10, sample_states=False, decay=2.0, **EAGER)
    assert planner.populations == [100, 50, 25, 20] and planner.num_kept == 3 and planner.num_warm_starts == 11
    plan = planner(Z0, SEED)
    returns = []
    for sequence in plan.warm_starts[0, 1:]:
        states = rollout(curved().step, tf.constant(Z0), sequence[None])
        returns.append(float(tf.reduce_sum(curved().reward(states))))
    assert returns == sorted(returns, reverse=True)  # best first
    np.testing.assert_array_equal(plan.actions[0], plan.warm_starts[0, 1])
    assert float(tf.reduce_sum(plan.rewards)) == pytest.approx(returns[0])


def test_icem_finds_smooth_plans_that_white_noise_does_not():
    # Only a long push in one direction pays: the goal is 20 steps of full speed away.
    problem = LatentProblem(lambda z, a: z + 0.05 * a, lambda z: -tf.square(z[..., 0] - 1.0), 1, 1)
    z0 = np.zeros([4, 1])
    smooth, white = (
        ICEM(problem, 30, 2, 100, 5, sample_states=False, beta=beta, **EAGER)(z0, SEED) for beta in (2.5, 0.0)
    )
    assert np.all(tf.reduce_sum(smooth.rewards, 1) > tf.reduce_sum(white.rewards, 1) + 2.0)


def test_icem_returns_the_best_sequence_of_all_populations_though_it_keeps_none():
    planner, seen = ICEM(curved(), 6, 6, 60, 3, sample_states=False, beta=0.0, **EAGER), []
    returns = planner._returns
    planner._returns = lambda *args: seen.append(returns(*args)) or seen[-1]
    tf.config.run_functions_eagerly(True)
    plan = planner(np.array([[0.5, -0.5], [1.0, 1.0]], np.float32), SEED)
    tf.config.run_functions_eagerly(False)
    best = np.max([tf.reduce_max(x, 1) for x in seen], 0)
    assert planner.num_kept == 0 and len(seen) == 6
    assert np.any(best > tf.reduce_max(seen[-1], 1)), "the last population is not always the best"
    np.testing.assert_allclose(tf.reduce_sum(plan.rewards, 1), best, rtol=1e-5)


@pytest.mark.parametrize("elites", [1, 31])
def test_icem_needs_two_elites_and_twice_as_many_candidates(elites):
    with pytest.raises(UserError, match="two elites and twice as many"):
        ICEM(curved(), 6, 4, 60, elites)


def test_a_policy_s_best_sample_is_one_elite_of_icem():
    # Full speed is best and the bound, so that hardly a candidate can be better than the policy's.
    policy = lambda z, noise: 1.0 - (0.0 if noise is None else 0.01 * tf.abs(noise))
    problem = dataclasses.replace(far(), policy=policy)
    planner = ICEM(problem, 5, 4, 40, 6, sample_states=False, keep=0.5, policy_share=0.1, **EAGER)
    elites = planner(np.zeros([1, 1]), SEED).warm_starts[0, 1:].numpy()
    assert len(np.unique(elites, axis=0)) == len(elites)


@pytest.mark.parametrize("planner", [CEM, RandomShooting])
def test_populations_without_a_finite_candidate_are_no_convergence(planner):
    nothing = LatentProblem(lambda z, a: z + a, lambda z: z[..., 0] * np.nan, 1, 1)
    options = {"elites": 3} if planner is CEM else {}
    plan = planner(nothing, 3, 30, candidates=10, sample_states=False, tolerance=1e-3, **options, **EAGER)(
        np.zeros([1, 1], np.float32), SEED
    )
    assert plan.iterations == [30] and plan.non_finite == [300]
