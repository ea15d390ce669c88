"""Settings that need more memory than there is: refused before a run starts, or named when it fails."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tools.errors import UserError

# Of one entry, a picture of 64 x 64 colours, at least: six bytes a colour wait in prefetched batches, and the loss has
# the picture and its prediction as float32.
BYTES = 64 * 64 * 3 * (6 + 2 * 4)

# Of the process of an environment, at least: Python, NumPy and Gymnasium.
PROCESS_BYTES = 32 * 2**20
# Of an episode of an evaluation, at least: its seed, and its row of numbers.
EPISODE_BYTES = 2**10


def check_memory(config: Any, tasks: Sequence[str]) -> None:
    """Raises UserError if a batch of an update or the environments surely do not fit into this machine's memory.

    Args:
        config: the settings.
        tasks: the names of the config's tasks; each has `envs` environments.
    """
    batch = f"batch_size {config.batch_size} times batch_length {config.batch_length} needs"
    _check(config.batch_size * config.batch_length * BYTES, batch, "choose smaller ones")
    check_processes(config.envs * len(tasks))


def check_sizes(config: Any) -> None:
    """Raises UserError if networks, plans or imagined trajectories surely do not fit into this machine's memory."""
    for words, numbers in _sizes(config).items():
        _check(4 * numbers, f"{words} would take", "choose smaller numbers")


def _sizes(c: Any) -> dict[str, int]:
    """How many float32 numbers there are at least, of which setting: weights between two layers, or states."""
    dreamer, states = c.planner == "dreamer", c.planning_horizon * c.stoch
    learned = dreamer or c.planner == "policy" or c.warm_start == "policy" or c.policy_candidates > 0.0
    heads = {"reward": True, "value": dreamer or c.value_head, "policy": learned}
    sizes = {
        f"{head}_units {c[f'{head}_units']}": max(c[f"{head}_layers"] - 1, 0) * c[f"{head}_units"] ** 2
        for head, there in heads.items()
        if there
    }
    sizes |= {
        f"cnn_depth {c.cnn_depth}": 512 * c.cnn_depth**2,
        f"stoch {c.stoch} and hidden {c.hidden}": c.stoch * c.hidden,
    }
    if c.dynamics != "ssm":
        sizes |= {f"deter {c.deter}": 3 * c.deter**2, f"deter {c.deter} and hidden {c.hidden}": 3 * c.deter * c.hidden}
    if dreamer:
        sizes[f"imagination_horizon {c.imagination_horizon}"] = (
            c.batch_size * c.batch_length * c.imagination_horizon * c.stoch
        )
    elif learned:
        sizes[f"policy_memory {c.policy_memory}"] = c.policy_memory * c.stoch
    if c.planner in ("cem", "random_shooting"):
        sizes[f"cem_candidates {c.cem_candidates}"] = c.cem_candidates * c.planning_horizon
    if c.planner not in ("dreamer", "policy"):
        sizes[f"initial_candidates {c.initial_candidates}"] = c.initial_candidates * c.planning_horizon
    return sizes | {
        f"planning_horizon {c.planning_horizon}": states,
        f"n_parallel_plans {c.n_parallel_plans}": c.n_parallel_plans * states,
    }


def check_processes(number: int) -> None:
    """Raises UserError if the processes of so many environments surely do not fit into this machine's memory."""
    _check(number * PROCESS_BYTES, f"the processes of {number} environments need", "lower envs")


def check_evaluation(episodes: int, num_envs: int) -> None:
    """Raises UserError if an evaluation surely does not fit into this machine's memory."""
    _check(episodes * EPISODE_BYTES, f"the results of {episodes} episodes need", "lower episodes")
    check_processes(min(num_envs, episodes))


def _check(needed: int, words: str, advice: str) -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"{needed / 2**30:,.0f} GiB of memory at least, and this machine has {there / 2**30:,.0f}"
        raise UserError(f"{words} {sizes}: {advice}.")


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Raises UserError where the block fails for want of memory."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"There is not enough memory ({first[:200]}): lower batch_size, batch_length, sizes of the model, "
            "candidates of the planner or envs."
        ) from error
