"""Settings of the whole test suite. Pytest imports this before any test, hence before mujoco and tensorflow."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tools.config import Config, load_config

os.environ.setdefault("MUJOCO_GL", "egl")
# Tests that start the program beside this process share a GPU with it.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# XLA compiles tiny models longer than they run, so in quick tests its machine code may be slow.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# A shell's background jobs ignore the interrupt, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no time limit on a busy machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Sets TensorFlow up before any test imports it, unless all tests run in other processes."""
    if config.getoption("markexpr") == "not slow":
        os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        import tools.tensorflow_setup  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def no_power_failures() -> Iterator[None]:
    """Nothing waits for the disk, which takes most of the time of small files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def tiny_config(tmp_path: Path) -> Config:
    """The smallest model and the shortest run, logging to a folder that goes away."""
    return load_config(["--configs", "defaults", "debug", "--logdir", str(tmp_path / "logdir")])


@pytest.fixture
def line_by_line() -> Iterator[None]:
    """Nothing is compiled, where that would take longer than what a test computes."""
    import tensorflow as tf  # seconds, which tests of figures and files alone do without

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
