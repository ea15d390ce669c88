"""Log directories of revision 33d80e7, with what its planners planned there: later programs read and do the same."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from agents import load_agent
from planning_agent import PlanningAgent

FOLDER = Path(__file__).with_name("checkpoint_33d80e7")
MODELS = ["gaussian", "categorical_value"]
PLANNERS = ["random_shooting", "cem", "mppi", "icem", "gd", "gn", "ilqr", "latco", "gaussian_latco", "grasp"]
# Together these use every module of the planners, models and latents. They run line by line, since compiling takes
# seconds; all cases are compiled in the slow tests.
QUICK = [
    *(("gaussian", planner) for planner in ("cem", "gd", "ilqr", "latco", "gaussian_latco", "grasp")),
    *(("categorical_value", planner) for planner in ("cem", "gd", "latco")),
]
SEED = [33, 807]
# At this damping rounding hardly moves the plans (iterations are the few that the runs have), and that revision's LatCo
# had no finish.
OPTIONS = ["--latco_damping", "1e-3", "--latco_finish", "0"]


def load(model: str, planner: str) -> tuple[PlanningAgent, dict[str, np.ndarray]]:
    """The agent of a log directory with another planner, and what was recorded of it."""
    agent = load_agent(FOLDER / model, ["--planner", planner, *OPTIONS])
    with np.load(FOLDER / model / "plans.npz") as saved:
        return agent, dict(saved)


def check(found: dict[str, tf.Tensor], saved: dict[str, np.ndarray], group: str) -> None:
    """Processors round differently, but starts changed by 1e-5 of themselves moved nothing here by more than 3e-5."""
    assert {f"{group}/{name}" for name in found} == {name for name in saved if name.startswith(f"{group}/")}
    for name, value in found.items():
        np.testing.assert_allclose(value, saved[f"{group}/{name}"], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_gives_the_plans_that_it_gave(model, planner):
    check_plans(*load(model, planner), planner)


@pytest.mark.parametrize(("model", "planner"), QUICK)
def test_a_checkpoint_gives_the_plans_that_it_gave_line_by_line(model, planner, monkeypatch):
    agent, saved = load(model, planner)
    for name in ("split", "fold_in", "stateless_normal", "stateless_uniform"):  # XLA has its own random numbers
        monkeypatch.setattr(tf.random, name, tf.function(getattr(tf.random, name), jit_compile=True))
    agent.planner._compiled = agent.planner._traced
    check_plans(agent, saved, planner)


def check_plans(agent: PlanningAgent, saved: dict[str, np.ndarray], planner: str) -> None:
    """Asserts that an agent plans what was recorded of a planner."""
    plan = agent.plan_from(tf.constant(saved["start"]), tf.constant(SEED))
    found = {"actions": plan.actions, "states": plan.states, "rewards": plan.rewards, "curve": plan.curves["reward"]}
    check(found if plan.value is None else found | {"value": plan.value}, saved, planner)


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_sees_and_imagines_as_it_did(model):
    agent, saved = load(model, "cem")
    count = len(saved["images"])
    first, action = np.ones(count, bool), np.zeros([count, agent.action_size], np.float32)
    latent = agent.filter(saved["images"], first, agent.model.dynamics.initial(count), action)
    decoded = agent.model.decode(tf.constant(saved["start"])[:, None])
    check({f"latent_{name}": value for name, value in latent.items()} | {"decoded": decoded}, saved, "seen")
