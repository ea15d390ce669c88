"""Interquartile means over tasks and seeds."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import plot
from analysis import figures
from analysis.aggregates import score_ranges
from analysis.statistics import bootstrap
from tests.analysis.logdirs import drawn, refusal, returns, run, write_matrix, write_run


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


def test_of_several_ranges_that_fit_the_last_counts(monkeypatch):
    seen = []
    monkeypatch.setattr(plot, "aggregate", lambda _dirs, _metric, ranges, *_: (seen.append(ranges), ("", []))[1])
    assert plot.main(["aggregate", "x", "--normalize", "dmc_*=0,1", "dmc_a=0,2", "dmc_*=0,3"]) == 0
    assert score_ranges(["dmc_a", "dmc_b"], "m", seen[0]) == {"dmc_a": (0.0, 3.0), "dmc_b": (0.0, 3.0)}


def test_normalized_success_beyond_1_is_in_the_picture(tmp_path, capsys, monkeypatch):
    write_matrix(tmp_path, [[0.9]])
    ends = []
    monkeypatch.setattr(figures, "save_all", lambda figure, *_, **__: ends.append(figure.axes[0].get_xlim()) or [])
    for words in ((), ("--normalize", "*=0,0.5")):
        run(capsys, "aggregate", tmp_path, "--repetitions", 5, *words)
    assert ends[0] == (0.0, 1.0) and ends[2][1] > 1.8


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
