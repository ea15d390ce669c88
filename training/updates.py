"""Updates of the agent on batches of the replay."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from tools.command_line import note
from tools.errors import UserError
from tools.files import replaced
from tools.logger import Logger
from tools.signals import StopRequest
from training.agent import Agent, Batch
from training.schedules import Schedule

BATCHES_KEPT = 10  # of skipped updates


class Updates:
    """Updates an agent on batches of the replay. Prefetching starts with the first update.

    With the setting `deterministic`, each call draws exactly its own batches, so that they do not depend on timing.
    """

    def __init__(
        self,
        agent: Agent,
        replay: Replay | MixedReplay,
        schedule: Schedule,
        logger: Logger,
        skipped: "SkippedUpdates",
        stop: StopRequest,
    ):
        self._agent, self._replay, self._schedule, self._logger = agent, replay, schedule, logger
        self._skipped, self._stop = skipped, stop
        self._batches: Iterator[Batch] | None = None

    def make(self, count: int) -> None:
        """Makes `count` updates and logs their metrics and mean time. A request to stop ends pretraining earlier.

        Not with `deterministic`, where the batches are drawn already and would be missing in the resumed run.

        Raises:
            UserError: too many in a row were skipped.
        """
        c = self._agent.config
        if c.deterministic:
            self._batches = self._agent.batches(self._replay, count)
        elif self._batches is None:
            self._batches = self._agent.batches(self._replay)
        before, start = int(self._agent.updates), time.perf_counter()
        step = self._schedule.now
        for done in range(1, count + 1):
            batch = next(self._batches)
            metrics = self._agent.train_step(batch)
            self._logger.scalars(metrics, "model/")
            self._skipped.add(before + done, batch, metrics)
            # Counted here, since reading agent.updates would wait for the device.
            self._logger.progress(before + done if self._schedule.offline else step, updates=before + done)
            if self._stop.requested and before + done < c.pretrain and not c.deterministic:
                break
        self._skipped.check()
        float(metrics["loss"])  # waits until all updates are done
        self._logger.scalars({"speed/update_seconds": (time.perf_counter() - start) / done})

    def close(self) -> None:
        """Ends the prefetching thread."""
        self._batches = None


class SkippedUpdates:
    """Notices updates that were skipped because their gradients were not finite.

    The first of several in a row is reported on the console, and its batch is saved.

    Args:
        folder: where batches are saved, as `update-<number>.npz`; made when needed.
        most: how many in a row end the run; 0 for any number.
        expected: whether single ones are normal and not reported: float16's loss scale adapts by them.
    """

    def __init__(self, folder: Path, most: int, expected: bool):
        self._folder, self._most, self._expected = folder, most, expected
        self._last: tuple[int, Batch, dict] | None = None
        self._row = 0

    def add(self, number: int, batch: Batch, metrics: dict) -> None:
        """Remembers an update and checks the one before it, so that the device need not wait for this one."""
        self.check()
        self._last = number, batch, metrics

    def check(self) -> None:
        """Checks the last update.

        Raises:
            UserError: it was the last of too many in a row.
        """
        if self._last is None:
            return
        number, batch, metrics = self._last
        self._last = None
        if not float(metrics.get("skipped_updates", 0.0)):
            self._row = 0
            return
        self._row += 1
        if self._row == 1 and not self._expected:
            note(f"update {number} was skipped, since {_cause(batch, metrics)}{self._save(number, batch)}.")
        if self._row == self._most:
            saved = self._save(number, batch)
            raise UserError(
                f"{self._row} updates in a row were skipped, the last one since {_cause(batch, metrics)}{saved}: "
                "look for rewards or states that are too large, lower model_lr, or raise max_skipped_updates."
            )

    def _save(self, number: int, batch: Batch) -> str:
        """Saves a batch, unless there are many already; returns where, as the end of a sentence."""
        path = self._folder / f"update-{number:09d}.npz"
        if len(list(self._folder.glob("*.npz"))) >= BATCHES_KEPT:
            return f" (the batches of earlier ones are in {self._folder})"
        try:
            arrays = {name: _whole(value) for name, value in batch.items()}
            self._folder.mkdir(parents=True, exist_ok=True)
            with replaced(path, "wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes it for allow_pickle
        except OSError as error:
            return f" (its batch could not be saved: {error})"
        return f" (its batch is in {path})"


def _cause(batch: Batch, metrics: dict) -> str:
    """What is not finite, and the largest reward, which is the usual cause."""
    values = {name: float(value) for name, value in metrics.items()}
    names = [name for name, value in values.items() if not np.isfinite(value)]
    largest = f", with rewards up to {np.abs(_whole(batch['reward'])).max():.3g}"
    return f"{', '.join(names) or 'a gradient'} {'are' if len(names) > 1 else 'is'} not finite{largest}"


def _whole(value: Any) -> np.ndarray:
    """An array of a batch, whose rows may be spread over devices."""
    return np.concatenate([np.asarray(part) for part in getattr(value, "values", (value,))])
