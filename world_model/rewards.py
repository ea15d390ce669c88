"""The reward that the world model learns: normalized, clipped or squashed."""

import numpy as np
import tensorflow as tf

from tools.errors import UserError

# Rewards with less count as constant: dividing by less would blow up the first one that differs.
SMALLEST_STD = 1e-3


class RewardTransform(tf.Module):
    """Raw rewards to those that the model learns and planners maximize.

    First LatCo's normalization (ICML appendix E.2), (r - mean) / std of the rewards so far; then `none`, `clip` to
    [-bound, bound], or `tanh`, bound tanh(r / bound). The replay has raw rewards, so the statistics may change.
    """

    def __init__(self, kind: str, bound: float, normalize: bool):
        super().__init__(name="rewards")
        if kind != "none" and not bound > 0:
            raise UserError(f"reward_bound is {bound}: it must be positive for reward_transform {kind}.")
        self.kind, self.bound, self.normalize = kind, bound, normalize
        if normalize:
            self.count, self.mean, self.squares = (
                tf.Variable(0.0, dtype=tf.float64, trainable=False, name=name) for name in ("count", "mean", "squares")
            )

    def add(self, rewards: np.ndarray) -> None:
        """Adds an episode's rewards [T] to the running statistics, in a stable way (Chan, Golub and LeVeque 1979)."""
        if not self.normalize:
            return
        rewards = np.asarray(rewards, np.float64)
        count, mean = float(self.count), float(self.mean)
        total, shift = count + len(rewards), rewards.mean() - mean
        squares = float(self.squares) + np.square(rewards - rewards.mean()).sum()
        self.squares.assign(squares + shift**2 * count * len(rewards) / total)
        self.mean.assign(mean + shift * len(rewards) / total)
        self.count.assign(total)

    def __call__(self, reward: tf.Tensor) -> tf.Tensor:
        """Transforms rewards of any shape."""
        if self.normalize:
            std = tf.sqrt(tf.math.divide_no_nan(self.squares, self.count))
            mean, std = tf.cast(self.mean, reward.dtype), tf.cast(tf.maximum(std, SMALLEST_STD), reward.dtype)
            reward = (reward - mean) / std
        if self.kind == "clip":
            return tf.clip_by_value(reward, -self.bound, self.bound)
        if self.kind == "tanh":
            return self.bound * tf.tanh(reward / self.bound)
        return reward
