"""Batches of environments: `gymnasium.vector` with autoreset off, spawned workers and a time-out."""

import contextlib
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import gymnasium as gym
from gymnasium.vector.async_vector_env import AsyncState

from envs.deaf import deaf_children
from tools.command_line import print_to_stderr
from tools.errors import UserError
from tools.signals import Terminated

# Seconds in which all workers have to answer: the first picture loads drivers, a step takes milliseconds.
STEP_TIMEOUT = 300.0


def in_new_process(function: Callable, *args: Any) -> Any:
    """Calls a function of a module in a new process, without TensorFlow, and returns or raises what it does."""
    context = multiprocessing.get_context("spawn")
    with _hidden_main(), ProcessPoolExecutor(1, mp_context=context, initializer=print_to_stderr) as pool:
        with deaf_children():
            answer = pool.submit(function, *args)
        try:
            return answer.result()
        except (KeyboardInterrupt, Terminated):
            for process in list(pool._processes.values()):
                process.kill()
            raise


class WorkerEnvs(gym.vector.AsyncVectorEnv):
    """Environments in a process each, stepped in parallel."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], spaces: tuple[gym.spaces.Dict, gym.spaces.Box]) -> None:
        """Starts the workers.

        Args:
            makers: a picklable function for each environment.
            spaces: observation and action space of one environment.
        """
        factories = [_Factory(maker, spaces) for maker in makers]
        self._state = AsyncState.DEFAULT
        self.parent_pipes: list[Any] = []
        self.processes: list[Any] = []
        try:
            # Spawned, because TensorFlow's threads do not survive a fork and workers must not import TensorFlow.
            with _hidden_main(), contextlib.ExitStack() as self._starting:
                self._starting.enter_context(deaf_children())
                super().__init__(factories, context="spawn", autoreset_mode=gym.vector.AutoresetMode.DISABLED)
        except BaseException:
            self.close(terminate=True)
            raise

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None):
        """As in the base class; raises UserError when a worker hangs or dies."""
        with self._watched():
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(timeout=STEP_TIMEOUT)

    def step(self, actions):
        """As in the base class; raises UserError when a worker hangs or dies."""
        with self._watched():
            self.step_async(actions)
            return self.step_wait(timeout=STEP_TIMEOUT)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except multiprocessing.TimeoutError as error:
            # Many EGL contexts on one graphics card have been seen to hang.
            self.close(terminate=True)
            raise UserError(
                f"An environment did not answer for {STEP_TIMEOUT:.0f} s: lower `envs`, or render in software with "
                "MUJOCO_GL=osmesa."
            ) from error
        except (EOFError, ConnectionError) as error:
            self.close(terminate=True)
            raise UserError("The process of an environment died, perhaps for want of memory: lower `envs`.") from error

    def _check_spaces(self) -> None:
        self._starting.close()  # the base class has started all workers and now waits for them
        super()._check_spaces()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """As in the base class, but an interruption or an error at any moment is no obstacle."""
        self.processes = [process for process in self.processes if process.pid]  # those that were started
        if self._state != AsyncState.DEFAULT:
            # Interrupted in the middle of a call, whose answer nobody needs any more.
            self._state, terminate = AsyncState.DEFAULT, True
        if terminate:
            for process in self.processes:  # as the base class does, with a signal that they cannot miss
                process.kill()
        super().close_extras(timeout, terminate)


class _Factory:
    """Makes the environment in the worker. The base class also makes one here, only to read its spaces."""

    def __init__(self, maker: Callable[[], gym.Env], spaces: tuple[gym.spaces.Dict, gym.spaces.Box]) -> None:
        self._maker, self._spaces, self._home = maker, spaces, os.getpid()

    def __call__(self) -> gym.Env:
        if os.getpid() != self._home:
            print_to_stderr()
            return self._maker()
        placeholder = gym.Env()
        placeholder.observation_space, placeholder.action_space = self._spaces
        placeholder.metadata = {}
        return placeholder


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    # A spawned process first imports the parent's main script, and with it TensorFlow (seconds, and hundreds of
    # megabytes per worker). The workers need only `envs`, so they start from an empty main module.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
