"""Data sets of Minari on this machine as episodes; their format is explained in `minari_export.py`."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from rich.console import Console

import envs
from envs.guard import OUTCOME_NAMES, to_state
from envs.pictures import to_picture
from episodes.dataset import numbers, totals, write_collection
from episodes.episode import Episode, episode_files
from episodes.minari_export import METADATA_KEY, check_name, store
from episodes.minari_player import Player
from episodes.replay import Replay
from tools.errors import UserError, unknown
from tools.progress import ProgressLine

# Rounding may carry a rescaled action out of its bounds by this much.
TOLERANCE = 1e-6

PARTIAL = ".import-"  # where an import keeps its episodes until all are complete: the folder is its own meanwhile

# What Minari, h5py and Gymnasium raise for data sets that are damaged or too new, or that lack a package.
_UNREADABLE = (OSError, ValueError, KeyError, AssertionError, ImportError, gym.error.Error)


def import_dataset(name: str, out: Path, task: str = "", image: str = "", replay: bool = False) -> dict[str, Any]:
    """Makes a folder of episodes of a Minari data set on this machine.

    Actions are rescaled from their bounds to [-1, 1], pictures of other sizes resized to 64 x 64. Where there are a
    flat vector of floats among the observations and a success or cost among the infos, they are kept too.

    Args:
        name: of the data set.
        out: folder of the episodes, which must not have any yet.
        task: what the episodes are of, for a data set that does not say it.
        image: entry of the observations that holds the pictures, where there are several.
        replay: plays the episodes of a data set without pictures again in its environment, to render them.

    Returns:
        what the folder's collection.json says.

    Raises:
        UserError: the data set is missing or does not fit, an episode breaks the replay's conventions or differs when
            it is played again, or the folder has episodes. Nothing of a refused data set stays in the folder.
    """
    dataset = _load(name)
    scale = _action_scale(name, dataset.action_space)
    state = _state_key(dataset.observation_space)
    facts = _facts(name, dataset, task)
    if episode_files(out):
        raise UserError(f"{out} has episodes already: choose another --out.")
    if replay and image:
        raise UserError("--replay renders the pictures: leave out --image.")
    if replay and _image_keys(dataset.observation_space):
        raise UserError(f"{name} has pictures: leave out --replay.")
    image = None if replay else _image_key(name, dataset.observation_space, image)
    player = Player(name, dataset) if replay else None
    pictures = player or (lambda recorded: map(to_picture, _entry(recorded.observations, image)))
    facts["minari"] = {"dataset": name, "environment": dataset.env_spec.id if dataset.env_spec else None}
    facts["minari"] |= {"image": image, "state": state, "replayed": replay}
    episodes = (_episode(name, one, pictures(one), state, scale) for one in _recorded(name, dataset))
    try:
        with ProgressLine(dataset.total_episodes, "episodes", Console(stderr=True)) as progress:
            return _fill(out, progress.track(episodes), facts)
    finally:
        if player:
            player.close()


def _load(name: str) -> minari.MinariDataset:
    """A data set of this machine that has episodes."""
    check_name(name)
    place = store(name)
    if not place.exists():
        raise UserError(f"There is no {name} in {store()}: `minari download {name}` gets published ones.")
    try:
        dataset = minari.load_dataset(name)
    except _UNREADABLE as error:
        raise UserError(f"The data set in {place} cannot be read ({error}).") from error
    if not dataset.total_episodes:
        raise UserError(f"{name} has no episodes: choose another data set.")
    return dataset


def _recorded(name: str, dataset: minari.MinariDataset) -> Iterator[minari.EpisodeData]:
    """The data set's episodes, one in memory at a time."""
    try:
        yield from dataset.iterate_episodes()
    except _UNREADABLE as error:
        raise UserError(f"The episodes of {name} cannot be read ({error}): download or export it again.") from error


def _action_scale(name: str, space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width [A] of the action space."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"{name} has the action space {space}: only continuous actions (Box) can be imported.")
    low, high = (np.float64(bound).reshape(-1) for bound in (space.low, space.high))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise UserError(f"{name} has the action space {space}: only actions between finite bounds can be imported.")
    return (low + high) / 2, np.where(low < high, (high - low) / 2, 1.0)  # an entry with only one value becomes 0


def _boxes(space: gym.Space) -> dict[str, spaces.Box]:
    """The arrays of an observation by name; an observation that is not a Dict has one array, named ''."""
    named = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return {key: entry for key, entry in named.items() if isinstance(entry, spaces.Box)}


def _entry(observations: Any, key: str) -> np.ndarray:
    return observations[key] if key else observations


def _image_keys(space: gym.Space) -> list[str]:
    boxes = _boxes(space).items()
    return [key for key, box in boxes if box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[2] == 3]


def _image_key(name: str, space: gym.Space, wanted: str) -> str:
    """Which entry of the observations holds the pictures."""
    found = _image_keys(space)
    if not found:
        raise UserError(
            f"{name} has no pictures (uint8, height x width x 3) among its observations: give --replay, which plays "
            "its episodes again and renders them."
        )
    if wanted and wanted not in found:
        raise unknown("entry with pictures", wanted, found)
    if wanted or len(found) == 1:
        return wanted or found[0]
    if "image" in found:
        return "image"
    raise UserError(f"{name} has several pictures ({', '.join(found)}): choose one with --image.")


def _state_key(space: gym.Space) -> str | None:
    """Which entry of the observations is the simulator's state: 'state', 'observation' or the only flat float one."""
    found = [key for key, box in _boxes(space).items() if box.dtype.kind == "f" and len(box.shape) == 1]
    named = [key for key in ("state", "observation") if key in found]
    return named[0] if named else found[0] if len(found) == 1 else None


def _facts(name: str, dataset: minari.MinariDataset, task: str) -> dict[str, Any]:
    """What is known of the episodes: the collection.json of an exported data set, otherwise the task if it is given."""
    facts = dataset.storage.metadata.get(METADATA_KEY)
    facts = facts if isinstance(facts, dict) else {}
    known = facts.get("settings")
    known = known if isinstance(known, dict) else {}
    if task:
        envs.split_task(task)
        if known.get("task", task) != task:
            raise UserError(f"{name} has episodes of {known['task']}, not of {task}: leave out --task.")
        known = known | {"task": task}
    return facts | {"settings": known}


def _episode(
    name: str,
    recorded: minari.EpisodeData,
    pictures: Iterable[np.ndarray],
    state: str | None,
    scale: tuple[np.ndarray, np.ndarray],
) -> Episode:
    """A recorded episode in the replay's format."""
    steps = len(recorded)
    first = np.arange(steps + 1) == 0
    episode = {
        "image": np.stack(list(pictures)),
        "action": _actions(name, recorded, *scale),
        "reward": np.concatenate([[0.0], _per_step(name, recorded, "rewards")]).astype(np.float32),
        "discount": np.concatenate([[1.0], 1.0 - _per_step(name, recorded, "terminations")]).astype(np.float32),
        "is_first": first,
    }
    if state is not None:
        episode["state"] = to_state(_entry(recorded.observations, state))
    infos = recorded.infos or {}
    for key, names in OUTCOME_NAMES.items():
        values = np.asarray(next((infos[name] for name in names if name in infos), ()))
        if values.dtype.kind in "biuf" and values.shape[:1] in ((steps,), (steps + 1,)) and values.size == len(values):
            # Where nothing was recorded at the reset it is 0, as in the replay.
            episode[key] = np.concatenate([np.zeros(steps + 1 - len(values)), values.ravel()]).astype(np.float32)
    return episode


def _per_step(name: str, recorded: minari.EpisodeData, what: str) -> np.ndarray:
    """Rewards or terminations [T], also where each is an array of one number."""
    values = np.asarray(getattr(recorded, what), np.float64)
    if values.size != len(recorded):
        raise UserError(
            f"{name} has {what} of shape {values.shape} in episode {recorded.id}, not one for each of {len(recorded)} "
            "steps: it cannot be imported."
        )
    return values.ravel()


def _actions(name: str, recorded: minari.EpisodeData, middle: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Actions float32 [T+1, A] in [-1, 1]. Actions that have these bounds already are not changed."""
    if (count := len(recorded.actions)) != len(recorded):
        raise UserError(
            f"{name} has {count} actions and {len(recorded)} rewards in episode {recorded.id}: it cannot be imported."
        )
    action = (np.float64(recorded.actions).reshape(len(recorded), -1) - middle) / half
    beyond = ~(np.abs(action) <= 1 + TOLERANCE)  # so that NaN counts
    if beyond.any():
        step, entry = np.argwhere(beyond)[0]
        raise UserError(
            f"{name} has an action out of its bounds (episode {recorded.id}, step {step}, entry {entry}: "
            f"{action[step, entry] * half[entry] + middle[entry]:.6g}): it cannot be imported."
        )
    return np.concatenate([np.zeros((1, len(half))), np.clip(action, -1.0, 1.0)]).astype(np.float32)


def _fill(out: Path, episodes: Iterable[Episode], facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the episodes and collection.json, and moves them into the folder once all are complete."""
    partial = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f"{PARTIAL}*"):  # by an import that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=out))
        replay = Replay(partial, 1, 1, 1, seed=0)  # it writes the files; one episode in memory is enough
        rows = []
        for episode in episodes:
            replay.add(episode)
            rows.append(numbers(episode))
        contents = facts | totals(rows)
        write_collection(out, contents)  # first, so that no stop leaves episodes of unknown origin
        for file in episode_files(partial):
            file.rename(out / file.name)
    except OSError as error:
        raise UserError(f"The episodes cannot be written to {out} ({error}): choose another --out.") from error
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
    return contents
