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

from tools.errors import UserError

# Seconds in which all workers have to answer: the first picture loads drivers, a step takes milliseconds.
STEP_TIMEOUT = 300.0


def in_new_process(function: Callable, *args: Any) -> Any:
    """Calls a function of a module in a new process, without TensorFlow, and returns or raises what it does."""
    with _hidden_main(), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


class WorkerEnvs(gym.vector.AsyncVectorEnv):
    """Environments in a process each, stepped in parallel."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], spaces: tuple[gym.spaces.Dict, gym.spaces.Box]) -> None:
        """Starts the workers.

        Args:
            makers: a picklable function for each environment.
            spaces: observation and action space of one environment.
        """
        factories = [_Factory(maker, spaces) for maker in makers]
        # Spawned, because TensorFlow's threads do not survive a fork and workers must not import TensorFlow.
        with _hidden_main():
            super().__init__(factories, context="spawn", autoreset_mode=gym.vector.AutoresetMode.DISABLED)

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
            self._abandon()
            raise UserError(
                f"An environment did not answer for {STEP_TIMEOUT:.0f} s: lower `envs`, or render in software with "
                "MUJOCO_GL=osmesa."
            ) from error
        except (EOFError, ConnectionError) as error:
            self._abandon()
            raise UserError("The process of an environment died, perhaps for want of memory: lower `envs`.") from error

    def _abandon(self) -> None:
        # Closing waits for a pending answer unless none is due.
        self._state = AsyncState.DEFAULT
        self.close(terminate=True)


class _Factory:
    """Makes the environment in the worker. The base class also makes one here, only to read its spaces."""

    def __init__(self, maker: Callable[[], gym.Env], spaces: tuple[gym.spaces.Dict, gym.spaces.Box]) -> None:
        self._maker, self._spaces, self._home = maker, spaces, os.getpid()

    def __call__(self) -> gym.Env:
        if os.getpid() != self._home:
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
