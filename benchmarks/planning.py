"""Times one plan of every planner on a world model with random weights.

    python benchmarks/planning.py                                        # CEM and LatCo at LatCo's size
    python benchmarks/planning.py --planners latco --horizons 30 50 100 --solvers condensed
    python benchmarks/planning.py --planners latco --solvers block_tridiagonal --iterations 10 --repeats 1

One JSON line per measurement: `seconds` is the median over `repeats` plans after the first, whose time (tracing and
compiling included) is `first_call_seconds`; `iterations_to_final` is the first iteration from which on the plan's own
return stays within 2% of its final value and its dynamics violation below twice the threshold. `peak_gflops` is a large
matrix product timed in the same run.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

import models
import optimizers

PEAK_SIZE = 2048
EPS_DYN = 1e-4


def make_problem(args: argparse.Namespace) -> optimizers.LatentProblem:
    """The latent problem of a freshly initialized RSSM and reward head."""
    tf.keras.utils.set_random_seed(args.seed)
    dynamics = models.RSSM(args.actions, 1024, args.stoch, args.deter, args.deter)
    reward = models.DenseHead(dynamics.feat_size, units=args.deter)
    return optimizers.LatentProblem(
        dynamics.mean_step,
        reward,
        dynamics.feat_size,
        args.actions,
        sample_step=dynamics.sample_step,
        linearize=dynamics.linearize if args.jacobian == "explicit" else None,
    )


def make_planners(args: argparse.Namespace, problem: optimizers.LatentProblem, horizon: int):
    """Yields (name, solver, iterations, planner)."""
    for name in args.planners:
        if name == "cem":
            yield (
                name,
                None,
                args.cem_iterations,
                optimizers.CEM(problem, horizon, args.cem_iterations, args.candidates),
            )
            continue
        for solver in args.solvers:
            planner = optimizers.LatCo(problem, horizon, args.iterations, solver, eps_dyn=EPS_DYN)
            yield name, solver, args.iterations, planner


def iterations_to_final(plan: optimizers.Plan, horizon: int) -> float | None:
    """Median over the batch of the first iteration from which on the plan is as good as the final one.

    None if it never met the dynamics.
    """
    reward, violation = plan.curves["reward"].numpy(), plan.curves["dynamics_violation"].numpy()
    final = reward[:, -1:]
    good = (np.abs(reward - final) <= 0.02 * np.abs(final)) & (violation <= 2 * horizon * EPS_DYN)
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
    """Plans `repeats` + 1 times from random states."""
    z0 = tf.random.stateless_normal([batch, planner.problem.state_size], [seed, 0]) * 0.5
    seconds = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        plan = planner(z0, [seed, repeat])
        plan.actions.numpy()
        seconds.append(time.perf_counter() - start)
    times = {"seconds": round(float(np.median(seconds[1:])), 4), "first_call_seconds": round(seconds[0], 2)}
    return times, plan


def main() -> None:
    """Parses sizes and prints one JSON line per planner, solver, horizon and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planners", nargs="+", default=["cem", "latco"], choices=["cem", "latco"])
    parser.add_argument("--solvers", nargs="+", default=["condensed"], choices=sorted(optimizers.SOLVERS))
    parser.add_argument(
        "--jacobian", default="explicit", choices=["explicit", "tape"], help="RSSM.linearize or autodiff"
    )
    parser.add_argument("--horizons", nargs="+", type=int, default=[30])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    for key, default in (
        ("iterations", 200), ("cem_iterations", 10), ("candidates", 1000), ("repeats", 5), ("stoch", 30),
        ("deter", 200), ("actions", 4), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{key}", type=int, default=default)
    args = parser.parse_args()
    problem, peak = make_problem(args), measure_peak()
    for horizon in args.horizons:
        for batch in args.batches:
            for name, solver, iterations, planner in make_planners(args, problem, horizon):
                row = {"benchmark": "planning", "planner": name, "solver": solver, "horizon": horizon}
                row |= {"iterations": iterations, "batch": batch}
                times, plan = measure(planner, batch, args.repeats, args.seed)
                row |= times | {"return": round(float(tf.reduce_mean(tf.reduce_sum(plan.rewards, 1))), 4)}
                if name == "latco":
                    row["dynamics_violation"] = float(
                        f"{float(tf.reduce_mean(plan.curves['dynamics_violation'][:, -1])):.3g}"
                    )
                    row["iterations_to_final"] = iterations_to_final(plan, horizon)
                row |= {"state_size": problem.state_size, "jacobian": args.jacobian, "peak_gflops": round(peak / 1e9)}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
