"""The experiment files: every line is a command that runs, and its settings are the numbers that the papers give.

The numbers below are copied from the papers and never read from config.yaml.
"""

import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from suites import task_names

import envs
from agents import PLANNERS
from envs.workers import in_new_process
from tools.config import Config, load_config
from tools.schema import CONFIG_FILE

FILES = sorted((CONFIG_FILE.parent / "reproduce").glob("*.yaml"))
Settings = dict[str, bool | int | float | str]

# fmt: off

# World models

# PlaNet appendix A; LatCo (ICML and ICLR) appendix A: "models from PlaNet with default hyperparameters".
WORLD_MODEL = {
    "dynamics": "rssm", "latent": "gaussian", "stoch": 30, "deter": 200, "hidden": 200, "act": "relu",
    "cnn_act": "relu", "cnn_depth": 32, "reward_layers": 2, "reward_units": 200, "reward_scale": 1.0, "kl_scale": 1.0,
    "kl_balance": 0.0, "free_nats": 3.0, "overshooting": 1, "batch_size": 50, "batch_length": 50, "model_lr": 1e-3,
    "adam_eps": 1e-4, "grad_clip": 1000.0, "reward_normalization": False, "reward_transform": "none",
    "discount_head": False, "cost_head": False, "discount": 1.0,
}
# PlaNet appendix A; the LatCo papers give no other.
COLLECTION = {"envs": 1, "expl_noise": 0.3, "prefill_correlation": 0.0, "warm_start": False, "n_parallel_plans": 1}

# Suites: episodes, horizons (LatCo ICML 5.1), steps (E.1), updates an episode (appendix A); S = 5 seed episodes (PlaNet
# appendix A).
METAWORLD = WORLD_MODEL | COLLECTION | {
    "time_limit": 150, "planning_horizon": 30, "mpc_steps": 30, "steps": 500_000, "train_every": 150,
    "train_steps": 15, "prefill": 5 * 150, "reward": "sparse", "randomize": True,
}
LONG = {"planning_horizon": 50, "mpc_steps": 25}  # Pushing, Thermos and Hammer
HYBRID = LONG | {"steps": 400_000}
DMC = WORLD_MODEL | COLLECTION | {
    "time_limit": 1000, "planning_horizon": 12, "mpc_steps": 6, "steps": 800_000, "train_every": 1000,
    "train_steps": 100, "prefill": 5 * 1000,
}
# PlaNet appendix A and table 1: 1000 episodes, 10 trajectories; section 2: a new plan at each step.
PLANET = DMC | {"steps": 1_000_000, "mpc_steps": 1, "image_bits": 5, "pretrain": 100, "eval_episodes": 10}

# Planners (LatCo ICML appendix B, ICLR appendix B; PlaNet appendix A)

CEM = {
    "planner": "cem", "cem_candidates": 10_000, "sampling_elites": 100, "sampling_iterations": 100,
    "sample_states": True,
}
MPPI = {
    "planner": "mppi", "mppi_candidates": 1000, "sampling_elites": 100, "sampling_iterations": 100, "mppi_gamma": 10.0,
    "sample_states": True,
}
GD = {"planner": "gd", "gd_iterations": 500, "gd_lr": 0.05, "dual_every": 5, "eps_act": 1e-4}
LATCO = {
    "planner": "latco", "latco_solver": "block_tridiagonal", "latco_iterations": 200, "latco_damping": 1e-3,
    "eps_dyn": 1e-4, "eps_act": 1e-4, "dual_lr": 0.1, "dual_eta": 0.01, "latco_dual_log": "e",
    "latco_lam_init": 1.0, "latco_nu_init": 1.0,
}
OURS = {"latco_solver": "auto", "latco_damping": 1e-5}  # no numbers of a paper; the rest of the row is
GAUSSIAN = {
    "planner": "gaussian_latco", "gaussian_iterations": 50, "gaussian_samples": 50, "gaussian_eps_dyn": 1e-2,
    "eps_act": 1e-4, "latco_damping": 1e-3,
}
FIRST_ORDER = {
    "first_order_iterations": 5000, "dual_every": 5, "first_order_dual_lr": 1.5, "eps_dyn": 1e-4,
    "eps_act": 1e-4,
}

# DM Control (appendix B): 10 refits of 1000 samples, else 100 iterations, and LatCo's thresholds.
DMC_CEM = CEM | {"sampling_iterations": 10, "cem_candidates": 1000}
DMC_MPPI = MPPI | {"sampling_iterations": 10}
DMC_GD = GD | {"gd_iterations": 100}
DMC_LATCO = LATCO | {"latco_iterations": 100, "eps_dyn": 1e-2, "eps_act": 1e-2}

# LatCo ICLR: sections 6.1 (start, horizons) and appendices A (15 updates an episode), B (thresholds).
ICLR = METAWORLD | {"randomize": False}
ICLR_PUSH = ICLR | {
    "time_limit": 120, "planning_horizon": 40, "mpc_steps": 20, "train_every": 120, "prefill": 5 * 120,
}
ICLR_LATCO = LATCO | {"eps_dyn": 1e-5, "eps_act": 1e-5}
ICLR_GD = GD | {"eps_act": 1e-5}
# Section 6.1 and appendix A: episodes of 30 steps, beta 0.1. Chunks of 50 do not fit into them. Trained offline alone.
OBSTACLE = WORLD_MODEL | {
    "time_limit": 30, "planning_horizon": 30, "mpc_steps": 30, "kl_scale": 0.1, "batch_length": 30, "train_every": 30,
    "train_steps": 15, "steps": 0,
}
ICLR_DATA = 200_000  # environment steps of offline data, and of those collected after them for push (appendix C)

# fmt: on

REACH, BUTTON, WINDOW, DRAWER, PUSH, THERMOS, HAMMER = (
    f"metaworld_{name}"
    for name in ("reach", "button-press", "window-close", "drawer-close", "push", "stick-push", "hammer")
)
FOUR = (REACH, BUTTON, WINDOW, DRAWER)
# LatCo ICML 5.1: 2 on DM Control and for Thermos and Hammer, else none; ICLR appendix A: 1.
LATCO_DMC = {"dmc_reacher_easy": 2, "dmc_cheetah_run": 2, "dmc_quadruped_walk": 2}
# PlaNet appendix A.
PLANET_TASKS = {
    "dmc_cartpole_swingup": 8,
    "dmc_reacher_easy": 4,
    "dmc_cheetah_run": 4,
    "dmc_finger_spin": 2,
    "dmc_ball_in_cup_catch": 4,
    "dmc_walker_walk": 2,
}

Row = dict[str, tuple[Settings, int]]  # task -> settings and action repeat


def table1(metaworld: Settings, dmc: Settings) -> Row:
    """A row of LatCo ICML table 1 with a planner's settings on the two suites."""
    row = {task: (METAWORLD | metaworld, 1) for task in FOUR} | {PUSH: (METAWORLD | LONG | metaworld, 1)}
    return row | {task: (DMC | dmc, repeat) for task, repeat in LATCO_DMC.items()}


def table2(task: str, planner: Settings) -> tuple[Settings, int]:
    """A cell of LatCo ICML table 2, whose offline data are those of its task."""
    return METAWORLD | HYBRID | planner | {"offline_dir": f"data/{task}"}, 2


def button(settings: Settings) -> Row:
    """A row of LatCo ICML table 3."""
    return {BUTTON: (METAWORLD | settings, 1)}


def iclr(planner: Settings) -> Row:
    """A row of LatCo ICLR table 1."""
    return {REACH: (ICLR | planner, 1), PUSH: (ICLR_PUSH | planner, 1)}


def offline(folder: str, episode: int) -> Settings:
    """A model of LatCo ICLR table 2, from 200K environment steps in episodes of that length."""
    return {"offline_dir": f"data/{folder}", "pretrain": 15 * ICLR_DATA // episode}


TABLES: dict[str, dict[str, Row]] = {
    "latco_table1.yaml": {
        "latco": table1(LATCO, DMC_LATCO),
        "latco_condensed": table1(LATCO | OURS, DMC_LATCO | OURS),
        "cem": table1(CEM, DMC_CEM),
        "mppi": table1(MPPI, DMC_MPPI),
        "gd": table1(GD, DMC_GD),
    },
    "latco_table2.yaml": {
        name: {task: table2(task, planner) for task in (THERMOS, HAMMER)}
        for name, planner in [
            ("latco", LATCO),
            ("latco_condensed", LATCO | OURS),
            ("cem", CEM),
            ("mppi", MPPI),
            ("gd", GD),
        ]
    },
    # Appendix B; the latent without a deterministic path: section 5.4.
    "latco_table3.yaml": {
        "latco": button(LATCO),
        "latco_no_relaxation": button(LATCO | {"latco_lam_init": 1e8}),
        "latco_no_constraint": button(LATCO | {"latco_lam_init": 8.0, "latco_nu_init": 16.0, "dual_lr": 0.0}),
        "latco_no_deterministic": button(LATCO | {"dynamics": "ssm"}),
        "latco_first_order": button(FIRST_ORDER | {"planner": "latco_first_order"}),
        "image_collocation": button(FIRST_ORDER | {"planner": "image_collocation", "image_lr": 0.02}),
    },
    "latco_iclr.yaml": {
        "iclr_latco": iclr(ICLR_LATCO),
        "iclr_cem": iclr(CEM),
        "iclr_gd": iclr(ICLR_GD),
        # Our choice: 15 updates for each episode of the data, as online.
        "iclr_offline": {
            "pointmass_obstacle": (OBSTACLE | ICLR_LATCO | offline("iclr_obstacle/episodes", 30), 1),
            REACH: (ICLR | ICLR_LATCO | offline("iclr_reach", 150) | {"steps": 0}, 1),
            PUSH: (ICLR_PUSH | ICLR_LATCO | offline("iclr_push", 120) | {"steps": ICLR_DATA}, 1),
        },
    },
    "planet_table1.yaml": {
        "planet": {task: (PLANET | DMC_CEM, repeat) for task, repeat in PLANET_TASKS.items()},
    },
}


def read(path: Path) -> dict[str, list[str]]:
    """Row names and command lines of an experiment file."""
    return YAML(typ="safe", pure=True).load(path)  # a name given twice is refused


def parse(line: str) -> Config:
    """What planning_agent.py makes of a command line."""
    return load_config(shlex.split(line)).resolved()


def configs(path: Path) -> list[tuple[str, Config]]:
    """Row name and settings of every line."""
    return [(name, parse(line)) for name, lines in read(path).items() for line in lines]


def check_format(path: Path) -> None:
    """Asserts that a file has rows of command lines that a sweep can run."""
    text, rows = path.read_text(encoding="utf-8"), read(path)
    assert text.startswith("# "), "an experiment file starts with a comment: table, seeds, steps, the paper's figures"
    assert isinstance(rows, dict) and rows
    for name, lines in rows.items():
        assert isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name), f"{name!r} names no folder"
        assert isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines), name
        for line in lines:
            words = [word.partition("=")[0] for word in shlex.split(line)]
            assert words[0] == "--configs", f"{name}: {line}"
            # A sweep fills these in.
            assert not {"--seed", "--logdir"} & set(words), f"{name}: {line}"
        tasks = [parse(line).task for line in lines]
        assert len(set(tasks)) == len(tasks), f"{name} has two runs for one folder: {tasks}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_a_command_of_known_planner_and_suite(path: Path):
    check_format(path)
    for name, config in configs(path):
        assert config.planner in PLANNERS, name
        for task in envs.split_tasks(config.task):
            assert envs.split_task(task)[0] in envs.SUITES


GOOD_LINE = "--configs defaults metaworld --planner cem"


@pytest.mark.parametrize(
    "text",
    [
        f"row:\n  - {GOOD_LINE}\n",
        f"# Head\na/b:\n  - {GOOD_LINE}\n",
        f"# Head\nrow: {GOOD_LINE}\n",
        "# Head\nrow: []\n",
        f"# Head\nrow:\n  - {GOOD_LINE} --seed 3\n",
        f"# Head\nrow:\n  - {GOOD_LINE} --logdir=x\n",
        f"# Head\nrow:\n  - python planning_agent.py {GOOD_LINE}\n",
        f"# Head\nrow:\n  - {GOOD_LINE}\n  - {GOOD_LINE}\n",
    ],
)
def test_the_check_of_the_format_finds_faults(tmp_path: Path, text: str):
    path = tmp_path / "experiment.yaml"
    path.write_text(f"# Head\nrow:\n  - {GOOD_LINE}\n")
    check_format(path)
    path.write_text(text)
    with pytest.raises(AssertionError):
        check_format(path)


@pytest.mark.slow  # three processes with a simulator each
def test_every_task_exists():
    tasks = {task for path in FILES for _, config in configs(path) for task in envs.split_tasks(config.task)}
    for suite in {envs.split_task(task)[0] for task in tasks}:
        missing = {task for task in tasks if envs.split_task(task)[0] == suite} - set(in_new_process(task_names, suite))
        assert not missing


@pytest.mark.parametrize("file", TABLES)
def test_every_row_covers_the_tasks_of_its_table(file: str):
    tasks: dict[str, list[str]] = {}
    for name, config in configs(CONFIG_FILE.parent / "reproduce" / file):
        tasks.setdefault(name, []).append(config.task)
    assert tasks == {name: list(row) for name, row in TABLES[file].items()}


@pytest.mark.parametrize("file", TABLES)
def test_settings_are_the_numbers_of_the_papers(file: str):
    wrong = []
    for name, config in configs(CONFIG_FILE.parent / "reproduce" / file):
        settings, repeat = TABLES[file][name][config.task]
        found = {"action repeat": envs.action_repeat(config), **{key: config[key] for key in settings}}
        expected = {"action repeat": repeat, **settings}
        wrong += [
            f"{name}, {config.task}: {key} is {found[key]}, the paper has {expected[key]}"
            for key in expected
            if found[key] != expected[key]
        ]
    assert not wrong, "\n".join(wrong)


def test_gaussian_plans_and_dense_rewards_have_the_numbers_of_the_appendix():
    """They are in figures only (LatCo ICML 8 and 10; appendices B and E.2)."""
    gaussian = parse("--configs defaults metaworld latco_paper --planner gaussian_latco")
    assert {key: gaussian[key] for key in METAWORLD | GAUSSIAN} == METAWORLD | GAUSSIAN
    dense = parse("--configs defaults metaworld metaworld_dense")
    expected = METAWORLD | {"reward": "dense", "reward_normalization": True}
    assert {key: dense[key] for key in expected} == expected


def test_one_row_and_task_is_one_command_in_all_tables():
    """Sweeps of several files into one folder do not mix different runs."""
    seen: dict[tuple[str, str], Config] = {}
    for file in TABLES:
        for name, config in configs(CONFIG_FILE.parent / "reproduce" / file):
            assert seen.setdefault((name, config.task), config) == config, (file, name, config.task)


def test_the_authors_preset_has_the_settings_of_their_code():
    config = parse("--configs defaults metaworld latco_authors latco_paper")
    expected = {
        "steps": 300000, "prefill": 5000, "pretrain": 100, "train_every": 150, "train_steps": 15, "batch_size": 50,
        "batch_length": 50, "act": "elu", "cnn_act": "relu", "reward_layers": 2, "reward_units": 400, "model_lr": 6e-4,
        "grad_clip": 100.0, "free_nats": 3.0, "kl_scale": 1.0, "expl_noise": 0.3, "planning_horizon": 30,
        "mpc_steps": 15, "latco_iterations": 200, "latco_damping": 1e-3, "latco_solver": "block_tridiagonal",
        "latco_dual_log": "10", "dual_eta": 0.1, "dual_lr": 0.1, "cem_candidates": 10000, "sampling_elites": 100,
        "mppi_gamma": 1.0, "gd_lr": 0.05, "gaussian_samples": 50, "starts": "paper", "latco_finish": 0,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("preset", ["latco_paper", "latco_authors"])
def test_presets_without_a_finish_keep_no_start(preset):
    config = parse(f"--configs defaults metaworld small closed_loop {preset}")
    assert config.latco_finish == 0 and not config.latco_keep_start


def test_closed_loop_is_the_preset_replan_from_better_starts():
    small = "--configs defaults metaworld small"
    replan, closed_loop = parse(f"{small} replan"), parse(f"{small} closed_loop")
    search = {
        "planning_horizon": 50, "mpc_steps": 5, "warm_start": True, "latco_iterations": 30, "gd_iterations": 100,
        "sampling_iterations": 3, "cem_candidates": 350, "sampling_elites": 35,
    }  # fmt: skip
    assert replan == parse(small).replace(**search)
    starts = {"initial_candidates": 500, "initial_correlation": 0.9, "latco_keep_start": True}
    assert closed_loop == replan.replace(**starts)
