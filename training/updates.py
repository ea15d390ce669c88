"""Updates of the agent on batches of the replay."""

import time
from collections.abc import Iterator

from episodes.replay import MixedReplay, Replay
from tools.logger import Logger
from tools.signals import StopRequest
from training.agent import Agent, Batch
from training.schedules import Schedule


class Updates:
    """Updates an agent on batches of the replay. Prefetching starts with the first update."""

    def __init__(
        self, agent: Agent, replay: Replay | MixedReplay, schedule: Schedule, logger: Logger, stop: StopRequest
    ):
        self._agent, self._replay, self._schedule, self._logger = agent, replay, schedule, logger
        self._stop = stop
        self._batches: Iterator[Batch] | None = None

    def make(self, count: int) -> None:
        """Makes `count` updates and logs their metrics and mean time. A request to stop ends pretraining earlier."""
        if self._batches is None:
            self._batches = self._agent.batches(self._replay)
        before, start = int(self._agent.updates), time.perf_counter()
        step = self._schedule.now
        for done in range(1, count + 1):
            metrics = self._agent.train_step(next(self._batches))
            self._logger.scalars(metrics, "model/")
            # Counted here, since reading agent.updates would wait for the device.
            self._logger.progress(before + done if self._schedule.offline else step, updates=before + done)
            if self._stop.requested and before + done < self._agent.config.pretrain:
                break
        float(metrics["loss"])  # waits until all updates are done
        self._logger.scalars({"speed/update_seconds": (time.perf_counter() - start) / done})

    def close(self) -> None:
        """Ends the prefetching thread."""
        self._batches = None
