"""What planners share: batches, restarts, warm starts, early stops and broken problems."""

import types

import numpy as np
import pytest
import tensorflow as tf
from problems import (
    BUILDERS,
    EAGER,
    HORIZON,
    SEED,
    breakable,
    curved,
    edge,
    explicit,
    far,
    paper_gaussian_latco,
    paper_latco,
    quick_planner,
)

from optimizers import LatentProblem, Plan, Planner, WarmStart
from planners.cem import CEM
from planners.gd import GD
from planners.gn import GN
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.seeds import split_seed
from planners.trajectories import rollout
from tools.errors import UserError

# Of two planners that differ in a formula or a solver, which have tests of their own, one.
DISTINCT = [
    pytest.param(name, marks=pytest.mark.slow if name in ("mppi", "latco_block_tridiagonal") else [])
    for name in BUILDERS
]


def alone(planner, z, seed):
    """The plan from z [n], beside a copy of itself and so disturbed by no other; one plan would have to be traced."""
    plan = planner(np.stack([z, z]), tf.stack([seed, seed]))
    return tf.nest.map_structure(lambda x: None if x is None else x[:1], plan)


@pytest.mark.parametrize("name", DISTINCT)
def test_a_batch_gives_what_single_calls_give(name):
    # float64, because hundreds of steps amplify the rounding of differently grouped sums.
    z0 = np.array([[0.1, 0.2], [1.0, -1.0]])
    planner, seeds = quick_planner(name), split_seed(tf.constant(SEED), 2)
    together = planner(z0, seeds)
    for row in range(2):
        single = alone(planner, z0[row], seeds[row])
        np.testing.assert_allclose(together.actions[row], single.actions[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together.rewards[row], single.rewards[0], rtol=1e-4, atol=1e-5)
        for key, curve in together.curves.items():
            np.testing.assert_allclose(curve[row], single.curves[key][0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["cem", "icem"])
def test_a_batch_gives_what_single_calls_give_on_sampled_states(name):
    make = {"cem": lambda p: CEM(p, 4, 2, 40, 8, **EAGER), "icem": lambda p: ICEM(p, 4, 2, 40, 8, **EAGER)}
    z0, planner = np.array([[0.1, 0.2], [1.0, -1.0]]), make[name](curved())
    seeds = split_seed(tf.constant(SEED), 2)
    together = planner(z0, seeds)
    for row in range(2):
        single = alone(planner, z0[row], seeds[row])
        np.testing.assert_allclose(together.actions[row], single.actions[0], rtol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_plans_say_what_they_are_and_are_traced_once(name):
    build, iterations = BUILDERS[name]
    planner = build(breakable(), HORIZON)  # as users get it, with XLA where it pays
    z0 = np.array([[0.1, 0.2], [1.0, -1.0]], np.float32)
    plan = planner(z0, SEED)
    for seed in ([1, 2], [5, 6]):
        planner(z0 + 0.1, seed)
    planner(z0, SEED, iterations=1)
    broken = planner(np.array([z0[0], [90.0, 90.0]], np.float32), SEED)
    assert planner.traces == 1
    # A plan that is not finite is counted and disturbs no other.
    assert broken.non_finite.numpy()[0] == 0 < broken.non_finite.numpy()[1]
    assert all(np.all(np.isfinite(x)) for x in (broken.actions, broken.states, broken.gains) if x is not None)
    np.testing.assert_allclose(broken.actions[0], plan.actions[0], rtol=1e-4, atol=1e-5)
    assert plan.actions.shape == (2, 4, 1) and plan.states.shape == (2, 4, 2) and plan.rewards.shape == (2, 4)
    assert plan.warm_starts.shape == (2, planner.num_warm_starts, 4, 1)
    assert np.abs(plan.actions).max() <= 1.0 and plan.non_finite.numpy().tolist() == [0, 0]
    assert plan.iterations.numpy().tolist() == [iterations] * 2
    assert set(plan.curves) == set(planner.CURVES)
    assert all(curve.shape == (2, iterations) for curve in plan.curves.values())
    states = rollout(curved().step, tf.constant(z0), plan.actions)
    np.testing.assert_allclose(plan.rewards, curved().reward(states), rtol=1e-4, atol=1e-5)
    if "dynamics_violation" in plan.curves:
        own = tf.reduce_sum(curved().reward(plan.states), 1)
        tolerance = 1e-2 if name == "gaussian_latco" else 1e-5  # its reward is a mean over samples
        np.testing.assert_allclose(plan.curves["reward"][:, -1], own, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", DISTINCT)
def test_fewer_iterations_are_the_beginning_of_more(name):
    iterations, full = BUILDERS[name][1], quick_planner(name)
    if name in ("icem", "grasp"):
        pytest.skip("what they do depends on how many iterations there are in all")
    z0, seeds = np.array([[0.1, 0.2], [1.0, -1.0]]), split_seed(tf.constant(SEED), 2)
    short = full(z0, seeds, iterations=2)
    whole = full(z0, seeds)
    assert short.iterations.numpy().tolist() == [2, 2] and whole.iterations.numpy().tolist() == [iterations] * 2
    for key, curve in short.curves.items():
        np.testing.assert_allclose(curve[:, :2], whole.curves[key][:, :2], rtol=1e-9)
        np.testing.assert_array_equal(curve[0, 2:], curve[0, 1])  # held


@pytest.mark.parametrize("name", BUILDERS)
def test_no_iterations_give_the_warm_start(name, line_by_line):
    if name in ("icem", "random_shooting"):  # they return the best candidate, and know none yet
        pytest.skip("a population is needed")
    planner, seeds = quick_planner(name), split_seed(tf.constant(SEED), 2)
    z0, actions = np.array([[0.1, 0.2], [0.3, 0.1]]), np.array([0.5, -0.4, 0.3, -0.2])
    initial = np.tile(actions[:, None], [2, planner.num_warm_starts, 1, 1])
    plan = planner(z0, seeds, WarmStart(initial, [4, 2]), iterations=0)
    cold = planner(z0, seeds, iterations=0)
    np.testing.assert_allclose(plan.actions[0, :, 0], actions)
    np.testing.assert_allclose(plan.actions[1, :2, 0], actions[:2])
    np.testing.assert_allclose(plan.actions[1, 2:], cold.actions[1, 2:])  # the rest starts afresh


@pytest.mark.parametrize(
    ("name", "samples"), [("cem", 0), ("gd", 0), ("gd", 8), ("latco", 0), ("gaussian_latco", 0), ("ilqr", 0)]
)
def test_the_best_of_the_restarts_is_returned(name, samples):
    build, z0 = BUILDERS[name][0], np.array([[0.1, 0.2], [1.0, -1.0]])
    options = EAGER | {"restart_samples": samples}
    many, one = build(explicit(), HORIZON, restarts=3, **options), build(explicit(), HORIZON, **options)
    plan, seeds = many(z0, SEED), split_seed(tf.constant(SEED), 2)
    for row in range(2):
        singles = [alone(quick_planner(name), z0[row], seed) for seed in split_seed(seeds[row], 3)]
        scores = [
            float(one._score(z0[row : row + 1], x, split_seed(seeds[row], 3)[i][None])[0])
            for i, x in enumerate(singles)
        ]
        best = singles[int(np.argmax(scores))]
        np.testing.assert_allclose(plan.actions[row], best.actions[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(plan.curves["reward"][row], best.curves["reward"][0], rtol=1e-4, atol=1e-5)


def test_sampled_returns_choose_the_plan_that_survives_noise():
    # In the mean a state of 1 pays most; its noise, which grows with the state, makes a state of 0.2 the better choice.
    sample = lambda z, a, noise: a + tf.nn.relu(a - 0.5) * 4.0 * noise
    reward = lambda z: -tf.square(z[..., 0] - 1.0)
    problem = LatentProblem(lambda z, a: a, reward, 1, 1, sample_step=sample, noise_size=1)
    options = EAGER | {"restarts": 32}
    sure, naive = (
        GD(problem, 1, 1, restart_samples=count, **options)(np.zeros([4, 1]), SEED, iterations=0) for count in (500, 0)
    )
    assert np.all(naive.actions > 0.8) and np.all(sure.actions < 0.7)


def test_restarts_that_keep_the_state_constraint_come_first():
    """The states are the actions and pay themselves. They should be at most 0.1, and a little beyond is permitted."""
    limit, R = 0.1, 12
    problem = LatentProblem(lambda z, a: a, lambda z: z[..., 0], 1, 1, constraint=lambda z: z - limit)
    options = EAGER | {"restarts": R, "keep_plans": R}
    planner = paper_latco(problem, 1, 1, eps_con=0.2**2, **options)
    plan = planner(np.zeros([3, 1]), SEED, iterations=0)  # the random actions that the searches start from
    kept = plan.kept[..., 0, 0].numpy()
    assert np.all(kept.min(1) < limit) and np.all(kept.max(1) > limit + 0.2)
    assert np.any((kept > limit) & (kept < limit + 0.2)), "some do and some do not keep it, some within eps_con"
    expected = [sorted(row, key=lambda a: (max(a, limit + 0.2), -a)) for row in kept]
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(plan.actions[:, 0, 0], kept[:, 0])
    # Those beyond teach nothing.
    np.testing.assert_array_equal(plan.kept_scores, np.where(kept <= limit + 0.2, kept, np.nan))


def test_only_the_first_restart_starts_warm(line_by_line):
    planner = GD(curved(), HORIZON, 5, restarts=3, **EAGER)
    z0, seeds = np.array([[0.1, 0.2]]), split_seed(split_seed(tf.constant(SEED), 1)[0], 3)
    bad = np.full([1, 1, 4, 1], -1.0)  # drives away from the goal: it loses, and the others know nothing of it
    plan = planner(z0, SEED, WarmStart(bad, [4]), iterations=0)
    others = [GD(curved(), HORIZON, 5, **EAGER)(z0, seed[None], iterations=0) for seed in seeds[1:]]
    best = max(others, key=lambda plan: float(tf.reduce_sum(plan.rewards)))
    np.testing.assert_allclose(plan.actions, best.actions)


SLOW_STOPS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("latco_block_tridiagonal", "gaussian_latco", "ilqr", "gd")
]


@pytest.mark.parametrize("name", ["cem", "gn", "latco", *SLOW_STOPS])
def test_an_early_stop_reports_its_iterations_and_spoils_no_plan(name):
    long = {
        "cem": lambda **o: CEM(far(), 4, 100, 60, 8, False, **o),
        "gd": lambda **o: GD(far(), 4, 1500, **o),
        "gn": lambda **o: GN(far(), 4, 100, **o),
        "ilqr": lambda **o: ILQR(far(), 4, 100, **o),
        "latco": lambda **o: paper_latco(far(), 4, 200, **o),
        "latco_block_tridiagonal": lambda **o: paper_latco(far(), 4, 200, "block_tridiagonal", **o),
        "gaussian_latco": lambda **o: paper_gaussian_latco(far(), 4, 200, **o),
    }[name]
    z0, seeds = np.array([[0.1], [1.0]]), split_seed(tf.constant(SEED), 2)
    planner = long(tolerance=1e-4, **EAGER)
    plan, full = planner(z0, seeds), long(**EAGER)(z0, seeds)
    assert np.all(plan.iterations < planner.iterations) and np.all(plan.iterations >= 5)
    np.testing.assert_allclose(tf.reduce_sum(plan.rewards, 1), tf.reduce_sum(full.rewards, 1), rtol=0.01)
    for row in range(2):
        single = alone(planner, z0[row], seeds[row])
        assert single.iterations[0] == plan.iterations[row]
        np.testing.assert_allclose(single.actions[0], plan.actions[row], rtol=1e-4, atol=1e-5)
        for curve in plan.curves.values():
            np.testing.assert_array_equal(curve[row, int(plan.iterations[row]) :], curve[row, -1])


@pytest.mark.parametrize("name", ["gd", "gn", "ilqr", "latco", "gaussian_latco"])
def test_a_search_whose_steps_are_rejected_has_not_converged(name):
    """The first steps lead far beyond the edge of what is finite, many times in a row."""
    options = EAGER | {"tolerance": 1e-5}
    residual = {"damping": 1e-12, "reward_residual": lambda reward: -reward, **options}
    planner = {
        "gd": lambda: GD(edge(), 1, 100, lr=1e4, **options),
        "gn": lambda: GN(edge(), 1, 100, **residual),
        "ilqr": lambda: ILQR(edge(), 1, 100, **residual),
        "latco": lambda: paper_latco(edge(), 1, 100, **residual),
        "gaussian_latco": lambda: paper_gaussian_latco(edge(), 1, 100, samples=3, **residual),
    }[name]()
    plan = planner(np.zeros([1, 1]), SEED, WarmStart(np.zeros([1, 1, 1, 1]), [1]))
    assert plan.non_finite[0] > 5 and 1.0 < plan.states[0, 0, 0] <= 2.0


@pytest.mark.parametrize("name", ["gd", "gn"])
def test_a_search_that_breaks_the_bounds_has_not_converged(name):
    options = EAGER | {"tolerance": 1e-2}
    planner = {"gd": GD(far(), 4, 1500, **options), "gn": GN(far(), 4, 100, **options)}[name]
    plan = planner(np.linspace(0.0, 1.0, 8)[:, None], SEED)
    assert np.all(plan.iterations < planner.iterations)
    violation = tf.gather(plan.curves["action_violation"], plan.iterations - 2, batch_dims=1)
    assert np.all(violation <= 4 * planner.eps_act)


class Idle(Planner):
    """Does nothing, at once."""

    def _optimize(self, z0, seeds, warm, limit):
        actions = tf.zeros([z0.shape[0], self.horizon, 1])
        return Plan(actions, actions, actions[..., 0], {}, limit, limit, actions[:, None])


def test_many_planners_do_not_look_like_one_that_is_traced_again_and_again(monkeypatch):
    messages = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda text, *_: messages.append(text))
    # TensorFlow warns twice in a process of functions with the same code, so this one has its own.
    traced = Planner._traced
    code = traced.__code__.replace(co_name="traced_anew")
    monkeypatch.setattr(Planner, "_traced", types.FunctionType(code, traced.__globals__, "traced_anew"))
    for _ in range(6):
        Idle(curved(), 2, 1, **EAGER)(np.zeros([1, 2]), SEED)
    assert not messages


def test_settings_that_do_not_go_together_are_refused():
    problem, bare = curved(), LatentProblem(lambda z, a: z, lambda z: z[..., 0], 1, 1, constraint=lambda z: z)
    refused = {
        "elites": lambda: CEM(problem, 3, candidates=5, elites=6),
        "two elites": lambda: ICEM(problem, 3, candidates=10, elites=6),
        "sample_states": lambda: CEM(LatentProblem(problem.step, problem.reward, 2, 1), 3),
        "condensed": lambda: paper_latco(problem, 3, solver="condense"),
        "sample_step": lambda: paper_gaussian_latco(LatentProblem(problem.step, problem.reward, 2, 1), 3),
        "raise latco_finish": lambda: paper_gaussian_latco(problem, 3, keep_start=True),
        "decode": lambda: ImageCollocation(LatentProblem(problem.step, problem.reward, 2, 1), 3),
        "state constraints": lambda: GD(bare, 3),
    }
    for words, build in refused.items():
        with pytest.raises(UserError, match=words):
            build()
