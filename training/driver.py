"""Steps a vector environment with a policy and splits the transitions into episodes."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np

from episodes.episode import OUTCOMES

Policy = Callable[[dict[str, np.ndarray], np.ndarray, Any], tuple[np.ndarray, Any, dict]]


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        env: index of its environment in the batch.
        data: the T + 1 entries that a replay stores (docs/data.md).
        extras: the policy's extras for its T actions, name -> [T]; 'metrics' is itself such a dictionary. Numbers that
            some of its actions lack, since another policy made them, are left out.
        number: index of its seed in the list given to `Driver.restart`, None without a list.
    """

    env: int
    data: dict[str, np.ndarray]
    extras: dict[str, Any]
    number: int | None = None

    @property
    def length(self) -> int:
        """Number of decisions."""
        return len(self.data["reward"]) - 1

    def summary(self) -> dict[str, float]:
        """Return, length and, if the simulator reports them, success at any step, success at the last step and cost."""
        stats = {"return": float(self.data["reward"].sum()), "length": float(self.length)}
        if "success" in self.data:
            success = self.data["success"]
            stats |= {"success": float(success.max() > 0), "success_final": float(success[-1] > 0)}
        if "cost" in self.data:
            stats["cost"] = float(self.data["cost"].sum())
        return stats


@dataclass
class _Recorder:
    """An episode in progress."""

    number: int | None
    seed: int | None
    entries: list[dict[str, np.ndarray]] = field(default_factory=list)
    extras: list[dict[str, Any]] = field(default_factory=list)

    def episode(self, env: int, reported: Collection[str]) -> Episode:
        return with_outcomes(Episode(env, _stack(self.entries), self._stacked_extras(), self.number), reported)

    @property
    def state(self) -> dict[str, Any]:
        """From what `Driver.resume` plays the episode again."""
        rows = self.entries[1:]
        actions, rewards = (np.array([row[key] for row in rows], np.float32) for key in ("action", "reward"))
        extras = self._stacked_extras() if self.extras else {}
        return {"seed": self.seed, "action": actions, "reward": rewards, "extras": extras}

    def _stacked_extras(self) -> dict[str, Any]:
        """The extras [T] of all actions."""

        def known(key: str, value: Any) -> bool:
            # Without a plan, a flag is false and metrics do not count, but 0 is no prediction.
            return isinstance(value, dict) or value.dtype == bool or all(key in row for row in self.extras)

        return {key: value for key, value in _stack(self.extras).items() if known(key, value)}


def _row(values: dict[str, Any], env: int) -> dict[str, Any]:
    """The values of one environment, also in nested dictionaries."""
    return {key: _row(value, env) if isinstance(value, dict) else value[env] for key, value in values.items()}


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    # A simulator may report success and cost at some steps only. They are 0 elsewhere.
    def stack(key, like):
        if isinstance(like, dict):
            return _stack([row.get(key, {}) for row in rows])
        return np.stack([row.get(key, np.zeros_like(like)) for row in rows])

    likes = dict(rows[-1])
    for row in rows:
        for key, value in row.items():
            likes.setdefault(key, value)
    return {key: stack(key, like) for key, like in likes.items()}


def with_outcomes(episode: Episode, reported: Collection[str]) -> Episode:
    """The episode with the outcomes that others of its task reported; they are 0 where it reported none."""
    missing = [key for key in OUTCOMES if key in reported and key not in episode.data]
    return replace(episode, data=episode.data | {key: np.zeros_like(episode.data["reward"]) for key in missing})


def alike(episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes of one task, each with the outcomes that any of them reported."""
    reported = set().union(*(episode.data for episode in episodes))
    return [with_outcomes(episode, reported) for episode in episodes]


class Driver:
    """Drives a batch of environments with one policy.

    A policy maps (observations, is_first [B], policy state) to (actions [B, A], policy state, extras name -> [B]). Its
    state is None at the start and is kept here between steps. An environment whose episode ends is reset at once: its
    next observation is the first of a new episode.

    Args:
        envs: the environments. They hand over new arrays at each step, which are kept.
        reported: outcomes that episodes of these environments have reported, to which new ones are added. All later
            episodes have them.
        seeds: those of `restart`, which the first step calls if nothing did.

    Attributes:
        policy_state: what the policy returned last.
        waiting: bool [B], which environments had no seed left (see `restart`). They are stepped with the others, but
            not recorded.
        dropped: how many episodes were lost with their environments (see `envs.workers`).
    """

    def __init__(
        self, envs: gymnasium.vector.VectorEnv, reported: set[str] | None = None, seeds: Iterable[int] | None = None
    ):
        self.envs, self._first_seeds = envs, seeds
        self._reported = set() if reported is None else reported
        self.policy_state: Any = None
        self.waiting = np.zeros(envs.num_envs, bool)
        self.dropped = 0
        self._is_first = np.zeros(envs.num_envs, bool)
        self._obs: dict[str, np.ndarray] | None = None

    def restart(self, seed: int | Iterable[int] | None = None) -> None:
        """Drops the episodes in progress and starts new ones.

        Args:
            seed: of the first environment, from which the seeds of the others follow; later episodes continue the
                random streams of the environments. Or seeds, one for each future episode: an environment that starts an
                episode takes the next one. Once none is left, it waits for the next restart.
        """
        everyone = np.ones(self.envs.num_envs, bool)
        self._seeds: Iterator[tuple[int, int]] | None = enumerate(seed) if isinstance(seed, Iterable) else None
        self.policy_state = None
        self.waiting[:] = False
        self._recorders = [_Recorder(None, None) for _ in everyone]
        self._start(everyone, self._take_seeds(everyone) if isinstance(seed, Iterable) else seed)

    def step(self, policy: Policy) -> list[Episode]:
        """One decision in every environment. Returns the episodes that ended."""
        if self._obs is None:
            self.restart(self._first_seeds)
        action, self.policy_state, extras = policy(self._obs, self._is_first, self.policy_state)
        for env in np.flatnonzero(~self.waiting):
            self._recorders[env].extras.append(_row(extras, env))
        done, lost = self._step(action)
        ended = np.flatnonzero(done & ~lost & ~self.waiting)
        episodes = [self._recorders[env].episode(env, self._reported) for env in ended]
        self._drop(lost & ~self.waiting)
        if done.any():
            self._start(done, self._take_seeds(done))
        return episodes

    @property
    def state(self) -> list[dict[str, Any]]:
        """The episodes in progress, one for each environment, none before the first step."""
        return [] if self._obs is None else [recorder.state for recorder in self._recorders]

    def resume(self, episodes: Sequence[dict[str, Any]], seeds: Iterable[int]) -> bool:
        """Plays episodes in progress again, each from its seed with its actions.

        Args:
            episodes: the `state` of a driver, whose episodes have a seed each.
            seeds: of later episodes.

        Returns:
            whether their rewards were the same again. If not, all environments have started new episodes.
        """
        seed = [episode["seed"] for episode in episodes]
        lengths = np.array([len(episode["reward"]) for episode in episodes])
        self._seeds, self.policy_state = enumerate(seeds), None
        self._recorders = [_Recorder(None, own) for own in seed]
        self.waiting[:] = True
        self._start(np.ones_like(self.waiting), seed)  # an environment must not be stepped before its first reset
        ended = False
        for left in range(lengths.max(), -1, -1):
            if (begins := lengths == left).any():  # so that all of them arrive together
                self.waiting[begins] = False
                self._start(begins, [own if begin else None for own, begin in zip(seed, begins, strict=True)])
            if left:
                action = self._zero_action()
                for env in np.flatnonzero(~self.waiting):
                    action[env] = episodes[env]["action"][lengths[env] - left]
                done, _ = self._step(action)
                ended |= (done & ~self.waiting).any()
                if done.any():
                    self._start(done, [None] * len(done))
        same = not ended
        for recorder, episode in zip(self._recorders, episodes, strict=True):
            recorder.extras = [_row(episode["extras"], t) for t in range(len(episode["reward"]))]
            same &= np.array_equal(recorder.state["reward"], episode["reward"])
        if not same:
            self.restart(seeds)
        return same

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()

    def _drop(self, lost: np.ndarray) -> None:
        """Counts episodes that were lost, and puts their seeds back to the front."""
        for env in np.flatnonzero(lost):
            self.dropped += 1
            if self._seeds is not None:
                recorder = self._recorders[env]
                self._seeds = itertools.chain([(recorder.number, recorder.seed)], self._seeds)

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps all environments and records it, but for those that wait.

        Returns:
            bool [B], which episodes ended, and bool [B], which of them were lost with their environments.
        """
        self._obs, reward, terminated, truncated, info = self.envs.step(action)
        self._is_first = np.zeros(self.envs.num_envs, bool)
        self._record(~self.waiting, action, reward, 1.0 - terminated.astype(np.float32), info)
        lost = info.get("lost", np.zeros_like(self.waiting))
        return terminated | truncated | lost, lost

    def _take_seeds(self, done: np.ndarray) -> list[int | None]:
        """The next seeds for the environments in `done`. They get new recorders, or wait if no seed is left."""
        seeds: list[int | None] = [None] * len(done)
        for env in np.flatnonzero(done):
            number, seeds[env] = (None, None) if self._seeds is None else next(self._seeds, (None, None))
            self._recorders[env] = _Recorder(number, seeds[env])
            self.waiting[env] = self._seeds is not None and seeds[env] is None
        return seeds

    def _start(self, mask: np.ndarray, seed: int | list[int | None] | None) -> None:
        """Resets the environments in `mask` and records the first entries of their episodes."""
        self._obs, info = self.envs.reset(seed=seed, options=None if mask.all() else {"reset_mask": mask})
        self._is_first = mask & ~self.waiting
        zeros = np.zeros(len(mask), np.float32)
        self._record(self._is_first, self._zero_action(), zeros, zeros + 1, info)

    def _record(self, mask, action, reward, discount, info) -> None:
        for env in np.flatnonzero(mask):
            entry = {key: value[env] for key, value in self._obs.items()}
            entry |= {
                "action": np.float32(action[env]),
                "reward": np.float32(reward[env]),
                "discount": np.float32(discount[env]),
                "is_first": np.bool_(self._is_first[env]),
            }
            # Gymnasium fills in zeros for the environments of a batch that report nothing, and says so in `_<key>`.
            outcomes = [key for key in OUTCOMES if key in info and info.get(f"_{key}", mask)[env]]
            self._reported.update(outcomes)
            entry |= {key: np.float32(info[key][env]) for key in outcomes}
            self._recorders[env].entries.append(entry)

    def _zero_action(self) -> np.ndarray:
        return np.zeros((self.envs.num_envs, *self.envs.single_action_space.shape), np.float32)


def play(driver: Driver, policy: Policy) -> Iterator[Episode]:
    """An endless stream of finished episodes; take some with `itertools.islice`."""
    while True:
        yield from driver.step(policy)
