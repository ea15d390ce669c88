"""Compares planners on one trained model: the return of their plans under that model, from the same start states.

    python benchmarks/plan_quality.py --logdir logdir/metaworld_reach/latco/0
    python benchmarks/plan_quality.py --logdir logdir/metaworld_reach/latco/0 --variants latco cem --starts 50 \\
        --n_parallel_plans 4                      # any setting that is no part of the model can be overridden

Starts are the first observations of `--starts` episodes, filtered by the model. One JSON line per variant:

`return_mean` and `return_se`, mean over the starts and its standard error: the rewards predicted for the plan's actions
    rolled out through the mean dynamics, one yardstick for all planners;
`return_sampled`: the same through sampled dynamics, mean of 20 rollouts a plan;
`return_own`: what the planner itself believes in the end (collocation: on states that may violate the dynamics);
`dynamics_violation`: squared, summed over the plan's steps, mean over the starts;
`converged_at`: median over the starts of the first iteration from which `return_own` stays within 2% of its end;
`seconds`: one call for all starts together, after a first call that compiles.

Where plans discount (`discount_head`, `discount`), all returns do.
"""

import checkout

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

import envs
import models
from agents import load_agent
from optimizers import Plan, Planner, rollout
from tools.errors import UserError, unknown
from tools.revision import git_revision

if TYPE_CHECKING:
    from planning_agent import PlanningAgent

# label -> words that make it of the run's own settings. Image collocation gets a fraction of its 5000 iterations.
VARIANTS = {
    "random_shooting": ["--planner", "random_shooting"],
    "cem": ["--planner", "cem"],
    "mppi": ["--planner", "mppi"],
    "icem": ["--planner", "icem"],
    "gd": ["--planner", "gd"],
    "gn": ["--planner", "gn"],
    "ilqr": ["--planner", "ilqr"],
    "latco": ["--planner", "latco", "--latco_solver", "condensed"],
    "latco_block_tridiagonal": ["--configs", "latco_paper"],
    "latco_damping_1e-3": ["--planner", "latco", "--latco_solver", "condensed", "--latco_damping", "1e-3"],
    "latco_log10": ["--planner", "latco", "--latco_dual_log", "10", "--latco_eta", "0.1"],
    "latco_no_relaxation": ["--configs", "latco_no_relaxation"],
    "latco_no_constraint": ["--configs", "latco_no_constraint"],
    "gaussian_latco": ["--planner", "gaussian_latco"],
    "latco_first_order": ["--planner", "latco_first_order"],
    "image_collocation": ["--planner", "image_collocation", "--first_order_iterations", "100"],
    "grasp": ["--planner", "grasp"],
}
SAMPLED_ROLLOUTS = 20


def start_states(agent: "PlanningAgent", count: int, seed: int) -> tf.Tensor:
    """Features [count, n] of the first observations of `count` episodes."""
    batch = envs.make_vector_env(agent.config, 1, seed)
    feats = []
    try:
        for index in range(count):
            obs, _ = batch.reset(seed=seed + index)
            action = np.zeros([1, agent.action_size], np.float32)
            latent = agent.filter(obs["image"], np.ones(1, bool), agent.model.dynamics.initial(1), action)
            feats.append(models.get_feat(latent))
    finally:
        batch.close()
    return tf.concat(feats, 0)


def sampled_return(planner: Planner, z0: tf.Tensor, actions: tf.Tensor, seed: int) -> float:
    """Mean return of sampled rollouts of plans with actions [B, H, m] from z0 [B, n]."""
    problem = planner.problem
    z0, actions = (tf.repeat(x[:, None], SAMPLED_ROLLOUTS, 1) for x in (z0, actions))
    noise = tf.random.stateless_normal([*actions.shape[:3], problem.noise_size], [seed, 1])
    m = problem.action_size
    states = rollout(lambda z, x: problem.sample_step(z, x[..., :m], x[..., m:]), z0, tf.concat([actions, noise], -1))
    return float(tf.reduce_mean(tf.reduce_sum(problem.reward(states), -1)))


def converged_at(plan: Plan) -> float:
    """Median over the batch of the first iteration (from 1) after which the plan's own return changes by at most 2%."""
    reward = plan.curves["reward"].numpy()
    off = np.abs(reward - reward[:, -1:]) > 0.02 * np.abs(reward[:, -1:])
    return float(np.median([np.flatnonzero(row)[-1] + 2 if row.any() else 1 for row in off]))


def measure(planner: Planner, z0: tf.Tensor, seed: int) -> dict:
    """One line of figures for a planner and its first states z0 (`PlanningAgent.planner_start`)."""
    plan = planner(z0, [seed, 0])
    start = time.perf_counter()
    plan = planner(z0, [seed, 0])
    returns = tf.reduce_sum(plan.rewards, 1).numpy()
    seconds = time.perf_counter() - start
    row = {
        "return_mean": float(returns.mean()),
        "return_se": float(returns.std(ddof=1) / np.sqrt(len(returns))),
        "return_sampled": sampled_return(planner, z0, plan.actions, seed),
        "return_own": float(np.mean(plan.curves["reward"][:, -1])),
    }
    if "dynamics_violation" in plan.curves:
        row["dynamics_violation"] = float(np.mean(plan.curves["dynamics_violation"][:, -1]))
    row = {key: float(f"{value:.4g}") for key, value in row.items()}
    return row | {
        "iterations": planner.iterations,
        "converged_at": converged_at(plan),
        "non_finite": int(tf.reduce_sum(plan.non_finite)),
        "seconds": round(seconds, 2),
    }


def main() -> int:
    """Parses the variants and prints one JSON line for each; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", required=True, help="of a run of planning_agent.py")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--start_seed", type=int, default=2_000_000)
    args, overrides = parser.parse_known_args()
    try:
        for label in args.variants:
            if label not in VARIANTS:
                raise unknown("variant", label, VARIANTS)
        z0 = None
        for label in args.variants:
            agent = load_agent(args.logdir, [*VARIANTS[label], *overrides])
            if z0 is None:
                z0 = start_states(agent, args.starts, args.start_seed)
            row = {"benchmark": "plan_quality", "variant": label, "step": int(agent.step), "starts": args.starts}
            row |= {"horizon": agent.planner.horizon} | measure(agent.planner, agent.planner_start(z0), args.start_seed)
            print(json.dumps(row | git_revision()), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
