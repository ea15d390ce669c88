"""How far a program is: a live bar on a terminal, elsewhere (a file, a pipe) a plain line now and then."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn

Item = TypeVar("Item")

SPEED_SECONDS = 60.0  # over which the speed is measured; the time left counts from the start
LONGEST = 1e9  # seconds, 30 years: what is longer is not shown
LINE_SECONDS = 30.0  # between plain lines


class ProgressLine:
    """One task, in lines such as `600/1,000 steps · episodes 2 · 50.0 steps/s · 0:00:08 left`.

    Args:
        total: steps of the whole task.
        unit: what the steps are.
        console: where to show it, the standard output unless given.
    """

    def __init__(self, total: int, unit: str = "steps", console: Console | None = None) -> None:
        self._unit = unit
        self._console = console or Console()
        self._fields: dict[str, float | None] = {}
        self._start: int | None = None  # a resumed run does not start at 0
        self._printed = -math.inf
        self._live = self._console.is_terminal
        self._separator = " · " if self._console.encoding.startswith("utf") else " | "
        self._progress = Progress(
            BarColumn(20),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            refresh_per_second=2,
            speed_estimate_period=SPEED_SECONDS,
            get_time=time.monotonic,
            disable=not self._live,
        )
        self._id = self._progress.add_task("", start=False, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, step: int, fields: Mapping[str, float | None] | None = None) -> None:
        """Shows a step, and fields that keep their last values until they are given again; None and NaN are hidden."""
        self._fields |= fields or {}
        if self._start is None:
            self._start = step
            # Here rather than at construction: the set-up before the first step may still print.
            self._progress.start()
            self._progress.start_task(self._id)
        self._progress.update(self._id, completed=step)
        now = time.monotonic()
        if self._live:
            self._progress.update(self._id, description=self._describe())
        elif now - self._printed >= LINE_SECONDS:
            self._print()
            self._printed = now

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each of which counts as one step once the next is asked for."""
        done = 0
        for done, item in enumerate(items, start=1):
            self.update(done - 1)
            yield item
        self.update(done)

    def close(self) -> None:
        """Ends the bar, or prints a last line."""
        self._progress.stop()
        if self._start is not None and not self._live:
            self._print()

    def _print(self) -> None:
        self._console.print(self._describe(), highlight=False, markup=False, soft_wrap=True)

    def _describe(self) -> str:
        task = self._progress.tasks[0]
        parts = [f"{task.completed:,}/{task.total:,} {self._unit}"]
        for name, value in self._fields.items():
            if value is not None and not math.isnan(value):
                parts.append(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}")
        if task.speed:
            parts.append(f"{task.speed:.1f} {self._unit}/s")
        if (seconds := self._seconds_left(task)) is not None:
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        return self._separator.join(parts)

    def _seconds_left(self, task: Task) -> float | None:
        """By the mean speed since the start (the last minute may be training or collecting alone).

        None where it is unknown or beyond all measure.
        """
        done = task.completed - self._start
        left = max(0.0, task.remaining) * task.elapsed / done if done > 0 and task.elapsed else math.inf
        return left if left < LONGEST else None
