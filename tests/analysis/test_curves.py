"""Learning curves: means and intervals over seeds by hand, and their pictures."""

import numpy as np
from PIL import Image
from scipy import stats

from analysis import figures, runs
from analysis.curves import draw_curves, task_curves
from analysis.statistics import align, bin_means, interval_over_seeds
from tests.analysis.logdirs import T2, count_pixels, drawn, refusal, returns, run, write_run


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
    mean, low, high = interval_over_seeds(values)
    right = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values, 0))
    np.testing.assert_allclose((mean, low, high), (values.mean(0), *right))
    mean, low, high = interval_over_seeds(np.array([[0.0], [0.0], [1.0]]), bounds=(0.0, 1.0))
    assert (low[0], high[0]) == (0.0, 1.0)


def test_bins_end_where_they_should_whatever_is_rounded():
    steps = np.arange(600, 60001, 600)
    for bins in range(1, 101):
        binned = bin_means(runs.Series(steps, np.ones(100)), bins, 60000)
        assert len(binned.steps) == bins
        np.testing.assert_allclose(binned.steps, (np.arange(bins) + 0.5) * 60000 / bins)
    first = [runs.Series(np.array([0]), np.array([3.0]))]  # a run that has only begun
    assert [part.tolist() for part in align(first, 7, 0)] == [[0], [[3.0]]]
    # The last step of a bin is in it: of three steps in each of seven bins their means are the middle ones.
    binned = bin_means(runs.Series(np.arange(1, 22), np.arange(1.0, 22.0)), 7, 21)
    assert binned.values.tolist() == [2.0, 5.0, 8.0, 11.0, 14.0, 17.0, 20.0]


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


def test_method_without_values_is_noted_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "latco" / "0", returns((10, 1.0)))
    begun = write_run(tmp_path / "cem" / "0", "")
    _, notes = run(capsys, "curves", tmp_path, "--out", tmp_path)
    assert notes == f"note: {begun} has no value of train/return yet and is left out.\n"
    assert drawn(tmp_path, "curves", "train/return", "metaworld_reach").keys() == {"latco"}
