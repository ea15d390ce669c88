"""Settings of the whole test suite. Pytest imports this before any test, hence before mujoco and tensorflow."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
# Tests that start the program beside this process share a GPU with it.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# A shell's background jobs ignore the interrupt, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import tools.tensorflow_setup  # noqa: E402 - the variables above must be set first

from tools.config import Config, load_config  # noqa: E402

# The same examples every time, and no time limit on a busy machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


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
