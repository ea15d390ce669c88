"""Where the environments of tests are made."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import gymnasium as gym
import pytest

import envs
from tests.envs.own import Own
from tests.envs.rollouts import make_config


@pytest.fixture(scope="session")
def in_worker() -> Iterator[Callable]:
    """Calls a function in a process without TensorFlow."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(timeout=300)


@pytest.fixture
def make_own(monkeypatch):
    """Makes an `Own` as the programs do, in this process: nothing here draws with a simulator."""
    made = []

    def make(changes: dict[str, Any] | None = None, limit: int | None = None, **told: Any) -> gym.Env:
        name = f"Own{len(made)}-v0"
        made.append(name)
        gym.register(name, Own, kwargs=told, max_episode_steps=limit, disable_env_checker=True)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "tensorflow", raising=False)
            return envs.make_env(make_config(f"gym_{name}", **(changes or {})), 0)

    yield make
    for name in made:
        del gym.registry[name]
