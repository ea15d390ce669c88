"""Times one plan of every planner on a world model with random weights.

    python benchmarks/planning.py                                        # CEM and LatCo at LatCo's size
    python benchmarks/planning.py --all                                  # every planner with the papers' settings
    python benchmarks/planning.py --planners latco --horizons 30 50 100 200 --solvers condensed block_tridiagonal \\
        --iterations 5                                                   # cost against the horizon, both solvers

One JSON line per measurement: `seconds` is the median over `repeats` plans after the first, whose time (tracing and
compiling included) is `first_call_seconds`; `iterations_to_final` is the first iteration from which on the plan's own
return stays within 2% of its final value and its dynamics violation below twice the threshold. `memory_gb` is the peak
of the process while the planner compiles and plans, `memory_before_gb` what it held before. `peak_gflops` is a large
matrix product timed in the same run. Iterations are the papers' unless `--iterations` says otherwise.
"""

import checkout

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import models
import optimizers
from benchmarks.memory import begin_peak, peak_gb
from planners.cem import CEM, RandomShooting
from planners.collocation_solvers import SOLVERS
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.latco import LatCo
from tools.command_line import Parser, count, positive
from tools.program import run_program
from world_model.latent_problem import latent_problem

PEAK_SIZE = 2048

PAPER: dict[str, Any] = {"damping": 1e-3, "finish": 0}  # LatCo as in its paper

# name -> (planner of a problem, a horizon, a solver and keyword arguments, the papers' iterations, horizon of the
# authors' measurement). Image collocation's 5000 iterations would take most of an hour: a hundred are timed.
PLANNERS = {
    "random_shooting": (lambda p, H, _, **o: RandomShooting(p, H, candidates=1000, **o), 10, 12),
    "cem": (lambda p, H, _, **o: CEM(p, H, candidates=1000, **o), 10, 12),
    "mppi": (lambda p, H, _, **o: CEM(p, H, candidates=1000, gamma=10.0, **o), 10, 12),
    "icem": (lambda p, H, _, **o: ICEM(p, H, **o), 5, 12),
    "gd": (lambda p, H, _, **o: GD(p, H, **o), 500, 30),
    "gn": (lambda p, H, _, **o: GN(p, H, **o), 100, 30),
    "ilqr": (lambda p, H, _, **o: ILQR(p, H, **o), 50, 30),
    "latco": (lambda p, H, solver, **o: LatCo(p, H, solver=solver, **PAPER, **o), 200, 30),
    "gaussian_latco": (lambda p, H, solver, **o: GaussianLatCo(p, H, solver=solver, **PAPER, **o), 50, 30),
    "latco_first_order": (lambda p, H, _, **o: FirstOrderLatCo(p, H, **o), 5000, 30),
    "image_collocation": (lambda p, H, _, **o: ImageCollocation(p, H, **o), 100, 30),
    "grasp": (lambda p, H, _, **o: GRASP(p, H, **o), 500, 30),
}
SOLVED = ("latco", "gaussian_latco")


def make_problem(args: argparse.Namespace) -> optimizers.LatentProblem:
    """The latent problem of a freshly initialized world model."""
    tf.keras.utils.set_random_seed(args.seed)
    model = models.WorldModel(
        args.actions,
        stoch=args.stoch,
        deter=args.deter,
        hidden=args.deter,
        act="relu",
        min_std=0.1,
        cnn_depth=32,
        cnn_act="relu",
        reward_layers=2,
        reward_units=args.deter,
    )
    problem = latent_problem(model, args.actions)
    if args.jacobian == "explicit":
        return problem
    return dataclasses.replace(problem, linearize=None, linearize_moments=None)


def make_planners(args: argparse.Namespace, problem: optimizers.LatentProblem):
    """Yields (name, solver, planner)."""
    for name in args.planners:
        build, iterations, horizon = PLANNERS[name]
        for H in args.horizons or [horizon]:
            for solver in args.solvers if name in SOLVED else [None]:
                yield name, solver, build(problem, H, solver, iterations=args.iterations or iterations)


def iterations_to_final(plan: optimizers.Plan, planner: LatCo) -> float | None:
    """Median over the batch of the first iteration from which on the plan is as good as the final one.

    None if it never met the dynamics.
    """
    reward, violation = plan.curves["reward"].numpy(), plan.curves["dynamics_violation"].numpy()
    final = reward[:, -1:]
    good = (np.abs(reward - final) <= 0.02 * np.abs(final)) & (violation <= 2 * planner.horizon * planner.eps["lam"])
    if not good[:, -1].all():
        return None
    last_bad = [np.flatnonzero(~row)[-1] + 1 if (~row).any() else 0 for row in good]
    return float(np.median(last_bad)) + 1


def measure_peak() -> float:
    """Multiplications and additions per second of a large matrix product, median of ten."""
    matrix = tf.random.normal([PEAK_SIZE, PEAK_SIZE])
    product = tf.function(lambda x: tf.reduce_sum(x @ x))
    float(product(matrix))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        float(product(matrix))
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / float(np.median(seconds))


def measure(planner: optimizers.Planner, batch: int, repeats: int, seed: int) -> tuple[dict, optimizers.Plan]:
    """Plans `repeats` + 1 times from random states. Returns the cost and the last plan."""
    z0 = tf.random.stateless_normal([batch, planner.problem.state_size], [seed, 0]) * 0.5
    seconds, before = [], begin_peak()
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        plan = planner(z0, [seed, repeat])
        plan.actions.numpy()
        seconds.append(time.perf_counter() - start)
    cost = {"seconds": round(float(np.median(seconds[1:])), 4), "first_call_seconds": round(seconds[0], 2)}
    return cost | {"memory_before_gb": before, "memory_gb": peak_gb()}, plan


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line per planner, solver, horizon and batch and returns the exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "the same command starts anew; lines that were printed are complete")


def _measure(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--planners", nargs="+", default=["cem", "latco"], choices=list(PLANNERS), help="which")
    which.add_argument("--all", action="store_true", help="every planner")
    parser.add_argument("--solvers", nargs="+", default=["auto"], choices=["auto", *SOLVERS], help="of LatCo's step")
    parser.add_argument(
        "--jacobian", default="explicit", choices=["explicit", "tape"], help="the RSSM's own or autodiff"
    )
    parser.add_argument("--horizons", nargs="+", type=positive, help="default: 12 for sampling, 30 for the others")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1], help="plans at once")
    parser.add_argument("--iterations", type=positive, help="of every planner, instead of the papers'")
    parser.add_argument("--repeats", type=positive, default=5, help="timed plans")
    parser.add_argument("--stoch", type=positive, default=30, help="size of the stochastic latent")
    parser.add_argument("--deter", type=positive, default=200, help="of the deterministic one, and of hidden layers")
    parser.add_argument("--actions", type=positive, default=4, help="size of the action vector")
    parser.add_argument("--seed", type=count, default=0, help="of weights and first states")
    args = parser.parse_args(argv)
    args.planners = list(PLANNERS) if args.all else args.planners
    problem, peak = make_problem(args), measure_peak()
    for batch in args.batches:
        for name, solver, planner in make_planners(args, problem):
            row = {"benchmark": "planning", "planner": name, "solver": getattr(planner, "solver", solver)}
            row |= {"horizon": planner.horizon, "iterations": planner.iterations, "batch": batch}
            cost, plan = measure(planner, batch, args.repeats, args.seed)
            row |= cost | {"return": round(float(tf.reduce_mean(tf.reduce_sum(plan.rewards, 1))), 4)}
            if name in SOLVED:
                violation = float(tf.reduce_mean(plan.curves["dynamics_violation"][:, -1]))
                row |= {"dynamics_violation": float(f"{violation:.3g}")}
                row |= {"iterations_to_final": iterations_to_final(plan, planner)}
            row |= {"state_size": problem.state_size, "jacobian": args.jacobian, "peak_gflops": round(peak / 1e9)}
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
