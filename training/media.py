"""Videos and pictures of the evaluations of a run."""

import numpy as np
import tensorflow as tf

from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from evaluation.plan_frames import plan_above_execution, spread
from tools.logger import Logger
from training.agent import Agent
from training.collector import Collector
from training.driver import Episode
from training.turns import Turns
from world_model import open_loop

COLUMNS = 10  # frames of a plan in its picture, at most


class EvaluationMedia:
    """Logs videos and images of an episode, an open-loop prediction and a plan."""

    def __init__(self, agent: Agent, turns: Turns, replay: Replay | MixedReplay, logger: Logger):
        self._agent, self._turns, self._replay, self._logger = agent, turns, replay, logger

    def __call__(self, episode: Episode, collector: Collector) -> None:
        """Logs an episode, open-loop predictions for its task, and its first plan."""
        self._logger.video(collector.metric_name("eval/episode"), episode.data["image"], fps=20)
        self._open_loop(collector)
        if "plan_states" in episode.extras:
            self._plan(episode, collector.metric_name("plan/plan_above_execution"))

    def _open_loop(self, collector: Collector) -> None:
        """Open-loop predictions on replayed chunks of a task, if they are longer than the context."""
        config = self._agent.config
        if config.batch_length <= open_loop.CONTEXT or config.batch_size < open_loop.ROWS or not self._turns.can_train:
            return
        chunks = collector.replay.sample()
        # Only the keys that all tasks share, so that the function is traced once.
        batch = {key: tf.convert_to_tensor(chunks[key]) for key in self._replay.chunk_spec()}
        self._logger.video(collector.metric_name("model/open_loop"), self._agent.open_loop(batch).numpy(), fps=10)

    def _plan(self, episode: Episode, name: str) -> None:
        """The first plan of an episode above its execution, as a video and as an image with time from left to right.

        Their common first frame is left out.
        """
        states = episode.extras["plan_states"][0][: episode.length]
        images = episode.data["image"][1 : len(states) + 1]
        rows = plan_above_execution(self._agent.model, states, images)
        self._logger.video(name, np.concatenate(rows, 1), fps=10)
        columns = spread(len(states) - 1, COLUMNS)
        self._logger.image(name, np.concatenate([np.concatenate(list(row[columns]), 1) for row in rows], 0))
