"""An environment that fails on demand, and functions that do, for other processes: it is quickly imported."""

import os
import signal
import threading

import gymnasium as gym
import numpy as np

from tools.errors import UserError

SPACES = (
    gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (1,), np.uint8)}),
    gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
)


class OwnError(Exception):
    """Cannot be made from one text, and so not in another process."""

    def __init__(self, first, second):
        super().__init__(first, second)
        self.lock = threading.Lock()  # cannot be pickled either


class Clock(gym.Env):
    """Shows the time in steps, plus 100 for environments that were not made with a seed below 100."""

    observation_space, action_space = SPACES

    def __init__(self, seed, length=4, fault=None):
        self.base, self.length, self.fault = 100 * (seed >= 100), length, fault
        if fault == "constructor":
            raise OwnError("made", "wrong")
        if fault == "start":
            os.kill(os.getpid(), signal.SIGKILL)

    def reset(self, *, seed=None, options=None):
        assert options is None
        self.time = 0
        if self.fault == "exit":
            os._exit(3)
        return self._observation(), {"success": 0.0}

    def step(self, action):
        self.time += 1
        if self.fault == "step":
            raise OwnError("stepped", "wrong")
        return self._observation(), 1.0, False, self.time == self.length, {"success": 1.0}

    def _observation(self):
        return {"image": np.array([self.base + self.time], np.uint8)}


class OtherClock(Clock):
    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (2,), np.uint8)})


def die(signal_number):
    os.kill(os.getpid(), signal_number)


def fail(kind):
    raise {"user": UserError("Say this."), "own": OwnError("a", "b"), "builtin": KeyError("there")}[kind]


def die_once(marker):
    if marker.exists():
        return "alive"
    marker.touch()
    die(signal.SIGKILL)
