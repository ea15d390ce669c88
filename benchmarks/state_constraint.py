"""Episodes of a trained agent with and without its state constraint, executed in the environment.

    python benchmarks/state_constraint.py --logdir logdir/pointmass_obstacle/latco/0 --mpc_steps 5

The run must have a cost head. One JSON line for each of `--limits` (a limit that no cost reaches asks for nothing):
means over the episodes of the largest and of the summed cost (`cost_max`, `cost_sum`), and of the return. The episodes
have the same starts and no exploration noise; any setting that the weights do not depend on can be overridden.
"""

import checkout

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

import envs
from agents import load_agent
from base_agent import BaseAgent
from evaluation.episodes import EvaluationPolicy
from tools.errors import UserError
from tools.program import run_program
from tools.revision import git_revision
from training.driver import Driver, Episode, play


def run_episodes(agent: BaseAgent, count: int, seed: int) -> list[Episode]:
    """The first episode of each of `count` environments."""
    driver = Driver(envs.make_vector_env(agent.config, count, seed))
    episodes: dict[int, Episode] = {}
    try:
        for episode in play(driver, EvaluationPolicy(agent, driver, keep_plans=False)):
            episodes.setdefault(episode.env, episode)
            if len(episodes) == count:
                break
    finally:
        driver.close()
    return list(episodes.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "start the same command again")


def _measure(argv: Sequence[str]) -> int:
    """Prints one JSON line for each limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", required=True, help="of a run of planning_agent.py with --cost_head true")
    parser.add_argument("--limits", nargs="+", default=["0.1", "1000"], help="values of cost_limit to compare")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--start_seed", type=int, default=2_000_000)
    args, overrides = parser.parse_known_args(argv)
    for limit in args.limits:
        agent = load_agent(args.logdir, [*overrides, "--cost_limit", limit])
        if agent.model.cost is None:
            raise UserError(f"The run in {args.logdir} has no cost head: train one with --cost_head true.")
        episodes = run_episodes(agent, args.episodes, args.start_seed)
        cost = np.array([episode.data["cost"] for episode in episodes])
        row = {"benchmark": "state_constraint", "cost_limit": agent.config.cost_limit, "episodes": len(episodes)}
        row |= {"cost_max": round(float(cost.max(1).mean()), 3), "cost_sum": round(float(cost.sum(1).mean()), 3)}
        row |= {"return": round(float(np.mean([episode.data["reward"].sum() for episode in episodes])), 2)}
        row |= {"mpc_steps": agent.config.mpc_steps, "step": int(agent.step), "updates": int(agent.updates)}
        print(json.dumps(row | git_revision()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
