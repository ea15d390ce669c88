"""ColloDreamer's experiments in reproduce/ against the paper."""

from pathlib import Path

from ruamel.yaml import YAML

import planning_agent
from tools.config import load_config

FIGURES = Path(planning_agent.__file__).parent / "reproduce" / "collodreamer.yaml"


def check_dreamer(lines):
    """Figure 5, with the defaults of Dreamer's authors' code."""
    expected = {
        "planner": "dreamer", "stoch": 30, "deter": 200, "hidden": 200, "cnn_depth": 32, "act": "elu",
        "cnn_act": "relu", "reward_layers": 2, "reward_units": 400, "free_nats": 3.0, "kl_scale": 1.0,
        "discount_head": False,
        "batch_size": 50, "batch_length": 50, "train_every": 1000, "train_steps": 100, "pretrain": 100, "prefill": 5000,
        "action_repeat": 2, "model_lr": 6e-4, "value_lr": 8e-5, "actor_lr": 8e-5, "adam_eps": 1e-7, "grad_clip": 100.0,
        "imagination_horizon": 15, "imagination_discount": 0.99, "discount": 0.99, "value_lambda": 0.95,
        "value_layers": 3, "value_units": 400, "policy_layers": 4, "policy_units": 400, "expl_noise": 0.3,
        "reinforce_share": 0.0, "actor_entropy": 0.0, "value_head": True, "eval_every": 5000, "latent": "gaussian",
    }  # fmt: skip
    configs = [load_config(line.split()) for line in lines]
    for config in configs:
        assert {key: config[key] for key in expected} == expected
    steps = {
        "dmc_cheetah_run": 80000, "dmc_quadruped_walk": 40000, "dmc_reacher_easy": 30000, "dmc_reacher_hard": 40000,
        "dmc_walker_walk": 70000,
    }  # fmt: skip
    assert {config.task: config.steps for config in configs} == steps


def test_the_experiments_have_the_papers_numbers():
    rows = YAML(typ="safe", pure=True).load(FIGURES.read_text(encoding="utf-8"))
    changes = {
        "collodreamer": {},
        "latco": {"value_head": False, "discount": 1.0, "latent": "gaussian", "kl_balance": 0.0, "deter": 200},
        "dropout": {"value_dropout": 0.1},
        "value_clipping": {"value_bound": 200.0},
        "batch_normalization": {"value_batch_norm": True},
        "values_from_replay": {"value_data": "replay"},
        "augmented_objective": {"augmented_objective": True, "augmented_target_every": 100},
        "length_50": {"deter": 50},
        "length_100": {"deter": 100},
        "length_200": {"deter": 200},
        "length_500": {"deter": 500},
        "discount_09": {"discount": 0.9},
        "discount_095": {"discount": 0.95},
        "categorical_only": {"kl_balance": 0.0},
        "balancing_only": {"latent": "gaussian", "stoch": 30, "free_nats": 3.0},
        "neither": {"latent": "gaussian", "stoch": 30, "free_nats": 3.0, "kl_balance": 0.0},
    }
    check_dreamer(rows.pop("dreamer"))
    assert rows.keys() == changes.keys()
    method = {
        "planner": "latco", "value_head": True, "value_data": "plans", "discount": 0.99, "deter": 300,
        "latent": "categorical", "stoch": 32, "classes": 32, "kl_balance": 0.8, "free_nats": 0.0,
        "value_layers": 3, "value_units": 400, "value_lr": 8e-5, "value_dropout": 0.0, "value_bound": 0.0,
        "value_batch_norm": False, "augmented_objective": False,
    }  # fmt: skip
    suite = {"action_repeat": 2, "prefill": 5000, "train_every": 1000, "train_steps": 100, "eval_every": 5000}
    suite |= {"batch_size": 50, "batch_length": 50, "planning_horizon": 12, "mpc_steps": 6, "latco_iterations": 100}
    for name, lines in rows.items():
        configs = [load_config(line.split()) for line in lines]
        steps = {"dmc_cheetah_run": 25000, "dmc_quadruped_walk": 30000, "dmc_reacher_easy": 25000}
        assert {config.task: config.steps for config in configs} == steps
        base = suite if name == "latco" else suite | method
        for config in configs:
            wrong = {key: config[key] for key, value in (base | changes[name]).items() if config[key] != value}
            assert not wrong, (name, wrong)
