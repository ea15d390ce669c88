"""Reports on single plans of a recorded run, and the agent that is loaded of it."""

import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

import agents
import plan_report
from evaluation import plan_optimization
from tests.recorded import STEPS, UPDATES, recorded_run
from tools.config import Config
from tools.errors import UserError

HORIZON = 5  # of the preset debug
pytestmark = pytest.mark.usefixtures("line_by_line")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """The log directory of LatCo."""
    return recorded_run(tmp_path_factory.mktemp("runs") / "latco")


@pytest.fixture
def copied(logdir, tmp_path):
    """A copy of the log directory that a test may spoil."""
    return shutil.copytree(logdir, tmp_path / "copy", ignore=shutil.ignore_patterns("reports"))


def run(capsys, *argv):
    """The report of a command line."""
    assert plan_report.main([str(word) for word in argv]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *argv):
    """The sentence with which a command line is refused."""
    assert plan_report.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


def sizes(report):
    return [Image.open(path).size for path in report["files"]]


def test_report_of_the_runs_own_planner(logdir, capsys):
    report = run(capsys, "--logdir", logdir)
    assert report["files"] == [str(logdir / "reports" / f"plan_latco_0_{name}.png") for name in ("curves", "frames")]
    # Three panels; the start, iterations 2, 4 and 6 (the last one, finished), the execution. Six columns.
    assert sizes(report) == [(960, 1116), (840, 696)]
    assert (report["task"], report["planner"], report["seed"]) == ("pointmass_obstacle", "latco", 0)
    assert (report["iterations"], report["horizon"], report["executed"]) == (6, HORIZON, HORIZON)
    assert (report["step"], report["updates"]) == (STEPS, UPDATES)
    assert report["violations"].keys() == {"dynamics_violation", "action_violation"}
    assert report["multipliers"].keys() == {"lam", "nu"}
    assert all(np.isfinite(report[f"return_{kind}"]) for kind in ("predicted", "planned", "achieved"))
    assert -3 * HORIZON < report["return_achieved"] < 0.0  # minus a distance at each step
    assert report["non_finite"] >= 0 and report["success"] in (True, False, None)
    assert len(report["commit"]) in (0, 40) and report["modified"] in (True, False)


def test_a_model_of_a_run_that_collects_nothing_is_as_old_as_its_updates(copied, monkeypatch, capsys):
    Config.load(copied / "config.yaml").replace(steps=0).save(copied / "config.yaml")
    titles = []
    monkeypatch.setattr(plan_report, "draw_curves", lambda *args: titles.append(args[-1]) or Figure())
    monkeypatch.setattr(plan_report, "draw_frames", lambda *args: titles.append(args[-1]) or Figure())
    run(capsys, "--logdir", copied, "--planner", "random_shooting", "--rows", "0")
    assert titles == [f"pointmass_obstacle, random_shooting, seed 0, model after {UPDATES} updates"] * 2


@pytest.mark.slow
def test_report_of_another_planner_is_the_same_again(logdir, tmp_path, capsys):
    argv = ["--logdir", logdir, "--planner", "cem", "--out", tmp_path / "new" / "out", "--seed", "3"]
    report = run(capsys, *argv, "--rows", "0", "1", "1", "700", "--planning_horizon", "12")
    assert report["files"][1] == str(tmp_path / "new" / "out" / "plan_cem_3_frames.png")
    # One panel; the start, iterations 1 and 2, the execution. Eleven columns of the thirteen.
    assert sizes(report) == [(960, 420), (1380, 588)]
    assert report["violations"] == {} and report["executed"] == 12
    assert run(capsys, *argv, "--planning_horizon=12", "--rows", "0")["return_achieved"] == report["return_achieved"]


def test_run_older_than_a_setting_is_loaded_with_its_default(copied):
    before = Config.load(copied / "config.yaml").as_dict()
    saved = before | {"forgotten": 1}
    assert saved.pop("latco_iterations") == 4
    Config(saved).save(copied / "config.yaml")
    config = agents.load_agent(copied).config
    assert config == before | {"latco_iterations": 200, "logdir": str(copied)}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--planner", "latcoo"], ["latcoo", "'latco'"]),
        (["--stoch", "5"], ["stoch = 4", "5", "--logdir"]),
        (["--task", "pointmass_lottery"], ["task = pointmass_obstacle", "pointmass_lottery"]),
        (["--planing_horizon", "5"], ["--planing_horizon", "--planning_horizon"]),
        (["--sampling_iterations", "many"], ["--sampling_iterations", "whole number", "many"]),
        (["--rows", "-1"], ["--rows", "-1"]),
        (["--rows", "2.5"], ["--rows", "2.5"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--seed", str(2**31)], ["--seed", str(2**31)]),
        (["2"], ["'2' is out of place"]),
    ],
)
def test_bad_options_are_refused(logdir, argv, words, capsys):
    sentence = refusal(capsys, "--logdir", logdir, *argv)
    assert all(word in sentence for word in words), sentence


def test_bad_log_directories_are_refused(copied, tmp_path, capsys):
    assert "--logdir" in refusal(capsys)
    assert "nowhere" in refusal(capsys, "--logdir", tmp_path / "nowhere")
    config = Config.load(copied / "config.yaml")
    config.replace(stoch=5).save(copied / "config.yaml")
    assert "does not fit" in refusal(capsys, "--logdir", copied)
    Config(config.as_dict() | {"stoch": "four"}).save(copied / "config.yaml")
    assert "saved stoch" in refusal(capsys, "--logdir", copied)
    config.save(copied / "config.yaml")
    (data,) = (copied / "checkpoints").glob(f"{newest(copied)}.data*")
    data.write_bytes(b"")
    assert "damaged" in refusal(capsys, "--logdir", copied)
    shutil.rmtree(copied / "checkpoints")
    assert "no checkpoint" in refusal(capsys, "--logdir", copied)
    (copied / "config.yaml").unlink()
    assert "config.yaml" in refusal(capsys, "--logdir", copied)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_planned(logdir, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(plan_report, "plans_after", lambda *_: pytest.fail("it planned"))
    assert "choose another --out" in refusal(capsys, "--logdir", logdir, "--out", tmp_path / "file")


def newest(logdir):
    return tf.train.latest_checkpoint(str(logdir / "checkpoints")).rpartition("/")[2]


def test_help_explains_the_program(capsys):
    with pytest.raises(SystemExit) as ended:
        plan_report.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(word in text for word in ("--logdir", "--rows", "--KEY", "JSON", "figure 1"))


class Countdown:
    """An environment whose third decision is its last and succeeds at its second; images show the step."""

    def __init__(self):
        self.actions = []

    def step(self, action):
        self.actions.append(action)
        count = len(self.actions)
        image = np.full([1, 64, 64, 3], count, np.uint8)
        over = np.array([count == 3])
        return {"image": image}, np.array([0.5]), over, ~over & False, {"success": np.array([float(count == 2)])}


AGENT = types.SimpleNamespace(rewards=lambda rewards: 10.0 * rewards - 1.0, config=types.SimpleNamespace(discount=0.5))


def test_execution_ends_with_the_episode():
    env, actions = Countdown(), np.arange(10.0).reshape(5, 2)
    executed = plan_optimization.execute(AGENT, env, np.zeros([64, 64, 3], np.uint8), actions)
    np.testing.assert_array_equal(np.concatenate(env.actions), actions[:3])
    np.testing.assert_array_equal(executed.frames[:, 0, 0, 0], [0, 1, 2, 3])
    assert executed.success is True
    # In the units and with the discount of the predictions beside which they are shown.
    assert executed.rewards.tolist() == [4.0, 4.0, 4.0] and executed.discounted == 2.0 + 1.0 + 0.5


def test_what_was_achieved_is_drawn_as_the_plan_counts_it():
    executed = plan_optimization.execute(AGENT, Countdown(), np.zeros([64, 64, 3], np.uint8), np.zeros([5, 2]))
    plan = types.SimpleNamespace(
        actions=np.zeros([1, 5, 2]), curves={"reward": tf.ones([1, 3])}, rewards=tf.ones([1, 5]), value=None
    )
    lines = plan_optimization.draw_curves(plan, 3, executed, "title").axes[0].lines
    assert [line.get_ydata()[0] for line in lines] == [1.0, 5.0, 3.5]


def test_an_environment_that_is_lost_ends_the_report():
    class Dying(Countdown):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, 0.0 * reward, terminated, truncated, info | {"lost": np.array([True])}

    with pytest.raises(UserError, match="environment was lost.*start the same command again"):
        plan_optimization.execute(AGENT, Dying(), np.zeros([64, 64, 3], np.uint8), np.zeros([5, 2]))


def test_curve_with_zeros_is_drawn_where_it_is_positive():
    figure = Figure()
    axis, empty = figure.subplots(2)
    plan_optimization._draw_positive(axis, {"a": np.array([0.0, 1e-3, 1.0]), "b": np.ones(3)})
    plan_optimization._draw_positive(empty, {"c": np.zeros(3)})
    assert axis.get_yscale() == "log" and empty.get_yscale() == "linear"
    labels = [line.get_label() for line in (*axis.lines, *empty.lines)]
    assert "0 in 1 of 3" in labels[0] and labels[1] == "b" and "throughout" in labels[2]
