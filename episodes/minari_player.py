"""Recorded episodes of a Minari data set without pictures, played again to render them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import minari
import numpy as np

from envs.guard import cause
from envs.pictures import to_picture
from tools.command_line import note
from tools.errors import UserError


class Player:
    """Plays recorded episodes again and renders them.

    Raises:
        UserError: the data set does not say in which environment it was recorded, or that environment cannot be made or
            cannot render.
    """

    def __init__(self, name: str, dataset: minari.MinariDataset):
        self.name, self.dataset = name, dataset
        if dataset.env_spec is None:
            raise UserError(f"{name} does not say which environment it was recorded in: it cannot be played again.")
        self._named = f"The environment {dataset.env_spec.id} of {name}"
        with _explained(f"{self._named} cannot be made"):
            self.env = dataset.recover_environment(render_mode="rgb_array", disable_env_checker=True)
        if "rgb_array" not in ((self.env.metadata or {}).get("render_modes") or ()):
            raise UserError(f"{self._named} cannot render (render_mode 'rgb_array').")

    def __call__(self, recorded: minari.EpisodeData) -> Iterator[np.ndarray]:
        """The T + 1 pictures of an episode. Raises UserError if it differs from the recorded one."""
        start = next(iter(self.dataset.storage.get_episode_metadata([recorded.id])))
        if start.get("seed") is None:
            raise UserError(f"{self.name} has no seed of episode {recorded.id}: it cannot be played again.")
        for step, action in enumerate([None, *recorded.actions]):
            with _explained(f"{self._named} failed at step {step} of episode {recorded.id}, played again"):
                if step:
                    observation = self.env.step(action)[0]
                else:
                    observation, _ = self.env.reset(seed=int(start["seed"]), options=start.get("options"))
            self._check(recorded, step, observation)
            with _explained(f"{self._named} cannot render here"):
                picture = to_picture(self.env.render(), "what render() returns")
            yield picture

    def close(self) -> None:
        """Ends the environment. What fails then harms no episode, so it is only noted."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            note(str(cause(f"{self._named} failed at its end", error)))

    def _check(self, recorded: minari.EpisodeData, step: int, observation: Any) -> None:
        if not _agree(recorded.observations, step, observation):
            raise UserError(
                f"Episode {recorded.id} of {self.name}, played again, differs from the recorded one at step {step}: "
                f"{self.dataset.env_spec.id} behaves differently on this machine."
            )


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever somebody else's code raises into a UserError."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise cause(what, error) from error


def _agree(recorded: Any, step: int, played: Any) -> bool:
    """Whether an observation is that of a step of recorded ones, which hold all steps in each of their arrays."""
    if isinstance(recorded, dict):
        same = isinstance(played, dict) and recorded.keys() == played.keys()
        return same and all(_agree(value, step, played[key]) for key, value in recorded.items())
    if isinstance(recorded, tuple):
        same = isinstance(played, tuple) and len(recorded) == len(played)
        return same and all(_agree(value, step, other) for value, other in zip(recorded, played, strict=True))
    return np.shape(recorded[step]) == np.shape(played) and np.allclose(recorded[step], played, equal_nan=True)
