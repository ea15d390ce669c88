"""Episodes as a data set of Minari, the store of offline data sets that goes with Gymnasium.

An episode of T steps (`episode.py`), and what Minari calls its parts:

    replay                     Minari
    image, state [T+1]         observations, Dict(image[, state]) [T+1]
    action[1:]                 actions [T]
    reward[1:]                 rewards [T]
    discount[1:] == 0          terminations [T]; an episode that ends without one is truncated at its end
    success, cost [T+1]        infos [T+1]

An exported data set carries the folder's `collection.json` in its metadata. Minari keeps its data sets in
`~/.minari/datasets`, or where the environment variable MINARI_DATASETS_PATH says. Nothing is uploaded.
The way back is in `minari_import.py`.
"""

import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from rich.console import Console

from episodes.dataset import numbers, read_collection
from episodes.episode import OUTCOMES, Episode, check_same_kind, episode_files, read_episode, transitions_of
from tools.errors import UserError
from tools.files import writing
from tools.lock import exclusive_folder
from tools.progress import ProgressLine

# Where collection.json stands in the metadata of an exported data set.
METADATA_KEY = "latent_planning"


def export_folder(folder: Path, name: str) -> dict[str, Any]:
    """Makes a Minari data set of a folder's episodes, without loss and with uncompressed pictures.

    Args:
        folder: of episode files, with a collection.json or without.
        name: of the new data set, `[namespace/]name-v0`.

    Returns:
        its name and place, and how many episodes and transitions it has.

    Raises:
        UserError: there are no episodes, one is damaged or different from the others, Minari does not accept the
            name or has it already, another program is writing it, or there is no room. An unfinished data set is
            removed again.
    """
    check_name(name)
    files = episode_files(folder)
    if not files:
        raise UserError(f"{folder} has no episodes to export: make some with collect.py, or name another folder.")
    facts, place = read_collection(folder), store(name)
    # Minari makes the folder of the data set itself, so that the lock needs one beside it.
    with exclusive_folder(place.with_name(f".{place.name}"), "name or MINARI_DATASETS_PATH"):
        if place.exists():
            raise UserError(f"Minari has a {name} already ({place}): choose another name or version.")
        _check_room(name, files, place)
        try:
            with ProgressLine(len(files), "episodes", Console(stderr=True)) as progress:
                rows = _write_dataset(progress.track(files), name, facts or {})
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise UserError(f"The data set {name} cannot be written to {place} ({error}).") from error
            raise
    return {"dataset": name, "folder": str(place), "episodes": len(rows), "transitions": sum(row[0] for row in rows)}


def _check_room(name: str, files: Sequence[Path], place: Path) -> None:
    """Raises UserError where the episodes, uncompressed as there, surely do not fit.

    A disk that is full in the middle would end the program in HDF5's own code, with a crash.
    """
    entries, like = sum(transitions_of(file) + 1 for file in files), read_episode(files[0])
    needed = entries * sum(value[0].nbytes for value in like.values())
    folder = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The data set {name} takes {needed / 2**20:,.0f} MiB, and the disk of {folder} has {free / 2**20:,.0f}: "
            "make room, or let MINARI_DATASETS_PATH name a folder on another one."
        )


def store(name: str = "") -> Path:
    """The folder of a data set, or of all. Raises UserError if Minari, which makes the latter, cannot."""
    with writing(Path("Minari's folder"), "let MINARI_DATASETS_PATH name a folder where you can write"):
        return get_dataset_path(name)


def check_name(name: str) -> None:
    """Raises UserError for a name that Minari does not accept."""
    try:
        parse_dataset_id(name)
    except (TypeError, ValueError):  # TypeError where the version is missing
        raise UserError(
            f"Minari does not accept the name {name!r}: write [namespace/]name-v0, with letters, digits, - and _."
        ) from None


def _write_dataset(files: Iterable[Path], name: str, facts: dict[str, Any]) -> list[tuple[int, float, bool]]:
    """Adds one episode after the other, so that memory holds only one; returns the `numbers` of each."""
    first, rows = None, []
    for file in files:
        episode = read_episode(file)
        if first is None:
            first, dataset = episode, _new_dataset(name, episode, facts)
        try:
            check_same_kind(first, episode)
            dataset.update_dataset_from_buffer([_buffer(episode)])
        except ValueError as error:
            raise UserError(f"{file} cannot be exported: {error}. Move it out of the folder.") from error
        rows.append(numbers(episode))
    return rows


def _new_dataset(name: str, like: Episode, facts: dict[str, Any]) -> minari.MinariDataset:
    """A data set without episodes, with the spaces of one and what is known of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would like an author, an address and an algorithm
        dataset = minari.create_dataset_from_buffers(
            name,
            [],
            observation_space=_observation_space(like),
            action_space=_action_space(like),
            description=_description(facts),
            jpeg_encoding=False,
        )
    dataset.storage.update_metadata({METADATA_KEY: facts})
    return dataset


def _observation_space(episode: Episode) -> spaces.Dict:
    entries = {"image": spaces.Box(0, 255, episode["image"].shape[1:], np.uint8)}
    if "state" in episode:
        entries["state"] = spaces.Box(-np.inf, np.inf, episode["state"].shape[1:], np.float32)
    return spaces.Dict(entries)


def _action_space(episode: Episode) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, episode["action"].shape[1:], np.float32)


def _description(facts: dict[str, Any]) -> str:
    known = ", ".join(f"{key} {value}" for key, value in facts.get("settings", {}).items() if value != "")
    return (
        f"Episodes with pictures of 64 x 64 and actions in [-1, 1] ({known or 'task not recorded'}), where an action "
        f"may be several steps of the simulator; the metadata '{METADATA_KEY}' say more."
    )


def _buffer(episode: Episode) -> EpisodeBuffer:
    """An episode in Minari's format. Raises ValueError if Minari could not restore it."""
    if episode["reward"][0] != 0:
        raise ValueError("it has a reward before its first action, for which Minari has no place")
    if not np.isin(episode["discount"], (0, 1)).all():
        raise ValueError("it has a discount between 0 and 1, for which Minari has no place")
    terminations = episode["discount"][1:] == 0
    truncations = np.zeros_like(terminations)
    truncations[-1] = not terminations[-1]
    return EpisodeBuffer(
        observations={key: episode[key] for key in ("image", "state") if key in episode},
        actions=episode["action"][1:],
        rewards=episode["reward"][1:],
        terminations=terminations,
        truncations=truncations,
        infos={key: episode[key] for key in OUTCOMES if key in episode},
    )
