"""The plans of an episode, each above its execution (LatCo ICML figure 5)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from analysis.figures import save
from evaluation.plan_frames import GAP, draw_sheet, plan_above_execution, spread
from tools.logger import write_video
from training.agent import Agent
from training.driver import Episode

COLUMNS = 10  # frames of a plan in a picture, its start among them
PLANS_ON_PAGE = 6


class ExecutedPlan:
    """One plan of an episode and its execution.

    Attributes:
        time: decisions before the plan was made.
        decoded: uint8 [H + 1, 64, 64, 3], the plan decoded, its first state included.
        frames: uint8 [H + 1, 64, 64, 3], the observed frames from then on, white after the end of the episode.
        executed: number of executed actions.
        predicted: sum of the rewards predicted for these actions.
        achieved: sum of the rewards received, counted alike.
    """

    def __init__(self, agent: Agent, episode: Episode, time: int, end: int):
        extras = episode.extras
        feat = np.concatenate([extras["plan_start"][time][None], extras["plan_states"][time]])
        self.time, self.executed = time, end - time
        self.decoded, self.frames = plan_above_execution(
            agent.model, feat, episode.data["image"][time : time + len(feat)]
        )
        self.predicted = float(extras["predicted_reward"][time:end].sum())
        self.achieved = float(achieved_rewards(agent, episode)[time:end].sum())

    def rows(self, columns: np.ndarray) -> list[np.ndarray]:
        """The plan and its execution at some of the H + 1 times; paler where another plan was executed already."""
        frames = self.frames.copy()
        later = np.arange(len(frames)) > self.executed
        frames[later] = 255 - (255 - frames[later]) // 3
        return [self.decoded[columns], frames[columns]]


def achieved_rewards(agent: Agent, episode: Episode) -> np.ndarray:
    """The rewards [T] of an episode as its plans predict them: in the units that the model learned, and discounted."""
    steps = np.arange(episode.length)
    since = steps - np.maximum.accumulate(np.where(episode.extras["planned"], steps, 0))
    rewards = agent.rewards(tf.constant(episode.data["reward"][1:])).numpy()
    return rewards * agent.config.discount ** (since + 1)


def executed_plans(agent: Agent, episode: Episode) -> list[ExecutedPlan]:
    """Every plan of an episode whose plans were kept."""
    times = np.flatnonzero(episode.extras["planned"])
    ends = [*times[1:], episode.length]
    return [ExecutedPlan(agent, episode, int(time), int(end)) for time, end in zip(times, ends, strict=True)]


def write_plans(folder: Path, agent: Agent, episode: Episode, title: str) -> None:
    """Writes all plans of an episode as a video and as pictures, which have pages."""
    plans, stem = executed_plans(agent, episode), f"episode_{episode.number:03d}_plans"
    pages = [plans[start : start + PLANS_ON_PAGE] for start in range(0, len(plans), PLANS_ON_PAGE)]
    for number, page in enumerate(pages, 1):
        name = f"{stem}.png" if len(pages) == 1 else f"{stem}_{number:02d}.png"
        save(draw_plans(page, title), folder / name)
    write_video(folder / f"{stem}.mp4", plan_video(plans), fps=10)


def draw_plans(plans: Sequence[ExecutedPlan], title: str) -> Figure:
    """Plans, each above its execution, with time from left to right (LatCo ICML figure 5)."""
    horizon = len(plans[0].decoded) - 1
    columns = spread(horizon, COLUMNS)
    rows = [row for plan in plans for row in plan.rows(columns)]
    labels = []
    for plan in plans:
        labels += [f"plan at {plan.time}\npredicted {plan.predicted:.2f}", f"execution\nachieved {plan.achieved:.2f}"]
    figure, axis = draw_sheet(rows, labels, columns, range(0, len(rows), 2))
    lines = [f"agent decisions after the plan was made; rewards are sums over the first {plans[0].executed}"]
    if any(plan.executed < horizon for plan in plans):
        lines.append("or fewer, as many as were executed before the next plan (paler) or the end of the episode")
    axis.set_xlabel("\n".join(lines))
    figure.suptitle(title, fontsize=10)
    return figure


def plan_video(plans: Sequence[ExecutedPlan]) -> np.ndarray:
    """The plan, left, beside its execution, for every decision: uint8 [T, 64, 64 + gap + 64, 3]."""
    sides = []
    for side in ("decoded", "frames"):
        sides.append(np.concatenate([getattr(plan, side)[1 : plan.executed + 1] for plan in plans]))
    gap = np.full([*sides[0].shape[:2], GAP, 3], 255, np.uint8)
    return np.concatenate([sides[0], gap, sides[1]], 2)
