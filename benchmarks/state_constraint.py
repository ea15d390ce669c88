"""Episodes of a trained agent with and without its state constraint, executed in the environment.

    python benchmarks/state_constraint.py --logdir logdir/pointmass_obstacle/latco/0 --mpc_steps 5

The run must have a cost head. One JSON line for each of `--limits` (a limit that no cost reaches asks for nothing):
means over the episodes of the largest and of the summed cost (`cost_max`, `cost_sum`), and of the return. The episodes
have the same starts and no exploration noise. Settings can be overridden as in evaluate.py.
"""

import checkout

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import envs
from agents import load_agent
from base_agent import BaseAgent
from evaluation.episodes import run_episodes
from tools.command_line import Parser, count, positive
from tools.config import load_config
from tools.errors import UserError
from tools.memory import check_evaluation
from tools.program import run_program
from tools.revision import git_revision


def measure(agent: BaseAgent, count: int, seed: int) -> dict[str, Any]:
    """The fields of a line about an agent."""
    task = envs.split_tasks(agent.config.task)[0]
    starts = [envs.stream_seed(seed, number) for number in range(count)]
    episodes, _ = run_episodes(agent, task, starts, num_envs=count)
    costs = [episode.data["cost"] for episode in episodes]  # of several lengths where episodes end early
    row: dict[str, Any] = {"cost_limit": agent.config.cost_limit, "episodes": len(episodes)}
    largest, total = (float(np.mean([reduce(cost) for cost in costs])) for reduce in (np.max, np.sum))
    row |= {"cost_max": round(largest, 3), "cost_sum": round(total, 3)}
    row |= {"return": round(float(np.mean([episode.data["reward"].sum() for episode in episodes])), 2)}
    return row | {"mpc_steps": agent.config.mpc_steps, "step": int(agent.step), "updates": int(agent.updates)}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line for each limit and returns the exit code, see `tools.program`."""
    return run_program(_compare, argv, lambda: "the same command starts anew; lines that were printed are complete")


def _compare(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--logdir", required=True, help="of a run of planning_agent.py with --cost_head true")
    parser.add_argument("--limits", nargs="+", default=["0.1", "1000"], help="values of cost_limit")
    parser.add_argument("--episodes", type=positive, default=10, help="for each limit")
    parser.add_argument("--start_seed", type=count, default=2_000_000, help="of the episodes")
    args, overrides = parser.parse_known_args(argv)
    check_evaluation(args.episodes, args.episodes)
    for limit in args.limits:
        load_config(["--cost_limit", limit])  # refuses it before another one is measured
    for limit in args.limits:
        agent = load_agent(args.logdir, [*overrides, "--cost_limit", limit])
        if agent.model.cost is None:
            raise UserError(f"The run in {args.logdir} has no cost head: train one with --cost_head true.")
        row = {"benchmark": "state_constraint"} | measure(agent, args.episodes, args.start_seed)
        print(json.dumps(row | git_revision()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
