"""The status of a run during a sweep."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps import supervisor
from sweeps.experiment import Run
from tools.metric_names import METRICS_FILE

FINISHED = ("done", "failed")


@dataclass
class Metrics:
    """The newest step, return and success in a growing `metrics.jsonl`; evaluations count more than training."""

    path: Path
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> bool:
        """Reads the lines written since the last call and returns whether there were any."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # a run that resumes cuts off a line half-written
                file.seek(self._offset)
                lines = [line for line in file if line.endswith(b"\n")]
        except OSError:
            return False
        for line in lines:
            self._offset += len(line)
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))
        return bool(lines)

    def _take(self, row: Any) -> None:
        # Others may have written to the file, which must not end the sweep.
        items = row.items() if isinstance(row, dict) else ()
        known = {name: value for name, value in items if isinstance(value, int | float)}
        step = known.get("step")
        self.step = step if isinstance(step, int) else self.step
        self.values |= known

    def show(self, name: str) -> str:
        """The last evaluation's value as text, marked where there is only training's, '' where there is none."""
        if f"eval/{name}" in self.values:
            return f"{self.values[f'eval/{name}']:.4g}"
        return f"{self.values[f'train/{name}']:.4g} (train)" if f"train/{name}" in self.values else ""


@dataclass
class Status:
    """The status of a run: waiting, running, retrying, done or failed."""

    run: Run
    state: str = "waiting"
    attempt: int = 0
    node: str = ""
    node_id: str = ""
    message: str = ""
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.run.folder / METRICS_FILE)

    def started(self, attempt: int, node: str, node_id: str) -> None:
        """Takes the news that an attempt started; news of an earlier attempt is old."""
        if attempt == self.attempt and self.state not in FINISHED:
            self.state, self.node, self.node_id, self.message = "running", node, node_id, ""

    def lost(self) -> None:
        """Its node died; Ray starts the attempt again elsewhere."""
        self.state, self.message = "retrying", f"node {self.node} died"

    def ended(self, outcome: supervisor.Outcome, retries: int) -> bool:
        """Takes the end of an attempt and returns whether another one is due."""
        if outcome.code == 0:
            self.state, self.message = "done", ""
            return False
        how = "not started" if outcome.code is None else f"exit code {outcome.code}"
        self.message = f"{how}: {outcome.message}" if outcome.message else how
        again = outcome.code != supervisor.BAD_INPUT and self.attempt < retries
        self.attempt += again
        self.state = "retrying" if again else "failed"
        return again
