"""What is due when a count has grown."""

from tools.config import Config
from training.agent import Agent


class Every:
    """Counts the multiples of `period` that a growing count has passed since the last call; none for a period of 0."""

    def __init__(self, period: int, start: int = 0):
        self.period = period
        self.last = start // period if period else 0

    def __call__(self, count: int) -> int:
        if not self.period:
            return 0
        passed = count // self.period - self.last
        self.last = count // self.period
        return passed


class Schedule:
    """When a run updates, evaluates, logs and saves, by the settings named `_every`.

    Attributes:
        offline: whether the run collects nothing. Then updates are counted instead of environment steps.
        train, evaluate, log, save: how often each is due.
    """

    def __init__(self, config: Config, agent: Agent):
        self._agent, self.offline = agent, config.steps == 0
        self.train = Every(config.train_every, self.now)
        self.evaluate = Every(config.eval_every, self.now)
        self.log = Every(config.log_every, self.now)
        self.save = Every(config.checkpoint_every, self.now)

    @property
    def now(self) -> int:
        """Environment steps so far, offline updates: what the settings count, and the step of a line of metrics."""
        return int(self._agent.updates if self.offline else self._agent.step)
