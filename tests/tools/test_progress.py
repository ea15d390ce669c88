import io
import re

import pytest
from rich.console import Console

from tools import progress
from tools.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_progress_lines_come_now_and_then(capsys, clock):
    line = ProgressLine(15_000)
    line.update(1_000, {"episodes": 3, "success": None})  # a resumed run: its speed does not count what was done before
    for step in range(1_100, 2_100, 100):
        clock.now += 5
        line.update(step, {"return": 1.23456})
    line.close()
    assert capsys.readouterr().out.splitlines() == [
        "1,000/15,000 steps · episodes 3",
        "1,600/15,000 steps · episodes 3 · return 1.235 · 20.0 steps/s · 0:11:10 left",
        "2,000/15,000 steps · episodes 3 · return 1.235 · 20.0 steps/s · 0:10:50 left",
    ]


def test_speed_is_that_of_the_last_minute(capsys, clock):
    line = ProgressLine(100_000)
    step = 0
    for second in range(200):
        clock.now += 1
        step += 1 if second < 100 else 50
        line.update(step)
    line.close()
    assert "50.0 steps/s" in capsys.readouterr().out.splitlines()[-1]


def test_time_left_counts_training_phases_that_are_longer_than_the_window(capsys, clock):
    """Each 100 steps take 10 s to collect and 190 s to train on: half a step a second, so 5.5 hours at the start."""
    line = ProgressLine(10_000)
    line.update(0)
    for phase in range(1, 6):
        for part in range(10):
            clock.now += 1
            line.update(100 * phase - 90 + 10 * part)
        for update in range(19):
            clock.now += 10
            line.update(100 * phase, {"updates": 19 * phase + update - 18})
    line.close()
    lines = capsys.readouterr().out.splitlines()
    # 9,500 steps at 2 s each; there were none in the last minute.
    assert lines[-1] == "500/10,000 steps · updates 95 · 5:16:40 left"
    assert all("updates" in text for text in lines[1:])
    # After two phases it is off by less than a third, whether collecting or training is under way.
    hours = {int(text.split(" · ")[-1].split(":")[0]) for text in lines if re.match("[345]00/", text)}
    assert hours == {3, 4, 5}


def test_terminal_shows_a_live_bar(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    line = ProgressLine(1000, console=console)
    line.update(100, {"episodes": 2})
    clock.now += 10
    line.update(600, {"success": float("nan"), "return": 7.0})
    line.close()
    last = screen.getvalue().splitlines()[-2]  # the very last shows the cursor again
    assert "600/1,000 steps · episodes 2 · return 7 · 50.0 steps/s · 0:00:08 left" in last
    assert "success" not in last and "━" in last


def test_a_time_left_beyond_all_measure_is_not_shown(capsys, clock):
    line = ProgressLine(2**70)
    line.update(0)
    clock.now += 60
    line.update(1)
    line.close()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1/1,180,591,620,717,411,303,424 steps") and "left" not in last
