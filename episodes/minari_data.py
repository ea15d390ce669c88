"""Exchange of episodes with Minari, the store of offline data sets that goes with Gymnasium.

An episode of T steps (`episode.py`), and what Minari calls its parts:

    replay                     Minari
    image, state [T+1]         observations, Dict(image[, state]) [T+1]
    action[1:]                 actions [T]
    reward[1:]                 rewards [T]
    discount[1:] == 0          terminations [T]; an episode that ends without one is truncated at its end
    success, cost [T+1]        infos [T+1]

An exported data set carries the folder's `collection.json` in its metadata. Minari keeps its data sets in
`~/.minari/datasets`, or where the environment variable MINARI_DATASETS_PATH says. Nothing is downloaded or uploaded.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from rich.console import Console

import envs
from envs.guard import OUTCOMES, BadValueError
from envs.pictures import to_picture
from episodes.dataset import numbers, read_collection, totals, write_collection
from episodes.episode import Episode, check_same_kind, episode_files, read_episode
from episodes.replay import Replay
from tools.errors import UserError, unknown
from tools.progress import ProgressLine

# Where collection.json stands in the metadata of an exported data set.
METADATA_KEY = "latent_planning"

# Rounding may carry a rescaled action this far over the edge.
TOLERANCE = 1e-6

# What Minari, h5py and Gymnasium raise for data sets that are damaged or too new, or that lack a package.
_UNREADABLE = (OSError, ValueError, KeyError, AssertionError, ImportError, gym.error.Error)
_NOT_MADE = (gym.error.Error, ImportError, AttributeError, TypeError, ValueError)


def export_folder(folder: Path, name: str) -> dict[str, Any]:
    """Makes a Minari data set of a folder's episodes, bit by bit the same and its pictures uncompressed.

    Args:
        folder: of episode files, with a collection.json or without.
        name: of the new data set, `[namespace/]name-v0`.

    Returns:
        its name and place, and how many episodes and transitions it has.

    Raises:
        UserError: there are no episodes, one is damaged or different from the others, or Minari does not accept the
            name or has it already. An unfinished data set is removed again.
    """
    _check_name(name)
    files = episode_files(folder)
    if not files:
        raise UserError(f"{folder} has no episodes to export: make some with collect.py, or name another folder.")
    facts = read_collection(folder)
    place = get_dataset_path(name)
    if place.exists():
        raise UserError(f"Minari has a {name} already ({place}): choose another name or version.")
    try:
        with ProgressLine(len(files), "episodes", Console(stderr=True)) as progress:
            rows = _write_dataset(progress.track(files), name, facts or {})
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"The data set {name} cannot be written to {place} ({error}).") from error
        raise
    return {"dataset": name, "folder": str(place), "episodes": len(rows), "transitions": sum(row[0] for row in rows)}


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
        UserError: the data set is missing or does not fit, an episode breaks the replay's conventions or played again
          takes another course, or the folder has episodes. Nothing of a refused data set stays in the folder.
    """
    dataset = _load(name)
    scale = _action_scale(name, dataset.action_space)
    state = _state_key(dataset.observation_space)
    facts = _facts(name, dataset, task)
    if episode_files(out):
        raise UserError(f"{out} has episodes already: choose another --out.")
    if replay and image:
        raise UserError("--replay renders the pictures: leave out --image.")
    image = None if replay else _image_key(name, dataset.observation_space, image)
    player = _Player(name, dataset) if replay else None
    pictures = player or (lambda recorded: map(to_picture, _entry(recorded.observations, image)))
    facts["minari"] = {"dataset": name, "environment": dataset.env_spec.id if dataset.env_spec else None}
    facts["minari"] |= {"image": image, "state": state, "replayed": replay}
    episodes = (_episode(name, one, pictures(one), state, scale) for one in _recorded(name, dataset))
    try:
        with ProgressLine(dataset.total_episodes, "episodes", Console(stderr=True)) as progress:
            return _fill(out, progress.track(episodes), facts)
    finally:
        if player:
            player.env.close()


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
            name, [], observation_space=_observation_space(like), action_space=_action_space(like),
            description=_description(facts), jpeg_encoding=False,
        )  # fmt: skip
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


def _check_name(name: str) -> None:
    try:
        parse_dataset_id(name)
    except (TypeError, ValueError):  # TypeError where the version is missing
        raise UserError(
            f"Minari does not accept the name {name!r}: write [namespace/]name-v0, with letters, digits, - and _."
        ) from None


def _load(name: str) -> minari.MinariDataset:
    """A data set of this machine that has episodes."""
    _check_name(name)
    place = get_dataset_path(name)
    if not place.exists():
        raise UserError(f"There is no {name} in {get_dataset_path()}: `minari download {name}` gets published ones.")
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
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise UserError(f"{name} has the action space {space}: only actions between finite bounds can be imported.")
    return (low + high) / 2, (high - low) / 2


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
        "reward": np.concatenate([[0.0], recorded.rewards]).astype(np.float32),
        "discount": np.concatenate([[1.0], 1.0 - np.float32(recorded.terminations)]).astype(np.float32),
        "is_first": first,
    }
    if state is not None:
        episode["state"] = _entry(recorded.observations, state).astype(np.float32)
    infos = recorded.infos or {}
    for key, names in OUTCOMES.items():
        values = np.asarray(next((infos[name] for name in names if name in infos), ()))
        if values.dtype.kind in "bif" and values.shape in ((steps,), (steps + 1,)):
            # Where nothing was recorded at the reset it is 0, as in the replay.
            episode[key] = np.concatenate([np.zeros(steps + 1 - len(values)), values]).astype(np.float32)
    return episode


def _actions(name: str, recorded: minari.EpisodeData, middle: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Actions float32 [T+1, A] in [-1, 1]. What had these bounds before keeps every bit."""
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
    """Writes the episodes and collection.json; they come into the folder together, once all of them are there."""
    partial = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".import-", dir=out))
        replay = Replay(partial, 1, 1, 1, seed=0)  # it writes the files; one episode in memory is enough
        rows = []
        for episode in episodes:
            replay.add(episode)
            rows.append(numbers(episode))
        contents = facts | totals(rows)
        for file in episode_files(partial):
            file.rename(out / file.name)
        write_collection(out, contents)
    except OSError as error:
        raise UserError(f"The episodes cannot be written to {out} ({error}): choose another --out.") from error
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
    return contents


class _Player:
    """Plays recorded episodes again and renders them.

    Raises:
        UserError: the data set has pictures, does not say in which environment it was recorded, or that cannot be made
          or cannot render.
    """

    def __init__(self, name: str, dataset: minari.MinariDataset):
        self.name, self.dataset = name, dataset
        if _image_keys(dataset.observation_space):
            raise UserError(f"{name} has pictures: leave out --replay.")
        if dataset.env_spec is None:
            raise UserError(f"{name} does not say which environment it was recorded in: it cannot be played again.")
        try:
            self.env = dataset.recover_environment(render_mode="rgb_array", disable_env_checker=True)
        except _NOT_MADE as error:
            raise UserError(f"The environment {dataset.env_spec.id} of {name} cannot be made ({error}).") from error
        if "rgb_array" not in self.env.metadata.get("render_modes", ()):
            raise UserError(f"The environment {dataset.env_spec.id} of {name} cannot render (render_mode 'rgb_array').")

    def __call__(self, recorded: minari.EpisodeData) -> Iterator[np.ndarray]:
        """The T + 1 pictures of an episode. Raises UserError where it takes another course than the recorded one."""
        start = next(iter(self.dataset.storage.get_episode_metadata([recorded.id])))
        if start.get("seed") is None:
            raise UserError(f"{self.name} has no seed of episode {recorded.id}: it cannot be played again.")
        observation, _ = self.env.reset(seed=int(start["seed"]), options=start.get("options"))
        yield self._picture(recorded, 0, observation)
        for step, action in enumerate(recorded.actions, 1):
            observation = self.env.step(action)[0]
            yield self._picture(recorded, step, observation)

    def _picture(self, recorded: minari.EpisodeData, step: int, observation: Any) -> np.ndarray:
        if not _agree(recorded.observations, step, observation):
            raise UserError(
                f"Episode {recorded.id} of {self.name}, played again, differs from the recorded one at step {step}: "
                f"{self.dataset.env_spec.id} behaves differently on this machine."
            )
        try:
            return to_picture(self.env.render(), "what render() returns")
        except (*_NOT_MADE, RuntimeError, BadValueError) as error:
            raise UserError(f"The environment of {self.name} cannot render here ({error}).") from error


def _agree(recorded: Any, step: int, played: Any) -> bool:
    """Whether an observation is that of a step of recorded ones, which hold all steps in each of their arrays."""
    if isinstance(recorded, dict):
        same = isinstance(played, dict) and recorded.keys() == played.keys()
        return same and all(_agree(value, step, played[key]) for key, value in recorded.items())
    if isinstance(recorded, tuple):
        same = isinstance(played, tuple) and len(recorded) == len(played)
        return same and all(_agree(value, step, other) for value, other in zip(recorded, played, strict=True))
    return np.shape(recorded[step]) == np.shape(played) and np.allclose(recorded[step], played, equal_nan=True)
