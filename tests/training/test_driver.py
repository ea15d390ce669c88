"""The driver against environments whose numbers say where they come from."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from training.driver import Driver, Episode, alike


class Counter(gymnasium.Env):
    """Episode k of environment i shows 100 i + 10 k + t at time t, pays t and costs t / 2; ends after `length` steps.

    At a reset it reports no success, and no cost either unless it has a `start_cost`.
    """

    def __init__(self, index, length, terminal, start_cost=None):
        self.index, self.length, self.terminal = index, length, terminal
        self.start_info = {} if start_cost is None else {"cost": start_cost}
        self.observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (1,), np.float32)})
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.episode, self.seeds = -1, []

    def _obs(self):
        return {"image": np.array([100 * self.index + 10 * self.episode + self.t], np.float32)}

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        self.seeds.append(seed)
        return self._obs(), self.start_info

    def step(self, action):
        self.t += 1
        done = self.t == self.length
        info = {"success": float(self.t == 2), "cost": self.t / 2}
        return self._obs(), float(self.t), done and self.terminal, done and not self.terminal, info


def make_driver(*settings):
    makers = [lambda index=index, s=s: Counter(index, *s) for index, s in enumerate(settings)]
    return Driver(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED))


def policy(obs, is_first, state):
    """Acts with (first?, how many calls so far) / 100, which the episodes must hold at the right place."""
    calls = 0 if state is None else state
    action = np.stack([is_first.astype(np.float32), np.full(len(is_first), calls / 100, np.float32)], -1)
    return action, calls + 1, {"calls": np.full(len(is_first), calls)}


def test_episodes_are_cut_and_aligned_per_environment():
    driver = make_driver((3, True), (2, False))
    episodes = [episode for _ in range(6) for episode in driver.step(policy)]
    first = next(e for e in episodes if e.env == 0)
    np.testing.assert_array_equal(first.data["image"][:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(first.data["reward"], [0, 1, 2, 3])
    np.testing.assert_array_equal(first.data["discount"], [1, 1, 1, 0])
    np.testing.assert_array_equal(first.data["is_first"], [True, False, False, False])
    np.testing.assert_allclose(first.data["action"], [[0, 0], [1, 0], [0, 0.01], [0, 0.02]], atol=1e-7)
    np.testing.assert_array_equal(first.extras["calls"], [0, 1, 2])
    second = [e for e in episodes if e.env == 1][1]
    np.testing.assert_array_equal(second.data["image"][:, 0], [110, 111, 112])
    np.testing.assert_array_equal(second.data["discount"], [1, 1, 1])
    np.testing.assert_allclose(second.data["action"], [[0, 0], [1, 0.02], [0, 0.03]], atol=1e-7)
    assert [e.env for e in episodes] == [1, 0, 1, 0, 1]


def test_observations_are_kept_as_they_are_handed_over():
    """A copy of every picture would be one too many: environments hand over new arrays (tests/envs/test_workers.py)."""
    driver = make_driver((5, True), (5, False))
    handed, seen, step = [], [], driver.envs.step
    driver.envs.step = lambda actions: handed.append(step(actions)) or handed[-1]
    for _ in range(3):
        driver.step(lambda obs, *rest: seen.append(obs["image"]) or policy(obs, *rest))
    assert seen[1] is handed[0][0]["image"] and seen[2] is handed[1][0]["image"]
    np.testing.assert_array_equal(seen[1], [[1], [101]])


def test_summary_tells_success_at_any_step_from_success_at_the_last():
    episode = next(e for e in (e for _ in range(3) for e in make_driver_steps()) if e.length == 3)
    summary = episode.summary()
    assert summary == {"return": 6.0, "length": 3.0, "success": 1.0, "success_final": 0.0, "cost": 3.0}
    assert episode.data["success"].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_costs_are_recorded_at_resets_too_and_are_zero_where_a_reset_reports_none():
    driver = make_driver((3, True, 0.25), (2, False))
    episodes = [episode for _ in range(6) for episode in driver.step(policy)]
    recorded = {env: [e.data["cost"].tolist() for e in episodes if e.env == env] for env in (0, 1)}
    assert recorded == {0: [[0.25, 0.5, 1.0, 1.5]] * 2, 1: [[0.0, 0.5, 1.0]] * 3}
    assert all(e.data["cost"].dtype == np.float32 for e in episodes)
    assert {e.env: e.summary()["cost"] for e in episodes} == {0: 3.25, 1: 1.5}


def test_what_a_simulator_does_not_report_is_not_summed():
    episode = Episode(0, {"reward": np.array([0.0, 2.0, 3.0], np.float32)}, {})
    assert episode.summary() == {"return": 5.0, "length": 2.0}


class Shy(Counter):
    """Reports what `infos[episode, time]` says, and otherwise nothing."""

    def __init__(self, index, length, infos):
        super().__init__(index, length, terminal=False)
        self.infos = infos

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, self.infos.get((self.episode, self.t), {})


def play_shy(steps, *infos, length=3, **reported):
    makers = [lambda index=index, own=own: Shy(index, length, own) for index, own in enumerate(infos)]
    driver = Driver(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), **reported)
    return [episode for _ in range(steps) for episode in driver.step(policy)]


@pytest.mark.parametrize("time", [1, 2, 3])
def test_success_at_one_step_only_is_success_at_any_step(time):
    (episode,) = play_shy(3, {(0, time): {"success": 1.0}})
    assert episode.data["success"].tolist() == [float(entry == time) for entry in range(4)]
    assert episode.data["success"].dtype == np.float32 and "cost" not in episode.data
    assert episode.summary() == {"return": 6.0, "length": 3.0, "success": 1.0, "success_final": float(time == 3)}


def test_later_episodes_have_every_outcome_that_one_before_reported():
    episodes = play_shy(9, {(1, 2): {"success": 1.0}, (2, 1): {"cost": 0.5}}, {})
    seen = [(e.env, {key: e.data[key].tolist() for key in ("success", "cost") if key in e.data}) for e in episodes]
    none, second = [0.0] * 4, [0.0, 0.0, 1.0, 0.0]
    assert seen == [
        (0, {}),
        (1, {}),
        (0, {"success": second}),
        (1, {"success": none}),
        (0, {"success": none, "cost": [0.0, 0.5, 0.0, 0.0]}),
        (1, {"success": none, "cost": none}),
    ]
    known = {"cost"}
    (episode,) = play_shy(3, {(0, 1): {"success": 0.0}}, reported=known)
    assert episode.data["cost"].tolist() == none and known == {"success", "cost"}


def test_episodes_that_are_compared_have_the_same_outcomes():
    episodes = alike(play_shy(6, {(1, 2): {"success": 1.0}}, {}))
    assert [episode.summary()["success"] for episode in episodes] == [0.0, 0.0, 1.0, 0.0]
    assert not any("cost" in episode.data for episode in episodes)


def make_driver_steps():
    driver = make_driver((3, False))
    return [episode for _ in range(3) for episode in driver.step(policy)]


def test_each_episode_takes_the_next_seed_until_none_is_left():
    driver = make_driver((3, True), (2, False))
    seen = []

    def watching(obs, is_first, state):
        seen.append((is_first.tolist(), driver.waiting.tolist()))
        return policy(obs, is_first, state)

    driver.restart([7, 8, 9])
    episodes = [episode for _ in range(9) for episode in driver.step(watching)]
    assert [(e.number, e.env, e.length) for e in episodes] == [(1, 1, 2), (0, 0, 3), (2, 1, 2)]
    assert [inner.seeds for inner in driver.envs.envs] == [[7, None, None, None], [8, 9, None, None, None]]
    # The third call is the first of the episode with the seed 9; afterwards there is none to begin.
    assert [first for first, _ in seen] == [[True, True], [False, False], [False, True], *[[False, False]] * 6]
    assert [waiting for _, waiting in seen] == [*[[False, False]] * 3, [True, False], *[[True, True]] * 5]
    np.testing.assert_array_equal(episodes[2].data["image"][:, 0], [110, 111, 112])
    driver.restart(5)
    assert not driver.waiting.any() and [inner.seeds[-1] for inner in driver.envs.envs] == [5, 6]
    assert [e.number for _ in range(3) for e in driver.step(policy)] == [None, None]


def test_environments_beyond_the_seeds_wait_from_the_start():
    driver = make_driver((2, True), (2, True))
    driver.restart([4])
    assert driver.waiting.tolist() == [False, True]
    assert [(e.number, e.env) for _ in range(5) for e in driver.step(policy)] == [(0, 0)]


@pytest.mark.parametrize("resumed", [False, True])
def test_predictions_that_some_decisions_of_an_episode_lack_are_left_out(resumed):
    def planning(obs, is_first, state):
        action, state, _ = policy(obs, is_first, state)
        metrics = {"plan/nu": np.ones(1, np.float32)}
        return action, state, {"predicted": np.ones(1, np.float32), "planned": np.ones(1, bool), "metrics": metrics}

    driver = make_driver((3, True))
    driver.restart(range(9))
    driver.step(lambda *args: (*policy(*args)[:2], {}))
    driver.step(planning)
    if resumed:
        assert driver.resume(driver.state, range(9))
    mixed, whole = (episode.extras for _ in range(4) for episode in driver.step(planning))
    assert "predicted" not in mixed and mixed["planned"].tolist() == [False, True, True]
    assert mixed["metrics"]["plan/nu"][mixed["planned"]].tolist() == [1, 1]
    assert whole["predicted"].tolist() == [1, 1, 1] and whole["planned"].all()


def test_restart_drops_the_episodes_in_progress():
    driver = make_driver((3, True))
    driver.step(policy)
    driver.restart()
    episodes = [episode for _ in range(3) for episode in driver.step(policy)]
    assert len(episodes) == 1
    np.testing.assert_array_equal(episodes[0].data["image"][:, 0], [10, 11, 12, 13])
    np.testing.assert_array_equal(episodes[0].extras["calls"], [0, 1, 2])


class Dying:
    """A batch of one counter whose process is lost at one step."""

    def __init__(self, step):
        self.batch, self.left = make_driver((4, False)).envs, step
        self.num_envs, self.single_action_space = 1, self.batch.single_action_space

    def reset(self, **options):
        return self.batch.reset(**options)

    def step(self, action):
        self.left -= 1
        *results, info = self.batch.step(action)
        return *results, info | ({"lost": np.array([True])} if self.left == 0 else {})


def test_an_episode_that_was_gone_on_with_and_is_lost_begins_again_from_its_seed():
    before = make_driver((4, False))
    before.restart([7])
    before.step(policy)
    batch = Dying(2)
    driver = Driver(batch)
    assert driver.resume(before.state, iter([8, 9]))
    (episode,) = [episode for _ in range(5) for episode in driver.step(policy)]
    assert driver.dropped == 1 and episode.length == 4
    assert batch.batch.envs[0].seeds[-2:] == [7, 8]
