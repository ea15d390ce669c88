"""Evaluates an agent during its run."""

from itertools import islice

from evaluation.episodes import EvaluationPolicy, episode_seeds
from tools.signals import StopRequest
from training.agent import Agent
from training.collector import Collector
from training.driver import alike, play
from training.media import EvaluationMedia
from training.metrics import RunMetrics


class Evaluator:
    """Evaluates an agent during a run: an episode per task from each of `eval_episodes` starts, which stay the same.

    They are the first starts of evaluate.py with the run's seed. With `media`, the first episode is shown.
    """

    def __init__(self, agent: Agent, metrics: RunMetrics, media: EvaluationMedia | None, stop: StopRequest):
        self._agent, self._metrics, self._media, self._stop = agent, metrics, media, stop
        self._seeds = episode_seeds(agent.config.seed, agent.config.eval_episodes)

    def __call__(self, collector: Collector) -> None:
        """Evaluates a task. Raises Terminated between two decisions if the run has to stop."""
        driver = collector.start_evaluation(self._seeds)
        policy = EvaluationPolicy(self._agent, driver, keep_plans=self._media is not None)

        def act(*args):
            self._stop.check()
            return policy(*args)

        episodes = alike(list(islice(play(driver, act), len(self._seeds))))
        for episode in episodes:
            self._metrics.episode("eval", episode, collector)
        if self._media:
            self._media(next(episode for episode in episodes if episode.number == 0), collector)
