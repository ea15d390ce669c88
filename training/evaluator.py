"""Evaluates an agent during its run."""

from itertools import islice

from evaluation.episodes import EvaluationPolicy
from tools.signals import StopRequest
from training.agent import Agent
from training.collector import Collector
from training.driver import alike, play
from training.media import EvaluationMedia
from training.metrics import RunMetrics


class Evaluator:
    """Evaluates an agent during a run: `eval_episodes` episodes per task, always from the same seeds.

    With `media`, the first episode is shown.
    """

    def __init__(self, agent: Agent, metrics: RunMetrics, media: EvaluationMedia | None, stop: StopRequest):
        self._agent, self._metrics, self._media, self._stop = agent, metrics, media, stop

    def __call__(self, collector: Collector) -> None:
        """Evaluates a task. Raises Terminated between two decisions if the run has to stop."""
        driver = collector.start_evaluation()
        policy = EvaluationPolicy(self._agent, driver, keep_plans=self._media is not None)

        def act(*args):
            self._stop.check()
            return policy(*args)

        episodes = alike(list(islice(play(driver, act), self._agent.config.eval_episodes)))
        for episode in episodes:
            self._metrics.episode("eval", episode, collector)
        if self._media:
            # By index, since the order in which environments finish may change.
            self._media(min(episodes, key=lambda episode: episode.env), collector)
