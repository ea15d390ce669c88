"""Loads trained weights: those of a run to evaluate, or those that a new run starts with."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tools.command_line import note
from tools.config import keys_of, load_config
from tools.errors import UserError
from training import checkpoint_files
from training.agent import Agent
from training.logdir import CHECKPOINTS, SETTINGS_FILE, WEIGHTS, check_same, find_initial, read_config
from training.weights import read_weights, saved_parts

# The part of a checkpoint that holds what a policy learns from. Only a resumed run needs it.
PLAN_MEMORY = "plan_memory"
# Parts that a run may start anew where `init_from` has none, and how the names of their settings begin.
OPTIONAL = {"actor": "policy_", "old_dynamics": "augmented_", "value": "value_"}
# Parts that depend on the planner and on how it uses a policy.
LEARNED = {"actor": "a policy", PLAN_MEMORY: "the plans that a policy learns from", "value": "a value network"}


def restore_parts(parts: Mapping[str, Any], logdir: Path, option: str = "--logdir") -> None:
    """Restores parts of an agent, by name, from the newest checkpoint of a run or from a shipped model.

    A shipped model has no optimizers, so the agent keeps its own. `option` is what names the run on the command line.

    Raises:
        UserError: there is no checkpoint, it is damaged or does not fit, or the run learned no policy or value.
    """
    parts = {name: part for name, part in parts.items() if name != PLAN_MEMORY}
    saved = _saved_parts(logdir)
    if saved and "actor" in parts and "actor" not in saved:
        raise UserError(
            f"{logdir} holds a run that learned no policy: choose one with --planner dreamer or policy, --warm_start "
            "policy or --policy_candidates."
        )
    if saved and "value" in parts and "value" not in saved:  # value_head is the run's own, so this is Dreamer's critic
        raise UserError(f"{logdir} holds a run that learned no value, as Dreamer does: add --planner policy.")
    if (logdir / WEIGHTS).is_file():
        read_weights(parts, logdir)
        return
    checkpoint, folder = tf.train.Checkpoint(**parts), logdir / CHECKPOINTS
    # Not an older one: results are those of the newest weights.
    if checkpoint_files.restore_newest(checkpoint, folder, partial=True, or_older=False) is None:
        raise UserError(f"{logdir} has no checkpoint yet: wait until the run has made one, or choose another {option}.")


def start_from(agent: Agent, logdir: Path) -> None:
    """Gives a new agent the weights, the optimizer's state and the count of updates of another run (`init_from`).

    Of a shipped model, by its folder or name, there is no optimizer's state.

    Steps and reward statistics are those of the new run's own episodes. A value or policy that the other run did not
    learn starts with random weights, and the old dynamics as a copy of the new ones.

    Raises:
        UserError: `logdir` holds no run, or one with other weights or another task.
    """
    logdir = find_initial(str(logdir))
    if not (logdir / SETTINGS_FILE).is_file():
        raise UserError(f"init_from is {logdir}, which holds no run: give the log directory of one.")
    parts = {name: part for name, part in agent.checkpointed.items() if name not in ("step", "rewards")}
    saved = _saved_parts(logdir)
    unlearned = {name for name in OPTIONAL if saved and not (name in parts and name in saved)}
    # The settings of a part matter only where both runs have it.
    ignored = tuple(OPTIONAL[name] for name in unlearned)
    keys = [key for key in keys_of("transitions", "weights") if not key.startswith(ignored)]
    check_same(load_config([], saved=read_config(logdir)), agent.config, keys, logdir, "--init_from")
    restore_parts({name: part for name, part in parts.items() if name not in unlearned}, logdir, "--init_from")
    words = {"actor": "policy", "value": "value"}
    new = [words[name] for name in words if name in parts and name in unlearned]
    if new:
        note(f"{logdir} has no {' and no '.join(new)}: this run starts with new weights there.")
    if "old_dynamics" in parts and "old_dynamics" in unlearned:
        parts["old_dynamics"].copy()


def check_parts(own: Container[str], logdir: Path) -> None:
    """Raises UserError if a resumed run learns a policy or a value and the run that it resumes did not, or the reverse.

    Args:
        own: the names of the resumed run's parts.
        logdir: its log directory.
    """
    saved = _saved_parts(logdir)
    differ = [name for name in LEARNED if (name in own) != (name in saved)]
    if saved and differ:
        lacks = differ[0] not in saved
        words = " and ".join(LEARNED[name] for name in differ if (name not in saved) == lacks)
        raise UserError(
            f"The checkpoint in {logdir} {'lacks' if lacks else 'has'} {words}, which these settings "
            f"{'need' if lacks else 'do not use'}: resume the run with the planner, warm_start and policy_candidates "
            "that it had, or choose another --logdir and start from this run with --init_from."
        )


def _saved_parts(logdir: Path) -> set[str]:
    """The names of the parts of a shipped model or in a run's newest checkpoint; none where there is nothing whole."""
    if (logdir / WEIGHTS).is_file():
        return saved_parts(logdir)
    paths = checkpoint_files.saved_checkpoints(logdir / CHECKPOINTS)
    if not paths:
        return set()
    try:
        names = checkpoint_files.open_checkpoint(paths[0]).get_variable_to_shape_map()
        return {name.partition("/")[0] for name in names}
    except (RuntimeError, ValueError, tf.errors.OpError):
        return set()
