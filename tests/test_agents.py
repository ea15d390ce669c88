"""The table of planners: every entry is an agent, every agent is an entry, and listing them is cheap."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import agents
import optimizers
import planning_agent
from planning_agent import PlanningAgent
from tests.test_agent import ACTION_SPACE, OBSERVATIONS


@pytest.mark.parametrize("planner", agents.PLANNERS)
def test_every_entry_of_the_table_builds_an_agent(tiny_config, planner):
    agent = agents.agent_class(planner)(tiny_config.replace(planner=planner), OBSERVATIONS, ACTION_SPACE)
    assert isinstance(agent, PlanningAgent) and isinstance(agent.planner, optimizers.Planner)
    assert agent.planner.horizon == tiny_config.planning_horizon


def test_every_agent_is_in_the_table():
    classes = [cls for _, cls in inspect.getmembers(planning_agent, inspect.isclass) if issubclass(cls, PlanningAgent)]
    listed = [agents.agent_class(planner) for planner in agents.PLANNERS]
    assert sorted(cls.__name__ for cls in [*listed, PlanningAgent]) == sorted(cls.__name__ for cls in classes)


def test_listing_the_planners_imports_no_tensorflow():
    code = "import sys, agents; assert agents.PLANNERS and not {'tensorflow', 'planning_agent'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(agents.__file__).parent, check=True)
