"""The plans that a batch of environments is executing, what is logged about them, and from what the next ones start."""

from typing import NamedTuple

import numpy as np

from optimizers import Plan, Planner, WarmStart


class PlanState(NamedTuple):
    """The plans of B environments with horizon H, and how far they are executed. Part of the policy state.

    Attributes:
        actions: float [B, H, m].
        states: float [B, H, n]; entry t is the planned state after action t.
        rewards: float [B, H], predicted for the actions.
        metrics: name -> float [B], metrics of the optimization.
        cursor: int [B], how many actions of a plan were executed.
        warm_starts: float [B, C, H, m], from which the next plan may start; None without warm starts.
        gains: float [B, H, m, n], feedback around (states, actions); None without feedback.
        kept, kept_scores: float [B, K, H, m] and [B, K], plans and their scores that a policy learns from; None where
            none does.
        teacher: the plans of another planner, which a policy learns from while these ones are executed, or None.
    """

    actions: np.ndarray
    states: np.ndarray
    rewards: np.ndarray
    metrics: dict[str, np.ndarray]
    cursor: np.ndarray
    warm_starts: np.ndarray | None = None
    gains: np.ndarray | None = None
    kept: np.ndarray | None = None
    kept_scores: np.ndarray | None = None
    teacher: "PlanState | None" = None

    @classmethod
    def begin(cls, plan: Plan, metrics: dict[str, np.ndarray], warm_start: bool) -> "PlanState":
        """New plans with nothing executed yet."""
        actions, states, rewards = (x.numpy() for x in (plan.actions, plan.states, plan.rewards))
        warm_starts = plan.warm_starts.numpy() if warm_start else None
        optional = [None if x is None else x.numpy() for x in (plan.gains, plan.kept, plan.kept_scores)]
        return cls(actions, states, rewards, metrics, np.zeros(len(actions), int), warm_starts, *optional)

    def replace_where(self, mask: np.ndarray, new: "PlanState") -> "PlanState":
        """These plans, replaced by new ones in environments of `mask`, bool [B]."""
        return PlanState(*(_where(mask, ours, theirs) for theirs, ours in zip(self, new, strict=True)))

    def next_action(self, feat: np.ndarray) -> np.ndarray:
        """The action [B, m] at the cursor, plus feedback (if any) on the current features [B, n]."""
        rows = np.arange(len(self.cursor))
        action = self.actions[rows, self.cursor]
        if self.gains is None:
            return action
        deviation = feat - self.states[rows, np.maximum(self.cursor - 1, 0)]
        deviation[self.cursor == 0] = 0.0  # a plan starts where the environment is
        return action + np.einsum("bmn,bn->bm", self.gains[rows, self.cursor], deviation)

    def next_reward(self) -> np.ndarray:
        """The reward [B] predicted for `next_action`."""
        return self.rewards[np.arange(len(self.cursor)), self.cursor]

    def next_warm_start(self, is_first: np.ndarray) -> WarmStart:
        """The rest of each plan, shifted by its executed actions; a cold start where an episode begins."""
        H = self.actions.shape[1]
        index = (self.cursor[:, None] + np.arange(H)) % H
        actions = np.take_along_axis(self.warm_starts, index[:, None, :, None], 2)
        return WarmStart(actions, np.where(is_first, 0, np.maximum(H - self.cursor, 0)).astype(np.int32))


def plan_metrics(plan: Plan, finish_steps: int) -> dict[str, np.ndarray]:
    """The end of the search for each plan [B], by the names of metrics.

    Args:
        plan: of B environments.
        finish_steps: as of the planner. A finish leaves no violation, so that violations are the last ones before it.
    """
    curves = {name: curve for name, curve in plan.curves.items() if name != "reward"}
    metrics = {f"plan/{name}": curve[:, -1].numpy() for name, curve in curves.items()}
    for name in {"dynamics_violation", "action_violation"} & set(curves):
        metrics[f"plan/{name}"] = before_finish(plan, name, finish_steps)
    if plan.value is not None:
        metrics["plan/value"] = plan.value.numpy()
    counts = {"plan/non_finite": plan.non_finite, "plan/iterations": plan.iterations}
    return metrics | {name: count.numpy().astype(np.float32) for name, count in counts.items()}


def before_finish(plan: Plan, curve: str, finish_steps: int) -> np.ndarray:
    """The violations [B] in a curve at the end of the search, before its finish of so many steps.

    One that is left at the end says that the finish was left out, as where it is not finite.
    """
    values, end = plan.curves[curve].numpy(), plan.iterations.numpy() - finish_steps - 1
    left = values[:, -1]
    return np.where(left > 0.0, left, values[np.arange(len(end)), end]) if finish_steps else left


def cold_start(batch: int, planner: Planner) -> WarmStart:
    """What the first plans of `batch` environments start from: action sequences of which no action is valid."""
    shape = (batch, planner.num_warm_starts, planner.horizon, planner.problem.action_size)
    return WarmStart(np.zeros(shape, np.float32), np.zeros(batch, np.int32))


def _where(mask, new, old):
    """`new` in the rows of `mask` [B], `old` elsewhere; for dictionaries, entry by entry."""
    if new is None:
        return None
    if isinstance(new, dict):
        return {name: _where(mask, new[name], old[name]) for name in new}
    return np.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)
