"""Which OpenGL back-end works, and what is said where none does."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import envs
from tests.envs.rollouts import make_config
from tools.errors import UserError

ROOT = Path(__file__).parents[2]


def run_rendering_check(**environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "envs.rendering"]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_the_rendering_check_names_a_back_end_that_works():
    result = run_rendering_check()
    assert result.returncode == 0 and result.stdout.strip() in ("egl", "osmesa", os.environ["MUJOCO_GL"])
    assert run_rendering_check(MUJOCO_GL="nonsense").stdout.strip() in ("egl", "osmesa"), "it falls back"


def test_the_rendering_check_names_the_packages_where_nothing_works(monkeypatch, capsys):
    from envs import rendering

    monkeypatch.setattr(rendering, "works", lambda backend: False)
    assert rendering.main() == 2
    message = capsys.readouterr().err
    assert all(package in message for package in ("libegl1", "libgl1-mesa-dri", "libosmesa6"))


def test_a_missing_opengl_library_is_one_sentence():
    program = (
        "import types, envs; from tools.errors import UserError\n"
        "try: envs.make_env(types.SimpleNamespace(task='pointmass_obstacle'), 0)\n"
        "except UserError as error: print(error)"
    )
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "MUJOCO_GL=nonsense: set it to egl" in result.stdout and "libegl1" in result.stdout, result.stderr


def refusal_without_opengl() -> tuple[str, list]:
    """What is said where MuJoCo has no OpenGL at all, and what Python complains of when the renderer goes away."""
    import mujoco

    complaints: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "off")
        patch.delattr(mujoco.gl_context, "GLContext")  # as it is with this value
        patch.setattr(sys, "unraisablehook", complaints.append)
        env = envs.make_env(make_config("pointmass_obstacle"), 0)
        with pytest.raises(UserError) as refusal:
            env.reset()
        words = str(refusal.value)
        refusal.value.__cause__.__traceback__ = None  # which holds the renderer
        del refusal
        gc.collect()
    return words, complaints


def test_a_mujoco_without_opengl_is_one_sentence(in_worker):
    words, complaints = in_worker(refusal_without_opengl)
    assert words.startswith("Off-screen rendering does not work here with MUJOCO_GL=off: set it to egl")
    assert complaints == []
