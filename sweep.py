"""Trains every task with every planner and seed, or the rows of an experiment file, on one machine or a Ray cluster.

    python sweep.py --tasks metaworld_reach metaworld_push --planners latco cem --seeds 0 1 2 \\
        --out logdir/sweep --configs defaults metaworld small
    python sweep.py --experiment reproduce/latco_table1.yaml --rows latco --seeds 0 1 2 \\
        --out logdir/table1 --address auto

An experiment file is YAML: the name of a row, then a list of command lines of planning_agent.py without seed and log
directory. A run's folder is <out>/<task>/<planner or row>/<seed>; in it, sweep.log has what the program printed and
done.json says that the run is complete. The same command again skips complete runs and goes on with the others.

On a cluster this program runs on one of the nodes, and all nodes see the checkout, its Python and <out> at the same
paths (a shared file system): that is how a run whose node died goes on on another one.
"""

import argparse
import ast
import contextlib
import json
import math
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import rich.console
import rich.live
import rich.table

import envs
from episodes.replay import episode_files
from sweeps import supervisor
from tools.command_line import Parser, count
from tools.config import Config, load_config, read_yaml
from tools.errors import UserError, unknown
from tools.revision import git_revision

PROGRAM = Path(__file__).resolve().with_name("planning_agent.py")
REFRESH_SECONDS = 1.0
PLAIN_LINE_EVERY = 60.0  # seconds between a run's lines about its progress, where the output is not a terminal
OBJECT_STORE_BYTES = 100 * 2**20  # runs exchange nothing but exit codes
NODE_DEATHS = 10  # that Ray makes up for in one attempt of a run; a lack of memory counts as one
OWN_WORDS = ("--task", "--planner", "--seed", "--logdir")
FINISHED = ("done", "failed")


@dataclass(frozen=True)
class Run:
    """One training: `words` are its settings as planning_agent.py takes them, without the log directory."""

    method: str
    words: tuple[str, ...]
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        """How lines about the run call it."""
        return f"{self.config.task} {self.method} {self.config.seed}"

    @property
    def arguments(self) -> list[str]:
        """What planning_agent.py is started with."""
        return [*self.words, "--logdir", str(self.folder)]

    @property
    def length(self) -> str:
        """How long it will be: steps, or updates where it collects nothing."""
        return f"{self.config.steps:,} steps" if self.config.steps else f"{self.config.pretrain:,} updates"

    @property
    def identity(self) -> list[str]:
        """What a complete run is recognized by; the folder may move."""
        return [PROGRAM.name, *self.words]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, as far as this machine can see."""
        return supervisor.is_done(self.folder, self.identity)


@dataclass
class Metrics:
    """The newest step, return and success in a growing `metrics.jsonl`; evaluations count more than training."""

    path: Path
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> bool:
        """Reads the lines written since the last call and returns whether there were any."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # a run that resumes cuts off a line half-written
                file.seek(self._offset)
                lines = [line for line in file if line.endswith(b"\n")]
        except OSError:
            return False
        for line in lines:
            self._offset += len(line)
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))
        return bool(lines)

    def _take(self, row: Mapping[str, Any]) -> None:
        self.step = row.get("step", self.step)
        self.values |= {name: row[name] for name in row if row[name] is not None}

    def show(self, name: str) -> str:
        """The last evaluation's value as text, marked where there is only training's, '' where there is none."""
        if f"eval/{name}" in self.values:
            return f"{self.values[f'eval/{name}']:.4g}"
        return f"{self.values[f'train/{name}']:.4g} (train)" if f"train/{name}" in self.values else ""


@dataclass
class Status:
    """What is known of a run: waiting, running, retrying, done or failed."""

    run: Run
    state: str = "waiting"
    attempt: int = 0
    node: str = ""
    node_id: str = ""
    message: str = ""
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.run.folder / "metrics.jsonl")

    def started(self, attempt: int, node: str, node_id: str) -> None:
        """Takes the news that an attempt started; news of an earlier attempt is old."""
        if attempt == self.attempt and self.state not in FINISHED:
            self.state, self.node, self.node_id, self.message = "running", node, node_id, ""

    def lost(self) -> None:
        """Its node died; Ray starts the attempt again elsewhere."""
        self.state, self.message = "retrying", f"node {self.node} died"

    def ended(self, outcome: supervisor.Outcome, retries: int) -> bool:
        """Takes the end of an attempt and returns whether another one is due."""
        if outcome.code == 0:
            self.state, self.message = "done", ""
            return False
        how = "not started" if outcome.code is None else f"exit code {outcome.code}"
        self.message = f"{how}: {outcome.message}" if outcome.message else how
        again = outcome.code != supervisor.BAD_INPUT and self.attempt < retries
        self.attempt += again
        self.state = "retrying" if again else "failed"
        return again


def planners() -> list[str]:
    """The planners' names, read off the table in planning_agent.py, whose import would bring TensorFlow."""
    for node in ast.parse(PROGRAM.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLANNERS":
            return [ast.literal_eval(key) for key in node.value.keys]
    raise RuntimeError(f"{PROGRAM} has no table PLANNERS.")


def product_lines(tasks: Sequence[str], names: Sequence[str], settings: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(method, words) for every task and planner."""
    _check_words(settings, "a sweep", OWN_WORDS)
    return [(name, [*settings, "--task", task, "--planner", name]) for task in tasks for name in names]


def experiment_lines(path: Path, rows: Sequence[str], settings: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(row, words) for every command line of some rows of an experiment file, of all rows where none is named.

    The settings come after those of the line; presets among them stack on the line's, and the line's keys beat them.

    Raises:
      UserError: the file is not as the head of this module says, or lacks a row.
    """
    _check_words(settings, "an experiment", OWN_WORDS)
    content = read_yaml(path)
    lines = []
    for row in rows or content:
        if row not in content:
            raise unknown(f"row (of {path})", row, map(str, content))
        if not isinstance(row, str) or not re.fullmatch(r"\w[\w.+-]*", row):
            raise UserError(f"{path}: a row names a folder, so {row!r} must be of letters, digits and any of _.+-")
        commands = content[row]
        if not isinstance(commands, list) or not commands or not all(isinstance(line, str) for line in commands):
            raise UserError(f"{path}: row {row} must be a list of command lines, each '- --key value ...'.")
        for line in commands:
            try:
                words = shlex.split(line)
            except ValueError as error:
                raise UserError(f"{path}: {line!r} in row {row} is no command line ({error}).") from None
            _check_words(words, f"row {row} of {path}", ("--seed", "--logdir", "--help", "-h"))
            lines.append((row, [*words, *settings]))
    return lines


def _check_words(words: Sequence[str], where: str, refused: Sequence[str]) -> None:
    for word in words:
        name = word.partition("=")[0]
        if name in refused:
            raise UserError(f"{name} has no place in {where}, which sets it for each run: leave it out.")


def make_runs(lines: Sequence[tuple[str, Sequence[str]]], seeds: Sequence[int], out: Path) -> list[Run]:
    """Every line with every seed, all lines with the first seed first. Nothing is imported or started for it.

    Raises:
      UserError: a command line that planning_agent.py would refuse, or two runs in one folder.
    """
    names = planners()
    configs = [_checked_config(words, names) for _, words in lines]
    # Runs start in the folder of the program, wherever the sweep does.
    folders = [_absolute(config.offline_dir) for config in configs]
    lines = [(method, [*words, *folder]) for (method, words), folder in zip(lines, folders, strict=True)]
    runs: dict[Path, Run] = {}
    for seed in seeds:
        for (method, words), config in zip(lines, configs, strict=True):
            folder = out / config.task / method / str(seed)
            if folder in runs:
                raise UserError(
                    f"Two runs would share the folder {folder}: name each task, planner, row and seed once."
                )
            resolved = config.replace(seed=seed, logdir=str(folder)).resolved()
            runs[folder] = Run(method, (*words, "--seed", str(seed)), folder, resolved)
    return list(runs.values())


def _checked_config(words: Sequence[str], names: Sequence[str]) -> Config:
    """The settings of a command line. Raises UserError for what can be seen without an environment or a model."""
    config = load_config(words)
    if config.planner not in names:
        raise unknown("planner", config.planner, names)
    for task in envs.split_tasks(config.task):
        envs.split_task(task)
    if config.strategy == "multi_worker":
        raise UserError(
            "strategy multi_worker needs several hosts and a run of a sweep has one: choose mirrored or one."
        )
    return config


def _absolute(offline_dir: str) -> list[str]:
    """The words that name a folder of episodes wherever a run starts, if there is one."""
    return ["--offline_dir", str(Path(offline_dir).expanduser().absolute())] if offline_dir else []


def check_tasks(runs: Sequence[Run]) -> None:
    """Makes one environment of each task in another process, and looks for offline episodes. Raises UserError."""
    for run in runs:
        envs.spaces(run.config)  # seconds for each task; the same one again costs nothing
        if (folder := run.config.offline_dir) and not episode_files(folder):
            raise UserError(f"{folder} holds no episodes: make some with collect.py, or name another --offline_dir.")


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that are settings of every run."""
    parser = Parser(
        prog="python sweep.py",
        usage="%(prog)s (--tasks TASK ... --planners NAME ... | --experiment FILE [--rows ROW ...]) --seeds N ... "
        "--out DIR [--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_argument_group("which runs")
    which.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="with commas between them, tasks that one agent learns"
    )
    which.add_argument("--planners", nargs="+", metavar="NAME", help="planners to train each task with")
    which.add_argument(
        "--experiment", type=Path, metavar="FILE", help="rows of command lines, in place of the two above"
    )
    which.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows of the experiment (default: all)")
    which.add_argument("--seeds", nargs="+", type=count, required=True, metavar="N", help="seeds of each run")
    which.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the runs")
    which.add_argument("--list", action="store_true", help="print the command of every run and stop")
    where = parser.add_argument_group("where and how")
    where.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="a Ray cluster that this machine is part of (default: only this one)",
    )
    where.add_argument("--cpus", type=_amount, default=2, metavar="N", help="processors of a run (default: 2)")
    where.add_argument(
        "--gpus", type=_amount, default=0, metavar="N", help="GPUs of a run; 0.5 shares one (default: 0)"
    )
    where.add_argument("--parallel", type=count, metavar="N", help="runs at a time at most (default: what fits)")
    where.add_argument(
        "--retries", type=count, default=2, metavar="N", help="how often a run that crashes goes on (default: 2)"
    )
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml for every run, and --configs with presets")
    options, settings = parser.parse_known_args(argv)
    by_product = bool(options.tasks and options.planners)
    if by_product == bool(options.experiment) or (options.experiment and (options.tasks or options.planners)):
        raise UserError("Say which runs: --tasks with --planners, or --experiment.")
    if options.rows and not options.experiment:
        raise UserError("--rows are those of an experiment file: add --experiment FILE.")
    if not options.cpus:
        raise UserError("--cpus must be more than 0.")
    if options.gpus > 1 and options.gpus != int(options.gpus):
        raise UserError("--gpus must be a whole number, or a part of 1.")
    if options.parallel == 0:
        raise UserError("--parallel must be at least 1.")
    return options, settings


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


class Board:
    """A Ray actor through which attempts say that they started, since a task says nothing before its end."""

    def __init__(self) -> None:
        self._news: list[tuple] = []

    def started(self, *what: Any) -> None:
        """Keeps a line of news: (number of the run, attempt, node, node id)."""
        self._news.append(what)

    def news(self) -> list[tuple]:
        """The lines since the last call."""
        news, self._news = self._news, []
        return news


def attempt(
    program: Path, run: Run, news: tuple[int, int], board: Any, environment: dict[str, str], lock_seconds: float
) -> supervisor.Outcome:
    """One attempt of a run, as a Ray task. The node's own Python runs the program."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    node = f"{socket.gethostname()}/{node_id[:6]}"
    return supervisor.supervise(
        [sys.executable, str(program), *run.arguments],
        run.folder,
        run.identity,
        node=node,
        environment=environment,
        lock_seconds=lock_seconds,
        started=lambda: board.started.remote(*news, node, node_id),
    )


class Sweep:
    """Hands runs to Ray, which must be connected, and keeps their statuses.

    Args:
      statuses: of all runs, complete ones included.
      options: cpus, gpus, parallel and retries.
      program: what to start in place of planning_agent.py.
      lock_seconds: how long an attempt waits for another process in its folder.
    """

    def __init__(
        self, statuses: Sequence[Status], options: argparse.Namespace, program: Path, lock_seconds: float
    ) -> None:
        self.statuses, self.options, self.program, self.lock_seconds = statuses, options, program, lock_seconds
        self.ray = _import_ray()
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = self.ray.remote(Board).options(
            num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1
        )
        self.board = actor.remote()
        self.task = self.ray.remote(attempt).options(
            num_cpus=options.cpus, num_gpus=options.gpus, scheduling_strategy="SPREAD", max_retries=NODE_DEATHS
        )
        self.pending: dict[Any, int] = {}
        self.queue = deque(i for i, status in enumerate(statuses) if status.state not in FINISHED)

    def advance(self, seconds: float) -> bool:
        """Starts what may start, waits for at most some seconds for an end and returns whether anything is left."""
        while self.queue and (self.options.parallel is None or len(self.pending) < self.options.parallel):
            index = self.queue.popleft()
            self.pending[self._submit(index)] = index
        ended, _ = self.ray.wait(list(self.pending), timeout=seconds) if self.pending else ([], [])
        for index, *what in self.ray.get(self.board.news.remote()):
            self.statuses[index].started(*what)
        for reference in ended:
            index = self.pending.pop(reference)
            if self.statuses[index].ended(self._outcome(reference), self.options.retries):
                self.queue.append(index)
        self._look_for_lost()
        return bool(self.queue or self.pending)

    def stop(self) -> None:
        """Interrupts all runs and waits until their processes are gone."""
        for reference in self.pending:
            self.ray.cancel(reference)
        self.queue.clear()
        if self.pending:
            self.ray.wait(
                list(self.pending),
                num_returns=len(self.pending),
                timeout=supervisor.GRACE_SECONDS + 5,
                fetch_local=False,
            )

    def _submit(self, index: int) -> Any:
        status = self.statuses[index]
        news = (index, status.attempt)
        variables = run_environment(self.options.cpus, self.options.gpus)
        return self.task.remote(self.program, status.run, news, self.board, variables, self.lock_seconds)

    def _outcome(self, reference: Any) -> supervisor.Outcome:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return supervisor.Outcome(None, f"{type(error).__name__}, {str(error).strip().splitlines()[0]}")

    def _look_for_lost(self) -> None:
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        for status in self.statuses:
            if status.state == "running" and status.node_id not in alive:
                status.lost()


def run_environment(cpus: float, gpus: float) -> dict[str, str]:
    """Variables that keep a run to its share of a node, where the node's own do not say otherwise."""
    threads = str(max(1, int(cpus)))
    variables = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    # TensorFlow takes all memory of a GPU unless it is told not to.
    return variables | ({"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if 0 < gpus < 1 else {})


class Display:
    """A live table on a terminal; elsewhere a line for every change."""

    def __init__(self, statuses: Sequence[Status], console: rich.console.Console | None = None) -> None:
        self._statuses, self._console = statuses, console or rich.console.Console()
        self._live: rich.live.Live | None = None
        self._shown = [("waiting", 0, -math.inf)] * len(statuses)  # state, attempt and time of each run's last line

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Shows what has changed since the last call."""
        moved = [status.metrics.read() for status in self._statuses]
        if self._live:
            self._live.update(self.table(), refresh=True)
            return
        now = time.monotonic()
        for i, status in enumerate(self._statuses):
            state, attempt, last = self._shown[i]
            quiet = not moved[i] or status.state != "running" or now - last < PLAIN_LINE_EVERY
            if (state, attempt) != (status.state, status.attempt) or not quiet:
                self._shown[i] = (status.state, status.attempt, now)
                self._console.print(self.line(status), highlight=False, markup=False, soft_wrap=True)

    def line(self, status: Status) -> str:
        """One run's status as a line."""
        metrics = status.metrics
        numbers = {"return": metrics.show("return"), "success": metrics.show("success")}
        parts = [
            f"{time.strftime('%H:%M:%S')} {status.run.name}: {status.state}",
            f"on {status.node}" if status.state == "running" else "",
            f"{metrics.step:,}/{status.run.length}" if metrics.step else "",
            *(f"{name} {value}" for name, value in numbers.items() if value),
            status.message,
        ]
        return ", ".join(part for part in parts if part)

    def table(self) -> rich.table.Table:
        """All runs, those first that something happens to."""
        table = rich.table.Table(caption=self.summary())
        for name in ("task", "method", "seed", "state", "node", "steps", "return", "success"):
            table.add_column(name, justify="right" if name in ("seed", "steps", "return", "success") else "left")
        order = ("running", "retrying", "failed", "waiting", "done")
        for status in sorted(self._statuses, key=lambda status: order.index(status.state)):
            run, metrics = status.run, status.metrics
            state = f"{status.state} ({status.attempt})" if status.attempt else status.state
            steps = f"{metrics.step:,}/{run.length}"
            cells = (run.config.task, run.method, str(run.config.seed), state, status.node, steps)
            table.add_row(*map(_plain, cells), _plain(metrics.show("return")), _plain(metrics.show("success")))
        return table

    def summary(self) -> str:
        """How many runs are in each state."""
        counts = Counter(status.state for status in self._statuses)
        return ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "retrying", "waiting", "failed"))


def _plain(text: str) -> rich.text.Text:
    return rich.text.Text(text)  # brackets are no markup


@contextlib.contextmanager
def connected(options: argparse.Namespace) -> Iterator[ModuleType]:
    """Connects to Ray, or starts it on this machine; nothing of it is left afterwards.

    Raises:
      UserError: there is no cluster at the address, or this machine is too small for a run.
    """
    ray = _import_ray()
    common = {"log_to_driver": False, "logging_level": "ERROR"}
    if options.address:
        try:
            _knock(options.address)
            ray.init(address=options.address, **common)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"There is no Ray cluster at {options.address} that this machine is part of ({reason}): "
                "start it with `ray start`, set RAY_AUTH_MODE=token if a token guards it, or leave out --address."
            ) from None
    else:
        processors = len(os.sched_getaffinity(0))
        if options.cpus > processors:
            raise UserError(f"A run wants {options.cpus:g} processors and this machine has {processors}: lower --cpus.")
        try:
            ray.init(
                address="local",
                num_cpus=processors,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
        except Exception as error:  # of no class of its own; a machine too busy for Ray's time limits is the usual case
            ray.shutdown()
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"Ray did not start on this machine ({reason}): try again when it is less busy.") from error
    try:
        _check_capacity(ray.nodes(), options)
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nothing answers, for which Ray would wait very long."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10.0).close()


def _import_ray() -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.util.scheduling_strategies

    return ray


def _check_capacity(nodes: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Raises UserError where no node is large enough for a run, which would wait for ever."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= options.gpus for node in have):
        sizes = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in have)
        raise UserError(
            f"No node has {options.cpus:g} processors and {options.gpus:g} GPUs for a run (they have {sizes}): "
            "lower --cpus or --gpus."
        )


def conduct(statuses: Sequence[Status], options: argparse.Namespace, program: Path, lock_seconds: float) -> None:
    """Brings all runs to an end, done or failed. KeyboardInterrupt, also after SIGTERM, ends them where they are."""
    with connected(options), _terminable(), Display(statuses) as display:
        sweep = Sweep(statuses, options, program, lock_seconds)
        try:
            while sweep.advance(REFRESH_SECONDS):
                display.update()
            display.update()
        finally:
            sweep.stop()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, with which schedulers end a job, counts as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save(out: Path, argv: Sequence[str], runs: Sequence[Run]) -> None:
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["sweep.py", *argv],
        **git_revision(),
        "runs": len(runs),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "sweep.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): choose another --out.") from error


def _report(statuses: Sequence[Status], before: int) -> int:
    """Prints what failed and how many are done, and returns the exit code."""
    failed = [status for status in statuses if status.state == "failed"]
    for status in failed:
        print(f"failed: {status.run.name}, {status.message} (see {status.run.folder / 'sweep.log'})", file=sys.stderr)
    done = sum(status.state == "done" for status in statuses)
    print(f"{done} of {len(statuses)} runs are done, {before} of them from before; {len(failed)} failed.")
    return 1 if failed else 0


def main(
    argv: Sequence[str] | None = None, program: Path = PROGRAM, lock_seconds: float = supervisor.LOCK_SECONDS
) -> int:
    """Runs the program and returns its exit code: 0 all runs done, 1 some failed, 2 bad input, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    statuses: list[Status] = []
    try:
        options, settings = parse_options(argv)
        if options.experiment:
            lines = experiment_lines(options.experiment, options.rows, settings)
        else:
            lines = product_lines(options.tasks, options.planners, settings)
        runs = make_runs(lines, options.seeds, options.out.expanduser().absolute())
        if options.list:
            for run in runs:
                print(shlex.join(["python", PROGRAM.name, *run.arguments]))
            return 0
        statuses = [Status(run, "done" if run.complete else "waiting") for run in runs]
        before = sum(status.state == "done" for status in statuses)
        if before < len(runs):
            check_tasks([status.run for status in statuses if status.state != "done"])
            _save(options.out.expanduser(), argv, runs)
            conduct(statuses, options, program, lock_seconds)
        return _report(statuses, before)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        done = sum(status.state == "done" for status in statuses)
        told = f"interrupted: {done} of {len(statuses)} runs are done, the same command goes on with the others"
        print(told, file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
