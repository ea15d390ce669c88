"""How a plan was optimized: its numbers and its frames over the iterations (LatCo ICML figures 1, 6 and 11)."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import make_logarithmic
from evaluation.plan_frames import decode, draw_sheet, fill_up, spread
from optimizers import Plan
from tools.errors import UserError
from training.agent import Agent

COLUMNS = 11  # time steps shown at most, the start among them

# Names of a plan's curves (see optimizers.Plan), and their labels in a legend.
VIOLATIONS = {
    "dynamics_violation": "dynamics",
    "action_violation": "action bounds",
    "constraint_violation": "state constraint",
}
MULTIPLIERS = {"lam": "λ (dynamics)", "nu": "ν (action bounds)", "kappa": "κ (state constraint)"}


class Execution(NamedTuple):
    """The execution of a plan: T decisions, fewer than planned where the episode ended before.

    Attributes:
        frames: uint8 [T + 1, 64, 64, 3], the start first.
        rewards: [T], in the units that the model learned.
        discounted: their sum with the discount of plans.
        success: whether the simulator reported success at any step, None where it reports none.
        cost: the largest cost of a step, None where the simulator reports none.
    """

    frames: np.ndarray
    rewards: np.ndarray
    discounted: float
    success: bool | None
    cost: float | None


def execute(agent: Agent, env: Any, image: np.ndarray, actions: np.ndarray) -> Execution:
    """Executes actions [H, m] of the agent open loop; `image` is the environment's first one.

    Raises:
        UserError: the environment was lost, see `envs.workers`.
    """
    frames, rewards, successes, costs = [image], [], [], []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action[None])
        if "lost" in info:  # the next one would start elsewhere
            raise UserError("The environment was lost while it executed the plan: start the same command again.")
        frames.append(obs["image"][0].copy())
        rewards.append(float(reward[0]))
        if "success" in info:
            successes.append(bool(info["success"][0]))
        if "cost" in info:
            costs.append(float(info["cost"][0]))
        if terminated[0] or truncated[0]:
            break
    success, cost = any(successes) if successes else None, max(costs, default=None)
    units = agent.rewards(tf.constant(rewards)).numpy()
    discounted = float(units @ agent.config.discount ** np.arange(1, len(units) + 1))
    return Execution(np.stack(frames), units, discounted, success, cost)


def draw_curves(plan: Plan, iterations: int, executed: Execution, title: str) -> Figure:
    """Return, violations and multipliers over the iterations; planners without the latter two have fewer panels."""
    horizon = plan.actions.shape[1]
    curves = {name: curve[0, :iterations].numpy() for name, curve in plan.curves.items()}
    panels = [names for names in (VIOLATIONS, MULTIPLIERS) if curves.keys() & names.keys()]
    height = 2.9 * (1 + len(panels)) + 0.6
    figure = Figure(figsize=(8.0, height), dpi=120, layout="constrained")
    axes = figure.subplots(1 + len(panels), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=10)
    _draw_returns(axes[0], curves["reward"], plan, executed)
    for axis, names in zip(axes[1:], panels, strict=True):
        _draw_positive(axis, {label: curves[name] for name, label in names.items() if name in curves})
        what = "squared violation,\nsum over" if names is VIOLATIONS else "multiplier,\nmean over"
        axis.set_ylabel(f"{what} {horizon} time steps")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    axes[-1].set_xlabel("iteration of the planner")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _draw_returns(axis: Axes, reward: np.ndarray, plan: Plan, executed: Execution) -> None:
    """The planner's own return, with that of a rollout of the finished plan and the achieved one."""
    horizon, steps = plan.actions.shape[1], len(executed.rewards)
    own = "as the planner\nsees it" + ("" if plan.value is None else ", with\nthe terminal value")
    axis.plot(np.arange(1, len(reward) + 1), reward, ".-", markersize=3, label=own)
    predicted, achieved = float(tf.reduce_sum(plan.rewards[0])), executed.discounted
    axis.axhline(predicted, color="C1", linestyle="--", label=f"rolled out in\nthe model: {predicted:.2f}")
    early = "" if steps == horizon else f"\n(ended after {steps})"
    axis.axhline(achieved, color="C2", linestyle=":", label=f"achieved in the\nenvironment: {achieved:.2f}{early}")
    axis.set_ylabel(f"return,\nsum over {horizon} time steps")


def _draw_positive(axis: Axes, curves: dict[str, np.ndarray]) -> None:
    """Curves on a logarithmic axis, which has no zero: the legend says how often a curve is zero."""
    for label, curve in curves.items():
        zeros = int(np.sum(curve <= 0))
        if zeros:
            often = "throughout" if zeros == len(curve) else f"in {zeros} of {len(curve)}\niterations, not drawn"
            label = f"{label},\n0 {often}"
        axis.plot(np.arange(1, len(curve) + 1), curve, ".-", markersize=3, label=label)
    if any(np.any(curve > 0) for curve in curves.values()):
        make_logarithmic(axis)


def draw_frames(agent: Agent, z0: tf.Tensor, plans: list[tuple[int, Plan]], executed: Execution, title: str) -> Figure:
    """Decoded plans, a row each with time from left to right, above the frames of the execution."""
    horizon = plans[-1][1].actions.shape[1]
    columns = spread(horizon, COLUMNS)
    labels, rows = [], []
    for iteration, plan in plans:
        rows.append(decode(agent.model, tf.gather(tf.concat([z0, plan.states[0]], 0), columns)))
        planned = float(tf.reduce_sum(agent.model.reward(plan.states)))
        labels.append(f"{'start' if iteration == 0 else f'iteration {iteration}'}\nreturn {planned:.2f}")
    rows.append(fill_up(executed.frames, horizon + 1)[columns])
    labels.append(f"executed\nreturn {executed.rewards.sum():.2f}")

    figure, axis = draw_sheet(rows, labels, columns, {len(rows) - 1})
    axis.set_xlabel(
        f"time step (agent decisions after the start)\nReturns are sums over {horizon} time steps: of the reward model "
        f"at the states shown, and of the {len(executed.rewards)} executed steps"
    )
    figure.suptitle(title, fontsize=10)
    return figure
