"""What a sweep shows of its runs."""

from rich.console import Console

from sweeps.display import Display
from sweeps.experiment import Run
from sweeps.status import Metrics, Status
from sweeps.supervisor import Outcome
from tools.config import Config


def a_run(tmp_path, seed=0):
    config = Config({"task": "pointmass_obstacle", "seed": seed, "steps": 500})
    return Run("cem", ("--seed", str(seed)), tmp_path / str(seed), config)


def test_states_of_a_run(tmp_path):
    status = Status(a_run(tmp_path))
    status.started(0, "one/abc", "abc")
    assert (status.state, status.node) == ("running", "one/abc")
    assert status.ended(Outcome(1, "boom"), retries=2) and status.state == "retrying" and "boom" in status.message
    status.started(0, "late", "news")
    assert status.state == "retrying"
    status.started(1, "two/def", "def")
    status.lost()
    assert status.state == "retrying" and "two/def" in status.message
    assert status.ended(Outcome(None), retries=2) and not status.ended(Outcome(-9), retries=2)
    assert status.state == "failed" and "-9" in status.message
    other = Status(a_run(tmp_path))
    assert not other.ended(Outcome(2, "error: no"), retries=2) and other.state == "failed"


def test_metrics_are_followed_as_they_grow(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    assert not metrics.read() and metrics.show("return") == ""
    first, second = '{"step": 20, "train/return": -3.25}\n', '{"step": 40, "eval/return": 1, "eval/success": null}\n'
    path.write_text(first + second[:12])
    assert metrics.read() and (metrics.step, metrics.show("return")) == (20, "-3.25 (train)")
    assert not metrics.read()
    path.write_text(first + second)
    assert metrics.read() and (metrics.step, metrics.show("return"), metrics.show("success")) == (40, "1", "")
    path.write_text('{"step": 10}\n')
    assert metrics.read() and metrics.step == 10


def test_lines_that_are_no_metrics_do_not_end_the_sweep(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('3\n[]\n{"step": "x", "eval/return": "y"}\n{"step": Infinity}\n{"step": 7, "eval/success": [1]}\n')
    metrics = Metrics(path)
    assert metrics.read() and metrics.step == 7
    assert metrics.show("return") == metrics.show("success") == ""


def test_changes_are_lines_and_a_terminal_has_a_table(tmp_path):
    statuses = [Status(a_run(tmp_path, seed)) for seed in (0, 1)]
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").write_text('{"step": 20, "train/return": 1.5, "train/success": 0.5}\n')
    with open(tmp_path / "text", "w") as file, Display(statuses, Console(file=file)) as display:
        display.update()
        statuses[1].started(0, "node[1]", "id")
        display.update()
        display.update()
        statuses[1].ended(Outcome(1, "boom"), 1)
        display.update()
    lines = [line.partition(" ")[2] for line in (tmp_path / "text").read_text().splitlines()]
    numbers = "20/500 steps, return 1.5 (train), success 0.5 (train)"
    assert lines == [
        f"pointmass_obstacle cem 1: running, on node[1], {numbers}",
        f"pointmass_obstacle cem 1: retrying, {numbers}, exit code 1: boom",
    ]
    statuses[0].ended(Outcome(0), 1)
    with open(tmp_path / "screen", "w") as file:
        console = Console(file=file, force_terminal=True, width=140, color_system=None)
        with Display(statuses, console) as display:
            display.update()
    screen = (tmp_path / "screen").read_text()
    assert screen.index("retrying (1)") < screen.index("done") and "20/500" in screen and "node[1]" in screen
    assert "1 done, 0 running, 1 retrying, 0 waiting, 0 failed" in screen
