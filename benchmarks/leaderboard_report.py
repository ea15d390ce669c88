"""The lines of the leaderboard as a picture and as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.markdown import markdown, number, percent, with_interval
from analysis.statistics import Estimate

Row = Mapping[str, Any]

# Entry of a line -> its title in the picture. Entries that a board lacks are left out.
PANELS = {
    "return": "return of whole episodes",
    "return_blind": "return of the plan, open loop",
    "return_mean": "predicted return of the plan",
    "return_sampled": "the same, sampled dynamics",
}
COLUMNS = {
    "seconds": number,
    "return_mean": number,
    "return_sampled": number,
    "return_blind": number,
    "success_blind": percent,
    "return": number,
    "success": percent,
    "plans_per_second_1": number,
    "plans_per_second_16": number,
}
HEADS = {
    "seconds": "seconds",
    "return_mean": "mean",
    "return_sampled": "sampled",
    "return_blind": "open loop",
    "success_blind": "open-loop success, %",
    "return": "episode",
    "success": "success, %",
    "plans_per_second_1": "plans/s, 1",
    "plans_per_second_16": "plans/s, 16",
}


def estimate(row: Row, key: str) -> Estimate:
    """What a line says of something, NaN where it says nothing."""
    values = row.get(key) or {}
    return Estimate(*(math.nan if values.get(part) is None else values[part] for part in Estimate._fields))


def draw(rows: Sequence[Row]) -> Figure:
    """Returns against the seconds that a plan took, a line for each planner; bars are 95% intervals over the starts."""
    rows = [row for row in rows if row["fits"]] or list(rows)
    panels = {key: title for key, title in PANELS.items() if any(key in row for row in rows)} or {"seconds": "seconds"}
    lines = figures.styles(row["planner"] for row in rows)
    figure, axes = figures.grid(1, len(panels), (3.6, 3.2))
    for axis, (key, title) in zip(axes[0], panels.items(), strict=True):
        for planner, style in lines.items():
            draw_line(axis, [row for row in rows if row["planner"] == planner], key, style)
        figures.make_logarithmic(axis, "x")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("seconds a plan", fontsize=10)
        figures.tidy(axis)
    first = rows[0]
    figures.legend_below(
        figure,
        {planner: style | {"marker": "o", "markersize": 4} for planner, style in lines.items()},
        f"{first['task']}, {first['starts']} starts, H = {first['horizon']}, model after {first['updates']:,} updates. "
        "Bars: 95% intervals over the starts.",
    )
    return figure


def draw_line(axis: Axes, rows: Sequence[Row], key: str, style: Mapping[str, Any]) -> None:
    """One planner at its budgets."""
    points = sorted((estimate(row, "seconds").mean, estimate(row, key)) for row in rows if key in row)
    if points:
        x, y = [x for x, _ in points], [value.mean for _, value in points]
        axis.plot(x, y, marker="o", markersize=4, linewidth=1.5, **style)
        for place, value in points:
            axis.plot([place] * 2, [value.low, value.high], color=style["color"], linewidth=1.0, alpha=0.6)


def table(rows: Sequence[Row]) -> str:
    """All budgets beside each other, then a table for each, in Markdown; the best return first (see `_ranked_by`)."""
    head = rows[0]
    text = (
        f"`{head['task']}`, model after {head['step']:,} environment steps and {head['updates']:,} updates, "
        f"n = {head['state_size']}, H = {head['horizon']}, {head['starts']} starts of seed {head['start_seed']}, "
        f"`mpc_steps` {head['mpc_steps']}, `warm_start` {str(head['warm_start']).lower()}. Settings from "
        f"{head['trials']} trials at {head['tune_budget']:g} s on {head['tune_starts']} other starts. "
        f"Matrix product: {spread(rows, 'peak_gflops')} GFLOP/s. Commit {commits(rows)}.\n"
    )
    budgets = sorted({row["budget"] for row in rows})
    text += f"\n## All budgets\n\n{_overview(rows, budgets)}"
    for budget in budgets:
        group = [row for row in rows if row["budget"] == budget]
        text += f"\n## {budget:g} s a plan\n\n{_one_table(group)}"
        slow = [f"`{row['planner']}` ({number(estimate(row, 'seconds').mean)} s)" for row in group if not row["fits"]]
        if slow:
            text += f"\nThe smallest plan takes longer: {', '.join(slow)}.\n"
    return text


def _ranked_by(rows: Sequence[Row]) -> tuple[str, str]:
    """What planners are ranked by, the return of episodes if there are some, and the success that belongs to it."""
    return ("return", "success") if any("return" in row for row in rows) else ("return_blind", "success_blind")


def _overview(rows: Sequence[Row], budgets: Sequence[float]) -> str:
    """Return with its interval and success of every planner at every budget; - where its smallest plan is too slow."""
    key, success = _ranked_by(rows)
    found = {(row["planner"], row["budget"]): row for row in rows}

    def cell(planner: str, budget: float) -> str:
        row = found.get((planner, budget))
        if row is None or not row["fits"]:
            return "" if row is None else "-"
        share = f", {percent(row[success]['mean'])}%" if success in row else ""
        return f"{with_interval(estimate(row, key))}{share}"

    def rank(planner: str) -> list[float]:
        """The return at the largest budget that has one, before those at smaller ones."""
        values = [estimate(found.get((planner, budget), {}), key).mean for budget in reversed(budgets)]
        return [math.inf if math.isnan(value) else -value for value in values]

    planners = sorted(dict.fromkeys(row["planner"] for row in rows), key=rank)
    body = [[f"`{planner}`", *(cell(planner, budget) for budget in budgets)] for planner in planners]
    name = HEADS[key] + (", success" if any(success in row for row in rows) else "")
    return markdown(["planner", *(f"{budget:g} s: {name}" for budget in budgets)], body)


def _one_table(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row["fits"]]
    if not rows:
        return "No planner fits.\n"
    key, _ = _ranked_by(rows)
    rows = sorted(rows, key=lambda row: -estimate(row, key).mean)
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    body = []
    for row in rows:
        cells = [with_interval(estimate(row, name), COLUMNS[name]) for name in columns]
        settings = ", ".join(f"`{name}` {value}" for name, value in row["settings"].items()) or "the run's own"
        counts = [f"{row['model_steps']:,.0f}", f"{row['model_jacobians']:,.0f}"]
        body.append([f"`{row['planner']}`", f"{row['size']}", *cells, *counts, settings])
    return markdown(["planner", "size", *(HEADS[name] for name in columns), "steps", "Jacobians", "settings"], body)


def spread(rows: Sequence[Row], key: str) -> str:
    """The smallest and the largest value."""
    values = sorted({row[key] for row in rows})
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def commits(rows: Sequence[Row]) -> str:
    """The commits of the lines, as Git abbreviates them."""
    return ", ".join(dict.fromkeys(row["commit"][:7] or "unknown" for row in rows))
