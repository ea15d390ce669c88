"""The tasks of a run take turns at collecting."""

from collections.abc import Sequence

from training.collector import Collector
from training.driver import Episode, Policy


class Turns:
    """Tasks take turns (PlaNet section 5). In a round, each task collects an episode in every training environment.

    Attributes:
        collectors: one for each task.
        current: the collector of the current task.
    """

    def __init__(self, collectors: Sequence[Collector], envs: int):
        self.collectors, self._envs = collectors, envs
        self._next()

    def collect(self, policy: Policy) -> tuple[Collector, list[Episode]]:
        """One decision in every training environment of the current task; returns its collector and ended episodes."""
        collector = self.current
        episodes = collector.collect(policy)
        if collector.replay.episodes >= self._end:
            self._next()
        return collector, episodes

    def _next(self) -> None:
        # The first task with the fewest episodes. This keeps the order even if an earlier run stopped within a round or
        # parallel environments ended together.
        self.current = min(self.collectors, key=lambda collector: collector.replay.episodes)
        self._end = self.current.replay.episodes + self._envs

    @property
    def state(self) -> dict[str, int]:
        """Whose turn it is, and at which number of episodes it ends."""
        return {"current": self.collectors.index(self.current), "end": self._end}

    @state.setter
    def state(self, state: dict[str, int]) -> None:
        self.current, self._end = self.collectors[state["current"]], state["end"]

    @property
    def can_train(self) -> bool:
        """Whether each task has an episode to train on."""
        return all(collector.replay.entries for collector in self.collectors)

    @property
    def decisions(self) -> int:
        """Decisions of all tasks so far."""
        return sum(int(collector.decisions) for collector in self.collectors)

    @property
    def replayed_steps(self) -> int:
        """Environment steps of all episodes in the replay folders."""
        return sum(collector.replay.steps * collector.repeat for collector in self.collectors)
