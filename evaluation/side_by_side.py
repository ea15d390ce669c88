"""Planners side by side: how the first plan came about, where each later one ends, and what came of them.

One picture and one video of the same numbers (LatCo ICML figures 1 and 6, for whole episodes).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import make_logarithmic, styles, tidy
from evaluation.executed_plans import achieved_rewards
from evaluation.plan_frames import decode, fill_up, show_sheet, spread
from evaluation.plan_optimization import VIOLATIONS, Execution
from optimizers import Plan
from training.agent import Agent
from training.driver import Episode

COLUMNS = 11  # time steps in the picture, the start among them
HELD = 3  # frames of the video for each state of the search
PAUSE = 12  # frames at its end
MOMENTS = 61  # time steps of the episode in it at most, the start among them
PREDICTED = {"linestyle": "--", "alpha": 0.7}
VIOLATION_STYLES = ("-", ":", "-.")


class Side(NamedTuple):
    """One planner in an episode of T decisions.

    Attributes:
        name: of the planner.
        iterations: K numbers of iterations of the first search, ascending, the last one that of the finished plan.
        ends: uint8 [K, 64, 64, 3], the last state of the first plan after so many iterations, decoded.
        planned: uint8 [H + 1, 64, 64, 3], the first plan decoded, its start first.
        goals: uint8 [T, 64, 64, 3], the last state of the plan that is executed at each decision, decoded.
        predicted: [T], rewards that the model predicts for the executed actions.
        curves: of the first plan (`optimizers.Plan.curves`), [iterations] each.
        executed: what came of it; its rewards are discounted as the predicted ones are.
    """

    name: str
    iterations: np.ndarray
    ends: np.ndarray
    planned: np.ndarray
    goals: np.ndarray
    predicted: np.ndarray
    curves: dict[str, np.ndarray]
    executed: Execution


def make_side(agent: Agent, z0: tf.Tensor, plans: Sequence[tuple[int, Plan]], episode: Episode) -> Side:
    """One planner's side.

    Args:
        agent: what acted.
        z0: the first state [1, n].
        plans: the first plan after some numbers of iterations, the last one finished.
        episode: with its plans (`evaluation.episodes.EvaluationPolicy`).
    """
    last, plan = plans[-1]
    ends = tf.concat([plan.states[0, -1:] for _, plan in plans], 0)
    extras, data = episode.extras, episode.data
    new = extras["planned"]
    goals = decode(agent.model, extras["plan_states"][new, -1])
    success = bool(data["success"].max() > 0) if "success" in data else None
    cost = float(data["cost"].max()) if "cost" in data else None
    rewards = achieved_rewards(agent, episode)
    return Side(
        name=agent.config.planner,
        iterations=np.array([number for number, _ in plans]),
        ends=decode(agent.model, ends),
        planned=decode(agent.model, tf.concat([z0, plan.states[0]], 0)),
        goals=goals[np.cumsum(new) - 1],
        predicted=extras["predicted_reward"],
        curves={name: curve[0, :last].numpy() for name, curve in plan.curves.items()},
        executed=Execution(data["image"], rewards, float(rewards.sum()), success, cost),
    )


def draw_picture(sides: Sequence[Side], title: str) -> Figure:
    """For each planner its first plan, where later plans end and the execution; rewards, returns and violations."""
    length = max(len(side.predicted) for side in sides)
    columns = spread(length, COLUMNS)
    rows, labels = [], []
    for side in sides:
        goals = np.append(side.goals, side.goals[-1:], 0)  # no plan is made in the last state
        frames = (side.planned[: length + 1], goals, side.executed.frames)
        rows += [fill_up(part, length + 1)[columns] for part in frames]
        result = outcome(side.executed).replace(", ", ",\n")  # the margin is narrow
        labels += [f"{side.name}: first plan", "end of the\npresent plan", f"executed,\n{result}"]
    figure = Figure(figsize=(1.8 + 0.9 * len(columns), 4.2 + 0.9 * len(rows)), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(0.95 * len(rows) + 0.4, 2.7))
    axis = figure.add_subplot(grid[0, :])
    show_sheet(axis, rows, labels, columns, range(3, len(rows), 3))
    axis.set_xlabel("time step (agent decisions after the start)")
    curves = Curves([figure.add_subplot(grid[1, column]) for column in range(3)], sides)
    figure.legend(handles=curves.legend(), loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def outcome(executed: Execution) -> str:
    """The return of an execution, and whether it succeeded."""
    success = "" if executed.success is None else ", success" if executed.success else ", no success"
    return f"return {executed.rewards.sum():.1f}{success}"


class Curves:
    """Rewards over time, and returns and violations over the iterations, each drawn as far as `show` says."""

    def __init__(self, axes: Sequence[Axes], sides: Sequence[Side]):
        self._axes, self._sides = axes, sides
        rewards, returns, violations = axes
        self._over_time: list[tuple[Line2D, np.ndarray]] = []
        self._over_iterations: list[list[tuple[Line2D, np.ndarray]]] = []
        style = styles(side.name for side in sides)
        for side in sides:
            color = style[side.name]["color"]
            for values, look in ((side.predicted, PREDICTED), (side.executed.rewards, {})):
                self._over_time.append(self._line(rewards, values, {"color": color} | look))
            own = [self._line(returns, side.curves["reward"], {"color": color})]
            names = [name for name in VIOLATIONS if name in side.curves]
            for name, look in zip(names, VIOLATION_STYLES, strict=False):
                positive = np.where(side.curves[name] > 0, side.curves[name], np.nan)
                own.append(self._line(violations, positive, {"color": color, "linestyle": look}))
            self._over_iterations.append(own)
        if any(np.any(curve > 0) for side in sides for name, curve in side.curves.items() if name in VIOLATIONS):
            make_logarithmic(violations)
        violations.sharex(returns)
        for axis, title, label in zip(
            self._axes,
            ("reward of each step", "return, first plan, as planner sees it", "squared violation, first plan, summed"),
            ("time step", "iteration of the planner", "iteration of the planner (0 is not drawn)"),
            strict=True,
        ):
            tidy(axis)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(label, fontsize=9)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))

    @staticmethod
    def _line(axis: Axes, values: np.ndarray, look: dict) -> tuple[Line2D, np.ndarray]:
        """A line over 1, 2, ...; one that is not drawn yet leaves room for all of it."""
        (line,) = axis.plot(np.arange(1, len(values) + 1), values, linewidth=1.6, **look)
        return line, values

    def legend(self) -> list[Line2D]:
        """One entry for each planner, and one for each kind of line."""
        style = styles(side.name for side in self._sides)
        looks = [(side.name, {"color": style[side.name]["color"], "linewidth": 3}) for side in self._sides]
        looks += [("predicted", PREDICTED), ("achieved", {})]
        found = {name for side in self._sides for name in side.curves}
        labels = [f"violation of {label}" for name, label in VIOLATIONS.items() if name in found]
        looks += [(label, {"linestyle": look}) for label, look in zip(labels, VIOLATION_STYLES, strict=False)]
        return [Line2D([], [], label=label, **{"color": "0.35"} | look) for label, look in looks]

    def show(self, time: int, iterations: Sequence[int]) -> None:
        """Draws the rewards of the first steps, and of each side its first iterations."""
        for line, values in self._over_time:
            line.set_data(np.arange(1, len(values[:time]) + 1), values[:time])
        for lines, count in zip(self._over_iterations, iterations, strict=True):
            for line, values in lines:
                line.set_data(np.arange(1, len(values[:count]) + 1), values[:count])


def draw_video(sides: Sequence[Side], title: str) -> Iterator[np.ndarray]:
    """Frames, uint8 [height, width, 3]: the search for the first plan, then the episode; above, where the plans end."""
    figure = Figure(figsize=(2.6 * len(sides) + 4.2, 6.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(6, len(sides) + 1, width_ratios=(*[2.6] * len(sides), 3.6))
    pictures = []
    for column, side in enumerate(sides):
        above, below = figure.add_subplot(grid[:3, column]), figure.add_subplot(grid[3:, column])
        pictures.append([_picture(axis, side.planned[0]) for axis in (above, below)])
        above.set_title(f"{side.name}: end of the plan", fontsize=10)
        below.set_title("executed", fontsize=10)
    curves = Curves([figure.add_subplot(grid[row : row + 2, -1]) for row in (0, 2, 4)], sides)
    figure.legend(handles=curves.legend(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    heading = figure.suptitle(f"{title}\nplanning", fontsize=11)
    canvas.draw()
    figure.set_layout_engine("none")

    def frame(text: str) -> np.ndarray:
        heading.set_text(f"{title}\n{text}")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    for index in range(max(len(side.iterations) for side in sides)):
        now = [min(index, len(side.iterations) - 1) for side in sides]
        for (above, below), side, number in zip(pictures, sides, now, strict=True):
            above.set_data(side.ends[number])
            below.set_data(side.executed.frames[0])
        curves.show(0, [int(side.iterations[number]) for side, number in zip(sides, now, strict=True)])
        done = ", ".join(f"{side.name} {side.iterations[number]}" for side, number in zip(sides, now, strict=True))
        yield from [frame(f"planning: where the first plan ends after iteration {done}")] * HELD
    length = max(len(side.predicted) for side in sides)
    for time in spread(length, MOMENTS):
        for (above, below), side in zip(pictures, sides, strict=True):
            above.set_data(side.goals[min(time, len(side.goals) - 1)])
            below.set_data(side.executed.frames[min(time, len(side.executed.frames) - 1)])
        curves.show(time, [int(side.iterations[-1]) for side in sides])
        yield frame(f"acting, with a new plan every few time steps: {time} of {length}")
    results = "; ".join(f"{side.name}: {outcome(side.executed)}" for side in sides)
    yield from [frame(results)] * PAUSE


def _picture(axis: Axes, image: np.ndarray):
    axis.set_axis_off()
    return axis.imshow(image, interpolation="nearest")
