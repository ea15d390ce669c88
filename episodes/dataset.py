"""What is known of a folder of episodes that was not collected by the run that uses it: `collection.json`.

The folder holds episode files (`episode.py`). Its collection.json says where they are from, so that a run
on another task, or with another action repeat, does not train on them by accident. A folder without one, such as the
episodes of another run, is used unchecked.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import envs
from episodes.episode import OUTCOMES, read_episode
from tools.command_line import note
from tools.config import BEFORE, keys_of
from tools.errors import UserError
from tools.files import expanded, replaced

FILE = "collection.json"


def settings(config: Any) -> dict[str, Any]:
    """What the episodes of one task depend on, from a config with the attributes `envs.setting_keys()`."""
    return {key: getattr(config, key) for key in envs.setting_keys()} | {"action_repeat": envs.action_repeat(config)}


def read_collection(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The contents of a folder's collection.json, None where there is none. Raises UserError for a damaged one."""
    path = expanded(folder) / FILE
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait
            raise OSError("it is not a file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{folder} is a file: name a folder of episodes.") from None
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): repair it, or remove it to use the episodes unchecked."
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise UserError(f"{path} has no 'settings': repair it, or remove it to use the episodes unchecked.")
    return found


def write_collection(folder: Path, contents: dict[str, Any]) -> None:
    """Writes a folder's collection.json; a reader sees the old file or the new one."""
    with replaced(folder / FILE) as file:
        file.write(json.dumps(contents, indent=2, allow_nan=False) + "\n")


def numbers(data: Mapping[str, np.ndarray]) -> tuple[int, float, bool]:
    """Transitions, return and success of an episode; success is false where the simulator does not know it."""
    rewards = data["reward"]
    with np.errstate(over="ignore"):
        total = float(rewards.sum())
    if not np.isfinite(total):  # beyond float32
        total = float(rewards.sum(dtype=np.float64))
    return len(rewards) - 1, total, bool(data.get("success", np.zeros(1)).max() > 0)


def reported_outcomes(folder: Path) -> set[str]:
    """Which of success and cost the newest readable episode of a folder has: all that were ever reported there."""
    for path in sorted(folder.glob("*.npz"), reverse=True):
        with contextlib.suppress(UserError):
            return set(OUTCOMES) & read_episode(path).keys()
    return set()


def totals(rows: Sequence[tuple[int, float, bool]]) -> dict[str, Any]:
    """The totals in a collection.json, from the `numbers` of each episode."""
    lengths, returns, successes = np.array(rows, np.float64).reshape(-1, 3).T
    return {
        "episodes": len(rows),
        "transitions": int(lengths.sum()),
        "successes": int(successes.sum()),
        "success_rate": float(successes.mean()) if rows else None,
        "mean_return": float(returns.mean()) if rows else None,
    }


def check_collection(folder: str | os.PathLike, config: Any) -> None:
    """Raises UserError unless the episodes of a folder fit the settings of a run, as far as is known of them.

    Episodes that start or end in another way fit. A note says so.
    """
    found = read_collection(folder)
    if not found:
        return
    own = settings(config)
    known = own | _unwritten(found["settings"]) | found["settings"]
    other = [key for key in own if known[key] != own[key]]
    words = {key: f"{key} = {known[key]!r}, this run {own[key]!r}" for key in other}
    for key in keys_of("transitions"):
        if key in words:
            raise UserError(
                f"The episodes in {folder} have {words[key]}: collect others, or give the run --{key} {known[key]!r}."
            )
    if words:
        note(f"the episodes in {folder} have {'; '.join(words.values())}.")


def _unwritten(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a collection.json without a setting stands for: collect.py writes all that exist, imports the task alone."""
    known = {"reward", "task"} <= found.keys() and str(found["task"]).startswith("metaworld_")
    return {"starts": BEFORE["starts"]} if known else {}
