"""Resumed runs, with an agent and environments that do little: what they repeat, make up for, and go on with."""

import contextlib
import itertools
import json
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
import training.run
from base_agent import BaseAgent
from episodes.episode import episode_files, read_episode
from evaluation.episodes import episode_seeds
from tests.training.fakes import ACTION_SIZE, Clock, FakeAgent, short_run
from tools.errors import UserError
from tools.signals import Terminated
from training.run import TrainingRun


class Dice(Clock):
    """Episodes of random length, pictures and rewards, all of which the seed of the reset determines."""

    def __init__(self):
        super().__init__(length=0)

    def _obs(self):
        return {"image": self.np_random.integers(0, 256, self.observation_space["image"].shape, np.uint8)}

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(3, 9))
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        reward = float(self.np_random.normal() + np.sum(action))
        return self._obs(), reward, False, self.time >= self.length, {}


class Memory(NamedTuple):
    seen: tf.Tensor
    count: dict[str, np.ndarray]
    nothing: None = None


class ForgetfulAgent(FakeAgent):
    """Acts on both random streams, its weight and all that it has seen of an episode."""

    state_types = (Memory,)

    def train_step(self, batch):
        self.updates.assign_add(1)
        noise = self.rng.normal([])
        self.weight.assign(0.9 * self.weight + 0.1 * noise * batch["reward"].mean() + batch["image"].mean() / 256)
        return {"loss": self.weight.read_value()}

    def random_policy(self, obs, is_first, state):
        last = np.zeros(len(is_first)) if state is None else np.where(is_first, 0.0, state)
        last = 0.5 * last + self.noise.uniform(-0.5, 0.5, len(is_first))
        return np.repeat(last[:, None], ACTION_SIZE, 1).astype(np.float32), last, {}

    def policy(self, obs, is_first, state, *, explore, idle=None):
        if state is None:
            state = Memory(tf.zeros(len(is_first)), {"decisions": np.zeros(len(is_first))})
        seen = tf.where(is_first, 0.0, state.seen) + obs["image"].mean((1, 2, 3)) / 256 + self.rng.normal([1])
        count = np.where(is_first, 0, state.count["decisions"]) + 1
        action = np.tanh(seen.numpy() * float(self.weight) + (self.noise.normal() if explore else 0.0))
        metrics = {"plan/nu": count.astype(np.float32), "speed/plan_seconds": np.full(len(count), np.nan, np.float32)}
        extras = {"predicted_reward": action, "planned": count % 2 == 1, "metrics": metrics}
        return np.repeat(action[:, None], ACTION_SIZE, 1).astype(np.float32), Memory(seen, {"decisions": count}), extras


@pytest.fixture
def dice(monkeypatch):
    def make_vector_env(config, num_envs, seed, task):
        batch = SyncVectorEnv([Dice for _ in range(num_envs)], autoreset_mode=AutoresetMode.DISABLED)
        batch.reset(seed=seed)
        return batch

    monkeypatch.setattr(envs, "make_vector_env", make_vector_env)


@pytest.fixture
def config(tiny_config):
    every = {"train_every": 4, "eval_every": 20, "checkpoint_every": 20, "log_every": 10}
    kinds = {"reward_normalization": True, "deterministic": True}
    return short_run(tiny_config, steps=60, prefill=10, pretrain=3, train_steps=2, eval_episodes=2, **every, **kinds)


def make_run(config, logdir, agent=ForgetfulAgent):
    return TrainingRun(agent(config), logdir, quiet=True)


def figures(logdir):
    """The lines of metrics.jsonl without times."""
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time" and not k.startswith("speed/")} for row in rows]


def contents(run):
    folders = [collector.replay.directory for collector in run.turns.collectors]
    return [read_episode(path) for folder in folders for path in episode_files(folder)]


def same_episodes(first, second):
    pairs = itertools.zip_longest(first, second)
    return all(a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in pairs)


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        (30, {}),
        (30, {"envs": 3}),
        (30, {"task": "pointmass_obstacle,pointmass_lottery", "envs": 2}),
        (30, {"pretrain": 0, "train_every": 50}),
        (2, {"init_from": "other", "prefill": 0, "train_every": 1}),  # within the first episode
    ],
)
def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not_stop(
    dice, config, tmp_path, monkeypatch, first, changes
):
    monkeypatch.setattr(training.run, "start_from", lambda agent, logdir: agent.updates.assign(5))
    config = config.replace(**changes, steps=80)
    runs = []
    for name, stops in (("once", [80]), ("again", [80]), ("stopped", [first, 42, 80])):
        for steps in stops:
            run = make_run(config.replace(steps=steps), tmp_path / name)
            with pytest.raises(UserError, match="No episode") if steps == 2 else contextlib.nullcontext():
                run.run()
        runs.append(run)
    once, again, stopped = runs
    assert figures(tmp_path / "once") == figures(tmp_path / "again")
    assert all(line in figures(tmp_path / "stopped") for line in figures(tmp_path / "once"))
    assert float(once.agent.weight) == float(again.agent.weight) == float(stopped.agent.weight) != 0.0
    assert float(once.agent.rewards.squares) == float(stopped.agent.rewards.squares)
    assert same_episodes(contents(once), contents(again)) and same_episodes(contents(once), contents(stopped))
    assert len(contents(once)) > 10


@pytest.mark.parametrize("reports", ["a training", "an evaluation"])
def test_a_stop_forgets_no_outcome(dice, config, tmp_path, monkeypatch, reports):
    """Episodes that were silent before the stop are zeros in the line, and those after it have what was ever reported.

    Only an episode of the third training seed, or the first one of an evaluation, reports success.
    """
    step, reset, resets = Dice.step, Dice.reset, []

    def remember(self, *, seed=None, options=None):
        self.seed = seed
        resets.append(seed)
        obs, info = reset(self, seed=seed, options=options)
        self.length = 4
        return obs, info

    def report(self, action):
        info = {"success": 1.0} if self.seed == seeds[reports] else {}
        return *step(self, action)[:-1], info

    monkeypatch.setattr(Dice, "reset", remember)
    monkeypatch.setattr(Dice, "step", report)
    seeds = {reports: None}
    config = config.replace(steps=30, log_every=0, eval_every=0 if reports == "a training" else 20)
    make_run(config, tmp_path / "look").run()
    evaluated = episode_seeds(config.seed, config.eval_episodes)
    started = [seed for seed in dict.fromkeys(resets) if seed not in (None, *evaluated, config.seed)]
    seeds = {"a training": started[2], "an evaluation": evaluated[0]}
    once = make_run(config, tmp_path / "once")
    once.run()
    for stop in (11, 26, 30):  # the first evaluation is at 10, and the third episode ends at 12
        run = make_run(config.replace(steps=stop), tmp_path / "stopped")
        run.run()
    assert all(line in figures(tmp_path / "stopped") for line in figures(tmp_path / "once"))
    assert same_episodes(contents(once), contents(run))
    assert 1 < sum("success" in episode for episode in contents(run)) < len(contents(run))


class Prefetching(ForgetfulAgent):
    """Draws all batches of a training phase before the first update. Its open-loop predictions are perfect."""

    def batches(self, replay, count=None):
        return iter([replay.sample() for _ in range(count)])

    def open_loop(self, batch):
        return batch["image"][0]


@pytest.mark.parametrize(
    ("name", "number", "changes"),
    [
        pytest.param("random_policy", 7, {}, id="prefill"),
        pytest.param("train_step", 2, {"log_every": 2}, id="a slice of the pretraining with a line at its end"),
        # The pretraining is evaluated although 10 is no multiple of eval_every.
        pytest.param("train_step", 3, {"prefill": 10}, id="the last slice of the pretraining"),
        pytest.param("policy", 15, {}, id="evaluation"),
        # The first task's evaluation has shown a batch of the replay when the second one is cut off.
        pytest.param(
            "open_loop", 1, {"media": True, "batch_size": 4, "batch_length": 6}, id="media", marks=pytest.mark.slow
        ),
        pytest.param("train_step", 6, {}, id="updates"),
    ],
)
def test_a_run_that_sigterm_ends_goes_on_as_if_it_had_not(dice, config, tmp_path, monkeypatch, name, number, changes):
    monkeypatch.setattr(training.run, "PRETRAIN_SLICE", 2)
    config = config.replace(**{"task": "pointmass_obstacle,pointmass_lottery", "prefill": 20} | changes)
    once = make_run(config, tmp_path / "once", Prefetching)
    once.run()
    stopped = make_run(config, tmp_path / "stopped", Prefetching)
    function, calls = getattr(stopped.agent, name), itertools.count(1)

    def end(*args, **options):
        if next(calls) == number:
            stopped.stop._request()
        return function(*args, **options)

    monkeypatch.setattr(stopped.agent, name, end)
    with pytest.raises(Terminated):
        stopped.run()
    assert int(stopped.agent.step) < config.steps
    again = make_run(config, tmp_path / "stopped", Prefetching)
    again.run()
    assert all(line in figures(tmp_path / "stopped") for line in figures(tmp_path / "once"))
    assert float(once.agent.weight) == float(again.agent.weight)
    assert same_episodes(contents(once), contents(again))


def test_an_environment_that_does_not_repeat_itself_is_noticed(dice, config, tmp_path, monkeypatch, capsys):
    make_run(config.replace(steps=33), tmp_path).run()
    monkeypatch.setattr(Dice, "step", lambda self, action: (self._obs(), 7.0, False, False, {}))
    run = make_run(config, tmp_path)
    run.close()
    assert "pointmass_obstacle does not repeat itself" in capsys.readouterr().err
    assert all(len(episode["reward"]) == 0 for episode in run.turns.current.driver.state)


def test_a_killed_run_keeps_its_episodes_and_says_that_it_goes_on_otherwise(dice, config, tmp_path, capsys):
    make_run(config, tmp_path).run()
    run = make_run(config.replace(steps=90), tmp_path)
    have = run.replay.episodes
    while run.replay.episodes < have + 3:
        run.collect(lambda *args: run.agent.policy(*args, explore=True))
    run.close()
    before = contents(run)
    again = make_run(config.replace(steps=100), tmp_path)
    assert "the run was killed or has other settings now" in capsys.readouterr().err
    again.run()
    after = contents(again)
    assert same_episodes(before, after[: len(before)]) and len(after) > len(before)
    pictures = {episode["image"].tobytes() for episode in after}
    assert len(pictures) == len(after)  # no seed was used twice


def test_a_plan_of_other_settings_is_not_gone_on_with(dice, config, tmp_path, capsys):
    make_run(config.replace(steps=33), tmp_path).run()
    run = make_run(config.replace(planning_horizon=config.planning_horizon + 1), tmp_path)
    assert "the run was killed or has other settings now" in capsys.readouterr().err
    assert run.turns.current.driver.policy_state is None
    run.run()


def test_an_offline_run_with_other_settings_says_that_it_goes_on_otherwise(dice, config, tmp_path, capsys):
    make_run(config.replace(steps=20, eval_every=0), tmp_path / "data").run()
    config = config.replace(steps=0, offline_dir=str(tmp_path / "data" / "episodes"), eval_every=0)
    for changes, said in (({}, False), ({}, False), ({"batch_size": 3}, True)):
        run = make_run(config.replace(**changes), tmp_path / "run")
        assert ("the run was killed or has other settings now" in capsys.readouterr().err) == said
        run.run()


def test_several_devices_are_refused(config):
    with pytest.raises(UserError, match="deterministic is for one device, not for strategy mirrored"):
        BaseAgent(config.replace(strategy="mirrored"), Dice.observation_space, Dice.action_space)


# Without `deterministic`


@pytest.fixture
def default(config):
    return config.replace(deterministic=False)


def test_the_prefill_of_a_resumed_run_does_not_repeat_its_actions(dice, default, tmp_path, capsys):
    config = default.replace(prefill=1000, steps=1000)
    run = make_run(config, tmp_path)
    while run.replay.episodes < 3:
        run.collect(run.agent.random_policy)
    run.close()  # as a killed run, before its first checkpoint
    run = make_run(config, tmp_path)
    assert "3 episodes but no checkpoint" in capsys.readouterr().err
    while run.replay.episodes < 6:
        run.collect(run.agent.random_policy)
    run.close()
    first_actions = {episode["action"][1].tobytes() for episode in contents(run)}
    assert len(first_actions) == 6


def test_exploration_of_episodes_after_the_checkpoint_is_not_repeated(dice, default, tmp_path):
    make_run(default.replace(steps=20), tmp_path).run()
    drawn = []  # states of the stream
    for _ in range(2):
        run = make_run(default, tmp_path)
        drawn.append(run.agent.noise.bit_generator.state["state"]["state"])
        have = run.replay.episodes
        while run.replay.episodes == have:
            run.collect(run.agent.random_policy)
        run.close()
    assert drawn[0] != drawn[1]


def test_reward_statistics_count_all_episodes(dice, default, tmp_path):
    def check(run):
        rewards = np.concatenate([episode["reward"][1:] for episode in contents(run)])
        assert float(run.agent.rewards.count) == len(rewards)
        assert float(run.agent.rewards.mean) == pytest.approx(rewards.mean())
        assert float(run.agent.rewards.squares) == pytest.approx(rewards.var() * len(rewards), rel=1e-4)

    config = default.replace(replay_capacity=12)  # of which few fit into memory
    for stop, save in ((30, False), (60, True), (90, False)):  # killed without a checkpoint, and beyond one
        run = make_run(config, tmp_path)
        while run.agent.step < stop:
            run.collect(run.agent.random_policy)
        check(run)
        if save:
            run.checkpoints.save()
        run.close()
    run = make_run(config, tmp_path)
    check(run)
    run.close()


def test_reward_statistics_pass_over_a_damaged_episode_beyond_the_capacity(dice, default, tmp_path, capsys):
    config = default.replace(replay_capacity=12)
    run = make_run(config, tmp_path)
    while run.replay.episodes < 6:
        run.collect(run.agent.random_policy)
    run.close()
    oldest = episode_files(tmp_path / "episodes")[0]
    oldest.write_bytes(oldest.read_bytes()[:-30])
    rewards = [read_episode(path)["reward"][1:] for path in episode_files(tmp_path / "episodes")[1:]]
    run = make_run(config, tmp_path)
    run.close()
    assert float(run.agent.rewards.count) == sum(map(len, rewards))
    assert float(run.agent.rewards.mean) == pytest.approx(np.concatenate(rewards).mean())
    assert f"passed over: {oldest.name}" in capsys.readouterr().err
