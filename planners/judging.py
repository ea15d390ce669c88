"""Iterates of a search that are judged as restarts are, so that a plan can be the best of them instead of the last.

A search climbs what it is given, often the return under the mean dynamics, and exploits its errors the longer it runs.
This stops it, after the fact, where sampled rollouts like its plan best. Conventions and shapes: optimizers.py.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from planners.ranking import beats
from planners.rows import all_finite, where_rows
from planners.stopping import iterate

if TYPE_CHECKING:  # optimizers.py imports this module
    from optimizers import Plan


class Judged(NamedTuple):
    """Iterates and what they are worth."""

    parts: tuple[tf.Tensor, ...]  # what makes an iterate, [B, ...] each, the actions [B, H, m] last
    rewards: tf.Tensor  # [B, H], of the actions under the mean dynamics
    score: tf.Tensor  # [B], the lowest number where anything is not finite
    excess: tf.Tensor  # [B], by how much they break the state constraint


class Watched(NamedTuple):
    """A search together with the best of its iterates so far."""

    search: Any
    best: Judged

    @property
    def metrics(self) -> tf.Tensor:
        """Those of the search."""
        return self.search.metrics


class Judge:
    """Judges the iterates of one search.

    Args:
        worth: actions [B, H, m] -> (rewards [B, H], score [B], excess [B] or None), as restarts are compared.
        every: iterations from one judged iterate to the next.
        bound: of the actions; they are clipped before they are judged.
        parts: search -> `Judged.parts`.
        states: those parts -> states [B, H, n] of a plan.

    Attributes:
        best: of the iterates of `iterate`, without the last one.
    """

    def __init__(self, worth: Callable, every: int, bound: float, parts: Callable, states: Callable):
        self.worth, self.every, self.bound, self.parts, self.states = worth, every, bound, parts, states
        self.best: Judged = None

    def iterate(
        self, body: Callable, search: Any, limit: tf.Tensor, iterations: int, is_stable: Callable | None
    ) -> tuple[Any, tf.Tensor, tf.Tensor]:
        """`planners.stopping.iterate` that also sets `best`."""

        def watched(k, before):
            after = body(k, before.search)
            return Watched(after, self.watch(k, after, before.best, limit))

        stable = is_stable and (lambda k, after, before: is_stable(k, after.search, before.search))
        end, history, count = iterate(watched, Watched(search, self.nothing(search)), limit, iterations, stable)
        self.best = end.best
        return end.search, history, count

    def nothing(self, search: Any) -> Judged:
        """What any iterate beats, of the shapes of those of `search`."""
        parts = self.parts(search)
        rewards = tf.zeros_like(parts[-1][:, :, 0])
        sums, dtype = tf.zeros_like(rewards[:, 0]), rewards.dtype
        return Judged(parts, rewards, sums + dtype.min, sums + dtype.max)

    def watch(self, k: tf.Tensor | int, search: Any, best: Judged, limit: tf.Tensor) -> Judged:
        """The best iterate after iteration k. The last one, which `limit` ends with, is left to `choose`."""
        due = ((k + 1) % self.every == 0) & (k + 1 < limit)
        return tf.cond(due, lambda: self._better(self.judged(self.parts(search)), best), lambda: best)

    def judged(self, parts: tuple[tf.Tensor, ...]) -> Judged:
        """What iterates are worth."""
        rewards, score, excess = self.worth(self._clipped(parts))
        excess = tf.zeros_like(score) if excess is None else excess
        finite = all_finite(*parts, rewards, score, excess)
        return Judged(
            parts, rewards, tf.where(finite, score, score.dtype.min), tf.where(finite, excess, excess.dtype.max)
        )

    def choose(self, plan: "Plan", best: Judged) -> "Plan":
        """The plan, or an earlier iterate where that is better; curves and numbers stay those of the search."""
        last = self.judged((plan.states, plan.actions))
        states, actions = self.states(best.parts), self._clipped(best.parts)
        earlier = beats(best.score, best.excess, last.score, last.excess) & all_finite(states)
        warm_starts = tf.concat([actions[:, None], plan.warm_starts[:, 1:]], 1)
        new = {"actions": actions, "states": states, "rewards": best.rewards, "warm_starts": warm_starts}
        return plan._replace(**{name: where_rows(earlier, x, getattr(plan, name)) for name, x in new.items()})

    def _clipped(self, parts):
        """The actions that an iterate would execute."""
        return tf.clip_by_value(parts[-1], -self.bound, self.bound)

    @staticmethod
    def _better(new, old):
        """The better ones, of equal ones the new."""
        return where_rows(beats(old.score, old.excess, new.score, new.excess), old, new)
