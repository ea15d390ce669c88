"""Times one iteration of both LatCo solvers and of CEM against horizon, state size and batch, and finds the crossing.

    python benchmarks/cost_against_size.py --out cost.jsonl --figure cost.png
    python benchmarks/cost_against_size.py --out cost.jsonl --figure cost.png --sweeps crossing --sizes 32 64
    taskset -c 1 python benchmarks/cost_against_size.py --out cost.jsonl --clock cpu      # beside other jobs

One JSON line per measurement: `seconds` of an iteration (CEM: one of 1000 candidates), the median over `--repeats` of
the difference between calls with some iterations and with none. Models have random weights, as in `planning.py`. Each
sweep changes one size of `BASE`. A method whose iteration takes more than `--limit` seconds is not timed in larger
sizes. Lines that --out has are not measured again.

The sweep "crossing" times the two solvers at horizons of 2 to 16 times the state size. A line "crossing" then says at
which multiple of it the block-tridiagonal solver becomes the faster one, by interpolation between logarithms. This is
what `planners.collocation_solvers.CROSSOVER` stands for. The figure has the lines of one `--clock`.
"""

import checkout

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from analysis import figures
from benchmarks.own_lines import read_own_lines
from benchmarks.planning import make_problem, measure_peak
from evaluation.files import check_writable
from optimizers import Planner
from planners.cem import CEM
from planners.collocation_solvers import CROSSOVER
from planners.latco import LatCo
from tools.command_line import Parser, picture, place, positive
from tools.errors import UserError
from tools.files import append_json
from tools.program import run_program
from tools.revision import git_revision

Line = dict[str, Any]

BASE = {"horizon": 30, "state_size": 128, "batch": 1}
SWEEPS = {
    "horizon": (10, 20, 50, 100, 200, 400),
    "state_size": (32, 64, 128, 256, 512, 1024),
    "batch": (1, 4, 16, 64, 256),
}
MULTIPLES = (2, 4, 6, 8, 12, 16)  # horizons of the crossing, in state sizes
SOLVERS = ("condensed", "block_tridiagonal")
METHODS = (*SOLVERS, "cem")
CANDIDATES = 1000
ITERATIONS = 10  # of a call, at most
LABELS = {"horizon": "horizon", "state_size": "state size n", "batch": "plans at once"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make_planner(method: str, horizon: int, state_size: int) -> Planner:
    """The planner on a model with random weights, a quarter of whose state (30 at most) is stochastic."""
    stoch = min(30, state_size // 4)
    sizes = {"stoch": stoch, "deter": state_size - stoch, "actions": 4, "seed": 0, "jacobian": "explicit"}
    problem = make_problem(argparse.Namespace(**sizes))
    if method == "cem":
        return CEM(problem, horizon, ITERATIONS, CANDIDATES)
    return LatCo(problem, horizon, ITERATIONS, method, finish=0)


def iteration_seconds(planner: Planner, batch: int, repeats: int, limit: float, clock: str) -> float:
    """Seconds of one iteration for a batch of plans."""
    now, z0 = CLOCKS[clock], tf.random.stateless_normal([batch, planner.problem.state_size], [0, 0]) * 0.5

    def call(iterations: int) -> float:
        start = now()
        planner(z0, [0, 1], iterations=iterations).actions.numpy()
        return now() - start

    call(0)  # compiles
    first = max(call(1) - call(0), 1e-6)
    count = int(np.clip(limit / first / 10, 1, ITERATIONS))
    return float(np.median([max(call(count) - call(0), 1e-9) / count for _ in range(repeats)]))


def sizes_of(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, int]], Sequence[str]]]:
    """Each sweep with its sizes, the smallest first, and its methods."""
    for sweep in options.sweeps:
        if sweep != "crossing":
            yield sweep, [BASE | {sweep: value} for value in SWEEPS[sweep]], METHODS
            continue
        for n in options.sizes:
            yield sweep, [{"horizon": k * n, "state_size": n, "batch": 1} for k in MULTIPLES], SOLVERS


def measure(options: argparse.Namespace, lines: list[Line]) -> Iterator[Line]:
    """The lines that are not known yet."""
    for sweep, sizes, methods in sizes_of(options):
        slow: set[str] = set()
        for size in sizes:
            for method in methods:
                head = {"benchmark": "cost_against_size", "method": method, **size, "clock": options.clock}
                known = next((line for line in lines if head.items() <= line.items()), None)
                if known is None and method not in slow:
                    planner = make_planner(method, size["horizon"], size["state_size"])
                    seconds = iteration_seconds(planner, size["batch"], options.repeats, options.limit, options.clock)
                    known = head | {"seconds": float(f"{seconds:.4g}")}
                    yield known
                if known is not None and known["seconds"] > options.limit:
                    slow.add(method)
        if sweep == "crossing":
            found = crossing(lines, sizes[0]["state_size"], options.clock)
            if not any(found.items() <= line.items() for line in lines):
                yield found


def crossing(lines: Sequence[Line], state_size: int, clock: str) -> Line:
    """The horizon in state sizes above which the block-tridiagonal solver is faster, None if it never is.

    If it is always, the smallest multiple that was measured.
    """
    timed = [line for line in lines if "method" in line and line["batch"] == 1 and line["clock"] == clock]
    seconds = {(line["method"], line["horizon"]): line["seconds"] for line in timed if line["state_size"] == state_size}
    horizons = sorted(H for solver, H in seconds if solver == "condensed" and ("block_tridiagonal", H) in seconds)
    ratios = [np.log(seconds["condensed", H] / seconds["block_tridiagonal", H]) for H in horizons]
    found = None
    if ratios and ratios[0] > 0.0:
        found = horizons[0] / state_size
    for (low, before), (high, after) in pairwise(zip(horizons, ratios, strict=True)):
        if found is None and before <= 0.0 < after:
            found = float(low * (high / low) ** (-before / (after - before)) / state_size)
    line = {"benchmark": "cost_against_size", "kind": "crossing", "state_size": state_size, "clock": clock}
    return line | {"horizon_in_state_sizes": found and float(f"{found:.3g}"), "auto": CROSSOVER}


def draw(lines: Sequence[Mapping[str, Any]], clock: str) -> Figure:
    """Seconds of an iteration by one clock against each size, on logarithmic axes; one line for each method."""
    styles = figures.styles(METHODS)
    timed = [line for line in lines if "method" in line and line["clock"] == clock]
    figure, axes = figures.grid(1, len(SWEEPS), (3.4, 3.2))
    for axis, sweep in zip(axes[0], SWEEPS, strict=True):
        fixed = {key: value for key, value in BASE.items() if key != sweep}
        for method in METHODS:
            rows = [line for line in timed if line["method"] == method and fixed.items() <= line.items()]
            points = sorted((line[sweep], line["seconds"]) for line in rows if line[sweep] in SWEEPS[sweep])
            axis.plot(*zip(*points, strict=True), **styles[method], marker="o", markersize=4) if points else None
        axis.set_xlabel(LABELS[sweep])
        figures.make_logarithmic(axis, "xy")
        axis.set_title(", ".join(f"{LABELS[key]} {value}" for key, value in fixed.items()), fontsize=9)
        figures.tidy(axis)
    axes[0, 0].set_ylabel(f"{'processor ' if clock == 'cpu' else ''}seconds of an iteration")
    figures.legend_below(
        figure,
        {method.replace("_", "-"): style for method, style in styles.items()},
        f"LatCo's two solvers, and CEM with {CANDIDATES} candidates; world models with random weights.",
    )
    return figure


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of this program. Raises UserError."""
    parser = Parser(
        prog="python benchmarks/cost_against_size.py",
        description=__doc__,
    )
    add = parser.add_argument
    add("--out", type=place, required=True, metavar="FILE", help="lines are appended to it, and found in it")
    add("--figure", type=picture, metavar="FILE", help="the picture (.png, .pdf)")
    add("--sweeps", nargs="+", choices=[*SWEEPS, "crossing"], default=list(SWEEPS), help="default: all but crossing")
    add("--sizes", nargs="+", type=positive, default=[32, 64, 128], metavar="N", help="state sizes of the crossing")
    add("--repeats", type=positive, default=5, metavar="N", help="default: 5")
    add("--limit", type=positive, default=10, metavar="S", help="seconds of an iteration, at most (default: 10)")
    add("--clock", choices=list(CLOCKS), default="wall", help="cpu: of this process, for one core")
    options = parser.parse_args(argv)
    if min(options.sizes) < 8:
        raise UserError(f"--sizes {min(options.sizes)} is too small a state: give at least 8.")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line per measurement and returns the exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "the same command goes on after the last line of --out")


def _measure(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    for path in filter(None, (options.out, options.figure)):
        check_writable(path)
    lines = read_own_lines(options.out, "cost_against_size")
    tail = {"peak_gflops": round(measure_peak() / 1e9), **git_revision()}
    for line in measure(options, lines):
        lines.append(line | tail)
        append_json(options.out, lines[-1])
        print(json.dumps(lines[-1]), flush=True)
    if options.figure:
        figures.save(draw(lines, options.clock), options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
