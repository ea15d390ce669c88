"""Pictures of a run's evaluations, from an agent whose features are grey values."""

import types

import numpy as np
import pytest
import tensorflow as tf

from training.driver import Episode
from training.media import EvaluationMedia


class Log:
    """Keeps what a logger is given."""

    def __init__(self):
        self.videos, self.images = {}, {}

    def video(self, name, video, fps):
        self.videos[name] = video

    def image(self, name, image):
        self.images[name] = image


def grey(values):
    return np.broadcast_to(np.uint8(values)[:, None, None, None], [len(values), 64, 64, 3])


@pytest.fixture
def log():
    return Log()


def show(log, config, length, extras, can_train=True, chunks=None):
    decode = lambda feat: feat[..., None, None] / 255.0 - 0.5 + tf.zeros([64, 64, 3])
    agent = types.SimpleNamespace(
        config=config, model=types.SimpleNamespace(decode=decode), open_loop=lambda batch: batch["image"][0]
    )
    replay = types.SimpleNamespace(chunk_spec=lambda: {"image": None})
    collector = types.SimpleNamespace(
        metric_name=lambda name: f"own/{name}", replay=types.SimpleNamespace(sample=lambda: chunks)
    )
    data = {"image": grey(100 + np.arange(length + 1)), "reward": np.zeros(length + 1)}
    turns = types.SimpleNamespace(can_train=can_train)
    EvaluationMedia(agent, turns, replay, log)(Episode(0, data, extras), collector)


def plans(horizon, length):
    """At every decision t a plan whose states say 10 (t + 1) + 1, ..., + horizon."""
    states = 10 * (1 + np.arange(length))[:, None] + 1 + np.arange(horizon)
    return {"plan_states": np.float32(states)[..., None]}


@pytest.mark.parametrize(("horizon", "length"), [(3, 5), (6, 4)])
def test_the_first_plan_is_above_its_execution(log, tiny_config, horizon, length):
    show(log, tiny_config, length, plans(horizon, length), can_train=False)
    assert log.videos.keys() == {"own/eval/episode", "own/plan/plan_above_execution"}
    assert log.videos["own/eval/episode"][:, 0, 0, 0].tolist() == list(range(100, 101 + length))
    shown = min(horizon, length)
    video = log.videos["own/plan/plan_above_execution"]
    assert video.shape == (shown, 128, 64, 3)
    assert video[:, 0, 0, 0].tolist() == list(range(11, 11 + shown))
    assert video[:, 127, 0, 0].tolist() == list(range(101, 101 + shown))
    image = log.images["own/plan/plan_above_execution"]
    np.testing.assert_array_equal(image, np.concatenate(list(video), 1))


def test_a_long_plan_has_ten_columns(log, tiny_config):
    show(log, tiny_config, 30, plans(30, 30), can_train=False)
    image = log.images["own/plan/plan_above_execution"]
    assert image.shape == (128, 640, 3) and image[0, [0, -1], 0].tolist() == [11, 40]


def test_predictions_are_shown_with_the_keys_that_all_tasks_have(log, tiny_config):
    chunks = {"image": grey(range(5))[None], "state": np.zeros([1, 5, 2])}
    show(log, tiny_config, 2, {}, chunks=chunks)
    assert log.videos["own/model/open_loop"].shape == (5, 64, 64, 3) and not log.images
    for change in ({"batch_length": 5}, {"batch_size": 3}):  # no longer than the context; too few for the video
        other = Log()
        show(other, tiny_config.replace(**change), 2, {}, chunks=chunks)
        assert other.videos.keys() == {"own/eval/episode"}
