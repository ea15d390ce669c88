"""The gauge of planners on a trained model: lines of a known solution, a whole run on a point mass, refusals."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from problems import BUILDERS, linear_quadratic, linear_quadratic_optimum

import agents
from benchmarks import plan_figure, plan_losses, plan_quality, plan_variants
from benchmarks.execution import Played
from evaluation.episodes import episode_seeds
from evaluation.numbers import share_interval
from tests.benchmarks.executions import DEBUG, Line, plans
from tools.config import load_config
from training.driver import Episode
from training.logdir import open_logdir
from training.run import TrainingRun

STARTS, HORIZON = 2, 5


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """An agent with its first weights."""
    folder = tmp_path_factory.mktemp("runs") / "0"
    argv = [*DEBUG, "--logdir", str(folder)]
    config = load_config(argv).resolved()
    run = TrainingRun(agents.make_agent(config), open_logdir(config, argv), quiet=True)
    run.checkpoints.save()
    run.close()
    return folder


def assert_losses_add_up(lines):
    """The numbers of a line against each other and against those of the best plans."""
    best = next(line for line in lines if line["variant"] == "best_known")
    assert best["return_mean"] == best["return_best"] and best["search_loss"] == 0.0
    for line in lines:
        each = line["per_start"]
        assert each["best"] == best["per_start"]["best"] and each["best_by"] == best["per_start"]["best_by"]
        assert all(found <= top for found, top in zip(each["found"], each["best"], strict=True))
        assert line["return_mean"] == pytest.approx(np.mean(each["found"]), rel=1e-4, abs=2e-3)
        assert line["model_loss"] == pytest.approx(line["return_mean"] - line["achieved_open_loop"], rel=1e-4, abs=2e-3)
        assert line["noise_loss"] == pytest.approx(line["return_mean"] - line["return_sampled"], rel=1e-4, abs=2e-3)


def test_lines_of_a_problem_with_a_known_solution(monkeypatch):
    """All of the gauge but the world model, whose compilation takes most of the time of a whole run."""
    seeds = [2, 4]
    config = load_config([*DEBUG, "--planning_horizon", "4"]).resolved()

    def agent_of(name, **options):
        planner = BUILDERS[name][0](linear_quadratic(), 4, jit_compile=False, **options)
        parts = {"planner": planner, "planner_start": lambda z: z, "rewards": lambda r: r, "config": config}
        return types.SimpleNamespace(**parts, step=3, updates=5)

    def run_episodes(agent, task, numbers, num_envs):
        data = {"reward": np.float32([0, 1, 2]), "success": np.float32([0, 0, 1])}
        extras = {"planned": np.array([1, 0], bool), "predicted_reward": np.float32([2, 2]), "metrics": {}}
        return [Episode(0, data, extras, number) for number in range(len(numbers))], 0.5

    monkeypatch.setattr(plan_variants, "pool", lambda agent, best_of: {f"ilqr of {best_of}": ["ilqr"]})
    monkeypatch.setattr(plan_variants, "load_agent", lambda logdir, words: agent_of(words[-1]))
    monkeypatch.setattr(plan_losses, "run_episodes", run_episodes)
    pushed = Played(np.full([2, 6, 1], 5.0, np.float32), np.ones([2, 6], np.float32), np.ones([2, 6], bool), None)
    z0 = tf.constant([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]])
    starts = plan_losses.Starts("pointmass_obstacle", 0, seeds, z0, Line(), pushed)
    agents = {"cem": (["--planner", "cem"], agent_of("cem"))}
    lines = list(plan_variants.gauge("run", agents, starts, 2, [], 3))
    assert [line["variant"] for line in lines] == ["scripted", "idle", "best_known", "cem"]
    assert_losses_add_up(lines)
    scripted, idle, best, cem = lines
    problem, z, still = linear_quadratic(), z0, 0.0
    for _ in range(4):
        z = problem.step(z, tf.zeros([2, 1]))
        still += problem.reward(z).numpy().mean()
    assert idle["return_mean"] == pytest.approx(still, rel=1e-4)
    optimum = np.mean([linear_quadratic_optimum(z, 4)[1] for z in z0.numpy()])
    assert scripted["return_mean"] < best["return_best"] <= optimum
    assert cem["search_loss"] == pytest.approx(best["return_best"] - cem["return_mean"], abs=1e-3)
    assert set(best["per_start"]["best_by"]) <= {"ilqr of 2", "cem", "idle"}
    assert (scripted["achieved_open_loop"], scripted["step"], scripted["updates"]) == (4.0, 3, 5)  # 4 of 6 actions
    assert (cem["episode_predicted"], cem["episode_achieved"], cem["plan_seconds"], cem["envs"]) == (4.0, 3.0, 0.5, 2)
    assert cem["success"]["mean"] == 1.0 and cem["per_start"]["episode_achieved"] == [3.0, 3.0]


@pytest.mark.slow
def test_whole_run(logdir, tmp_path, capsys, monkeypatch):
    def script(config, task, seeds, steps, size):
        """Straight ahead, for which nothing was played."""
        shape = (len(seeds), steps)
        return Played(np.ones([*shape, size], np.float32), np.full(shape, -1.0, np.float32), np.ones(shape, bool), None)

    gd = ["--planner", "gd", "--n_parallel_plans", "2"]  # LatCo compiles longest
    monkeypatch.setattr(plan_variants, "pool", lambda agent, best_of: {f"gd of {best_of}": gd})
    monkeypatch.setattr(plan_quality, "play_scripted", script)
    out, figure = tmp_path / "new" / "lines.jsonl", tmp_path / "losses.png"
    words = ["--variants", "cem", "--variant", "ahead: --planner random_shooting --mpc_steps 2 --warm_start true"]
    words += ["--execute", "--starts", str(STARTS), "--envs", "2", "--gd_iterations", "2"]
    assert plan_quality.main(["--logdir", str(logdir), *words, "--out", str(out), "--figure", str(figure)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["scripted", "idle", "best_known", "cem", "ahead"]
    scripted, _, best, cem, ahead = lines
    assert scripted["achieved_open_loop"] == -HORIZON and "success_open_loop" not in scripted
    assert_losses_add_up(lines)
    assert all(len(line["commit"]) in (0, 40) for line in lines)
    assert (ahead["mpc_steps"], ahead["warm_start"], cem["mpc_steps"]) == (2, True, 4)
    assert ahead["words"] == ["--gd_iterations", "2", *plan_quality.shlex.split(words[3].partition(":")[2])]
    for line in (cem, ahead):
        each = line["per_start"]
        assert each["seed"] == episode_seeds(0, STARTS) and len(each["distance"]) == STARTS
        assert line["episode_achieved"] == pytest.approx(np.mean(each["return"]), rel=1e-3)  # rewards are not changed
        assert line["success"] == plan_losses.rounded(share_interval(each["success"]))
    assert each["distance"] == cem["per_start"]["distance"]
    assert Image.open(figure).size[0] > 1000


def test_without_execution_lines_are_of_plans_only(logdir, capsys, line_by_line):
    argv = ["--logdir", str(logdir), "--variants", "gd", "--starts", "2", "--gd_iterations", "2"]
    assert plan_quality.main(argv) == 0
    idle, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert idle["variant"] == "idle" and np.isfinite(idle["return_mean"])
    assert line["iterations"] == 2 and line["horizon"] == HORIZON and line["action_violation"] >= 0.0
    assert "achieved_open_loop" not in line and "per_start" not in line


def test_a_number_that_is_none_ends_no_call(logdir, monkeypatch, tmp_path, capsys):
    planner = types.SimpleNamespace(horizon=4)
    parts = {"config": load_config(DEBUG), "step": 0, "planner": planner, "planner_start": lambda z: z}
    monkeypatch.setattr(plan_quality, "load_agent", lambda logdir, words: types.SimpleNamespace(**parts))
    monkeypatch.setattr(plan_quality.envs, "make_vector_env", lambda *args: types.SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(plan_losses, "start_states", lambda *args: np.zeros([2, 3]))
    monkeypatch.setattr(plan_losses, "idle", lambda *args: plans(1.0, 2.0))
    monkeypatch.setattr(plan_losses, "measure", lambda *args: ({"return_mean": 1.0, "return_sampled": np.inf}, 0, 0))
    out, words = tmp_path / "lines.jsonl", ["--variants", "cem", "--starts", "2"]
    assert plan_quality.main(["--logdir", str(logdir), *words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert json.loads(out.read_text().splitlines()[1])["return_sampled"] is None


def test_without_execution_starts_are_those_of_the_task(monkeypatch):
    config = load_config([*DEBUG, "--task", "pointmass_lottery pointmass_obstacle"])
    agent = types.SimpleNamespace(config=config, step=0)
    made = []

    def environments(config, number, seed, task):
        made.append(task)
        raise KeyError  # far enough

    monkeypatch.setattr(plan_quality, "load_agent", lambda logdir, words: agent)
    monkeypatch.setattr(plan_quality.envs, "make_vector_env", environments)
    for words in ([], ["--task", "pointmass_obstacle"]):
        options, overrides = plan_quality.parse_options(["--logdir", "run", *words])
        with pytest.raises(KeyError):
            next(plan_quality.plans_only(options, {"cem": overrides}))
    assert made == ["pointmass_lottery", "pointmass_obstacle"]


def refusal(capsys, *argv):
    """The sentence with which a command line is refused."""
    assert plan_quality.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--variants", "latcoo"], ["latcoo", "'latco'"]),
        (["--variant", "latco5 --planner latco"], ["--variant", "NAME: --KEY"]),
        (["--variants", "cem", "--variant", "cem: --planner cem"], ["NAME of its own"]),
        (["--variant", "best_known: --planner cem"], ["best_known"]),
        (["--variant", "a: --planner 'cem"], ["quotes"]),
        (["--starts", "0"], ["--starts"]),
        (["--best_of", "-1"], ["--best_of"]),
        (["--figure", "a.png"], ["--execute"]),
        (["--figure", "a.txt", "--execute"], [".png"]),
        (["--variant", "a: --planer cem", "--execute"], ["--planer", "--planner"]),
        (["--variants", "random_shooting", "--variant", "a: --planer cem"], ["--planer", "--planner"]),
        (["--variants", "random_shooting", "--variant", "a: --planner cme"], ["cme", "'cem'"]),
        (["--variants", "cem", "--variant", "a: --randomize false", "--execute"], ["randomize", "starts"]),
        (["--variants", "cem", "--execute", "--task", "pointmass_lottery"], ["pointmass_lottery"]),
        (["--variants", "cem", "--task", "pointmass_lottery"], ["pointmass_lottery"]),
    ],
)
def test_bad_options_are_refused(logdir, argv, words, capsys):
    sentence = refusal(capsys, "--logdir", logdir, *argv)
    assert all(word in sentence for word in words), sentence


def test_missing_run_is_refused(tmp_path, capsys):
    assert "holds no run" in refusal(capsys, "--logdir", tmp_path, "--variants", "cem")


def test_bars_show_the_lines():
    row = {"variant": "a", "task": "t", "starts": 2, "updates": 3, "horizon": 5, "return_best": 2.0, "return_mean": 1.0}
    row |= {"return_se": 0.5, "return_sampled": 0.5, "achieved_open_loop": -1.0, "achieved_open_loop_se": None}
    played = row | {"variant": "b", "episode_predicted": 4.0, "episode_achieved": 3.0}
    figure = plan_figure.draw([row | {"variant": "best_known"}, row, played | {"horizon": 6}])
    first, episodes = figure.axes
    assert [bar.get_width() for bar in first.patches] == [2.0, 2.0, 1.0, 1.0, 0.5, 0.5, -1.0, -1.0]
    assert [bar.get_width() for bar in episodes.patches] == [4.0, 3.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a (H = 5)", "b (H = 6)"]
    assert plan_figure.interval(row, "return_mean") == (1.0, 0.5, 1.5)
