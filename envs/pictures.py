"""Pictures as other people's environments return them, and the pictures among their observations."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from envs.guard import BadValueError
from envs.rendering import shrink

CHANNELS = (1, 3, 4)  # gray, RGB, RGB with opacity or depth
LEAST_SIDE = 16  # pixels; a smaller array among the observations is not a picture
ROUNDING = 1e-3  # how far numbers may leave [0, 1]

Path = tuple[str | int, ...]


def to_picture(value: Any, what: str = "the picture", stacked: bool = False) -> np.ndarray:
    """A picture as uint8 [64, 64, 3].

    Args:
        value: integers from 0 to 255 or floats from 0 to 1, as [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels,
            of which the fourth is dropped; or several of them, of which the last is taken.
        what: names it in errors.
        stacked: whether channels may be those of several frames, of which the last is taken.

    Raises:
        BadValueError: it is something else.
    """
    return shrink(_with_channels(_bytes(_last_frame(value, what), what), what, stacked))


def _last_frame(value: Any, what: str) -> np.ndarray:
    if isinstance(value, list | tuple) and value:
        # Frames, unless they are the rows of one picture.
        shape = np.shape(value[-1])
        value = value[-1] if len(shape) == 3 or (len(shape) == 2 and shape[-1] not in CHANNELS) else value
    array = np.asarray(value)
    array = array[-1] if array.ndim == 4 and len(array) else array
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or not array.size:
        kind = "None" if value is None else f"an array {array.dtype} of shape {array.shape}"
        raise BadValueError(f"{what} is {kind} instead of uint8 [height, width, 3]")
    return array


def _bytes(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        raise BadValueError(f"{what} has numbers that are not finite")
    largest = 1 if array.dtype.kind in "bf" else 255
    tolerance = ROUNDING if array.dtype.kind == "f" else 0
    if low < -tolerance or high > largest + tolerance:
        raise BadValueError(
            f"{what} has {array.dtype} numbers from {low:g} to {high:g} instead of integers from 0 to 255 or floats "
            "from 0 to 1"
        )
    return np.rint(np.clip(array.astype(np.float64) / largest, 0.0, 1.0) * 255.0).astype(np.uint8)


def _with_channels(array: np.ndarray, what: str, stacked: bool) -> np.ndarray:
    """[H, W, 3] of an array with its channels last, first or, for a gray picture, nowhere."""
    if array.ndim == 2:
        array = array[..., None]
    first, last = array.shape[0], array.shape[-1]
    channels_first = last not in CHANNELS and (first in CHANNELS or (stacked and first < last))
    if channels_first:
        array = np.moveaxis(array, 0, -1)
    count = array.shape[-1]
    if count not in CHANNELS and not stacked:
        raise BadValueError(f"{what} has {count} channels instead of 1, 3 or 4")
    if count == 4 and not (stacked and channels_first):
        return array[..., :3]
    return array[..., -3:] if count % 3 == 0 else np.repeat(array[..., -1:], 3, -1)


def leaves(space: gym.Space, path: Path = ()) -> Iterator[tuple[Path, gym.Space]]:
    """The parts of an observation space that are neither a Dict nor a Tuple, and where they are."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        items = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces)
        for key, part in items:
            yield from leaves(part, (*path, key))
    else:
        yield path, space


def is_picture(space: gym.Space) -> bool:
    """Whether a part of an observation is a picture or a stack of pictures."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (2, 3, 4):
        return False
    if sorted(space.shape)[-2] < LEAST_SIDE:
        return False
    if space.dtype == np.uint8:
        return True
    return len(space.shape) > 2 and bool((space.low >= 0).all() and (space.high <= 255).all())


class Split(gym.ObservationWrapper):
    """Splits an observation into a flat state and a picture, which `render` returns as uint8 [64, 64, 3].

    Pictures, and what has no fixed length, are not part of the state.

    Attributes:
        pictures: the pictures among the observations by name, such as 'observation', 'camera' or 'robot.camera'.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        parts = list(leaves(env.observation_space))
        self.pictures = {_name(path): path for path, space in parts if is_picture(space)}
        self._spaces = dict(parts)
        is_array = env.observation_space.shape is not None and len(env.observation_space.shape) == 3
        self._state = [path for path, space in parts if not (is_picture(space) or is_array) and space.is_np_flattenable]
        size = sum(gym.spaces.flatdim(self._spaces[path]) for path in self._state)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._shown: str | None = None
        self._picture: Any = None

    def show(self, name: str) -> None:
        """Takes one of `pictures` instead of the environment's rendering."""
        self._shown = name

    def observation(self, observation: Any) -> np.ndarray:
        """The flat state of an observation; its picture is kept for `render`."""
        if self._shown is not None:
            self._picture = _at(observation, self.pictures[self._shown])
        flat = [gym.spaces.flatten(self._spaces[path], _at(observation, path)) for path in self._state]
        return np.concatenate(flat) if flat else np.zeros(0)

    def render(self) -> np.ndarray:
        """The current picture."""
        if self._shown is None:
            return to_picture(self.env.render(), "what render() returns")
        picture, space = self._picture, self._spaces[self.pictures[self._shown]]
        if space.dtype != np.uint8 and space.high.max() > 1:  # floats, or other integers, on the scale of bytes
            picture = np.asarray(picture) / 255.0
        return to_picture(picture, f"the picture {self._shown}", stacked=True)


def _name(path: Path) -> str:
    return ".".join(map(str, path)) or "observation"


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation
