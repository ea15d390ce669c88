"""The tasks of a run, which collect in turns."""

from collections.abc import Sequence

from training.collector import Collector
from training.driver import Episode, Policy


class Turns:
    """The tasks of a run take turns (PlaNet section 5): an episode of each in every training environment is a round.

    Attributes:
        collectors: one for each task.
        current: whose turn it is.
    """

    def __init__(self, collectors: Sequence[Collector], envs: int):
        self.collectors, self._envs = collectors, envs
        self._next()

    def collect(self, policy: Policy) -> tuple[Collector, list[Episode]]:
        """One decision in every training environment of the task in turn; returns it and its finished episodes."""
        collector = self.current
        episodes = collector.collect(policy)
        if collector.replay.episodes >= self._end:
            self._next()
        return collector, episodes

    def _next(self) -> None:
        # The first task of those with the fewest episodes. That is one after the other, even where an earlier run
        # stopped within a round, and it makes up for parallel environments that end together.
        self.current = min(self.collectors, key=lambda collector: collector.replay.episodes)
        self._end = self.current.replay.episodes + self._envs

    @property
    def can_train(self) -> bool:
        """Whether each task has an episode to train on."""
        return all(collector.replay.entries for collector in self.collectors)

    @property
    def decisions(self) -> int:
        """Of all tasks so far."""
        return sum(int(collector.decisions) for collector in self.collectors)

    @property
    def replayed_steps(self) -> int:
        """Environment steps of all episodes in the replay folders."""
        return sum(collector.replay.steps * collector.repeat for collector in self.collectors)
