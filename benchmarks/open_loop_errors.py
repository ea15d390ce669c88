"""Errors of a world model's open-loop predictions on chunks of episodes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import models
from episodes.episode import Episode
from world_model.open_loop import CONTEXT, predict_open_loop

EVAL_BATCH = 20  # chunks predicted in one call

Errors = dict[str, np.ndarray]


class Result(NamedTuple):
    """One variant on one data set.

    Attributes:
        label: name of the variant.
        updates: it was trained for.
        image: kind of prediction -> squared errors [N, K].
        reward: the same for rewards.
        shown: what it makes of the chunk in the picture, [CONTEXT + K, 64, 64, 3] around [-0.5, 0.5]: reconstructions
            of the context, then predictions of the mean dynamics.
    """

    label: str
    updates: int
    image: Errors
    reward: Errors
    shown: np.ndarray


class OpenLoop:
    """Compiled predictions of one world model on chunks of one shape."""

    def __init__(self, model: models.WorldModel, bits: int = 8):
        self.model, self.bits = model, bits
        self.imagine = tf.function(self._imagine)
        self.filter = tf.function(self._filter)

    @property
    def stochastic(self) -> bool:
        """Whether the transitions take noise at all."""
        return self.model.dynamics.noise_size > 0

    def noise(self, batch: Episode, seed: Sequence[int]) -> tf.Tensor:
        """Standard normal numbers for all steps of a batch."""
        return tf.random.stateless_normal([*batch["reward"].shape, self.model.dynamics.noise_size], seed)

    def _decode(self, feat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.model.decode(feat), self.model.reward(feat)

    def _reduced(self, batch: Episode) -> Episode:
        return {**batch, "image": models.reduce_bits(batch["image"], self.bits)}

    def _filter(self, batch: Episode, noise: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Images [B, L, 64, 64, 3] and rewards [B, L] of the posterior at all steps."""
        embed = self.model.embed(self._reduced(batch)["image"])
        post, _ = self.model.dynamics.observe(embed, batch["action"], batch["is_first"], noise)
        return self._decode(models.get_feat(post))

    def _imagine(self, batch: Episode, noise: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Images [B, K, 64, 64, 3] and rewards [B, K] predicted for the steps after the context."""
        return self._decode(predict_open_loop(self.model, self._reduced(batch), noise)[:, CONTEXT:])

    def errors(self, chunks: Episode, samples: int, seed: int) -> tuple[Errors, Errors]:
        """Squared errors of images (mean over pixels) and of rewards on chunks [N, L, ...]: kind -> [N, K] each."""
        rows = []
        for index, (batch, count) in enumerate(_batches(chunks)):
            kinds = self._batch_errors(batch, [(seed, index * samples + i) for i in range(samples)])
            rows.append({kind: [error[:count].numpy() for error in pair] for kind, pair in kinds.items()})
        image, reward = ({kind: np.concatenate([row[kind][i] for row in rows]) for kind in rows[0]} for i in (0, 1))
        return image, reward

    def _batch_errors(self, batch: Episode, seeds: list[tuple[int, int]]) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        image, reward = models.preprocess(batch["image"]), batch["reward"]
        truth = image[:, CONTEXT:], reward[:, CONTEXT:]
        last = image[:, CONTEXT - 1 : CONTEXT], reward[:, CONTEXT - 1 : CONTEXT]
        filtered = self.filter(batch, None)
        kinds = {
            "repeat_last": squared_errors(truth, last),
            "posterior": squared_errors(truth, [x[:, CONTEXT:] for x in filtered]),
            "mean_dynamics": squared_errors(truth, self.imagine(batch, None)),
        }
        if self.stochastic and seeds:
            kinds |= self._sampled_errors(batch, truth, seeds)
        return kinds

    def _sampled_errors(
        self, batch: Episode, truth: tuple[tf.Tensor, tf.Tensor], seeds: list[tuple[int, int]]
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        # One rollout at a time: the images of all of them would take gigabytes.
        average, error = [0.0, 0.0], [0.0, 0.0]
        for seed in seeds:
            predicted = self.imagine(batch, self.noise(batch, seed))
            average = [a + p / len(seeds) for a, p in zip(average, predicted, strict=True)]
            error = [e + s / len(seeds) for e, s in zip(error, squared_errors(truth, predicted), strict=True)]
        return {"sampled": tuple(error), "sampled_average": squared_errors(truth, average)}

    def shown(self, chunks: Episode, index: int) -> np.ndarray:
        """`Result.shown` of one chunk."""
        # In a batch of the usual size, for which the functions are compiled.
        batch, _ = next(_batches({key: value[index : index + 1] for key, value in chunks.items()}))
        context, predicted = self.filter(batch, None)[0][:, :CONTEXT], self.imagine(batch, None)[0]
        return tf.concat([context, predicted], 1)[0].numpy()


def squared_errors(truth: Sequence[tf.Tensor], predicted: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Of images [B, K, ...], mean over pixels and channels, and of rewards [B, K]: [B, K] each."""
    return tf.reduce_mean(tf.square(predicted[0] - truth[0]), [2, 3, 4]), tf.square(predicted[1] - truth[1])


def _batches(chunks: Episode) -> Iterator[tuple[dict[str, tf.Tensor], int]]:
    """Batches of `EVAL_BATCH` chunks, the last filled up with its last chunk, and how many of them are new."""
    total = len(chunks["reward"])
    for start in range(0, total, EVAL_BATCH):
        rows = np.minimum(np.arange(start, start + EVAL_BATCH), total - 1)
        yield {key: tf.constant(value[rows]) for key, value in chunks.items()}, min(EVAL_BATCH, total - start)


def typical(errors: np.ndarray) -> int:
    """The chunk whose mean error is the median, the lower one of two, of errors [N, K]."""
    means = errors.mean(1)
    return int(np.argsort(means, kind="stable")[(len(means) - 1) // 2])
