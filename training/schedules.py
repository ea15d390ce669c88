"""When updates, evaluations, logs and checkpoints are due."""

from tools.config import Config
from training.agent import Agent


class Every:
    """How many multiples of `period` a count has passed since the last call; always 0 for a period of 0."""

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
        offline: whether the run collects nothing and counts updates instead of environment steps.
        train, evaluate, log, save: an `Every` for each.
    """

    def __init__(self, config: Config, agent: Agent):
        self._agent, self.offline = agent, config.steps == 0
        self.train = Every(config.train_every, self.now)
        self.evaluate = Every(config.eval_every, self.now)
        self.log = Every(config.log_every, self.now)
        self.save = Every(config.checkpoint_every, self.now)

    @property
    def now(self) -> int:
        """Environment steps so far (offline: updates), as counted by the settings and logged as `step`."""
        return int(self._agent.updates if self.offline else self._agent.step)
