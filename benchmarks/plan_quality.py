"""Compares planners on one trained model: what their plans are worth under that model and, with --execute, in truth.

    python benchmarks/plan_quality.py --logdir logdir/metaworld_reach/latco/0
    python benchmarks/plan_quality.py --logdir logdir/metaworld_reach/latco/0 --variants latco cem --starts 50 \\
        --n_parallel_plans 4                      # settings can be overridden as in evaluate.py
    python benchmarks/plan_quality.py --logdir logdir/metaworld_reach/latco/0 --variants latco cem --execute --envs 4 \\
        --variant "latco5: --planner latco --mpc_steps 5 --warm_start true" --figure losses.png --out losses.jsonl

Starts are the first observations of `--starts` episodes, filtered by the model. One JSON line per variant:

`return_mean` and `return_se`, mean over the starts and its standard error: the rewards predicted for the plan's actions
    rolled out through the mean dynamics, one yardstick for all planners;
`return_sampled`: the same through sampled dynamics, mean of 20 rollouts a plan;
`return_own`: what the planner itself believes in the end (collocation: on states that may violate the dynamics);
`dynamics_violation`, `action_violation`: squared, summed over the plan's steps, mean over the starts, the actions
    before they are clipped; where the planner has them. After LatCo's finish both are 0 by construction, and
    `search_dynamics_violation`, `search_action_violation` are those before it;
`converged_at`: median over the starts of the first iteration from which `return_own` stays within 2% of its end;
`seconds`: one call for all starts together, after a first call that compiles.

Where plans discount (`discount_head`, `discount`), all returns do.

`--execute` tells apart where a planner loses (LatCo ICLR 2021, table 3), from the starts of `evaluate.py --seed S` with
S = `--start_seed`. Means over the starts, each with its standard error (`..._se`):

search       `return_best`: the best plan known for a start, by return under the mean dynamics, of all variants of this
             call, of LatCo from N = `--best_of` random starts, GD from N / 2 and CEM with N / 8 times its candidates,
             of doing nothing, and of the task's scripted policy, played in the simulator, where there is one.
             `search_loss`: best less what the variant found; `search_gap`: found / best, if the best is above 0
model noise  `noise_loss`: `return_mean` less `return_sampled`
model error  `achieved_open_loop`: what all H actions of the plan bring in the environment, open loop, in the
             units that the model learned; 0 after the end of an episode. `model_loss`: `return_mean` less that
closed loop  whole episodes with the variant's `mpc_steps`, `warm_start` and so on: `episode_predicted`, the rewards
             predicted of the executed actions; `episode_achieved`, those that came, in the model's units and weighted
             alike; `success` with Wilson's interval; `plan_seconds`, median of a call for `--envs` plans together

With a terminal value (`value_head`) best and search loss include it, and `return_mean` does not. `per_start` holds the
same start by start, so that variants can be paired. Up to three lines come first: "scripted", the actions of the
scripted policy, if the task has one, which show how well the model predicts where it has data; "idle", no actions at
all; and "best_known", the best plans. Only returns of one horizon and discount can be compared, so variants that differ
in these have such lines of their own.

A model that predicts a return for doing nothing has not learned what actions do: in episodes of a scripted policy they
follow from the state. Its plans fail, however well it knows where things are. Without --execute "idle" comes first.

Where a sparse reward is further away than a plan reaches, open-loop execution brings 0 whatever the model is like: give
a longer `--planning_horizon` until "scripted" achieves something.
"""

import checkout

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import envs
from agents import agent_class, load_agent
from analysis import figures
from benchmarks import plan_losses, plan_variants
from benchmarks.execution import play_scripted
from benchmarks.plan_figure import draw
from evaluation.episodes import episode_seeds
from evaluation.files import check_writable
from tools.command_line import Parser, count, picture, place, positive
from tools.config import load_config
from tools.errors import UserError, unknown
from tools.files import append_json
from tools.memory import check_evaluation
from tools.program import run_program
from tools.revision import git_revision
from training.logdir import check_task, find_logdir, read_config

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
    "latco_log10": ["--planner", "latco", "--latco_dual_log", "10", "--dual_eta", "0.1"],
    "latco_no_relaxation": ["--configs", "latco_no_relaxation"],
    "latco_no_constraint": ["--configs", "latco_no_constraint"],
    "gaussian_latco": ["--planner", "gaussian_latco"],
    "latco_first_order": ["--planner", "latco_first_order"],
    "image_collocation": ["--planner", "image_collocation", "--first_order_iterations", "100"],
    "grasp": ["--planner", "grasp"],
}
START_SEED = 2_000_000  # without --execute
RESERVED = ("scripted", "idle", "best_known")


def parse_variants(options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Label -> words that make a variant of the run's own settings. The overrides of the command line are stronger than
    the words of `VARIANTS`, and weaker than those of a variant that was given in words.

    Raises:
        UserError: an unknown label, one that is there twice, or words that cannot be read.
    """
    names = options.variants if options.variants is not None else [] if options.variant else list(VARIANTS)
    for label in names:
        if label not in VARIANTS:
            raise unknown("variant", label, VARIANTS)
    variants = {label: [*VARIANTS[label], *overrides] for label in names}
    for text in options.variant:
        label, colon, words = text.partition(":")
        if not colon or not re.fullmatch(r"[\w.,+-]+", label) or label in (*variants, *RESERVED):
            raise UserError(
                f"--variant {text!r} is not 'NAME: --KEY VALUE ...' with a NAME of its own made of letters, digits and "
                f". , + - _ (not {', '.join(RESERVED)})."
            )
        try:
            variants[label] = [*overrides, *shlex.split(words)]
        except ValueError as error:
            raise UserError(f"--variant {text!r} cannot be split into words ({error}): close its quotes.") from error
    return variants


def plans_only(options: argparse.Namespace, variants: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """The lines of a call without --execute."""
    z0, seed = None, START_SEED if options.start_seed is None else options.start_seed
    for label, words in variants.items():
        agent = load_agent(options.logdir, words)
        task = check_task(agent.config, options.logdir, options.task or envs.split_tasks(agent.config.task)[0])
        about = {"task": task, "step": int(agent.step), "starts": options.starts}
        if z0 is None:
            batch = envs.make_vector_env(agent.config, 1, seed, task)
            try:
                z0 = plan_losses.start_states(agent, batch, [seed + index for index in range(options.starts)])
            finally:
                batch.close()
            still = plan_losses.idle(agent, agent.planner_start(z0)).returns
            row = {"benchmark": "plan_quality", "variant": "idle"} | about
            yield plan_losses.rounded(row | plan_losses.estimate("return_mean", still))
        row = {"benchmark": "plan_quality", "variant": label} | about | {"horizon": agent.planner.horizon}
        row |= plan_losses.measure(agent.planner, agent.planner_start(z0), seed)[0]
        yield plan_losses.rounded(row)


def executed(
    options: argparse.Namespace, variants: dict[str, list[str]], overrides: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The lines of a call with --execute."""
    seed = options.start_seed or 0
    own = ["--seed", str(seed)]  # as in evaluate.py, where the same seed gives the same episodes
    agents = {label: (words, load_agent(options.logdir, [*own, *words])) for label, words in variants.items()}
    agent = next(iter(agents.values()))[1]
    for label, (_, other) in agents.items():
        for key in envs.setting_keys():
            if other.config[key] != agent.config[key]:
                raise UserError(f"{label} has another {key} than {next(iter(agents))}: their starts would differ.")
    task = check_task(agent.config, options.logdir, options.task or envs.split_tasks(agent.config.task)[0])
    seeds = episode_seeds(seed, options.starts)
    steps = max(other.config.planning_horizon for _, other in agents.values())
    scripted = play_scripted(agent.config, task, seeds, steps, agent.action_size)
    batch = envs.make_vector_env(agent.config, min(options.envs, options.starts), seed, task)
    try:
        features = plan_losses.start_states(agent, batch, seeds)
        starts = plan_losses.Starts(task, seed, seeds, features, batch, scripted)
        yield from plan_variants.gauge(
            options.logdir, agents, starts, options.best_of, [*own, *overrides], options.envs
        )
    finally:
        batch.close()


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run. Raises UserError."""
    parser = Parser(
        prog="python benchmarks/plan_quality.py",
        description=__doc__,
    )
    add = parser.add_argument
    add("--logdir", type=place, required=True, metavar="DIR", help="of a trained agent, or a shipped model's name")
    add("--variants", nargs="+", metavar="NAME", help=f"{', '.join(VARIANTS)} (default: all, or none with --variant)")
    add(
        "--variant",
        action="append",
        default=[],
        metavar="'NAME: --KEY VALUE ...'",
        help="a variant of your own, as often as you like",
    )
    add("--starts", type=positive, default=20, metavar="N", help="starts, and episodes (default: 20)")
    add("--start_seed", type=count, metavar="S", help=f"default: {START_SEED}, with --execute 0")
    add("--out", type=place, metavar="FILE", help="append the lines to this file, too")
    add("--execute", action="store_true", help="find the best plans, execute plans, and play whole episodes")
    add("--best_of", type=count, default=32, metavar="N", help="size of --execute's search for the best (default: 32)")
    add("--envs", type=positive, default=4, metavar="N", help="environments of --execute at a time (default: 4)")
    add("--task", metavar="NAME", help="which of the run's tasks (default: the first)")
    add("--figure", type=picture, metavar="FILE", help="draw the lines of --execute into this picture (.png, .pdf)")
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml that evaluate.py may override")
    options, overrides = parser.parse_known_args(argv)
    check_evaluation(options.starts, options.envs)
    if options.figure and not options.execute:
        raise UserError("--figure draws what --execute finds out: give both.")
    return options, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line for each variant and returns the exit code, see `tools.program`."""
    return run_program(_compare, argv, lambda: "the same command starts anew; lines that were printed are complete")


def _compare(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    variants = parse_variants(options, overrides)
    for path in filter(None, (options.out, options.figure)):
        check_writable(path)
    saved = read_config(find_logdir(options.logdir))
    for words in variants.values():  # what can be seen of all of them before the first one plans
        agent_class(load_config(words, saved=saved).planner)
    rows, revision = [], git_revision()  # now: commits may be made meanwhile
    for line in executed(options, variants, overrides) if options.execute else plans_only(options, variants):
        row = line | revision
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.out:
            append_json(options.out, row)
        if options.figure:  # anew after each line: what was measured is not lost
            figures.save(draw(rows), options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
