"""The table of planners: every entry is an agent, every agent is an entry, and listing them is cheap."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import agents
import optimizers
import planning_agent
import policy_agents
from planning_agent import PlanningAgent
from policy_agents import ActorAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS
from tools.errors import UserError
from tools.schema import read_schema


@pytest.mark.parametrize("planner", agents.PLANNERS)
def test_every_entry_of_the_table_builds_an_agent(tiny_config, planner):
    agent = agents.agent_class(planner)(tiny_config.replace(planner=planner), OBSERVATIONS, ACTION_SPACE)
    assert isinstance(agent, PlanningAgent) and isinstance(agent.planner, optimizers.Planner)
    assert agent.planner.horizon == tiny_config.planning_horizon
    # The settings and the problem are all that a planner is made of.
    again = agents.make_planner(agent.config, agent.planner.problem)
    parts = lambda planner: {name: part for name, part in vars(planner).items() if name != "_compiled"}
    assert type(again) is type(agent.planner)
    np.testing.assert_equal(parts(again), parts(agent.planner))


def test_every_agent_is_in_the_table():
    members = {
        cls for module in (planning_agent, policy_agents) for _, cls in inspect.getmembers(module, inspect.isclass)
    }
    classes = {cls for cls in members if issubclass(cls, PlanningAgent)}
    assert {agents.agent_class(planner) for planner in agents.PLANNERS} == classes - {PlanningAgent, ActorAgent}


def test_every_planner_that_searches_can_teach_a_policy():
    choices = read_schema().settings["policy_teacher"].choices
    assert choices == ("none", *(name for name in agents.PLANNERS if name not in ("dreamer", "policy")))


def test_listing_the_planners_imports_no_tensorflow():
    code = "import sys, agents; assert agents.PLANNERS and not {'tensorflow', 'planning_agent'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(agents.__file__).parent, check=True)


def test_unknown_planner_names_the_nearest(tiny_config):
    with pytest.raises(UserError, match="'latco'"):
        agents.make_agent(tiny_config.replace(planner="laco"))
