"""The leaderboard: the lines of a problem with a known solution, resuming, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from problems import linear_quadratic, linear_quadratic_optimum

from benchmarks import contestant, leaderboard, leaderboard_report, plan_losses
from evaluation.episodes import episode_seeds
from planners.cem import CEM
from tools.config import load_config
from training.driver import Episode

Z0 = np.array([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]], np.float32)
H = 4
CONFIG = load_config(["--configs", "defaults", "pointmass", "debug", "--planning_horizon", str(H)]).resolved()


class Bench:
    """Environments, an agent and a clock for the linear-quadratic problem: a step pays its action, success is > 1."""

    num_envs = 2
    step, updates = 3, 5

    def __init__(self, log, planner):
        self.log, self.config = log, CONFIG.replace(planner=planner, cem_candidates=50)
        self.seeds = [0, 0]
        self.planner_start = lambda z: z
        self.checkpointed = {"model": tf.Variable(np.float32(log.weight)), "updates": tf.Variable(self.updates)}

    # An agent

    def latent_problem(self):
        return linear_quadratic()

    def infer_first(self, image):
        return tf.constant(Z0[int(image[0]) % 2][None])

    def rewards(self, rewards):
        return rewards

    # Environments

    def reset(self, seed):
        self.seeds = seed
        return {"image": np.array(seed)}, {}

    def step_all(self, action):
        off = np.zeros(2, bool)
        return {}, action[:, 0], off, off, {"success": np.float32(action[:, 0] > 1.0)}

    def close(self):
        self.log.append("closed")


class Log(list):
    """What the program asked for: planners that were loaded, sizes that were timed, episodes that were played.

    Attributes:
        weight: of the models that are loaded.
    """

    weight = 1.0


class ColdCEM(CEM):
    """CEM that counts its whole plans."""

    plans = 0

    def __call__(self, *args, iterations=None):
        self.plans += iterations is None
        return super().__call__(*args, iterations=iterations)


@pytest.fixture
def bench(monkeypatch):
    """A log, while no model is loaded and no environment made."""
    log = Log()

    def load(model, words, option):
        assert option == "--model"
        assert model in ("shipped", "copy")
        log.append(("load", words[-1]))
        return Bench(log, words[-1])

    def make_planner(c, problem):
        size, gamma = (c.cem_candidates, 0.0) if c.planner == "cem" else (c.mppi_candidates, c.mppi_gamma)
        return ColdCEM(problem, H, 2, size, c.sampling_elites, c.sample_states, gamma)

    def environments(config, num, seed, task):
        made = Bench(log, "cem")
        made.step = made.step_all
        return made

    def timed(planner, z0, number, seed=0):
        """A clock of a machine that needs a hundredth of a second a candidate, and four times as much for 16 plans.

        The first whole plan of a planner takes ten times as long.
        """
        log.append(("plan", planner.candidates, len(z0)))
        slow = 1.0 if planner.plans else 10.0
        return slow * planner.candidates * 0.01 * len(z0) ** 0.5, planner(z0, [seed, number])

    def run_episodes(agent, task, seeds, num_envs):
        log.append(("episodes", task))
        data = {"reward": np.float32([0, 1, 2]), "success": np.float32([0, 0, 1])}
        extras = {"planned": np.array([1, 0], bool), "predicted_reward": np.float32([2, 2]), "metrics": {}}
        return [Episode(0, data, extras, number) for number in range(len(seeds))], 0.5

    monkeypatch.setattr(leaderboard, "alone", lambda argv: leaderboard.main(argv))
    monkeypatch.setattr(contestant, "load_agent", load)
    monkeypatch.setattr(contestant, "make_planner", make_planner)
    monkeypatch.setattr(contestant, "timed", timed)
    monkeypatch.setattr(leaderboard.envs, "make_vector_env", environments)
    monkeypatch.setattr(leaderboard, "measure_peak", lambda: 1e11)
    monkeypatch.setattr(plan_losses, "run_episodes", run_episodes)
    tf.config.run_functions_eagerly(True)  # each size would be compiled
    yield log
    tf.config.run_functions_eagerly(False)


def board(capsys, path, *words) -> list[dict]:
    """The new lines of a call."""
    few = ["--starts", "2", "--trials", "2", "--tune_starts", "3", "--repeats", "2", "--tune_budget", "0.2"]
    assert leaderboard.main(["--model", "shipped", "--out", str(path), *few, *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_lines_picture_and_table_of_a_problem_with_a_known_solution(bench, tmp_path, capsys):
    out, picture, text = tmp_path / "board.jsonl", tmp_path / "board.png", tmp_path / "board.md"
    words = ["--planners", "cem", "mppi", "--budgets", "0.01", "0.4"]
    lines = board(capsys, out, *words, "--figure", str(picture), "--table", str(text))
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]
    shape = [(line["kind"], line["planner"], line.get("trial", line.get("budget"))) for line in lines]
    assert shape == [
        (kind, planner, number)
        for planner in ("cem", "mppi")
        for kind, number in (("trial", 0), ("trial", 1), ("result", 0.01), ("result", 0.4))
    ]
    slow, cem = lines[2:4]
    assert not slow["fits"] and slow["size"] == 4 and slow["seconds"]["mean"] == pytest.approx(0.04)
    assert "return_mean" not in slow
    # 40 candidates take 0.4 s; a plan is 2 populations of rollouts and its own.
    assert cem["fits"] and 36 <= cem["size"] <= 44
    assert cem["seconds"]["mean"] == pytest.approx(cem["size"] * 0.01)
    assert (cem["model_steps"], cem["model_jacobians"]) == (H * (2 * cem["size"] + 1), 0)
    assert cem["plans_per_second_1"]["mean"] == pytest.approx(1 / cem["seconds"]["mean"], rel=1e-3)
    assert cem["plans_per_second_16"]["mean"] == pytest.approx(16 / (cem["size"] * 0.01 * 4), rel=1e-3)
    each = cem["per_start"]
    optimum = [linear_quadratic_optimum(Z0[seed % 2], H)[1] for seed in each["seed"]]
    assert each["seed"] == episode_seeds(0, 2)
    assert all(value <= best for value, best in zip(each["return_mean"], optimum, strict=True))
    mppi = lines[-1]
    scores = [line["score"] for line in lines[4:6]]
    assert mppi["settings"] == lines[4 + int(np.argmax(scores))]["settings"]
    for line in (cem, mppi):
        assert line["return_mean"]["mean"] == pytest.approx(np.mean(line["per_start"]["return_mean"]), rel=1e-3)
        assert (line["return"]["mean"], line["predicted"]["mean"], line["success"]["mean"]) == (3.0, 4.0, 1.0)
        assert line["success_blind"]["mean"] == np.mean(line["per_start"]["success_blind"])
        assert line["peak_gflops"] == 100
    assert Image.open(picture).size[0] > 1000
    rows = [[cell.strip() for cell in row.split("|")] for row in text.read_text().splitlines() if row.startswith("| `")]
    assert [row[1] for row in rows] == ["`cem`", "`mppi`"] * 2  # equal returns, so in the lines' order
    assert rows[0][2:4] == ["-", "3.00 [3.00, 3.00], 100%"]
    assert "The smallest plan takes longer: `cem` (0.040 s)" in text.read_text()


def test_plans_per_second_are_all_plans_over_all_seconds():
    """Not the mean of the rates of single calls, in which the fast ones weigh more."""
    seconds = contestant.interval([0.1, 0.3, 0.2])
    found = contestant.per_second(16, [0.1, 0.3, 0.2])
    assert found["mean"] == pytest.approx(3 * 16 / 0.6)
    assert seconds["low"] < 0.0 and found["high"] is None  # as good as no time
    assert found["low"] == pytest.approx(16 / seconds["high"])
    assert contestant.per_second(1, [0.2, 0.2]) == pytest.approx({"mean": 5.0, "low": 5.0, "high": 5.0})
    assert contestant.per_second(1, [0.2]) == {"mean": 5.0, "low": None, "high": None}


@pytest.mark.slow
def test_a_board_goes_on_where_it_stopped(bench, tmp_path, capsys):
    out = tmp_path / "board.jsonl"
    words = ["--planners", "cem", "--execution", "blind"]
    first = board(capsys, out, *words, "--budgets", "0.4")
    assert len(first) == 3 and "return" not in first[-1] and "return_blind" in first[-1]
    assert not any(call[0] == "episodes" for call in bench)
    bench.clear()
    assert board(capsys, out, *words, "--budgets", "0.4") == []
    assert not any(call[0] == "plan" for call in bench)
    new = board(capsys, out, *words, "--budgets", "0.4", "0.8")
    assert [(line["kind"], line["budget"]) for line in new] == [("result", 0.8)]
    assert new[0]["settings"] == first[-1]["settings"]
    assert len(out.read_text().splitlines()) == 4


def refusal(capsys, *argv) -> str:
    """The sentence with which a command line is refused."""
    assert leaderboard.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


def test_a_board_of_something_else_is_refused(bench, tmp_path, capsys):
    out = tmp_path / "board.jsonl"
    words = ["--planners", "cem", "--execution", "blind", "--budgets", "0.4"]
    board(capsys, out, *words)
    argv = ["--model", "shipped", "--out", out, "--planners", "cem", "--starts", "3"]
    assert "starts = 2" in refusal(capsys, *argv) and len(out.read_text().splitlines()) == 3
    out.write_text('{"benchmark": "planning"}\n')
    assert "not a file that this program wrote" in refusal(capsys, *argv)


def test_a_board_is_of_one_model_wherever_that_lies(bench, tmp_path, capsys):
    out = tmp_path / "board.jsonl"
    few = ["--starts", "2", "--trials", "1", "--tune_starts", "1", "--repeats", "1", "--tune_budget", "0.2"]
    words = ["--planners", "cem", "--execution", "blind", "--budgets", "0.2", *few]
    lines = board(capsys, out, *words)
    assert len(lines) == 2 and len({line["weights"] for line in lines}) == 1
    assert board(capsys, out, *words, "--model", "copy") == []  # the last --model counts
    bench.weight = 1.001  # as far trained, from another seed
    sentence = refusal(capsys, "--model", "shipped", "--out", out, *words)
    assert f"weights = {lines[0]['weights']}" in sentence and "choose another --out" in sentence
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--planners", "cen"], ["cen", "'cem'"]),
        (["--planners", "gd", "dreamer"], ["dreamer does not search"]),
        (["--planner", "gd"], ["--planner ", "--planners"]),  # these settings would have no effect
        (["--logdir=other"], ["--logdir ", "--model"]),
        (["--budgets", "0"], ["--budgets", "seconds above 0"]),
        (["--budgets", "soon"], ["soon"]),
        (["--starts", "0"], ["--starts"]),
        (["--figure", "board.txt"], [".png"]),
        (["--task", "pointmass_lottery", "--planners", "cem"], ["pointmass_lottery"]),
    ],
)
def test_bad_options_are_refused(bench, argv, words, tmp_path, capsys):
    sentence = refusal(capsys, "--model", "shipped", "--out", tmp_path / "board.jsonl", *argv)
    assert all(word in sentence for word in words), sentence


def test_messages_name_the_option_of_the_model(tmp_path, capsys):
    argv = ["--planners", "cem", "--out", tmp_path / "board.jsonl", "--model"]
    assert "as --model, or" in refusal(capsys, *argv, tmp_path)
    words = refusal(capsys, *argv, "pointmass_obstacle", "--stoch", "5")
    assert "choose another --model, or the same stoch" in words and "--logdir" not in words


def test_tuning_has_starts_of_its_own():
    tuned, played = (episode_seeds(seed, 1000) for seed in (leaderboard.TUNE_SEED, 0))
    assert not set(tuned) & set(played)


def test_a_table_says_what_it_is_of():
    row = {"task": "t", "step": 1000, "updates": 2000, "state_size": 7, "horizon": 5, "starts": 2, "start_seed": 0}
    row |= {
        "mpc_steps": 1,
        "warm_start": True,
        "trials": 6,
        "tune_budget": 1.0,
        "tune_starts": 10,
        "commit": "abcdefgh",
    }
    row |= {"peak_gflops": 90, "planner": "gd", "budget": 1.0, "fits": True, "size": 12, "settings": {"gd_lr": 0.1}}
    row |= {"return_blind": {"mean": 2.0, "low": 1.0, "high": 3.0}, "seconds": {"mean": 0.9, "low": None, "high": None}}
    row |= {"model_steps": 1234.0, "model_jacobians": 0.0}
    better = row | {"planner": "cem", "return_blind": {"mean": 3.0, "low": 2.0, "high": 4.0}, "settings": {}}
    text = leaderboard_report.table([row, better])
    assert text.index("`cem`") < text.index("`gd`") and "abcdefg." in text
    assert "| `gd` | 12 | 0.900 | 2.00 [1.00, 3.00] | 1,234 | 0 | `gd_lr` 0.1 |" in text
    assert "| `cem` | 3.00 [2.00, 4.00] |" in text and "1 s: open loop |" in text
    figure = leaderboard_report.draw([row, better])
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in lines] == [([0.9], [3.0]), ([0.9], [2.0])]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "1" in labels and not any("$" in label for label in labels)


def test_each_planner_has_a_process_of_its_own(monkeypatch, tmp_path):
    """Compiled planners are never freed. The first one that fails ends the program."""
    calls = []

    def alone(argv):
        calls.append(leaderboard.parse_options(argv)[0].planners)
        return 2 * (calls[-1] == ["gd"])

    monkeypatch.setattr(leaderboard, "alone", alone)
    words = ["--model", "m", "--out", str(tmp_path / "board.jsonl"), "--planners", "cem", "gd", "latco", "--H", "3"]
    assert leaderboard.main(words) == 2
    assert calls == [["cem"], ["gd"]]


def test_a_planners_process_ends_as_the_program_would(tmp_path, capfd):
    words = ["--model", str(tmp_path / "none"), "--out", str(tmp_path / "board.jsonl"), "--planners", "cem"]
    assert leaderboard.alone(words) == 2
    assert str(tmp_path / "none") in capfd.readouterr().err


def test_settings_that_take_too_long_give_way_to_the_runs_own(bench, monkeypatch, tmp_path, capsys):
    """The tuned ones need 0.5 s for the smallest plan, the run's own 0.05 s."""
    times = []

    def result(contestant, budget, tuned, known, *_):
        times.append((budget, bool(tuned), dict(known)))
        seconds = 0.5 if tuned else 0.05
        return {"size": 4 + bool(tuned), "fits": seconds <= budget, "seconds": contestant_interval(seconds)}

    contestant_interval = lambda mean: {"mean": mean, "low": None, "high": None}
    monkeypatch.setattr(leaderboard, "trial", lambda c, budget, tuned, *_: {"score": float(bool(tuned))})
    monkeypatch.setattr(leaderboard, "result", result)
    lines = board(capsys, tmp_path / "board.jsonl", "--planners", "cem", "--budgets", "0.01", "0.1", "1")
    tuned = lines[1]["settings"]
    assert tuned
    found = [(line["budget"], line["fits"], line["settings"]) for line in lines[2:]]
    assert found == [(0.01, False, {}), (0.1, True, {}), (1.0, True, tuned)]
    # Times are of the settings that they are given for.
    own = {4: 0.05}
    assert times == [(0.01, True, {}), (0.01, False, {}), (0.1, True, {}), (0.1, False, own), (1.0, True, {})]


def test_all_budgets_are_beside_each_other():
    """Ranked at the largest budget that a planner has; what was not measured is empty."""

    def row(planner, budget, value):
        fits = value is not None
        result = {"planner": planner, "budget": budget, "fits": fits}
        scores = {"return": {"mean": value, "low": None, "high": None}, "success": {"mean": 0.25}}
        return result | (scores if fits else {})

    rows = [row("slow", 0.1, None), row("slow", 1.0, 7.0), row("good", 0.1, 2.0), row("good", 1.0, 8.0)]
    rows += [row("early", 0.1, 9.0)]
    assert leaderboard_report._overview(rows, [0.1, 1.0]) == (
        "| planner | 0.1 s: episode, success | 1 s: episode, success |\n"
        "| --- | --- | --- |\n"
        "| `good` | 2.00, 25% | 8.00, 25% |\n"
        "| `slow` | - | 7.00, 25% |\n"
        "| `early` | 9.00, 25% |  |\n"
    )


def test_the_same_command_finds_its_lines_whatever_the_digits_of_its_budgets(tmp_path):
    words = ["--model", "m", "--out", str(tmp_path / "board"), "--budgets", "0.123456789", "--tune_budget", "0.9876543"]
    options = leaderboard.parse_options(words)[0]
    head = {"benchmark": "leaderboard", "tune_budget": options.tune_budget}
    leaderboard.Board(options.out, head, {}).add({"kind": "result", "planner": "cem", "budget": options.budgets[0]})
    again = leaderboard.Board(options.out, head, {})
    assert again.find(kind="result", planner="cem", budget=options.budgets[0])
