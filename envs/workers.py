"""Batches of environments in processes of their own; those that die or hang are replaced."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from envs.process import Late, Lost, Process
from tools.command_line import note
from tools.errors import UserError

# Workers that are replaced before a batch of environments counts as broken.
RESTARTS = 5

LATE_ADVICE = "look for what holds it up, or raise step_timeout if it is only slow"


def in_new_process(function: Callable, *args: Any, timeout: float = float("inf")) -> Any:
    """Calls a function of a module in a new process, without TensorFlow, and returns or raises what it does.

    Raises:
        UserError: the process died twice, or did not answer in time.
    """
    for again in (True, False):
        process = Process(functools.partial(_Call, function, args), "the process that tries out an environment")
        try:
            process.send("result")
            answer = process.receive(timeout)
        except Lost as lost:
            process.close(force=True)
            if not again:
                advice = LATE_ADVICE if isinstance(lost, Late) else "look for what ends it, or free memory"
                raise UserError(f"The process that tries out an environment {lost}, twice: {advice}.") from lost
        except BaseException:
            process.close(force=True)
            raise
        else:
            process.close()
            return answer
    raise AssertionError("unreachable")


class _Call:
    """A call of a function as an object of which a process can ask the result."""

    def __init__(self, function: Callable, args: tuple) -> None:
        self.result = functools.partial(function, *args)

    def close(self) -> None:
        """Nothing is left open."""


class WorkerEnvs(gym.vector.VectorEnv):
    """Environments in a process each, stepped in parallel. Episodes do not restart by themselves.

    A worker that dies or hangs is replaced, at most `RESTARTS` times. Its episode is lost: the `info` of the step has
    'lost', bool [B], and its environment must be reset, as after the end of an episode.

    Args:
        make: a picklable function that makes an environment from a seed.
        seeds: of the environments.
        spaces: observation and action space of one environment.
        timeout: seconds in which a worker has to answer. The first picture loads drivers, a step takes milliseconds.
    """

    def __init__(
        self,
        make: Callable[[int], gym.Env],
        seeds: Sequence[int],
        spaces: tuple[gym.spaces.Dict, gym.spaces.Box],
        timeout: float = 300.0,
    ) -> None:
        self.timeout = timeout
        self.num_envs, self._make, self._seeds = len(seeds), make, seeds
        self.single_observation_space, self.single_action_space = self._spaces = spaces
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in spaces)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
        self.restarts = 0
        nothing = create_empty_array(self.single_observation_space, self.num_envs)
        self._latest = list(iterate(self.observation_space, nothing))
        self._lost = np.zeros(self.num_envs, bool)
        self._busy = False
        self.processes = [self._start(index, seed) for index, seed in enumerate(seeds)]

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None):
        """Starts episodes, where `options['reset_mask']` is true if it is given; the others repeat their observation.

        Raises:
            UserError: too many workers died or hung.
            Exception: what an environment raised.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        seeds = [seed + index for index in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else seeds
        calls = {int(i): ("reset", {"seed": seeds[i], "options": options or None}) for i in np.flatnonzero(mask)}
        answers: dict[int, Any] = {}
        while calls.keys() - answers.keys():  # an episode that has not started is started again
            answers |= self._ask({index: call for index, call in calls.items() if index not in answers})
        infos: dict[str, Any] = {}
        for index, (observation, info) in sorted(answers.items()):
            self._latest[index], self._lost[index] = observation, False
            infos = self._add_info(infos, info, index)
        return self._observed(), infos

    def step(self, actions: np.ndarray):
        """One step in every environment; those that were lost wait for their reset.

        Raises:
            UserError: too many workers died or hung.
            Exception: what an environment raised.
        """
        steps = dict(enumerate(iterate(self.action_space, actions)))
        answers = self._ask({index: ("step", {"action": steps[index]}) for index in np.flatnonzero(~self._lost)})
        rewards, infos = np.zeros(self.num_envs), dict[str, Any]()
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        for index, answer in sorted(answers.items()):
            self._latest[index], rewards[index], terminated[index], truncated[index], info = answer
            infos = self._add_info(infos, info, index)
        if self._lost.any():
            infos["lost"] = self._lost.copy()
        return self._observed(), rewards, terminated, truncated, infos

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers: in an orderly way, or at once while an answer is due."""
        force = terminate or self._busy
        for process in [] if force else self.processes:
            process.send("close")  # so that they end at the same time
        for process in self.processes:
            process.close(force)

    def _ask(self, calls: dict[int, tuple[str, dict[str, Any]]]) -> dict[int, Any]:
        """The answers of environments to calls, without those whose workers were lost and replaced."""
        answers, lost, left = {}, {}, self.timeout
        self._busy = True  # stays so after an exception
        for index, (method, options) in calls.items():
            self.processes[index].send(method, **options)
        for index in calls:
            try:
                answers[index] = self.processes[index].receive(left)
            except Lost as error:
                lost[index] = error
            left = max(left - self.processes[index].waited, 0.0)  # they have it at the same time
        for index, error in lost.items():
            self._replace(index, error)
        self._busy = False
        return answers

    def _replace(self, index: int, cause: Lost) -> None:
        """Replaces a worker by one with a new random stream. Raises UserError after too many."""
        if self.restarts >= RESTARTS:
            self.close(terminate=True)
            ended = "lower `envs`, free memory, or render in software with MUJOCO_GL=osmesa"
            advice = LATE_ADVICE if isinstance(cause, Late) else ended
            raise UserError(
                f"The process of environment {index} {cause}, after {RESTARTS} restarts: {advice}."
            ) from cause
        self.restarts += 1
        note(
            f"the process of environment {index} {cause}; its episode is dropped and it starts again "
            f"(restart {self.restarts} of at most {RESTARTS})."
        )
        self.processes[index].close(force=True)
        self.processes[index] = self._start(index, _new_seed(self._seeds[index], self.restarts))
        self._lost[index] = True

    def _start(self, index: int, seed: int) -> Process:
        return Process(functools.partial(_make_checked, self._make, seed, self._spaces), f"environment {index}")

    def _observed(self) -> dict[str, np.ndarray]:
        fresh = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, self._latest, fresh)


def _make_checked(make: Callable[[int], gym.Env], seed: int, spaces: tuple[gym.Space, gym.Space]) -> gym.Env:
    """An environment with the spaces that others of its kind have. Raises UserError."""
    env = make(seed)
    if (env.observation_space, env.action_space) != spaces:
        raise UserError(
            f"Two environments of one task have different spaces, {spaces} and "
            f"{(env.observation_space, env.action_space)}: make them alike."
        )
    return env


def _new_seed(seed: int, restart: int) -> int:
    """Of an environment that replaces another one and must not repeat its episodes."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(restart,)).generate_state(1)[0])
