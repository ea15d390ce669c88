"""What makes a leaderboard fair: counts of model evaluations, sizes for a budget, and tuning, by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf
from problems import BUILDERS, SEED, linear_quadratic

from agents import PLANNERS
from benchmarks import equal_time
from benchmarks.model_counter import Count, ModelCounter
from tools.config import check_ranges, load_config

Z0 = np.array([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]], np.float32)
H = 4
CONFIG = load_config(["--configs", "defaults", "pointmass", "debug", "--planning_horizon", str(H)]).resolved()

# Model evaluations


def counted(name: str, **options) -> Count:
    """What a planner asks of the linear-quadratic problem."""
    counter = ModelCounter()
    planner = BUILDERS[name][0](counter.watch(linear_quadratic()), H, **options)
    planner(Z0, SEED)
    return counter.read()


# Of B = 2 plans of 4 actions: 3 populations of 40 candidates and the rollout of the plan; 12 gradients through a
# rollout, and rollouts of the last variables, the last finite ones and three candidates; 20 linearized iterations, the
# rollout at the start, the residuals of the last iterate and the rollouts of three candidates.
@pytest.mark.parametrize(
    ("name", "steps", "jacobians", "jit_compile"),
    [
        ("cem", 3 * 40 + 1, 0, False),
        ("gd", 12 + 2 + 1 + 3, 12, False),
        ("gd", 12 + 2 + 1 + 3, 12, True),
        ("latco", 20 + 1 + 1 + 3, 20, False),
    ],
)
def test_model_evaluations_by_hand(name, steps, jacobians, jit_compile):
    assert counted(name, jit_compile=jit_compile) == Count(2 * H * steps, 2 * H * jacobians)


def test_samples_and_restarts_are_model_evaluations_too():
    # Of 3 restarts, each of the 5 samples is a next state and, in the 10 linearized iterations, a Jacobian. Others: the
    # rollout at the start, the last residuals, three candidates under the mean dynamics, samples that compare restarts.
    steps = 5 * (10 + 1 + 1) + 3 + 5
    count = counted("gaussian_latco", restarts=3, jit_compile=False)
    assert count == Count(3 * 2 * H * steps, 3 * 2 * H * 5 * 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_compiled_planners_are_counted_as_they_run_line_by_line(name):
    compiled = counted(name)
    tf.config.run_functions_eagerly(True)
    try:
        assert compiled == counted(name) and compiled.steps > 0
    finally:
        tf.config.run_functions_eagerly(False)


# Sizes and settings


@pytest.mark.parametrize("fixed", [0.0, 0.04])
def test_sizes_follow_from_the_measured_speed(fixed):
    known, asked = {}, []

    def measure(size):
        asked.append(size)
        return fixed + 0.002 * size

    for budget in (0.1, 1.0, 10.0):
        size = equal_time.fit_size(measure, budget, known, first=10, least=1)
        assert known[size] == fixed + 0.002 * size and 0.9 * budget <= known[size] <= 1.1 * budget
    assert len(asked) == len(set(asked)) <= 7
    assert equal_time.fit_size(measure, 0.5, dict.fromkeys([250], 0.5), first=10, least=1) == 250


def test_a_planner_that_is_too_slow_gets_its_smallest_size():
    known = {}
    assert equal_time.fit_size(lambda size: 3.0 + size, 1.0, known, first=10, least=4) == 4
    assert known[4] == 7.0 and not equal_time.fits(known[4], 1.0)


def test_a_noisy_clock_does_not_let_sizes_explode():
    known = {}
    size = equal_time.fit_size(lambda size: 1e-6, 1.0, known, first=10, least=1)
    assert size <= 10 * equal_time.GROWTH**3 and len(known) <= equal_time.TRIES


def test_a_budget_that_no_size_takes_is_no_error():
    assert equal_time.fit_size(lambda size: 1e-3 * size, 1e308, {}, first=10, least=1) > 10


@pytest.mark.parametrize("planner", sorted(PLANNERS.keys() - {"dreamer", "policy"}))
def test_all_planners_are_tuned_with_the_same_effort(planner):
    tried = equal_time.trials(planner, 6, seed=3)
    assert tried[0] == {} and tried == equal_time.trials(planner, 6, seed=3)
    assert len({json.dumps(settings, sort_keys=True) for settings in tried}) == 6
    assert tried != equal_time.trials(planner, 6, seed=4)
    space = equal_time.SPACES[planner]
    for settings in tried:
        assert all(value in space.values[name] for name, value in settings.items())
        for size in (equal_time.smallest(planner), 37):
            config = equal_time.sized(CONFIG.replace(latco_finish=10), planner, size, settings)
            check_ranges(config)
            kept = {name: value for name, value in settings.items() if name != "elites"}
            assert kept.items() <= config.as_dict().items()
            steps = config[space.size] + (config.latco_finish if space.size.startswith(("latco", "gaussian")) else 0)
            assert steps == size


def test_elites_are_a_share_of_the_candidates():
    config = equal_time.sized(CONFIG, "cem", 200, {"elites": 0.03})
    assert (config.cem_candidates, config.sampling_elites) == (200, 6)
    config = equal_time.sized(CONFIG, "icem", 4, {})
    assert (config.icem_candidates, config.icem_elites) == (4, 2)
    assert equal_time.sized(CONFIG.replace(latco_finish=10), "latco", 100, {}).latco_finish == 10
    assert equal_time.sized(CONFIG.replace(latco_finish=10), "latco", 8, {}).latco_finish == 2


def test_a_start_is_kept_where_there_is_a_finish():
    config = CONFIG.replace(latco_finish=10, latco_keep_start=True)
    kept = {size: equal_time.sized(config, "latco", size, {}) for size in (1, 8)}
    assert (kept[1].latco_finish, kept[1].latco_keep_start, kept[8].latco_keep_start) == (0, False, True)
    assert not equal_time.sized(CONFIG, "latco", 8, {}).latco_keep_start
