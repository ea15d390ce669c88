"""The table of planners, and functions that make a planner, make a new agent or load a trained one.

Importing this module imports neither TensorFlow nor an agent, so that programs can list the planners quickly.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import envs
from tools.command_line import note
from tools.config import Config, check_ranges, keys_of, load_config
from tools.errors import unknown
from tools.memory import check_sizes, enough_memory
from training.logdir import check_same, find_logdir, read_config

if TYPE_CHECKING:
    from optimizers import LatentProblem, Planner
    from planning_agent import PlanningAgent

PLANNERS = {
    "random_shooting": "planner_agents:RandomShootingAgent",
    "cem": "planner_agents:CEMAgent",
    "mppi": "planner_agents:MPPIAgent",
    "icem": "planner_agents:ICEMAgent",
    "gd": "planner_agents:GDAgent",
    "gn": "planner_agents:GNAgent",
    "ilqr": "planner_agents:ILQRAgent",
    "latco": "planner_agents:LatCoAgent",
    "gaussian_latco": "planner_agents:GaussianLatCoAgent",
    "latco_first_order": "planner_agents:FirstOrderLatCoAgent",
    "image_collocation": "planner_agents:ImageCollocationAgent",
    "grasp": "planner_agents:GRASPAgent",
    "dreamer": "policy_agents:DreamerAgent",
    "policy": "policy_agents:PolicyAgent",
}

# What only some planners can use. An evaluation with another one turns it off and leaves that part of the run out.
SPECIAL = ("augmented_objective", "cost_head")


def agent_class(planner: str) -> type["PlanningAgent"]:
    """The agent class of a planner. Raises UserError for an unknown planner."""
    if planner not in PLANNERS:
        raise unknown("planner", planner, PLANNERS)
    module, name = PLANNERS[planner].split(":")
    return getattr(importlib.import_module(module), name)


def make_planner(config: Config, problem: "LatentProblem") -> "Planner":
    """A new planner `config.planner` for a latent problem, without an agent. Raises UserError for an unknown one."""
    check_ranges(config)
    return agent_class(config.planner).make_planner(config, problem)


def make_agent(config: Config) -> "PlanningAgent":
    """A new agent with `config.planner` for `config.task`. Raises UserError for an unknown planner or task."""
    cls = agent_class(config.planner)
    check_ranges(config)
    check_sizes(config)
    with enough_memory():
        agent = cls(config, *envs.spaces(config))
    _note_candidates(config, agent.searcher)
    return agent


def _note_candidates(c: Config, searcher: "Planner | None") -> None:
    """Says so if `policy_candidates` has no effect. A resumed run may need it for the policy in its checkpoint."""
    if c.policy_candidates and not (searcher and searcher.DRAWS_FROM_POLICY):
        key = "policy_teacher" if c.planner == "policy" else "planner"
        note(
            f"policy_candidates has no effect, since {key} {c[key]} draws no candidates from a policy (cem, for one, "
            "does)."
        )


def load_agent(logdir: str | Path, overrides: Sequence[str] = (), option: str = "--logdir") -> "PlanningAgent":
    """Loads a trained agent: the settings of a run with the weights and counters of its newest checkpoint.

    Args:
        logdir: the log directory of the run, or the name of a shipped model.
        overrides: command-line words that change settings of the run, such as ["--planner", "cem"]. A preset among them
            does not change the task. Settings newer than the run have their defaults. Those in `SPECIAL` may be turned
            off.
        option: what names the log directory on the command line.

    Raises:
        UserError: the log directory has no run or no checkpoint, the checkpoint does not fit the settings, or an
            override is invalid or changes a setting that episodes or weights depend on.
    """
    logdir = find_logdir(logdir, option)
    saved = read_config(logdir)
    # Presets in the overrides may set another task.
    own_task = [] if any(word.partition("=")[0] == "--task" for word in overrides) else ["--task", saved.task]
    config = load_config([*overrides, *own_task], saved=saved).resolved().replace(logdir=str(logdir))
    # An evaluation may change {collection} settings, such as the starts' randomization or the rendering quality.
    fixed = [key for key in keys_of("transitions", "episodes", "weights") if config[key] or key not in SPECIAL]
    before = load_config([], saved=saved)
    check_same(before, config, fixed, logdir, option)
    if before.cost_head and not config.cost_head:
        # Only training needs the probe, whose variables a checkpoint has behind those of the cost head.
        config = config.replace(state_probe=False)
    return _restored(config, logdir, option)


def _restored(config: Config, logdir: Path, option: str) -> "PlanningAgent":
    from training.initial_weights import restore_parts

    agent = make_agent(config)
    # The optimizer must be restored too: TensorFlow does not track layers that a Keras 3 model keeps in lists, so their
    # weights are in the checkpoint only as variables of the optimizer.
    restore_parts(agent.checkpointed, logdir, option)
    return agent
