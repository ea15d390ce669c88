"""When updates, evaluations, logs and checkpoints are due."""

from tools.config import Config
from training.agent import Agent


class Every:
    """How many multiples of `period` a count has passed since the last call; always 0 for a period of 0.

    Attributes:
        count: the count of the last call. Below 0, the multiple 0 is still ahead.
    """

    def __init__(self, period: int, start: int = 0):
        self.period, self.count = period, start

    def __call__(self, count: int) -> int:
        passed, self.count = self.due(count), count
        return passed

    def due(self, count: int) -> int:
        """What a call would return."""
        return count // self.period - self.count // self.period if self.period else 0


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

    @property
    def state(self) -> dict[str, int]:
        """When the last evaluation was made. One that is cut off is made again by the resumed run."""
        return {"evaluated": self.evaluate.count}

    @state.setter
    def state(self, state: dict[str, int]) -> None:
        self.evaluate.count = state["evaluated"]
