"""Evaluations in numbers: a row for each episode, and their means with 95% intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.statistics import half_width, share
from envs.distance import goal_distance
from training.agent import Agent
from training.driver import Episode

BINS = 5  # of the distance to the goal, at most
LEAST_IN_BIN = 4  # episodes of a bin, at least

Row = dict[str, float | int]


def model_age(agent: Agent) -> tuple[int, str]:
    """How long the model was trained, and the unit: updates for a run that collects nothing."""
    return (int(agent.step), "environment steps") if agent.config.steps else (int(agent.updates), "updates")


def describe(episode: Episode, seeds: Sequence[int], task: str) -> Row:
    """The row of an episode: its outcome, the predicted return, and means over the metrics of its plans.

    The predicted return is the sum of the rewards that the model predicted for the executed actions, in the units that
    it learned (`reward_normalization` and `reward_transform` change them) and discounted as in the plans.
    """
    summary, extras = episode.summary(), episode.extras
    row: Row = {"episode": episode.number, "seed": seeds[episode.number], **summary}
    row["predicted_return"] = float(extras["predicted_reward"].sum())
    states = episode.data.get("state")
    distance = goal_distance(task, None if states is None else states[0])
    if distance is not None:
        row["distance"] = distance
    planned = extras["planned"].astype(bool)
    row["plans"] = int(planned.sum())
    for name, values in extras["metrics"].items():
        if name.startswith("plan/"):  # not "model/" and "speed/"
            known = values[planned & np.isfinite(values)]
            row[name.removeprefix("plan/")] = float(known.mean()) if known.size else math.nan
    return row


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Means and intervals over the rows of all episodes, for the line of an evaluation."""
    column = lambda name: [row[name] for row in rows]
    summary = {"episodes": len(rows), "return": mean_interval(column("return"))}
    for name in ("success", "success_final"):
        if name in rows[0]:
            summary[name] = share_interval(column(name))
    summary["length"] = float(np.mean(column("length")))
    if "cost" in rows[0]:
        summary["cost"] = mean_interval(column("cost"))
    summary["predicted_return"] = mean_interval(column("predicted_return"))
    if "distance" in rows[0] and "success" in rows[0]:
        summary["by_distance"] = by_distance(column("distance"), column("success"))
    return summary


def mean_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean with Student's t interval, and standard deviation; of a single value only the mean."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2 or not math.isfinite(mean):
        return {"mean": mean if math.isfinite(mean) else None, "low": None, "high": None, "std": None}
    std = float(np.std(values, ddof=1))
    half = float(half_width(std, count))
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": std}


def share_interval(values: Sequence[float]) -> dict[str, float]:
    """Share of the values above 0, with Wilson's interval."""
    hits = int(np.count_nonzero(np.asarray(values) > 0))
    return share(hits, len(values))._asdict()


def by_distance(distances: Sequence[float], successes: Sequence[float]) -> list[dict[str, Any]]:
    """Success by the distance to the goal at the start, in bins between quantiles, which have equally many episodes.

    At most `BINS` bins, of at least `LEAST_IN_BIN` episodes each; equal distances are in one bin.
    """
    distances, successes = np.asarray(distances), np.asarray(successes)
    count = max(1, min(BINS, len(distances) // LEAST_IN_BIN))
    edges = np.quantile(distances, np.linspace(0.0, 1.0, count + 1))
    bins = np.searchsorted(edges[1:-1], distances, side="right")
    return [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "episodes": int(np.count_nonzero(bins == index)),
            "success": share_interval(successes[bins == index]),
        }
        for index in np.unique(bins)
    ]
