"""Options that the small benchmarks refuse, and settings that they take."""

import io
import types

import numpy as np
import pytest

from benchmarks import (
    actor_critic,
    cost_against_size,
    leaderboard,
    open_loop,
    plan_quality,
    planning,
    replay,
    state_constraint,
    train_step,
)
from tools.errors import UserError
from training.driver import Episode


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (actor_critic, "--repeats 0"),
        (actor_critic, "--actions 0"),
        (planning, "--repeats 0"),
        (planning, "--horizons 0"),
        (planning, "--batches 1 -1"),
        (planning, "--iterations 0"),
        (planning, "--seed -1"),
        (replay, "--batches 0"),
        (replay, "--episodes 0"),
        (replay, "--train_seconds -1"),
        (state_constraint, "--logdir run --episodes 0"),
        (state_constraint, "--logdir run --start_seed -1"),
        (train_step, "--repeats 0"),
        (train_step, "--actions 0"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(program, words, capsys):
    assert program.main(words.split()) == 2
    said = capsys.readouterr()
    assert not said.out and words.split()[-2 if "1 -1" not in words else 0] in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (leaderboard, "--model m --out lines --starts"),
        (leaderboard, "--model m --out lines --tune_starts"),
        (plan_quality, "--logdir run --starts"),
        (state_constraint, "--logdir run --episodes"),
    ],
)
def test_episodes_that_surely_do_not_fit_into_the_memory_are_refused(program, words, capsys):
    assert program.main([*words.split(), str(2**31 - 1)]) == 2
    said = capsys.readouterr().err
    assert "the results of 2147483647 episodes need" in said and said.count("\n") == 1


def test_a_profile_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train_step.main(["--preset", "debug", "--profile", str(tmp_path / "file")]) == 2
    assert "file cannot be written (File exists): choose another --profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (planning, "--all --planners cem"),
        (train_step, "--all --variants plain"),
        (train_step, "--all --preset small"),
        (train_step, "--all --profile folder"),
        (train_step, "--profile folder --variants plain"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(program, words, monkeypatch, capsys):
    monkeypatch.setattr(planning, "make_problem", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr(train_step, "compare", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr(train_step, "profile", lambda *_: pytest.fail("it began"))
    assert program.main(words.split()) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words.split() if word.startswith("--")) and said.count("\n") == 1


def test_dreamer_s_benchmark_refuses_another_planner(capsys):
    assert actor_critic.main(["--preset", "debug", "--planner", "cem"]) == 2
    assert "--planner has no place here" in capsys.readouterr().err


def test_settings_are_not_taken_for_abbreviated_options(monkeypatch, capsys):
    monkeypatch.setattr(actor_critic, "measure", lambda config, actions, repeats: {"act": config.act})
    assert actor_critic.main(["--preset", "debug", "--act", "elu"]) == 0
    assert '"act": "elu"' in capsys.readouterr().out


def test_a_variant_that_contradicts_the_settings_is_refused_before_any_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(train_step, "Worker", lambda *args: pytest.fail("a process was started"))
    assert train_step.main(["--preset", "debug", "--batch_length", "2", "--variants", "overshooting"]) == 2
    said = capsys.readouterr().err
    assert "overshooting is 5" in said and said.count("\n") == 1


def test_a_variant_whose_process_ends_is_named():
    worker = train_step.Worker.__new__(train_step.Worker)
    worker.variant = "plain"
    worker.process = types.SimpleNamespace(stdout=io.StringIO(), wait=lambda: -9)
    with pytest.raises(UserError, match="plain stopped with exit code -9"):
        worker.read()


def test_all_limits_are_read_before_the_first_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(state_constraint, "load_agent", lambda *args: pytest.fail("an agent was loaded"))
    assert state_constraint.main(["--logdir", "run", "--limits", "0.1", "abc"]) == 2
    assert "cost_limit must be a number" in capsys.readouterr().err


def test_episodes_of_several_lengths_have_a_cost_each(monkeypatch):
    costs = [np.float32([0, 1, 3]), np.float32([0, 1])]
    episodes = [Episode(0, {"cost": cost, "reward": cost}, {}, number) for number, cost in enumerate(costs)]
    monkeypatch.setattr(state_constraint, "run_episodes", lambda *args, **options: (episodes, None))
    config = types.SimpleNamespace(task="pointmass_obstacle", cost_limit=0.1, mpc_steps=5)
    row = state_constraint.measure(types.SimpleNamespace(config=config, step=3, updates=4), 2, 0)
    assert (row["cost_max"], row["cost_sum"], row["return"]) == (2.0, 2.5, 2.5)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (cost_against_size, []),
        (leaderboard, ["--model", "m"]),
        (open_loop, ["--data", "a=b"]),
        (plan_quality, ["--logdir", "run"]),
    ],
)
def test_a_home_directory_is_meant_where_the_shell_leaves_its_sign(program, words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = program.parse_options([*words, "--out=~/lines"])
    options = options[0] if isinstance(options, tuple) else options
    assert options.out == tmp_path / "lines"
