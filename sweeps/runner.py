"""Runs on Ray: attempts, retries, nodes that die."""

import argparse
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sweeps import supervisor
from sweeps.experiment import Run
from sweeps.status import FINISHED, Status
from tools.errors import UserError

OBJECT_STORE_BYTES = 100 * 2**20  # runs exchange nothing but exit codes
NODE_DEATHS = 10  # that Ray makes up for in one attempt of a run; a lack of memory counts as one


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
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
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
        except Exception as error:  # of no class of its own, usually since the machine is too busy for Ray
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
    """Raises UserError if no node is large enough for a run, which would then wait forever."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= options.gpus for node in have):
        sizes = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in have)
        raise UserError(
            f"No node has {options.cpus:g} processors and {options.gpus:g} GPUs for a run (they have {sizes}): "
            "lower --cpus or --gpus."
        )
