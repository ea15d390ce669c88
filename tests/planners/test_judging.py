"""Iterates that are judged: the plan is the best of those that a search went through."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from problems import EAGER, SEED, with_images

from optimizers import LatentProblem, Plan, WarmStart
from planners.cem import CEM
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.judging import Judge
from planners.latco import LatCo
from planners.seeds import SCORES, split_seed
from planners.trajectories import rollout

H, SAMPLES = 3, 20
Z0 = np.array([[0.0], [0.3], [-0.4]])
SEEDS = split_seed(tf.constant(SEED), len(Z0))


def misleading() -> LatentProblem:
    """In the mean a state of 1 pays most, but beyond 0.5 the dynamics are noisy: about 0.55 pays most in samples."""
    step = lambda z, a: 0.3 * z + a
    sample = lambda z, a, noise: step(z, a) + 4.0 * tf.nn.relu(step(z, a) - 0.5) * noise
    reward = lambda z: -tf.square(z[..., 0] - 1.0)
    return with_images(LatentProblem(step, reward, 1, 1, sample_step=sample, noise_size=1))


# name -> (planner, iterations from one that is judged to the next)
PLANNERS = {
    "cem": (lambda p, **o: CEM(p, H, 4, 40, 16, False, **o), 1),
    "mppi": (lambda p, **o: CEM(p, H, 4, 40, 16, False, gamma=1.0, **o), 1),
    "icem": (lambda p, **o: ICEM(p, H, 4, 40, 16, False, **o), 1),
    "gd": (lambda p, **o: GD(p, H, 30, 0.1, **o), 4),
    "gn": (lambda p, **o: GN(p, H, 8, 1.0, **o), 1),
    "ilqr": (lambda p, **o: ILQR(p, H, 8, feedback=True, damping=1.0, **o), 1),
    "latco": (lambda p, **o: LatCo(p, H, 9, damping=3.0, **o), 2),
    "gaussian_latco": (lambda p, **o: GaussianLatCo(p, H, 9, samples=10, damping=3.0, **o), 2),
    "latco_first_order": (lambda p, **o: FirstOrderLatCo(p, H, 30, 0.1, **o), 4),
    "image_collocation": (lambda p, **o: ImageCollocation(p, H, 30, 0.1, **o), 4),
    "grasp": (lambda p, **o: GRASP(p, H, 30, 0.1, sync_every=11, sync_steps=2, **o), 4),
}
QUICK = ("cem", "gd", "latco", "ilqr")
CASES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PLANNERS]


def sampled(problem, z, seed, actions):
    """The mean return of sampled rollouts of actions [H, m] from z [n], step by step."""
    noise = tf.random.stateless_normal(
        [SAMPLES, H, problem.noise_size], tf.random.fold_in(seed, SCORES), dtype=tf.float64
    )
    states, total = tf.repeat(tf.constant(z)[None], SAMPLES, 0), 0.0
    for t, action in enumerate(actions):
        states = problem.sample_step(states, tf.repeat(tf.constant(action)[None], SAMPLES, 0), noise[:, t])
        total += problem.reward(states).numpy().mean()
    return total


def scores_of(name, planner, plan):
    """What the plans from Z0 are worth, by hand."""
    if name == "gaussian_latco":  # it has samples of its own
        return planner._score(tf.constant(Z0), plan, SEEDS).numpy()
    return np.array([sampled(planner.problem, *row) for row in zip(Z0, SEEDS, plan.actions.numpy(), strict=True)])


def last_mean(plan):
    """The plan whose actions are the mean of iCEM's distribution."""
    actions = plan.warm_starts[:, 0]
    states = rollout(misleading().step, tf.constant(Z0), actions)
    return plan._replace(actions=actions, states=states, rewards=misleading().reward(states))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_the_best_of_the_searches_that_stop_at_each_judged_iteration(name):
    build, every = PLANNERS[name]
    plain, judged = (
        build(misleading(), **EAGER),
        build(misleading(), judge_every=every, restart_samples=SAMPLES, **EAGER),
    )
    counts = [*range(every, plain.iterations, every), plain.iterations]
    stops = [plain(Z0, SEEDS, iterations=k) for k in counts]
    if name == "icem":
        stops = [*map(last_mean, stops[:-1]), stops[-1]]
    plan, scores = judged(Z0, SEEDS), np.stack([scores_of(name, judged, stop) for stop in stops])
    best = np.argmax(scores, 0)
    assert np.any(best < len(counts) - 1), "the mean dynamics mislead"
    for row, index in enumerate(best):
        for field in ("actions", "states", "rewards", "gains"):
            if (found := getattr(plan, field)) is not None:
                np.testing.assert_allclose(found[row], getattr(stops[index], field)[row], rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(plan.warm_starts[row, 0], plan.actions[row])
    # What is said of the search is said of all of it.
    for key, curve in plan.curves.items():
        np.testing.assert_allclose(curve, stops[-1].curves[key], rtol=1e-6, atol=1e-9)
    assert plan.iterations.numpy().tolist() == [plain.iterations] * len(Z0)
    np.testing.assert_allclose(scores_of(name, judged, plan), scores.max(0), rtol=1e-6)


def test_a_batch_gives_what_a_single_call_gives():
    planner = GD(misleading(), H, 30, 0.1, judge_every=4, restart_samples=SAMPLES, **EAGER)
    together = planner(Z0, SEEDS)
    for row in range(len(Z0)):
        single = planner(Z0[row : row + 1], SEEDS[row : row + 1])
        np.testing.assert_allclose(single.actions[0], together.actions[row], rtol=1e-9)
        np.testing.assert_allclose(single.states[0], together.states[row], rtol=1e-9)


def test_each_restart_returns_its_best_iterate():
    options = {"judge_every": 4, "restart_samples": SAMPLES} | EAGER
    many, one = (GD(misleading(), H, 30, 0.1, restarts=count, **options) for count in (3, 1))
    plan = many(Z0[:1], SEEDS[:1])
    seeds = split_seed(SEEDS[0], 3)
    singles = one(np.repeat(Z0[:1], 3, 0), seeds)
    scores = [sampled(misleading(), Z0[0], seed, a) for seed, a in zip(seeds, singles.actions.numpy(), strict=True)]
    np.testing.assert_allclose(plan.actions[0], singles.actions[int(np.argmax(scores))], rtol=1e-9)


def test_a_stop_before_the_first_judged_iteration_is_the_plain_plan():
    """Also one call is one compiled function, however many iterations it makes."""
    plain, judged = (CEM(misleading(), H, 4, 40, 16, False, judge_every=every) for every in (0, 3))
    z0 = Z0.astype(np.float32)
    for count in (0, 1, 3):
        plan, expected = (planner(z0, SEEDS, iterations=count)._asdict() for planner in (judged, plain))
        for field in ("actions", "states", "rewards", "iterations", "warm_starts"):
            np.testing.assert_allclose(plan[field], expected[field], rtol=1e-5, atol=1e-6, err_msg=field)
    assert np.all(np.isfinite(judged(z0, SEEDS).actions)) and judged.traces == 1


def test_a_judge_changes_nothing_about_when_a_search_stops():
    options = {"tolerance": 1e-2, "restart_samples": SAMPLES} | EAGER
    plain, judged = (GD(misleading(), H, 100, 0.1, judge_every=every, **options)(Z0, SEEDS) for every in (0, 4))
    assert np.all(plain.iterations < 100) and len(set(plain.iterations.numpy())) > 1
    np.testing.assert_array_equal(judged.iterations, plain.iterations)
    np.testing.assert_allclose(judged.curves["reward"], plain.curves["reward"], rtol=1e-9)
    worth = lambda plan: [sampled(misleading(), *row) for row in zip(Z0, SEEDS, plan.actions.numpy(), strict=True)]
    assert np.all(np.array(worth(judged)) > worth(plain))


@pytest.mark.parametrize("samples", [0, SAMPLES])
def test_the_finish_starts_from_the_best_iterate_and_has_to_beat_it(samples):
    problem, options = misleading(), {"damping": 3.0} | EAGER
    best = LatCo(problem, H, 9, judge_every=2, restart_samples=samples, **options)(Z0, SEEDS)
    found = LatCo(problem, H, 9, judge_every=2, restart_samples=samples, finish=4, **options)(Z0, SEEDS)
    finish = LatCo(problem, H, 0, finish=4, **options)  # of the actions that it starts with
    finished = finish(Z0, SEEDS, WarmStart(best.actions[:, None], [H] * len(Z0)))
    expected = best if samples else finished  # the finish follows the mean dynamics
    np.testing.assert_allclose(found.actions, expected.actions, rtol=1e-6, atol=1e-9)
    states = rollout(problem.step, tf.constant(Z0), found.actions)
    np.testing.assert_allclose(found.states, states, rtol=1e-6, atol=1e-9)
    assert found.iterations.numpy().tolist() == [13] * len(Z0)


def test_a_plan_that_breaks_the_state_constraint_never_beats_one_that_keeps_it():
    """The states are the actions and pay themselves; they should be at most 0.2."""
    problem = LatentProblem(lambda z, a: a, lambda z: z[..., 0], 1, 1, constraint=lambda z: z - 0.2)
    plain, judged = (LatCo(problem, 1, 100, kappa_init=1e-3, judge_every=every, **EAGER) for every in (0, 1))
    early, late = (plain(np.zeros([3, 1]), SEED, iterations=k).actions for k in (1, 100))
    assert np.all(early > 0.3) and np.all(late <= 0.2 + np.sqrt(plain.eps["kappa"]))
    plan = judged(np.zeros([3, 1]), SEED).actions
    assert np.all(plan <= 0.2 + np.sqrt(plain.eps["kappa"])) and np.all(plan >= late)


class Walk(NamedTuple):
    """A search through given actions."""

    actions: tf.Tensor
    metrics: tf.Tensor


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("scores", "excess", "expected"),
    [
        ([1.0, 3.0, 2.0, 0.0], None, 1),
        ([1.0, 0.0, 2.0, 3.0], None, 3),
        ([2.0, 2.0, 1.0, 2.0], None, 3),  # of equal ones the last
        ([1.0, NAN, INF, 0.0], None, 0),
        ([NAN, NAN, NAN, NAN], None, 3),
        ([-9.0, 3.0, 2.0, 4.0], [0.0, 0.1, 0.1, 0.1], 0),
        ([5.0, 3.0, 2.0, 4.0], [0.2, 0.1, 0.1, NAN], 1),
    ],
)
def test_the_best_iterate_by_hand(scores, excess, expected):
    """Iterate k has actions of k / 10."""
    look_up = lambda table, actions: tf.gather(tf.constant(table), tf.cast(tf.round(10.0 * actions[:, 0, 0]), tf.int32))

    def worth(actions):
        return actions[..., 0], look_up(scores, actions), None if excess is None else look_up(excess, actions)

    judge = Judge(worth, 1, 1.0, lambda walk: (walk.actions,), lambda parts: 2.0 * parts[0])
    start, zeros = tf.zeros([1, 2, 1]), tf.zeros([1], tf.int32)
    body = lambda k, walk: walk._replace(actions=tf.fill([1, 2, 1], tf.cast(k, tf.float32) / 10.0))
    search, _, count = judge.iterate(body, Walk(start, tf.zeros([1, 1])), tf.constant(4), 4, None)
    last = Plan(search.actions, 2.0 * search.actions, search.actions[..., 0], {}, count, zeros, search.actions[:, None])
    plan = judge.choose(last, judge.best)
    assert count[0] == plan.iterations[0] == 4
    np.testing.assert_allclose(plan.actions[0, :, 0], expected / 10.0)
    np.testing.assert_allclose(plan.states, 2.0 * plan.actions)
    np.testing.assert_allclose(plan.rewards, plan.actions[..., 0])
    np.testing.assert_allclose(plan.warm_starts[:, 0], plan.actions)
