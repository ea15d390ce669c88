"""What a sweep shows of its runs."""

import math
import time
from collections import Counter
from collections.abc import Sequence

import rich.console
import rich.live
import rich.table

from sweeps.status import Status

PLAIN_LINE_EVERY = 60.0  # seconds between a run's lines about its progress, where the output is not a terminal


class Display:
    """A live table on a terminal; elsewhere a line for every change."""

    def __init__(self, statuses: Sequence[Status], console: rich.console.Console | None = None) -> None:
        self._statuses, self._console = statuses, console or rich.console.Console()
        self._live: rich.live.Live | None = None
        self._shown = [("waiting", 0, -math.inf)] * len(statuses)  # state, attempt and time of each run's last line

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Shows what has changed since the last call."""
        moved = [status.metrics.read() for status in self._statuses]
        if self._live:
            self._live.update(self.table(), refresh=True)
            return
        now = time.monotonic()
        for i, status in enumerate(self._statuses):
            state, attempt, last = self._shown[i]
            quiet = not moved[i] or status.state != "running" or now - last < PLAIN_LINE_EVERY
            if (state, attempt) != (status.state, status.attempt) or not quiet:
                self._shown[i] = (status.state, status.attempt, now)
                self._console.print(self.line(status), highlight=False, markup=False, soft_wrap=True)

    def line(self, status: Status) -> str:
        """One run's status as a line."""
        metrics = status.metrics
        numbers = {"return": metrics.show("return"), "success": metrics.show("success")}
        parts = [
            f"{time.strftime('%H:%M:%S')} {status.run.name}: {status.state}",
            f"on {status.node}" if status.state == "running" else "",
            f"{metrics.step:,}/{status.run.length}" if metrics.step else "",
            *(f"{name} {value}" for name, value in numbers.items() if value),
            status.message,
        ]
        return ", ".join(part for part in parts if part)

    def table(self) -> rich.table.Table:
        """All runs, active ones first."""
        table = rich.table.Table(caption=self.summary())
        for name in ("task", "method", "seed", "state", "node", "steps", "return", "success"):
            table.add_column(name, justify="right" if name in ("seed", "steps", "return", "success") else "left")
        order = ("running", "retrying", "failed", "waiting", "done")
        for status in sorted(self._statuses, key=lambda status: order.index(status.state)):
            run, metrics = status.run, status.metrics
            state = f"{status.state} ({status.attempt})" if status.attempt else status.state
            steps = f"{metrics.step:,}/{run.length}"
            cells = (run.config.task, run.method, str(run.config.seed), state, status.node, steps)
            table.add_row(*map(_verbatim, cells), _verbatim(metrics.show("return")), _verbatim(metrics.show("success")))
        return table

    def summary(self) -> str:
        """How many runs are in each state."""
        counts = Counter(status.state for status in self._statuses)
        return ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "retrying", "waiting", "failed"))


def _verbatim(text: str) -> rich.text.Text:
    return rich.text.Text(text)  # so that brackets are not read as markup
