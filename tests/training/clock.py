"""The environment of `fakes.py`, apart from it because workers must not import TensorFlow."""

import gymnasium
import numpy as np

SIZE = 4  # pixels of the pictures
ACTION_SIZE = 2


class Clock(gymnasium.Env):
    """Episodes of a given number of decisions, each of which pays that number. Pictures show the time."""

    observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)})
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    def __init__(self, length, seeds=None):
        self.length, self.seeds = length, [] if seeds is None else seeds

    def _obs(self):
        return {"image": np.full([SIZE, SIZE, 3], self.time, np.uint8)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        self.seeds.append(seed)
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        return self._obs(), float(self.length), False, self.time >= self.length, {}
