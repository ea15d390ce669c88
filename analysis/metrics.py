"""The names of metrics that scores and curves are about."""

TITLES = {
    "train/return": "return (training)",
    "train/success": "success (training)",
    "eval/return": "return (evaluation)",
    "eval/success": "success (evaluation)",
}

# The first that every run has is what `aggregate` is about: success needs no range, evaluations have no exploration.
SCORES = ("eval/success", "train/success", "eval/return", "train/return")


def is_success(metric: str) -> bool:
    """Whether a metric is a rate of success, which lies between 0 and 1."""
    return metric.rpartition("/")[2].startswith("success")


def title_of(metric: str) -> str:
    """The name of a metric in a figure."""
    return TITLES.get(metric, metric)
