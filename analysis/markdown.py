"""Numbers and rows as Markdown has them."""

import math
from collections.abc import Callable, Sequence

from analysis.statistics import Estimate


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def number(value: float, largest: float | None = None) -> str:
    """A number with as many decimals as suit the largest one beside it."""
    size = abs(value if largest is None else largest)
    decimals = 3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:z.{decimals}f}"


def percent(value: float, largest: float | None = None) -> str:
    """A rate in percent, whatever is beside it."""
    return f"{100 * value:z.0f}"


def with_interval(estimate: Estimate, form: Callable[..., str] = number) -> str:
    """mean [low, high], or less where that is unknown."""
    if math.isnan(estimate.mean):
        return ""
    largest = max(abs(value) for value in estimate if not math.isnan(value))
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return form(estimate.mean, largest)
    return f"{form(estimate.mean, largest)} [{form(estimate.low, largest)}, {form(estimate.high, largest)}]"
