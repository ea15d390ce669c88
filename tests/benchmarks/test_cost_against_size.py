"""Cost against size: crossings of known curves, one real measurement, resuming, refusals."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import cost_against_size
from planners.collocation_solvers import CROSSOVER


def cost(method: str, horizon: int, state_size: int, batch: int = 1) -> float:
    """Curves that cross at a horizon of five state sizes."""
    if method == "condensed":
        return 1e-6 * batch * horizon**2 * state_size**2 / 5
    return 1e-6 * batch * horizon * state_size**3


@pytest.fixture
def timed(monkeypatch):
    """What was timed; the clock is that of `cost`."""
    log = []
    monkeypatch.setattr(cost_against_size, "make_planner", lambda *size: size)

    def iteration_seconds(planner, batch, repeats, limit, clock):
        log.append((*planner, batch))
        return cost(*planner, batch)

    monkeypatch.setattr(cost_against_size, "iteration_seconds", iteration_seconds)
    monkeypatch.setattr(cost_against_size, "measure_peak", lambda: 1e11)
    return log


def run(capsys, *argv) -> list[dict]:
    """The new lines of a call."""
    assert cost_against_size.main([str(word) for word in argv]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_crossing_of_known_curves_is_found(timed, tmp_path, capsys):
    out = tmp_path / "cost.jsonl"
    argv = ["--out", out, "--sweeps", "crossing", "--sizes", 8, 16, "--limit", 100]
    lines = run(capsys, *argv)
    found = [line for line in lines if line.get("kind") == "crossing"]
    assert [line["state_size"] for line in found] == [8, 16] and len(lines) == 2 * (2 * 6 + 1)
    for line in found:
        assert line["horizon_in_state_sizes"] == pytest.approx(5.0, rel=1e-2) and line["auto"] == CROSSOVER
    assert run(capsys, *argv) == [] and len(timed) == 2 * 2 * 6


def test_curves_that_do_not_cross():
    line = lambda method, H, seconds: {
        "method": method,
        "horizon": H,
        "state_size": 10,
        "batch": 1,
        "clock": "wall",
        "seconds": seconds,
    }
    slower = [
        line(method, H, H * (1 + (method == "condensed"))) for method in cost_against_size.SOLVERS for H in (20, 40)
    ]
    faster = [
        line(method, H, H * (2 - (method == "condensed"))) for method in cost_against_size.SOLVERS for H in (20, 40)
    ]
    assert cost_against_size.crossing(slower, 10, "wall")["horizon_in_state_sizes"] == 2.0
    assert cost_against_size.crossing(faster, 10, "wall")["horizon_in_state_sizes"] is None
    assert cost_against_size.crossing(slower, 10, "cpu")["horizon_in_state_sizes"] is None


def test_sweeps_stop_where_an_iteration_takes_too_long(timed, tmp_path, capsys):
    out, picture = tmp_path / "cost.jsonl", tmp_path / "cost.png"
    lines = run(capsys, "--out", out, "--figure", picture, "--limit", 63)
    for sweep, values in cost_against_size.SWEEPS.items():
        fixed = {key: value for key, value in cost_against_size.BASE.items() if key != sweep}
        for method in cost_against_size.METHODS:
            rows = [line for line in lines if line["method"] == method and fixed.items() <= line.items()]
            seconds = {line[sweep]: line["seconds"] for line in rows}
            sizes = [cost(method, **cost_against_size.BASE | {sweep: value}) for value in values]
            assert len(seconds) >= min(len(values), 1 + sum(value <= 63 for value in sizes))
            assert sum(value > 63 for value in seconds.values()) <= 1
    assert len(timed) == len(set(timed))  # the sweeps share a size, which is timed once
    assert Image.open(picture).size[0] > 1000


def test_a_picture_is_of_one_clock(timed, tmp_path, capsys):
    argv = ["--out", tmp_path / "cost.jsonl", "--sweeps", "batch", "--limit", 100]
    lines = run(capsys, *argv) + run(capsys, *argv, "--clock", "cpu")
    for clock, label in (("wall", "seconds"), ("cpu", "processor seconds")):
        axis = cost_against_size.draw(lines, clock).axes
        curves = [line.get_xdata() for line in axis[list(cost_against_size.SWEEPS).index("batch")].lines]
        assert len(curves) == 3 and all(np.all(np.diff(curve) > 0) for curve in curves)
        assert axis[0].get_ylabel().startswith(label)
        labels = [text.get_text() for one in axis for text in (*one.get_xticklabels(), *one.get_yticklabels())]
        assert "100" in labels and not any("$" in label for label in labels)


@pytest.mark.slow
def test_a_real_iteration_takes_some_time():
    planner = cost_against_size.make_planner("condensed", 5, 8)
    assert planner.problem.state_size == 8 and planner.solver == "condensed"
    assert 1e-6 < cost_against_size.iteration_seconds(planner, 2, 3, 10, "cpu") < 1.0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--sweeps", "depth"], ["depth"]),
        (["--sizes", "4"], ["--sizes 4", "at least 8"]),
        (["--figure", "cost.txt"], [".png"]),
    ],
)
def test_bad_options_are_refused(argv, words, tmp_path, capsys):
    assert cost_against_size.main(["--out", str(tmp_path / "cost.jsonl"), *argv]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and all(word in sentence for word in words), sentence
    (tmp_path / "other.jsonl").write_text('{"benchmark": "planning"}\n')
    assert cost_against_size.main(["--out", str(tmp_path / "other.jsonl")]) == 2
    assert "not a file that this program wrote" in capsys.readouterr().err
