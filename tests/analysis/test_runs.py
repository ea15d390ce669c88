"""Which runs are found, and which of their metrics."""

import numpy as np

from analysis import runs
from tests.analysis.logdirs import refusal, returns, write_run


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


def test_spoiled_log_directories_are_refused(tmp_path, capsys):
    run_dir = write_run(tmp_path / "latco" / "0", '{"step": 1\n{"step": 2}\n')
    assert f"line 1 of {run_dir / 'metrics.jsonl'} is not a JSON object" in refusal(capsys, "curves", run_dir)
    (run_dir / "metrics.jsonl").write_text('{"time": 1}\n')
    assert "has no step" in refusal(capsys, "curves", run_dir)
    (run_dir / "config.yaml").write_text("planner: latco\nseed: 0\n")
    assert "config.yaml has no task" in refusal(capsys, "curves", run_dir)
    (run_dir / "config.yaml").unlink()
    assert "cannot read" in refusal(capsys, "curves", run_dir)
