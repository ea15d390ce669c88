"""The names of metrics and of their file, as the logger writes and tables and figures read them."""

METRICS_FILE = "metrics.jsonl"


def own_name(name: str, task: str) -> str:
    """The name of a task's own metric in a run of several tasks: train/return becomes train/<task>/return."""
    group, _, rest = name.partition("/")
    return f"{group}/{task}/{rest}"
