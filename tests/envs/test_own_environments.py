"""Other people's environments in worker processes and programs."""

import os
import subprocess
import sys
from pathlib import Path

import collect
import planning_agent
from envs.wrappers import LAST_STEP

ROOT = Path(__file__).parents[2]
CHATTY = """
import os
import gymnasium as gym
import numpy as np

print("imported")

class Chatty(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2, 3))

    def __init__(self, render_mode):
        self.render_mode = render_mode
        print("made")
        os.write(1, b"made, as C code says it")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert options is None
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert action.shape == (2, 3)
        print("step")
        self.time += 1
        return np.zeros(2, np.float32), (1.0 if self.time < 3 else -np.inf), False, False, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

gym.register("Chatty-v0", Chatty)
"""
PROGRAM = """
import os
import subprocess
import sys
import numpy as np
import envs
from tools.config import load_config
from tools.errors import UserError

config = load_config(["--configs", "gym", "--task", "gym_chatty:Chatty-v0"])
observations, actions = envs.spaces(config)
batch = envs.make_vector_env(config, 2, 0)
batch.reset()
batch.step(np.zeros((2, 6), np.float32))
batch.reset(options={"reset_mask": np.array([True, False])})
print(actions.shape, batch.step(np.zeros((2, 6), np.float32))[1])
try:
    batch.step(np.zeros((2, 6), np.float32))
except UserError as error:
    print(error)
finally:
    batch.close(terminate=True)
"""


def test_a_batch_of_one_s_own_prints_nothing_and_resets_in_part(tmp_path):
    (tmp_path / "chatty.py").write_text(CHATTY)
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines() == [
        "(6,) [1. 1.]",
        "gym_chatty:Chatty-v0 failed at step 3 of an episode: the reward is -inf instead of a finite number. "
        "Correct the environment.",
    ], done.stderr
    assert all(text in done.stderr for text in ("imported", "made, as C code says it", "step"))
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: gym_chatty:Chatty-v0 has no time limit: its episodes end after {LAST_STEP} steps, or at --time_limit"
    ]


def test_what_is_wrong_shows_before_anything_is_collected_or_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "blind.py").write_text(CHATTY.replace("return np.zeros((64, 64, 3), np.uint8)", "return None"))
    monkeypatch.syspath_prepend(tmp_path)
    folder = str(tmp_path / "new")
    words = ["--configs", "gym", "debug", "--task", "gym_blind:Chatty-v0"]
    for main, options in (
        (planning_agent.main, ["--logdir", folder]),
        (collect.main, ["episodes", "--out", folder, "--success_rate", "0"]),
    ):
        assert main([*options, *words]) == 2
        assert capsys.readouterr().err == (
            "error: gym_blind:Chatty-v0 failed at a reset: what render() returns is None instead of uint8 [height, "
            "width, 3]. Correct the environment.\n"
        )
        assert not list((tmp_path / "new").glob("*"))
