"""Tables of evaluations, and success by distance."""

import json

import numpy as np
import pytest

from analysis import figures
from analysis.evaluations import labels, newest, read_evaluations, table_rows
from analysis.statistics import over_seeds
from tests.analysis.logdirs import count_pixels, drawn, refusal, run, write_run


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
    "\nIn brackets: 95% intervals, over seeds (Student t) where there are at least three, else over the episodes of "
    "these seeds. Episodes are those of all seeds together, planning is the time of one call.\n"
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
    expected = (
        "| task | model of | planner | settings | return | success, % | seeds | episodes | planning, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| metaworld_reach | latco | cem |  | -3.00 [-4.00, -2.00] | 25 [15, 35] | 1 | 20 |  |\n"
        "| metaworld_reach | latco | cem | --mpc_steps 5 | 10.00 [9.00, 11.00] | 30 [20, 40] | 1 | 7 | 1.50 |\n"
        "| metaworld_reach | latco | latco |  | 12.35 [11.35, 13.35] | 70 [60, 80] | 1 | 20 | 1.50 |\n"
    )
    assert stdout == expected + FOOT
    assert (tmp_path / "out" / "table.md").read_text() == stdout
    lines = notes.splitlines()
    assert lines[-4:] == [str(tmp_path / "out" / f"table.{kind}") for kind in ("md", "png", "pdf", "json")]
    assert len(lines) == 5 and "the last of several evaluations, with another seed" in lines[0]
    for style in figures.styles(["cem", "cem --mpc_steps 5", "latco"]).values():
        assert count_pixels(tmp_path / "out" / "table.png", style["color"]) > 1000
    assert drawn(tmp_path / "out", "table")[0]["success"] == {"mean": 0.25, "low": 0.15, "high": 0.35}


def test_newest_evaluation_counts_in_whatever_order_the_files_are_given(capsys):
    """A file of --out lacks what was evaluated later, without it."""
    old = evaluation("a", mean=1.0, time="2026-02-01T23:30:00+0000")
    new = evaluation("a", mean=2.0, time="2026-02-02T00:45:00+0100", seed=1)  # 15 minutes later
    for lines in ([old, new, old], [old, old, new]):
        assert newest(lines) == [new]
        assert "the last of several evaluations, with another seed" in capsys.readouterr().err
    assert [line["return"]["mean"] for line in newest([new, evaluation("a", mean=3.0, time="soon")])] == [3.0]


def test_evaluations_are_of_the_run_beside_them_wherever_that_was_called_what(tmp_path):
    """Two folders of runs, evaluated from within: the same relative names."""
    for name, mean in (("a", 1.0), ("b", 2.0)):
        folder = write_run(tmp_path / name / "latco" / "0", "")
        write_evaluations(folder / "evaluations.jsonl", evaluation("latco/0", mean=mean), evaluation(".", "cem"))
    copy = write_evaluations(tmp_path / "copy.jsonl", evaluation("latco/0", mean=2.0), evaluation("c/0", mean=9.0))
    rows = table_rows(newest(read_evaluations([copy, tmp_path / "a", tmp_path / "b"])))
    assert [(row.model, row.method, row.planner, row.seeds) for row in rows] == [
        ("c", "latco", "latco", 1),
        ("latco", "cem", "cem", 2),
        ("latco", "latco", "latco", 2),
    ]
    assert rows[-1].score.mean == 1.5


def test_table_averages_seeds_and_puts_tasks_side_by_side(tmp_path, capsys):
    for seed, (mean, success) in enumerate([(100.0, 0.2), (200.0, 0.3), (600.0, 0.4)]):
        write_evaluations(
            tmp_path / "latco" / str(seed) / "evaluations.jsonl",
            evaluation(tmp_path / "latco" / str(seed), mean=mean, success=success, plan_seconds=1.0 + seed),
            evaluation(tmp_path / "latco" / str(seed), task="dmc_cheetah_run", mean=100 * mean),
        )
    stdout, _ = run(capsys, "table", tmp_path, "--out", tmp_path)
    # Standard errors: sqrt(70000 / 3) = 152.75 of the returns, 0.1 / sqrt(3) = 0.0577 of the rates; each times T2.
    expected = (
        "| method | dmc_cheetah_run | metaworld_reach |\n"
        "| --- | --- | --- |\n"
        "| latco | 30000 [-35724, 95724] | 30 [5, 55] % |\n"
        "\n"
        "| task | model of | planner | return | success, % | seeds | episodes | planning, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| dmc_cheetah_run | latco | latco | 30000 [-35724, 95724] |  | 3 | 60 | 1.50 |\n"
        "| metaworld_reach | latco | latco | 300.0 [-357.2, 957.2] | 30 [5, 55] | 3 | 60 | 2.00 |\n"
    )
    assert stdout == expected + FOOT


def test_two_seeds_have_an_interval_over_their_episodes():
    """From 0.2 to 0.8 and from 0.5 to 1; the same seed twice tells no more than once."""
    seeds = [{"mean": 0.5, "low": 0.2, "high": 0.8}, {"mean": 0.9, "low": 0.5, "high": 1.0}]
    unknown = {"mean": None, "low": None, "high": None}
    assert over_seeds([*seeds, unknown]) == pytest.approx((0.7, 0.35, 0.9))
    assert over_seeds(seeds[:1]) == over_seeds([seeds[0], seeds[0]]) == pytest.approx((0.5, 0.2, 0.8))
    assert np.isnan(over_seeds([unknown])).all() and np.isnan(over_seeds([{}])).all()
    only_mean = over_seeds([seeds[0], {"mean": 0.7}])  # one episode has no interval
    assert only_mean.mean == pytest.approx(0.6) and np.isnan(only_mean[1:]).all()


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
        evaluation("x/ours/0", method="ours", mean=5.0, overrides=["--media", "false"]),
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
            {
                "low": width * k,
                "high": width * (k + 1),
                "episodes": 4 if rate is not None else 0,
                "success": {"mean": rate, "low": rate and 0.0, "high": rate and 1.0},
            }
            for k, rate in enumerate(rates)
        ]

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
        "low": 0.1,
        "high": 0.2,
        "episodes": 4,
        "success": {"mean": 0.2, "low": 0.0, "high": 1.0},
    }
    assert [each["success"]["mean"] for each in latco["by_distance"]] == [1.0, 0.25]
    assert latco["by_distance"][0] == {
        "low": 0.0,
        "high": 0.1,
        "episodes": 8,
        "success": {"mean": 1.0, "low": 0.0, "high": 1.0},
    }
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
