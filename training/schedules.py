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
        begun: whether the run, maybe before it was resumed, has come to its first updates or passed them by.

    Args:
        config: the run's settings.
        agent: counts the steps.
        resumed: whether the run goes on from a checkpoint.
    """

    def __init__(self, config: Config, agent: Agent, resumed: bool):
        self._agent, self.offline, self.begun = agent, config.steps == 0, resumed
        self.train = Every(config.train_every, int(agent.step))
        self.evaluate = Every(config.eval_every, self.now)
        self.log = Every(config.log_every, self.now)
        self.save = Every(config.checkpoint_every, self.now)

    @property
    def now(self) -> int:
        """Environment steps so far (offline: updates), as counted by the settings and logged as `step`."""
        return int(self._agent.updates if self.offline else self._agent.step)

    @property
    def state(self) -> dict[str, int | None]:
        """When the last evaluation was made, and until the first updates, from which step on they are due.

        An evaluation that is cut off is made again by the resumed run.
        """
        return {"evaluated": self.evaluate.count, "trained": None if self.begun else self.train.count}

    @state.setter
    def state(self, state: dict[str, int | None]) -> None:
        self.evaluate.count = state["evaluated"]
        trained = state.get("trained")  # older checkpoints do not say
        self.begun = trained is None
        if not self.begun:
            self.train.count = trained
