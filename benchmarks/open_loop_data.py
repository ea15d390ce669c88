"""Recorded episodes for open_loop.py, split into those to train on and held-out chunks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
from episodes.episode import Episode, read_episode
from episodes.replay import Replay
from tools.config import Config
from tools.errors import UserError
from world_model.open_loop import CONTEXT

HELD_OUT = 5  # episodes at least, a tenth where that is more
KEYS = ("image", "action", "reward", "is_first")  # of a chunk


class Data(NamedTuple):
    """One recorded data set.

    Attributes:
        name: as the command line calls it.
        replay: the episodes to train on.
        chunks: held-out image, action, reward and is_first, [N, CONTEXT + K, ...].
        held_out: episodes that are not in `replay`.
    """

    name: str
    replay: Replay
    chunks: Episode
    held_out: int


def read_data(name: str, folder: Path, config: Config, horizon: int, count: int) -> Data:
    """Splits a folder of episodes, which stays as it is, into a replay of the older and chunks of the newest.

    Args:
        name: of the data set.
        folder: of episode files as `episodes.replay.Replay` writes them.
        config: batch size and length, replay capacity and seed.
        horizon: steps to predict, K.
        count: chunks at most.

    Raises:
        UserError: there are too few episodes, all held-out ones are too short, or a file is not a usable episode.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give --data {name}=FOLDER the episodes/ of a log directory.")
    paths = sorted(folder.glob("*.npz"))
    held_out = max(HELD_OUT, round(len(paths) / 10))
    if len(paths) <= held_out:
        raise UserError(
            f"{folder} holds {len(paths)} episodes, but {held_out} are held out and at least one is for training: "
            "collect more, or give --data another folder."
        )
    episodes = [read_episode(path) for path in paths[-held_out:]]
    chunks = cut(episodes, CONTEXT + horizon, count)
    if not len(chunks["reward"]):
        longest = max(len(episode["reward"]) for episode in episodes)
        hint = f"choose --horizon {longest - CONTEXT} or less" if longest > CONTEXT else "record longer ones"
        raise UserError(
            f"The held-out episodes of {folder} have at most {longest} entries, too short for {CONTEXT} of context and "
            f"{horizon} predicted: {hint}."
        )
    replay = _read_replay(folder, paths[:-held_out], config)
    _check_shapes(folder, replay, chunks)
    return Data(name, replay, chunks, held_out)


def cut(episodes: Sequence[Episode], length: int, count: int) -> Episode:
    """At most `count` chunks [N, length, ...] that do not overlap, spread evenly over all that there are."""
    places = [(e, t) for e in episodes for t in range(0, len(e["reward"]) - length + 1, length)]
    picked = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))
    shapes = {key: (0, length, *episodes[0][key].shape[1:]) for key in KEYS}
    empty = {key: np.zeros(shapes[key], episodes[0][key].dtype) for key in KEYS}
    if not places:
        return empty
    return {key: np.stack([places[i][0][key][places[i][1] : places[i][1] + length] for i in picked]) for key in KEYS}


def _read_replay(folder: Path, paths: Sequence[Path], config: Config) -> Replay:
    """A replay of some episodes of a folder, through links in a folder of its own. All that it needs is in memory."""
    with tempfile.TemporaryDirectory() as links:
        for path in paths:
            (Path(links) / path.name).symlink_to(path.resolve())
        try:
            return Replay(links, config.batch_size, config.batch_length, config.replay_capacity, config.seed)
        except UserError as error:
            raise UserError(str(error).replace(links, str(folder))) from error


def _check_shapes(folder: Path, replay: Replay, chunks: Episode) -> None:
    """Raises UserError unless training and held-out episodes are of one kind, with images that the model takes."""
    batch = replay.sample()
    for key in KEYS:
        found, expected = chunks[key].shape[2:], batch[key].shape[2:]
        if found != expected:
            raise UserError(f"{folder} mixes episodes whose {key} is {found} and {expected}: separate them.")
    if chunks["image"].shape[2:] != models.IMAGE_SHAPE:
        raise UserError(
            f"The images of {folder} are {chunks['image'].shape[2:]}, the model's {models.IMAGE_SHAPE}: "
            "record episodes with this program."
        )
