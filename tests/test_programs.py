"""Whole-program runs: every suite and planner, refusals with exit code 2, no retracing."""

import numpy as np
import pytest
import tensorflow as tf
from documentation import read_metrics

import agents
import planning_agent
from tools.config import load_config
from training.run import TrainingRun

DEBUG = ["--configs", "defaults"]


SUITES = ["dmc", "metaworld", "pointmass", "gym"]
PLANNERS = sorted(agents.PLANNERS)


def train(argv):
    """The agent that the program trains."""
    made, make_agent = [], agents.make_agent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning_agent, "make_agent", lambda config: made.append(make_agent(config)) or made[-1])
        assert planning_agent.main(argv) == 0
    return made[0]


def check_traces(agent):
    """Asserts that the prefill, updates, evaluations and episodes of a run compiled everything once."""
    counts = [f.experimental_get_tracing_count() for f in (agent.train_step, agent.filter, agent.open_loop)]
    assert counts == [1, 1, 1] and agent.planner.traces == 1


def check_run(logdir, planner):
    """Asserts that a run made metrics of all kinds, videos, episodes and images."""
    rows = read_metrics(logdir)
    names = set().union(*rows)
    assert {"train/return", "eval/return", "model/loss", "model/kl", "plan/predicted_return"} <= names
    assert rows[-1]["step"] >= 120
    assert all(np.isfinite(row["model/loss"]) for row in rows if "model/loss" in row)
    assert {"plan/non_finite", "plan/iterations", "speed/update_seconds", "speed/policy_seconds"} <= names
    if planner == "dreamer":
        assert {"model/actor_loss", "model/actor_return", "model/actor_entropy", "model/value_loss"} <= names
    if planner == "policy":
        assert {"model/policy_loss", "model/policy_std"} <= names
    curves = {"latco": {"dynamics_violation", "lam", "nu"}, "gd": {"action_violation", "nu"}}.get(planner, set())
    assert {f"plan/{curve}" for curve in curves} <= names
    assert list((logdir / "videos").glob("eval-episode*")) and list((logdir / "episodes").glob("*.npz"))
    assert list((logdir / "images").glob("plan-*"))


@pytest.mark.slow
@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_trains_with_every_planner(suite, planner, tmp_path):
    agent = train([*DEBUG, suite, "debug", "--planner", planner, "--logdir", str(tmp_path)])
    check_run(tmp_path, planner)
    if planner == "latco":
        check_traces(agent)


# The one whole training that is not slow.
ONE_RUN = [*DEBUG, "metaworld", "debug", "--discount_head", "true", "--state_probe", "true"]


@pytest.fixture(scope="module", params=["latco", pytest.param("dreamer", marks=pytest.mark.slow)])
def trained(request, tmp_path_factory):
    """The agent that the program trained with every head on Meta-World, and its log directory."""
    logdir = tmp_path_factory.mktemp(request.param)
    return train([*ONE_RUN, "--planner", request.param, "--logdir", str(logdir)]), logdir


def test_agent_has_the_weights_that_training_ended_with(trained):
    agent, logdir = trained
    check_run(logdir, agent.config.planner)
    # With another seed no weight is right by itself.
    loaded = agents.load_agent(logdir, ["--seed", "5", "--planner", "cem", "--cem_candidates", "7"])
    assert isinstance(loaded, agents.agent_class("cem")) and loaded.config.cem_candidates == 7
    assert loaded.config.latco_iterations == agent.config.latco_iterations == 4
    for own, right in zip(loaded.model.trainable_variables, agent.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(own.numpy(), right.numpy(), err_msg=right.path)
    assert (int(loaded.step), int(loaded.updates)) == (int(agent.step), int(agent.updates))
    assert int(loaded.updates) > 0


def test_nothing_is_traced_again_after_the_first_episodes(trained):
    agent, logdir = trained
    check_traces(agent)
    agent.step.assign(0)
    run = TrainingRun(agent, logdir, quiet=True)
    assert int(agent.step) == agent.config.steps
    run.config = agent.config.replace(steps=agent.config.steps + 60)
    run.run()
    check_traces(agent)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["latco_no_relaxation"], marks=pytest.mark.slow),
        pytest.param(["latco_no_constraint", "--latco_solver", "block_tridiagonal"], marks=pytest.mark.slow),
        pytest.param(["latco_iclr", "--n_parallel_plans", "3", "--plan_tolerance", "0.01"], marks=pytest.mark.slow),
        pytest.param(["icem"], marks=pytest.mark.slow),
        pytest.param(
            ["--planner", "ilqr", "--ilqr_feedback", "true", "--warm_start", "true", "--mpc_steps", "2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["--planner", "gaussian_latco", "--cost_head", "true", "--envs", "2"], marks=pytest.mark.slow),
    ],
    ids=lambda words: "-".join(word.strip("-") for word in words),
)
def test_every_way_of_planning_trains(words, tmp_path):
    presets = [word for word in words[:1] if not word.startswith("--")]
    argv = [*DEBUG, "pointmass", *presets, "debug", *words[len(presets) :], "--logdir", str(tmp_path)]
    assert planning_agent.main(argv) == 0
    rows = read_metrics(tmp_path)
    assert rows[-1]["step"] >= 120 and any("plan/predicted_return" in row for row in rows)
    if "--cost_head" in words:
        assert {"plan/constraint_violation", "plan/kappa", "model/cost_loss"} <= set().union(*rows)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_trains_with_the_augmented_objective(suite, tmp_path):
    words = ["--value_head", "true", "--discount", "0.99", "--augmented_objective", "true", "--media", "false"]
    words += ["--eval_every", "0"] if suite == "pointmass" else []
    assert planning_agent.main([*DEBUG, suite, "debug", *words, "--logdir", str(tmp_path)]) == 0
    rows = read_metrics(tmp_path)
    assert rows[-1]["step"] >= 120 and any(np.isfinite(row.get("plan/value") or np.nan) for row in rows)
    weights = tf.train.load_checkpoint(str(tmp_path / "checkpoints"))
    old = [name for name in weights.get_variable_to_shape_map() if name.startswith("old_dynamics/weights")]
    assert old and int(weights.get_tensor("updates/.ATTRIBUTES/VARIABLE_VALUE")) > 3


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "words",
    [
        ["latco_no_relaxation"],
        ["latco_no_constraint"],
        ["latco_no_deterministic"],
        ["latco_first_order"],
        ["collodreamer"],
        ["dreamer"],
        ["categorical", "dreamer", "--reinforce_share", "0.5", "--actor_entropy", "1e-4"],
        ["--warm_start", "policy", "--n_parallel_plans", "3"],
        ["icem", "--policy_candidates", "0.1", "--warm_start", "policy"],
        "--planner policy --policy_teacher cem --policy_candidates 0.2 --value_head true --discount 0.99".split(),
    ],
    ids=lambda words: "-".join(word.strip("-") for word in words),
)
def test_every_ablation_and_policy_trains_in_every_suite(suite, words, tmp_path):
    presets = [word for word in words if not word.startswith("--")]
    presets = presets[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]
    argv = [*DEBUG, suite, *presets, "debug", *words[len(presets) :], "--logdir", str(tmp_path)]
    assert planning_agent.main(argv) == 0
    rows = read_metrics(tmp_path)
    names = set().union(*rows)
    assert rows[-1]["step"] >= 120 and {"plan/predicted_return", "eval/return"} <= names
    if "dreamer" in words:
        assert {"model/actor_loss", "model/actor_return", "model/actor_entropy", "model/value_loss"} <= names
    if "policy" in words or "--policy_candidates" in words:
        assert {"model/policy_loss", "model/policy_std"} <= names
    for name in ("model/actor_loss", "model/policy_loss", "model/value_loss"):
        assert all(np.isfinite(row[name]) for row in rows if name in row)


@pytest.mark.slow
def test_feedback_works_where_episodes_end(tmp_path):
    words = ["--planner", "ilqr", "--ilqr_feedback", "true", "--discount", "0.99"]
    argv = [*DEBUG, "gym", "debug", *words, "--logdir", str(tmp_path)]
    assert load_config(argv).discount_head
    assert planning_agent.main(argv) == 0
    names = set().union(*read_metrics(tmp_path))
    assert {"model/discount_loss", "plan/predicted_return", "eval/return"} <= names
    assert list((tmp_path / "images").glob("plan-*"))


def test_planners_without_constraints_refuse_a_cost_head(tmp_path, capsys):
    argv = [*DEBUG, "pointmass", "debug", "--planner", "gd", "--cost_head", "true", "--logdir", str(tmp_path / "new")]
    assert planning_agent.main(argv) == 2
    error = capsys.readouterr().err
    assert "latco" in error and "cost_head" in error and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_checkpoint_of_another_model_is_refused_in_one_sentence(tmp_path, capsys):
    small = [*DEBUG, "pointmass", "debug", "--steps", "60", "--eval_every", "0", "--logdir", str(tmp_path)]
    assert planning_agent.main(small) == 0
    (tmp_path / "config.yaml").unlink()
    assert planning_agent.main([*small, "--deter", "12", "--steps", "200"]) == 2
    error = capsys.readouterr().err
    assert "checkpoint" in error and "log directory" in error and "Traceback" not in error
    assert list((tmp_path / "checkpoints").glob("ckpt-*.index"))


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--configs", "defaults", "metawrld"], ["metawrld", "metaworld"]),
        (["--configs", "defaults", "--planing_horizon", "3"], ["planing_horizon", "planning_horizon"]),
        (["--planner", "latcoo"], ["latcoo", "latco"]),
        (["--task", "metaworld_raech"], ["raech", "reach"]),
        (["--task", "atari_pong"], ["atari", "metaworld"]),
        (["--latco_solver", "dense"], ["dense", "condensed"]),
        (["--steps", "many"], ["many", "steps"]),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(argv, words, tmp_path, capsys):
    assert planning_agent.main([*argv, "--logdir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and all(word in error for word in words)
    assert not (tmp_path / "new").exists()


def test_corrupt_episode_is_named_and_kept(tmp_path, capsys):
    (tmp_path / "episodes").mkdir(parents=True)
    bad = tmp_path / "episodes" / "20260101T000000000000-00000000-000020.npz"
    bad.write_bytes(b"not an episode")
    argv = [*DEBUG, "pointmass", "debug", "--logdir", str(tmp_path), "--damaged_share", "0"]
    assert planning_agent.main(argv) == 2
    assert bad.name in capsys.readouterr().err and bad.read_bytes() == b"not an episode"
