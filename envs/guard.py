"""What an environment returns, checked at every step; what is wrong is named with the environment and the step."""

import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from tools.command_line import note
from tools.errors import UserError

LONGEST_TEXT = 300  # characters of somebody else's message

LARGEST = float(np.finfo(np.float32).max)

# Where code lies that a person who writes an environment did not write.
LIBRARIES = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen")
PACKAGES = {"site-packages", "dist-packages"}

# An episode's outcomes and their names in `info`, of which the first that is there counts. Stable-Baselines3 writes
# `is_success`.
OUTCOME_NAMES = {"success": ("success", "is_success"), "cost": ("cost",)}


class BadValueError(Exception):
    """An environment returned something unusable: half a sentence, to which `Guard` adds the environment and step."""


class Guard(gym.Wrapper):
    """Checks what an environment returns, and turns its exceptions into one sentence.

    It passes on rewards as numbers and nothing but success and cost of `info` (see `outcomes`).
    """

    def __init__(self, env: gym.Env, task: str) -> None:
        super().__init__(env)
        self._task, self._steps = task, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Starts an episode. A batch leaves empty options behind, which are None for an environment."""
        self._steps = 0
        try:
            state, info = self.env.reset(seed=seed, options=options or None)
            return self._state(state), outcomes(info)
        except (Exception, SystemExit) as error:
            self._refuse(error)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """One step."""
        self._steps += 1
        try:
            state, reward, terminated, truncated, info = self.env.step(action)
            return self._state(state), number("the reward", reward), bool(terminated), bool(truncated), outcomes(info)
        except (Exception, SystemExit) as error:
            self._refuse(error)

    def render(self) -> np.ndarray:
        """The current picture."""
        try:
            return self.env.render()
        except (Exception, SystemExit) as error:
            self._refuse(error)

    def close(self) -> None:
        """Ends the environment. What fails then harms no episode, so it is only noted."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            note(str(cause(f"{self._task} failed at its end", error)))

    def _state(self, state: Any) -> np.ndarray:
        if np.shape(state) != self.env.observation_space.shape:
            raise BadValueError(
                f"the observation has the shape {np.shape(state)}, but observation_space promises "
                f"{self.env.observation_space.shape}"
            )
        return state

    def _refuse(self, error: BaseException) -> NoReturn:
        if isinstance(error, UserError):
            raise error
        place = f"step {self._steps} of an episode" if self._steps else "a reset"
        raise cause(f"{self._task} failed at {place}", error) from error


def outcomes(info: Mapping[str, Any]) -> dict[str, float]:
    """Success and cost in an `info`, each where it is reported, also within Gymnasium's `final_info`."""
    if not isinstance(info, Mapping):
        raise BadValueError(f"info is {short(repr(info))} instead of a dictionary")
    final = info.get("final_info")
    places = [info, final] if isinstance(final, Mapping) else [info]
    found = {}
    for name, aliases in OUTCOME_NAMES.items():
        values = [place[alias] for place in places for alias in aliases if place.get(alias) is not None]
        if values:
            found[name] = number(f"{name} in info", values[0])
    return found


def number(name: str, value: Any) -> float:
    """A value as a number that float32 can hold. Raises BadValueError if it is not one."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or not abs(array.item()) <= LARGEST:
        raise BadValueError(f"{name} is {short(repr(value))} instead of a finite number")
    return float(array.item())


def to_state(values: Any) -> np.ndarray:
    """A state as float32, whose largest numbers stand for those beyond; what is not a number stays so."""
    return np.clip(np.asarray(values, np.float64), -LARGEST, LARGEST).astype(np.float32)


def cause(what: str, error: BaseException) -> UserError:
    """Returns (does not raise) the error for an exception of somebody else's code.

    Args:
        what: what went wrong, for the message.
        error: why.
    """
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, BadValueError):
        return UserError(f"{what}: {error}. Correct the environment.")
    if isinstance(error, gym.error.DependencyNotInstalled) or (isinstance(error, ModuleNotFoundError) and error.name):
        return UserError(f"{what}: a package is missing ({short(str(error))}); install it.")
    return UserError(f"{what}: {short(text)}{_line(error)}. Correct it there.")


def _line(error: BaseException) -> str:
    """The innermost line that is neither this package's nor a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES) and not PACKAGES & set(Path(f.filename).parts)]
    if isinstance(error, SyntaxError) or not own:  # the text of a SyntaxError has it already
        return ""
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"


def short(text: str) -> str:
    """A text on one line, cut where it is too long, without a full stop."""
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."
