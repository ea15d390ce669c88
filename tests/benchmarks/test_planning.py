"""The lines of benchmarks/planning.py."""

import json

import pytest

from benchmarks import planning


@pytest.mark.slow
def test_a_line_for_each_planner(monkeypatch, capsys):
    monkeypatch.setattr(planning, "PEAK_SIZE", 64)
    words = "--planners random_shooting latco --horizons 3 --iterations 2 --repeats 1 --stoch 3 --deter 4 --actions 2"
    assert planning.main(words.split()) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["planner"] for row in rows] == ["random_shooting", "latco"]
    for row in rows:
        assert (row["horizon"], row["iterations"], row["state_size"]) == (3, 2, 7)
        assert 0 < row["seconds"] < row["first_call_seconds"]
        assert 0 < row["memory_before_gb"] <= row["memory_gb"]
    assert "dynamics_violation" in rows[1]
