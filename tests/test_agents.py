"""The table of planners: every entry is an agent, every agent is an entry, and listing them is cheap."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from problems import curved

import agents
import optimizers
import planner_agents
import policy_agents
import ship
from planning_agent import PlanningAgent
from policy_agents import ActorAgent
from tests.tiny_agents import ACTION_SPACE, OBSERVATIONS
from tools.config import load_config
from tools.errors import UserError
from tools.memory import check_sizes
from tools.schema import read_schema
from training.logdir import CHECKPOINTS, open_logdir


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


# One class serves two planners; where their settings differ it has CEM's.
MPPI_ONLY = ("candidates", "gamma")


@pytest.mark.parametrize("name", sorted(set(agents.PLANNERS) - {"dreamer", "policy"}))
def test_planners_made_without_settings_have_their_defaults(name, monkeypatch):
    made = []
    for key, cls in inspect.getmembers(planner_agents, inspect.isclass):
        if issubclass(cls, optimizers.Planner):
            record = lambda *args, cls=cls, **options: made.append((cls, inspect.signature(cls).bind(*args, **options)))
            monkeypatch.setattr(planner_agents, key, record)
    agents.make_planner(load_config(["--planner", name]), optimizers.LatentProblem(None, None, 1, 1))
    [(cls, call)] = made
    given = {name: value for name, value in call.arguments.items() if name != "options"}
    given |= call.arguments.get("options", {})
    defaults = {}
    for parent in cls.__mro__[:-1]:
        for parameter in inspect.signature(parent).parameters.values():
            if parameter.default is not parameter.empty:
                defaults.setdefault(parameter.name, parameter.default)
    shared = (given.keys() & defaults.keys()).difference(MPPI_ONLY if name == "mppi" else ())
    assert shared and {key: defaults[key] for key in shared} == {key: given[key] for key in shared}


def test_settings_of_the_first_actions_reach_every_planner_that_searches(tiny_config):
    config = tiny_config.replace(initial_candidates=7, initial_correlation=0.5, latco_keep_start=True, planner="cem")
    config = config.replace(policy_candidates=0.25)
    problem = agents.agent_class("cem")(config, OBSERVATIONS, ACTION_SPACE).planner.problem
    for name in set(agents.PLANNERS) - {"dreamer", "policy"}:
        planner = agents.make_planner(config.replace(planner=name), problem)
        assert (planner.initial_candidates, planner.initial_correlation) == (7, 0.5)
        assert getattr(planner, "keep_start", True)
        assert getattr(planner, "policy_share", 0.0) == (0.25 if planner.DRAWS_FROM_POLICY else 0.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"planner": "gd", "warm_start": "policy"}, "GD .* start from a policy .*warm_start"),
        ({"planner": "cem", "policy_candidates": 0.1}, "CEM .* candidates of a policy .*policy_candidates"),
    ],
)
def test_planners_that_need_a_policy_refuse_a_problem_without_one(tiny_config, changes, named):
    with pytest.raises(UserError, match=named):
        agents.make_planner(tiny_config.replace(**changes), curved())


SHARED = {"horizon": "planning_horizon", "restarts": "n_parallel_plans", "restart_samples": "restart_samples"}
SHARED |= {"tolerance": "plan_tolerance"}
CEM = {"iterations": "sampling_iterations", "elites": "sampling_elites", "sample_states": "sample_states"}
BOUND = {"eps_act": "eps_act", "dual_lr": "dual_lr", "eta": "dual_eta"}
LATCO = {"damping": "latco_damping", "solver": "latco_solver", "dual_lr": "dual_lr", "eta": "dual_eta"}
LATCO |= {"eps nu": "eps_act", "eps kappa": "eps_con", "first_duals lam": "latco_lam_init"}
LATCO |= {"first_duals nu": "latco_nu_init", "first_duals kappa": "latco_kappa_init"}
LIFTED = {"iterations": "first_order_iterations", "dual_lr": "first_order_dual_lr", "dual_every": "dual_every"}
LIFTED |= {"eps lam": "eps_dyn", "eps nu": "eps_act"}
GRASP = {name: f"grasp_{name}" for name in ("iterations", "lr", "lam", "noise", "sync_every", "sync_steps", "sync_lr")}
# planner -> its attributes (of dictionaries, their entries) and the settings that they are.
WIRES = {
    "random_shooting": {"iterations": "sampling_iterations", "candidates": "cem_candidates"},
    "cem": CEM | {"candidates": "cem_candidates"},
    "mppi": CEM | {"candidates": "mppi_candidates", "gamma": "mppi_gamma"},
    "icem": {name: f"icem_{name}" for name in ("iterations", "candidates", "elites", "momentum", "std")},
    "gd": BOUND | {"iterations": "gd_iterations", "lr": "gd_lr", "dual_every": "dual_every"},
    "gn": BOUND | {"iterations": "gn_iterations", "damping": "gn_damping"},
    "ilqr": {"iterations": "ilqr_iterations", "damping": "ilqr_damping", "feedback": "ilqr_feedback"},
    "latco": LATCO | {"eps lam": "eps_dyn", "finish_steps": "latco_finish"},
    "gaussian_latco": LATCO | {"eps lam": "gaussian_eps_dyn", "samples": "gaussian_samples"},
    "latco_first_order": LIFTED | {"lr": "first_order_lr"},
    "image_collocation": LIFTED | {"lr": "image_lr"},
    "grasp": GRASP,
}


def test_every_setting_of_a_planner_reaches_it(tiny_config):
    names = sorted({setting for wires in (SHARED, *WIRES.values()) for setting in wires.values()})
    kinds = {"sample_states": False, "ilqr_feedback": True, "latco_solver": "block_tridiagonal"}
    values = {
        name: kinds.get(name, 100 + i if isinstance(tiny_config[name], int) else 0.001 * (100 + i))
        for i, name in enumerate(names)
    }
    values |= {"sampling_elites": 12, "icem_elites": 11}
    config = tiny_config.replace(**values)
    for planner, wires in WIRES.items():
        made = agents.make_planner(config.replace(planner=planner), curved())
        for attribute, setting in (SHARED | wires).items():
            name, _, entry = attribute.partition(" ")
            found = getattr(made, name)[entry] if entry else getattr(made, name)
            assert found == config[setting], (planner, attribute)
    latco, gaussian = (agents.make_planner(config.replace(planner=x), curved()) for x in ("latco", "gaussian_latco"))
    assert latco.iterations == config.latco_iterations + config.latco_finish
    assert gaussian.iterations == config.gaussian_iterations + 1
    icem = agents.make_planner(config.replace(planner="icem", icem_decay=2.0, icem_keep=0.6, icem_beta=0.0), curved())
    assert icem.num_kept == 6 and icem.populations[1] == config.icem_candidates // 2
    assert np.any(icem.basis != agents.make_planner(config.replace(planner="icem", icem_beta=1.0), curved()).basis)


def test_every_agent_is_in_the_table():
    members = {
        cls for module in (planner_agents, policy_agents) for _, cls in inspect.getmembers(module, inspect.isclass)
    }
    classes = {cls for cls in members if issubclass(cls, PlanningAgent)}
    assert {agents.agent_class(planner) for planner in agents.PLANNERS} == classes - {PlanningAgent, ActorAgent}


def test_every_planner_that_searches_can_teach_a_policy():
    choices = read_schema().settings["policy_teacher"].choices
    assert choices == ("none", *(name for name in agents.PLANNERS if name not in ("dreamer", "policy")))


def test_listing_the_planners_imports_no_tensorflow():
    code = "import sys, agents; assert agents.PLANNERS and not {'tensorflow', 'planner_agents'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(agents.__file__).parent, check=True)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"planner": "dreamer", "imagination_horizon": 10**9}, "imagination_horizon 1000000000"),
        ({"planner": "dreamer", "policy_units": 10**8}, "policy_units 100000000"),
        ({"planner": "dreamer", "value_units": 10**8}, "value_units 100000000"),
        ({"planner": "policy", "policy_memory": 2 * 10**9, "stoch": 1000}, "policy_memory 2000000000"),
        ({"planner": "latco", "planning_horizon": 2**31 - 1, "stoch": 1000}, "planning_horizon 2147483647"),
        ({"planner": "gd", "n_parallel_plans": 2**31 - 1, "stoch": 1000}, "n_parallel_plans 2147483647"),
        (
            {"planner": "cem", "cem_candidates": 2**31 - 1, "planning_horizon": 1000},
            "cem_candidates 2147483647",
        ),
        (
            {"planner": "gd", "initial_candidates": 2**31 - 1, "planning_horizon": 1000},
            "initial_candidates 2147483647",
        ),
        *(({name: 10**8}, f"{name} 100000000") for name in ("deter", "cnn_depth", "reward_units")),
        ({"hidden": 2**31 - 1, "deter": 1000}, "stoch 4 and hidden 2147483647"),
        ({"stoch": 2**31 - 1, "hidden": 1000}, "stoch 2147483647 and hidden 1000"),
    ],
)
def test_sizes_that_surely_do_not_fit_are_refused_before_anything_is_made(tiny_config, words, what):
    with pytest.raises(
        UserError, match=f"{what} would take .* GiB of memory at least, and this machine has .*: choose smaller"
    ):
        agents.make_agent(tiny_config.replace(reward_layers=2, **words))


def test_settings_that_nothing_uses_may_be_of_any_size(tiny_config):
    check_sizes(
        tiny_config.replace(planner="gd", imagination_horizon=10**9, policy_units=10**8, policy_memory=2**31 - 1)
    )
    check_sizes(load_config(["--configs", "defaults", "metaworld", "--planner", "dreamer"]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"planner": "gd"}, "planner gd"),
        ({"planner": "random_shooting"}, "planner random_shooting"),
        ({"planner": "policy", "policy_teacher": "gd"}, "policy_teacher gd"),
        ({"planner": "policy", "policy_teacher": "none"}, "policy_teacher none"),
        ({"planner": "policy", "policy_teacher": "icem"}, ""),
        ({"planner": "gd", "policy_candidates": 0.0}, ""),
    ],
)
def test_candidates_of_a_policy_that_no_planner_draws_are_named(tiny_config, monkeypatch, capsys, changes, named):
    monkeypatch.setattr(agents.envs, "spaces", lambda config: (OBSERVATIONS, ACTION_SPACE))
    agents.make_agent(tiny_config.replace(**{"policy_candidates": 0.1} | changes))
    notes = capsys.readouterr().err
    assert (f"policy_candidates has no effect, since {named} draws no candidates" in notes) == bool(named)
    assert bool(named) or "policy_candidates" not in notes


def test_unknown_planner_names_the_nearest(tiny_config):
    with pytest.raises(UserError, match="'latco'"):
        agents.make_agent(tiny_config.replace(planner="laco"))


def new_run(config):
    """A new agent, and its log directory with a checkpoint of it."""
    agent, logdir = agents.make_agent(config), open_logdir(config, [])
    tf.train.CheckpointManager(tf.train.Checkpoint(**agent.checkpointed), str(logdir / CHECKPOINTS), 1).save()
    return agent, logdir


@pytest.mark.parametrize("probe", [False, True])
def test_an_evaluation_may_leave_out_what_its_planner_cannot_use(tiny_config, tmp_path, probe):
    heads = {"cost_head": True, "value_head": True, "augmented_objective": True, "discount": 0.9, "state_probe": probe}
    run, logdir = new_run(tiny_config.replace(task="pointmass_obstacle", planner="latco", **heads))
    words = ["--planner", "cem"]
    for advised in ("cost_head", "augmented_objective"):
        with pytest.raises(UserError, match=f"{advised}.*to false"):
            agents.load_agent(logdir, words)
        words += [f"--{advised}", "false"]
    ship.ship(logdir, tmp_path / "shipped")
    for place in (logdir, tmp_path / "shipped"):
        agent = agents.load_agent(place, words)
        problem = agent.planner.problem
        assert problem.constraint is None and problem.log_prob is None and problem.value is not None
        for name in ("encoder", "dynamics", "decoder", "reward"):
            old, new = (getattr(each.model, name).trainable_variables for each in (run, agent))
            for one, other in zip(old, new, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)  # shipped weights are float16
        for one, other in zip(run.value.weights, agent.value.weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("key", ["cost_head", "value_head", "state_probe"])
def test_an_evaluation_adds_nothing_that_the_run_did_not_learn(tiny_config, key):
    _, logdir = new_run(tiny_config.replace(task="pointmass_obstacle", planner="latco", discount=0.9))
    with pytest.raises(UserError, match=f"a run with {key} = False, this command says True"):
        agents.load_agent(logdir, [f"--{key}", "true"])
