"""Settings of the whole test suite. Pytest imports this before any test, hence before mujoco and tensorflow."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
# Tests that start the program beside this process share a GPU with it.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import tools.tensorflow_setup  # noqa: E402 - the variables above must be set first

from tools.config import Config, load_config  # noqa: E402


@pytest.fixture
def tiny_config(tmp_path: Path) -> Config:
    """The smallest model and the shortest run, logging to a folder that goes away."""
    return load_config(["--configs", "defaults", "debug", "--logdir", str(tmp_path / "logdir")])
