"""The clock of `fakes.py` for workers, which must not import TensorFlow as that module does."""

import gymnasium
import numpy as np

SIZE, ACTION_SIZE = 4, 2


class Clock(gymnasium.Env):
    """Episodes of a given number of decisions. Pictures show the time."""

    observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)})
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    def __init__(self, length):
        self.length = length

    def _obs(self):
        return {"image": np.full([SIZE, SIZE, 3], self.time, np.uint8)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        return self._obs(), 1.0, False, self.time >= self.length, {}


def make_clock(length, seed):
    """A clock for `envs.workers.WorkerEnvs`; its seed changes nothing."""
    return Clock(length)
