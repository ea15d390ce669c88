"""The policies that collect data without an agent: scripted episodes, random ones, and detours in both."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

DETOUR_STEPS = 10  # mean length of a detour, in decisions


def correlated_actions(
    previous: np.ndarray | None, is_first: np.ndarray, size: int, correlation: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Uniform actions float32 [B, size] in [-1, 1], made from a Gaussian that is correlated over time.

    Args:
        previous: the Gaussian [B, size] of the last actions, None at the start.
        is_first: bool [B], which environments start an episode and draw independently of the last actions.
        size: length of an action.
        correlation: between successive steps, from 0 (independent actions) to 1.
        rng: random stream.

    Returns:
        the actions, and the Gaussian behind them.
    """
    gaussian = rng.standard_normal([len(is_first), size])
    if previous is not None:
        continued = correlation * previous + np.sqrt(1.0 - correlation**2) * gaussian
        gaussian = np.where(is_first[:, None], gaussian, continued)
    return (2.0 * special.ndtr(gaussian) - 1.0).astype(np.float32), gaussian


class Detours:
    """Replaces some actions, a few decisions at a time, by one that does not depend on the state.

    A scripted policy acts on the state alone, so a model of its episodes cannot separate what an action does from what
    always happens in that state: even without any action it may predict the way to the goal. During a detour the action
    is held, and in half of them it is 0.

    Args:
        share: of the decisions that belong to detours, [0, 1).
        size: entries of an action.
        rng: of their times and actions.
    """

    def __init__(self, share: float, size: int, rng: np.random.Generator):
        # A detour begins with probability p, maybe right after one that ended, so that 1 / p - 1 decisions lie between
        # two of them on average: share = length / (length + 1 / p - 1).
        self.begin = share / (DETOUR_STEPS * (1.0 - share) + share)
        self.size, self.rng = size, rng

    def __call__(self, action: np.ndarray, is_first: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Actions [B, A] with detours, and the state for the next call (None at first): steps left [B], held [B, A]."""
        if self.begin == 0.0:
            return action, None
        left, held = state or (np.zeros(len(action), int), np.zeros_like(action))
        left = np.where(is_first, 0, left)
        begins = (left == 0) & (self.rng.random(len(action)) < self.begin)
        length = self.rng.integers(1, 2 * DETOUR_STEPS, len(action))
        drawn = self.rng.uniform(-1.0, 1.0, held.shape) * (self.rng.random([len(action), 1]) < 0.5)
        left, held = np.where(begins, length, left), np.where(begins[:, None], drawn, held).astype(action.dtype)
        return np.where(left[:, None] > 0, held, action), (np.maximum(left - 1, 0), held)


class MixedPolicy:
    """Scripted actions with Gaussian noise in some episodes and random actions in others, decided at their start.

    Args:
        scripted: state [S] to action [A]; None where no episode is to be scripted.
        choose: says whether the next episode is scripted.
        size: entries of an action.
        noise: standard deviation on scripted actions.
        correlation: of random actions in time.
        rng: of the noise.
        detours: see `Detours`; share of the decisions of both kinds of episodes.
    """

    def __init__(
        self,
        scripted: Callable[[np.ndarray], np.ndarray] | None,
        choose: Callable[[], bool],
        size: int,
        noise: float,
        correlation: float,
        rng: np.random.Generator,
        detours: float = 0.0,
    ):
        self.scripted, self.choose, self.size = scripted, choose, size
        self.noise, self.correlation, self.rng = noise, correlation, rng
        self.detours = Detours(detours, size, rng)

    def __call__(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any, dict[str, np.ndarray]]:
        """A policy for `training.driver.Driver`, with 'scripted' in its extras."""
        kinds, gaussian, detour = state or (np.zeros(len(is_first), bool), None, None)
        kinds = np.array([self.choose() if first else kind for kind, first in zip(kinds, is_first, strict=True)])
        action, gaussian = correlated_actions(gaussian, is_first, self.size, self.correlation, self.rng)
        noise = self.noise * self.rng.standard_normal(action.shape)
        for row in np.flatnonzero(kinds):
            action[row] = np.clip(np.clip(self.scripted(obs["state"][row]), -1.0, 1.0) + noise[row], -1.0, 1.0)
        action, detour = self.detours(action, is_first, detour)
        return action, (kinds, gaussian, detour), {"scripted": kinds}
