"""Figures and tables from log directories that are made up, so that every number is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import plot
from analysis import figures, runs
from analysis.curves import draw_curves, task_curves
from analysis.evaluations import labels, table_rows
from analysis.statistics import bootstrap, mean_interval
from tools.config import Config

ROOT = Path(__file__).parents[2]
T2 = 4.302652729911275  # 97.5% quantile of Student's t with 2 degrees of freedom, as in tables


def write_run(logdir, lines, task="metaworld_reach", planner="latco", seed=None):
    """A log directory; of a text the lines are as they are."""
    seed = int(logdir.name) if seed is None else seed
    Config({"task": task, "planner": planner, "seed": seed, "logdir": str(logdir)}).save(logdir / "config.yaml")
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (logdir / "metrics.jsonl").write_text(text)
    return logdir


def returns(*points, name="train/return"):
    return [{"step": step, "time": 0.0, name: value} for step, value in points]


def run(capsys, *argv):
    """The standard output and the notes of a command line."""
    code = plot.main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def refusal(capsys, *argv):
    """The sentence with which a command line is refused."""
    assert plot.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def drawn(out, name, *path):
    value = json.loads((out / f"{name}.json").read_text())
    for key in path:
        value = value[key]
    return value


def count_pixels(path, color):
    """How many pixels of a picture have a colour, given as in matplotlib."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(np.sum(np.abs(pixels - np.round(255 * np.array(color))).max(-1) <= 2))


# --- reading


def test_method_is_the_folder_above_the_seed_or_else_the_planner(tmp_path, monkeypatch):
    config = {"planner": "latco", "seed": 3}
    assert runs.method_of(tmp_path / "no_relaxation" / "3", config) == "no_relaxation"
    assert runs.method_of(tmp_path / "no_relaxation" / "4", config) == "latco"
    (tmp_path / "ours" / "3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ours" / "3")
    assert runs.method_of(".", config) == "ours"


def test_runs_are_found_once_and_not_inside_of_runs(tmp_path):
    write_run(tmp_path / "a" / "latco" / "0", returns((1, 2.0)))
    write_run(tmp_path / "a" / "latco" / "0" / "episodes" / "1", returns((1, 2.0)))
    write_run(tmp_path / "b" / "anything", returns((1, 2.0)), seed=7, planner="cem")
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    found = runs.read_runs([tmp_path, tmp_path / "a", tmp_path / "b" / "anything"])
    assert [(run.task, run.method, run.seed) for run in found] == [
        ("metaworld_reach", "cem", 7),
        ("metaworld_reach", "latco", 0),
    ]


def test_later_lines_win_and_what_a_resumed_run_lost_is_left_out(tmp_path):
    # Killed after 4000, resumed from a checkpoint at 1500; the line at 3000 is repeated, the one at 4000 not (yet).
    before = returns((1000, 1.0), (2000, 2.0), (3000, 3.0), (4000, 4.0))
    after = returns((2000, 20.0), (3000, 30.0))
    lines = [*before, {"step": 4000, "time": 0.0, "eval/return": 9.0}, *after]
    write_run(tmp_path / "0", lines)
    metrics = runs.read_metrics(tmp_path / "0" / "metrics.jsonl")
    assert metrics.keys() == {"train/return"}
    np.testing.assert_array_equal(metrics["train/return"].steps, [1000, 2000, 3000])
    np.testing.assert_array_equal(metrics["train/return"].values, [1.0, 20.0, 30.0])


def test_null_and_lines_of_one_step_and_a_line_that_is_cut_off(tmp_path):
    text = (
        '{"step": 10, "time": 0.0, "train/return": 1.0, "train/success": false}\n'
        '{"step": 10, "time": 1.0, "eval/return": 5.0}\n'
        '{"step": 20, "time": 2.0, "train/return": null, "eval/return": NaN}\n\n'
        '{"step": 30, "time": 3.0, "train/return": 3.0}\n'
        '{"step": 40, "time": 4.0, "train/ret'
    )
    write_run(tmp_path / "0", text)
    metrics = runs.read_metrics(tmp_path / "0" / "metrics.jsonl")
    assert {name: (list(s.steps), list(s.values)) for name, s in metrics.items()} == {
        "train/return": ([10, 30], [1.0, 3.0]),
        "train/success": ([10], [0.0]),
        "eval/return": ([10], [5.0]),
    }


def test_agent_of_several_tasks_is_a_method_of_its_own_in_each(tmp_path):
    line = {"step": 5, "time": 0.0, "model/loss": 7.0, "train/return": 2.0}
    line |= {"train/dmc_a_b/return": 1.0, "train/dmc_c_d/return": 3.0}
    write_run(tmp_path / "cem" / "0", [line], task="dmc_a_b,dmc_c_d")
    write_run(tmp_path / "dmc_a_b" / "cem" / "0", returns((5, 9.0)), task="dmc_a_b")
    found = {(run.task, run.method): run.metrics for run in runs.read_runs([tmp_path])}
    last = {key: {name: series.values[-1] for name, series in metrics.items()} for key, metrics in found.items()}
    assert last == {
        ("dmc_a_b", "cem"): {"train/return": 9.0},
        ("dmc_a_b", "cem (2 tasks)"): {"train/return": 1.0, "model/loss": 7.0},
        ("dmc_c_d", "cem (2 tasks)"): {"train/return": 3.0, "model/loss": 7.0},
    }


# --- curves


def test_mean_and_interval_over_seeds_by_hand(tmp_path, capsys):
    for seed, value in enumerate([1.0, 2.0, 6.0]):
        write_run(tmp_path / "latco" / str(seed), returns((100, value), (200, 5.0)))
    out = tmp_path / "plots"
    stdout, notes = run(capsys, "curves", tmp_path, "--out", out)
    assert stdout.split() == [str(out / f"curves.{kind}") for kind in ("png", "pdf", "json")] and not notes
    curve = drawn(out, "curves", "train/return", "metaworld_reach", "latco")
    half = T2 * np.sqrt(7.0) / np.sqrt(3.0)  # squared deviations 4 + 1 + 9 over two degrees of freedom
    assert curve["steps"] == [100, 200] and curve["seeds"] == [0, 1, 2] and curve["count"] == [3, 3]
    np.testing.assert_allclose(curve["mean"], [3.0, 5.0])
    np.testing.assert_allclose(curve["low"], [3.0 - half, 5.0])
    np.testing.assert_allclose(curve["high"], [3.0 + half, 5.0])


def test_interval_agrees_with_scipy_and_ends_where_success_ends():
    values = np.random.default_rng(0).uniform(size=[5, 4])
    mean, low, high = mean_interval(values)
    right = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values, 0))
    np.testing.assert_allclose((mean, low, high), (values.mean(0), *right))
    mean, low, high = mean_interval(np.array([[0.0], [0.0], [1.0]]), bounds=(0.0, 1.0))
    assert (low[0], high[0]) == (0.0, 1.0)


def test_seeds_of_different_lengths_and_steps_each_count_once(tmp_path, capsys):
    write_run(tmp_path / "cem" / "0", returns((0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)))
    write_run(tmp_path / "cem" / "1", returns((5, 100.0), (25, 140.0)))
    run(capsys, "curves", tmp_path, "--out", tmp_path)
    curve = drawn(tmp_path, "curves", "train/return", "metaworld_reach", "cem")
    assert curve["steps"] == [0, 5, 10, 20, 25, 30, 40]
    assert curve["count"] == [1, 2, 2, 2, 2, 1, 1]
    assert curve["mean"] == [0.0, 52.5, 60.0, 75.0, 82.5, 30.0, 40.0]
    assert curve["low"] == curve["high"] == [None] * 7  # two seeds are drawn themselves
    assert curve["values"][1] == [None, 100.0, 110.0, 130.0, 140.0, None, None]


def test_bins_weigh_each_seed_once(tmp_path, capsys):
    write_run(tmp_path / "cem" / "0", returns((10, 1.0), (20, 2.0), (30, 3.0), (50, 6.0), (100, 10.0)))
    write_run(tmp_path / "cem" / "1", returns((50, 8.0), (100, 0.0)))
    run(capsys, "curves", tmp_path, "--bins", 2, "--out", tmp_path)
    curve = drawn(tmp_path, "curves", "train/return", "metaworld_reach", "cem")
    assert (curve["steps"], curve["values"]) == ([25.0, 75.0], [[3.0, 10.0], [8.0, 0.0]])
    assert curve["mean"] == [5.5, 5.0]


def test_lines_bands_and_colors_of_the_panels(tmp_path):
    for task, methods in {"dmc_a_b": "xy", "dmc_c_d": "y"}.items():
        for method in methods:
            for seed, end in enumerate([100, 200, 200]):
                write_run(tmp_path / task / method / str(seed), returns((50, 1.0), (end, 2.0 + seed)), task=task)
    found = runs.read_runs([tmp_path])
    panels = {(task, "train/return"): task_curves(found, task, "train/return", None) for task in ("dmc_a_b", "dmc_c_d")}
    left, right = draw_curves(panels, ["dmc_a_b", "dmc_c_d"], ["train/return"]).axes
    assert (left.get_title(), right.get_title()) == ("dmc_a_b", "dmc_c_d")
    style = figures.styles("xy")
    assert style["x"]["color"] != style["y"]["color"]
    assert {line.get_color() for line in left.lines} == {style["x"]["color"], style["y"]["color"]}
    assert {line.get_color() for line in right.lines} == {style["y"]["color"]}
    dotted, solid = right.lines
    # Two of three seeds got to step 200, so the line is dotted there.
    assert list(solid.get_xdata()[~solid.get_ydata().mask]) == [50, 100] and list(dotted.get_xdata()) == [50, 100, 200]
    assert dotted.get_linestyle() == ":" and len(right.collections) == 1


def test_pictures_show_the_methods(tmp_path, capsys):
    for method in ("cem", "latco"):
        lines = [{"step": 100 * k, "train/return": k, "train/success": 0.1 * k} for k in range(1, 9)]
        write_run(tmp_path / method / "0", lines)
    run(capsys, "curves", tmp_path, "--out", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "curves.png").size[0] == round(150 * (2 * 3.6 + 0.4))  # return and success
    for style in figures.styles(["cem", "latco"]).values():
        assert count_pixels(tmp_path / "out" / "curves.png", style["color"]) > 100
    assert (tmp_path / "out" / "curves.pdf").read_bytes().startswith(b"%PDF")


# --- aggregate


def write_matrix(root, scores, name="eval/success", methods=("latco",)):
    """scores [runs, tasks]: what every seed ends with, after half of it."""
    for method in methods:
        for (seed, task), score in np.ndenumerate(np.array(scores)):
            write_run(
                root / f"task{task}" / method / str(seed),
                returns((10, score / 2), (20, score), name=name),
                f"dmc_{task}",
            )


def test_aggregate_is_the_interquartile_mean_of_tasks_and_seeds(tmp_path, capsys):
    scores = [[0.1, 0.8], [0.3, 0.9], [0.2, 0.4], [0.5, 1.0]]
    write_matrix(tmp_path, scores, methods=("cem", "latco"))
    stdout, _ = run(capsys, "aggregate", tmp_path, "--repetitions", 100, "--out", tmp_path / "one")
    final = drawn(tmp_path / "one", "aggregate", "last", "latco")
    assert final["scores"] == scores and drawn(tmp_path / "one", "aggregate", "step") == 20
    assert final["IQM"]["value"] == pytest.approx((0.3 + 0.4 + 0.5 + 0.8) / 4)
    assert final["IQM"]["value"] == pytest.approx(stats.trim_mean(np.ravel(scores), 0.25))
    assert final["mean"]["value"] == pytest.approx(np.mean(scores))
    assert 0.2 < final["IQM"]["low"] < final["IQM"]["value"] < final["IQM"]["high"] < 0.9
    line = "| latco | 0.500 [{low:.3f}, {high:.3f}] |".format(**final["IQM"])
    assert stdout.splitlines()[0] == "| method | IQM of success (evaluation) at step 20 | mean | runs x tasks |"
    assert stdout.splitlines()[3].startswith(line) and stdout.splitlines()[3].endswith("| 4 x 2 |")
    for name in ("aggregate", "sample_efficiency"):
        assert len(np.unique(np.asarray(Image.open(tmp_path / "one" / f"{name}.png")))) > 50


def test_aggregate_over_steps_is_what_rliable_says_of_each(tmp_path):
    from rliable import metrics

    matrix = np.random.default_rng(0).uniform(size=[3, 4, 6])
    last, curve = bootstrap({"latco": matrix}, 50)
    for step in range(6):
        assert curve["latco"][0, step] == pytest.approx(metrics.aggregate_iqm(matrix[..., step]))
    np.testing.assert_array_equal(last["latco"][:, 0], curve["latco"][:, -1])
    low, high = curve["latco"][1:]
    assert np.all(low < curve["latco"][0]) and np.all(curve["latco"][0] < high)
    again = bootstrap({"latco": matrix}, 50)[1]
    np.testing.assert_array_equal(again["latco"], curve["latco"])  # the same samples every time


def test_aggregate_ends_at_the_last_common_step_and_normalizes(tmp_path, capsys):
    write_run(tmp_path / "a" / "cem" / "0", returns((10, 0.0), (30, 200.0)), "dmc_a_a")
    write_run(tmp_path / "b" / "cem" / "0", returns((20, -10.0), (40, -6.0)), "dmc_b_b")
    argv = ["aggregate", tmp_path, "--repetitions", 20, "--out", tmp_path / "out"]
    _, notes = run(capsys, *argv, "--normalize", "dmc_*=0,1000", "dmc_b_b=-20,0")
    assert "up to step 30" in notes and "no interval" in notes
    found = drawn(tmp_path / "out", "aggregate")
    assert found["ranges"] == {"dmc_a_a": [0.0, 1000.0], "dmc_b_b": [-20.0, 0.0]}
    assert found["last"]["cem"]["scores"] == [[0.2, pytest.approx(0.6)]]
    assert found["last"]["cem"]["IQM"] == {"value": pytest.approx(0.4), "low": None, "high": None}
    assert drawn(tmp_path / "out", "sample_efficiency", "cem", "steps") == [20, 30]


def test_aggregate_refuses_what_cannot_be_compared(tmp_path, capsys):
    write_matrix(tmp_path, [[1.0, 2.0], [3.0, 4.0]], name="train/return")
    sentence = refusal(capsys, "aggregate", tmp_path)
    assert "train/return of different tasks" in sentence and "--normalize dmc_0=LOW,HIGH" in sentence
    assert "dmc_1" in refusal(capsys, "aggregate", tmp_path, "--normalize", "dmc_0=0,1")
    assert "'dmc_0'" in refusal(capsys, "aggregate", tmp_path, "--normalize", "dcm_0=0,1")
    for bad in ("dmc_0=1", "dmc_0=1,0", "dmc_0=a,b", "dmc_0=0,inf"):
        assert bad in refusal(capsys, "aggregate", tmp_path, "--normalize", bad)
    assert "'train/return'" in refusal(capsys, "aggregate", tmp_path, "--metric", "train/retrun")
    write_run(tmp_path / "task0" / "latco" / "2", returns((10, 1.0)), "dmc_0")
    sentence = refusal(capsys, "aggregate", tmp_path)
    assert "latco has 2 runs of dmc_1 but 3 of dmc_0" in sentence
    write_run(tmp_path / "task1" / "latco" / "2", returns((10, 1.0), name="model/loss"), "dmc_1")
    sentence = refusal(capsys, "aggregate", tmp_path)
    assert str(tmp_path / "task1" / "latco" / "2") in sentence
    write_run(tmp_path / "task1" / "latco" / "2", returns((50, 1.0), (60, 1.0)), "dmc_1")
    sentence = refusal(capsys, "aggregate", tmp_path, "--normalize", "dmc_*=0,1")
    assert "ends at step 10, before" in sentence


# --- table


def evaluation(logdir, planner="latco", task="metaworld_reach", mean=10.0, success=None, **changes):
    line = {
        "task": task, "planner": planner, "method": "latco", "logdir": str(logdir), "checkpoint_step": 100, "seed": 0,
        "episodes": 20, "return": {"mean": mean, "low": mean - 1, "high": mean + 1, "std": 2.0}, "length": 150.0,
        "plan_seconds": 1.5, "overrides": ["--planner", planner] if planner != "latco" else [],
    }  # fmt: skip
    if success is not None:
        line["success"] = {"mean": success, "low": success - 0.1, "high": success + 0.1}
    return line | changes


def write_evaluations(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


FOOT = (
    "\nIn brackets: 95% intervals, over seeds (Student t) where there are several, else over the episodes of the "
    "evaluation. Episodes are those of all seeds together, planning is the time of one call.\n"
)


def test_table_of_the_newest_evaluations_of_one_seed(tmp_path, capsys):
    first = evaluation("a", success=0.5)
    newer = evaluation("a", success=0.7, mean=12.345, seed=1)
    cem = evaluation("a", "cem", success=0.25, mean=-3.0, plan_seconds=None)
    deeper = evaluation("a", "cem", success=0.3, overrides=["--planner", "cem", "--mpc_steps", "5"], episodes=7)
    path = write_evaluations(tmp_path / "x" / "evaluations.jsonl", first, cem, deeper, newer)
    with path.open("a") as file:
        file.write('{"task": "metaworld_re')
    stdout, notes = run(capsys, "table", tmp_path, path, "--out", tmp_path / "out")
    assert stdout == (
        "| task | model of | planner | settings | return | success, % | seeds | episodes | planning, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| metaworld_reach | latco | cem |  | -3.00 [-4.00, -2.00] | 25 [15, 35] | 1 | 20 |  |\n"
        "| metaworld_reach | latco | cem | --mpc_steps 5 | 10.00 [9.00, 11.00] | 30 [20, 40] | 1 | 7 | 1.50 |\n"
        "| metaworld_reach | latco | latco |  | 12.35 [11.35, 13.35] | 70 [60, 80] | 1 | 20 | 1.50 |\n"
    ) + FOOT  # fmt: skip
    assert (tmp_path / "out" / "table.md").read_text() == stdout
    lines = notes.splitlines()
    assert lines[-4:] == [str(tmp_path / "out" / f"table.{kind}") for kind in ("md", "png", "pdf", "json")]
    assert len(lines) == 5 and "the last of several evaluations, with another seed" in lines[0]
    for style in figures.styles(["cem", "cem --mpc_steps 5", "latco"]).values():
        assert count_pixels(tmp_path / "out" / "table.png", style["color"]) > 1000
    assert drawn(tmp_path / "out", "table")[0]["success"] == {"mean": 0.25, "low": 0.15, "high": 0.35}


def test_table_averages_seeds_and_puts_tasks_side_by_side(tmp_path, capsys):
    for seed, (mean, success) in enumerate([(100.0, 0.2), (200.0, 0.3), (600.0, 0.4)]):
        write_evaluations(
            tmp_path / "latco" / str(seed) / "evaluations.jsonl",
            evaluation(tmp_path / "latco" / str(seed), mean=mean, success=success, plan_seconds=1.0 + seed),
            evaluation(tmp_path / "latco" / str(seed), task="dmc_cheetah_run", mean=100 * mean),
        )
    stdout, _ = run(capsys, "table", tmp_path, "--out", tmp_path)
    # Standard errors: sqrt(70000 / 3) = 152.75 of the returns, 0.1 / sqrt(3) = 0.0577 of the rates; each times T2.
    assert stdout == (
        "| method | dmc_cheetah_run | metaworld_reach |\n"
        "| --- | --- | --- |\n"
        "| latco | 30000 [-35724, 95724] | 30 [5, 55] % |\n"
        "\n"
        "| task | model of | planner | return | success, % | seeds | episodes | planning, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| dmc_cheetah_run | latco | latco | 30000 [-35724, 95724] |  | 3 | 60 | 1.50 |\n"
        "| metaworld_reach | latco | latco | 300.0 [-357.2, 957.2] | 30 [5, 55] | 3 | 60 | 2.00 |\n"
    ) + FOOT  # fmt: skip


def test_models_and_names_of_evaluations_are_told_apart(tmp_path, capsys):
    """evaluate.py calls an evaluation with another planner after that planner, whoever trained the model."""
    write_run(tmp_path / "somewhere", "", seed=3, planner="gd")
    lines = [
        evaluation("x/latco/0", method="latco"),
        evaluation("x/latco/1", method="latco", mean=14.0),
        evaluation("x/latco/0", "cem", method="cem", mean=1.0),
        evaluation("x/cem/0", "cem", method="cem", mean=2.0, overrides=[]),
        evaluation("x/mppi/0", "cem", method="cem", mean=3.0),
        evaluation(tmp_path / "somewhere", "cem", method="cem", mean=4.0),
        evaluation("x/ours/0", method="ours", mean=5.0),
        evaluation("x/ours/0", method="deep", mean=6.0, overrides=["--planning_horizon=50"]),
    ]
    path = write_evaluations(tmp_path / "evaluations.jsonl", *lines)
    stdout, _ = run(capsys, "table", path, "--out", tmp_path)
    cells = [[cell.strip() for cell in line.split("|")[1:7]] for line in stdout.splitlines()[:9]]
    del cells[1]
    assert [[*row[1:5], row[5].split(" ")[0]] for row in cells] == [
        ["model of", "method", "planner", "settings", "return"],
        ["cem", "", "cem", "", "2.00"],
        ["gd", "", "cem", "", "4.00"],
        ["latco", "", "cem", "", "1.00"],
        ["latco", "", "latco", "", "12.00"],
        ["mppi", "", "cem", "", "3.00"],
        ["ours", "deep", "latco", "--planning_horizon=50", "6.00"],
        ["ours", "", "latco", "", "5.00"],
    ]
    assert labels(table_rows(lines)) == [
        "cem", "cem (model: gd)", "cem (model: latco)", "latco", "cem (model: mppi)",
        "deep (model: ours) --planning_horizon=50", "ours",
    ]  # fmt: skip


def test_success_by_distance(tmp_path, capsys):
    def bins(*rates, width=0.1):
        return [
            {"low": width * k, "high": width * (k + 1), "episodes": 4 if rate is not None else 0,
             "success": {"mean": rate, "low": rate and 0.0, "high": rate and 1.0}}
            for k, rate in enumerate(rates)
        ]  # fmt: skip

    path = tmp_path / "evaluations.jsonl"
    lines = [
        evaluation("a", success=0.5, by_distance=bins(1.0, 0.5, None)),
        evaluation("b", success=0.5, by_distance=bins(1.0, 0.0, None)),
        evaluation("a", "cem", success=0.5, by_distance=bins(0.8, 0.2, 0.1)),
        evaluation("a", "gd", success=0.5),
        evaluation("a", "icem", success=0.5, by_distance=bins(0.8)),
        evaluation("b", "icem", success=0.5, by_distance=bins(0.8, width=0.2)),
    ]
    write_evaluations(path, *lines)
    _, notes = run(capsys, "table", path, "--out", tmp_path)
    assert "note: metaworld_reach latco icem icem: seeds have different bins" in notes
    cem, latco = drawn(tmp_path, "distance")
    assert (cem["planner"], latco["planner"]) == ("cem", "latco")
    assert cem["by_distance"][1] == {
        "low": 0.1, "high": 0.2, "episodes": 4, "success": {"mean": 0.2, "low": 0.0, "high": 1.0},
    }  # fmt: skip
    assert [each["success"]["mean"] for each in latco["by_distance"]] == [1.0, 0.25]
    assert latco["by_distance"][0] == {
        "low": 0.0, "high": 0.1, "episodes": 8, "success": {"mean": 1.0, "low": 1.0, "high": 1.0},
    }  # fmt: skip
    for style in figures.styles(["cem", "latco"]).values():
        assert count_pixels(tmp_path / "distance.png", style["color"]) > 100
    write_evaluations(path, lines[3])
    run(capsys, "table", path, "--out", tmp_path / "none")
    assert not (tmp_path / "none" / "distance.png").exists()


def test_tables_refuse_what_is_no_evaluation(tmp_path, capsys):
    assert "evaluate.py" in refusal(capsys, "table", tmp_path)
    path = write_evaluations(tmp_path / "evaluations.jsonl", evaluation("a"), {"task": "metaworld_reach"})
    sentence = refusal(capsys, "table", path)
    assert f"line 2 of {path} has no 'method'" in sentence
    write_evaluations(path, evaluation("a") | {"return": 5.0})
    assert f"line 1 of {path}: 'return'" in refusal(capsys, "table", path)
    write_evaluations(path, evaluation("a", by_distance=[{"low": 0.0, "success": None}]))
    assert "'by_distance'" in refusal(capsys, "table", path)
    write_evaluations(path)
    assert "no evaluation has ended" in refusal(capsys, "table", path)
    assert "is not a folder" in refusal(capsys, "table", tmp_path / "missing")


# --- refusals and the program


def test_curves_refuse_in_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    good = write_run(tmp_path / "latco" / "0", returns((10, 1.0)))
    assert "holds no run" in refusal(capsys, "curves", good, tmp_path / "empty")
    assert "is not a folder" in refusal(capsys, "curves", tmp_path / "missing")
    assert "did you mean 'train/return'?" in refusal(capsys, "curves", good, "--metric", "train/retrun")
    assert "'0' is too few" in refusal(capsys, "curves", good, "--bins", "0")
    assert "invalid choice: 'curve'" in refusal(capsys, "curve", good)
    (tmp_path / "file").touch()
    assert "choose another folder" in refusal(capsys, "curves", good, "--out", tmp_path / "file" / "out")
    begun = write_run(tmp_path / "begun" / "0", "", task="metaworld_push")
    assert "metaworld_push has no value of train/return" in refusal(capsys, "curves", good, begun)
    assert "no run has a value of train/return" in refusal(capsys, "curves", begun)
    twin = write_run(tmp_path / "more" / "latco" / "0", returns((10, 1.0)))
    sentence = refusal(capsys, "curves", good, twin)
    assert str(good) in sentence and str(twin) in sentence and "seed 0" in sentence


def test_spoiled_log_directories_are_refused(tmp_path, capsys):
    run_dir = write_run(tmp_path / "latco" / "0", '{"step": 1\n{"step": 2}\n')
    assert f"line 1 of {run_dir / 'metrics.jsonl'} is not a JSON object" in refusal(capsys, "curves", run_dir)
    (run_dir / "metrics.jsonl").write_text('{"time": 1}\n')
    assert "has no step" in refusal(capsys, "curves", run_dir)
    (run_dir / "config.yaml").write_text("planner: latco\nseed: 0\n")
    assert "config.yaml has no task" in refusal(capsys, "curves", run_dir)
    (run_dir / "config.yaml").unlink()
    assert "cannot read" in refusal(capsys, "curves", run_dir)


def test_method_without_values_is_noted_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "latco" / "0", returns((10, 1.0)))
    begun = write_run(tmp_path / "cem" / "0", "")
    _, notes = run(capsys, "curves", tmp_path, "--out", tmp_path)
    assert notes == f"note: {begun} has no value of train/return yet and is left out.\n"
    assert drawn(tmp_path, "curves", "train/return", "metaworld_reach").keys() == {"latco"}


def test_program_needs_neither_tensorflow_nor_simulators(tmp_path):
    write_matrix(tmp_path, [[0.5], [0.6]])
    code = (
        "import sys, plot\n"
        f"assert plot.main(['aggregate', {str(tmp_path)!r}, '--repetitions', '5', '--out', {str(tmp_path)!r}]) == 0\n"
        "print(sorted({'tensorflow', 'keras', 'mujoco', 'metaworld', 'dm_control', 'gymnasium'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "sample_efficiency.pdf").exists()
