"""The training loop against hand-counted steps, with an agent and environments that do nothing."""

import json
import types

import numpy as np
import pytest

from base_agent import WORKER_SEED
from collect import COLLECT_SEED
from envs import EVAL_SEED, stream_seed
from episodes.replay import Replay
from evaluation.episodes import episode_seeds
from tests.training.fakes import SIZE, Clock, FakeAgent, make_run, replace_simulators, short_run, watch, without
from tools.errors import UserError
from tools.metric_names import own_name
from tools.schema import LARGEST_INT
from training.contradictions import note_settings
from training.driver import Episode
from training.metrics import RunMetrics

EPISODE = 4  # decisions
REWARD = 4.0  # of each


@pytest.fixture
def seeds(monkeypatch):
    """See `replace_simulators`. Each environment of a batch has longer episodes than the one before."""
    return replace_simulators(monkeypatch, lambda task, index: EPISODE + 3 * index)


@pytest.fixture
def config(tiny_config):
    """A run of 30 steps whose decisions take two, and its episodes eight."""
    every = {"train_every": 5, "eval_every": 10, "checkpoint_every": 12}
    return short_run(
        tiny_config, action_repeat=2, steps=30, prefill=8, pretrain=3, train_steps=2, eval_episodes=2, **every
    )


def read_metrics(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def test_schedule_of_updates_evaluations_and_checkpoints(seeds, config, tmp_path, monkeypatch):
    run = make_run(config, tmp_path)
    events = watch(run, monkeypatch)
    run.run()
    assert without(events, "write") == [
        ("update", 8, 3), ("save", 8), ("evaluate", 8),  # after the prefill, which is due no updates of its own
        ("update", 10, 2), ("evaluate", 10), ("save", 12), ("update", 16, 2), ("update", 20, 2), ("evaluate", 20),
        ("save", 24), ("update", 26, 2), ("update", 30, 2), ("evaluate", 30), ("save", 30),
    ]  # fmt: skip
    # An evaluation writes, and so does the end.
    assert [event[1] for event in events if event[0] == "write"] == [8, 10, 20, 30, 30]
    assert (int(run.agent.step), int(run.agent.updates)) == (30, 3 + 5 * 2)
    assert run.replay.episodes == 3 and run.turns.decisions == 15


def test_metrics_count_what_happened(seeds, config, tmp_path):
    make_run(config.replace(log_every=6), tmp_path).run()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [6, 8, 10, 12, 18, 20, 24, 30, 30, 30]
    counts = {row["step"]: [row[name] for name in ("train/updates", "train/decisions", "replay/steps")] for row in rows}
    assert counts[6] == [0, 3, 0] and counts[10] == [5, 5, 8] and counts[24] == [9, 12, 24] and counts[30][0] == 13
    assert [row["step"] for row in rows if "eval/return" in row] == [8, 10, 20, 30]
    # Episodes that ended since the line before; those of an evaluation too.
    returns = {row["step"]: row["train/return"] for row in rows if "train/return" in row}
    assert returns == {8: EPISODE * REWARD, 18: EPISODE * REWARD, 24: EPISODE * REWARD}
    assert sum("model/loss" in row for row in rows) == 6


def test_an_episode_that_the_prefill_began_has_no_predicted_return(seeds, config, tmp_path, monkeypatch):
    extras = {"predicted_reward": np.float32([3.0]), "planned": np.array([True]), "metrics": {}}
    monkeypatch.setattr(FakeAgent, "policy", lambda *_, **__: (np.zeros([1, 2]), "policy", extras))
    make_run(config.replace(prefill=4, eval_every=0, log_every=8), tmp_path).run()
    rows = {row["step"]: row for row in read_metrics(tmp_path) if "train/return" in row}
    assert [row.get("plan/predicted_return") for row in rows.values()] == [None, 3.0 * EPISODE, 3.0 * EPISODE]
    assert "plan/achieved_return" not in rows[8]


def test_achieved_rewards_are_discounted_as_the_predicted_ones_are(seeds, config, tmp_path, monkeypatch):
    # A plan for each decision, whose reward therefore counts half.
    plan = {"planned": np.array([True]), "metrics": {"speed/plan_seconds": np.float32([0.1])}}
    extras = plan | {"predicted_reward": np.float32([0.5 * REWARD])}
    monkeypatch.setattr(FakeAgent, "policy", lambda *_, **__: (np.zeros([1, 2]), "policy", extras))
    make_run(config.replace(discount=0.5, prefill=0, pretrain=0, eval_episodes=1), tmp_path).run()
    for mode in ("plan/", "plan/eval_"):
        names = [f"{mode}predicted_return", f"{mode}achieved_return"]
        found = [[row[name] for name in names] for row in read_metrics(tmp_path) if names[0] in row]
        assert len(found) >= 2 and found == [[0.5 * REWARD * EPISODE] * 2] * len(found)


def test_a_decision_that_passes_several_multiples_is_due_the_updates_of_each(seeds, config, tmp_path, monkeypatch):
    run = make_run(config.replace(envs=4, eval_every=0, checkpoint_every=0, steps=64), tmp_path)
    events = watch(run, monkeypatch)
    run.run()
    # Eight steps a decision. Pretraining waits for the first episode, at step 32, and earlier updates are left out.
    assert without(events, "write") == [
        ("update", 32, 3), ("save", 32),
        ("update", 40, 4), ("update", 48, 2), ("update", 56, 4), ("update", 64, 2), ("save", 64),
    ]  # fmt: skip


def test_resumed_run_goes_on_where_it_stopped(seeds, config, tmp_path, monkeypatch):
    first = make_run(config.replace(steps=20), tmp_path)
    first.run()
    second = make_run(config.replace(steps=32), tmp_path)
    assert (int(second.agent.step), int(second.agent.updates)) == (20, 9)
    assert float(second.agent.weight) == float(first.agent.weight) > 0.0
    assert second.agent.noise.random() == first.agent.noise.random()
    np.testing.assert_array_equal(second.replay.sample()["image"], first.replay.sample()["image"])
    events = watch(second, monkeypatch)
    second.run()
    # No prefill, no pretraining and no evaluation at the start.
    assert without(events, "write") == [
        ("save", 24), ("update", 26, 2), ("update", 30, 2), ("evaluate", 30), ("save", 32)
    ]  # fmt: skip
    third = make_run(config.replace(steps=32), tmp_path)
    events = watch(third, monkeypatch)
    third.run()
    assert events == [("save", 32), ("write", 32)]


def test_episodes_that_are_ahead_of_the_checkpoint_count(seeds, config, tmp_path):
    run = make_run(config, tmp_path)
    for _ in range(6):
        run.collect(run.agent.random_policy)
    run.checkpoints.save()
    for _ in range(3):
        run.collect(run.agent.random_policy)
    run.close()  # as a killed run, after two episodes of eight steps and a decision
    run = make_run(config, tmp_path)
    assert int(run.agent.step) == 16 and run.turns.decisions == 8 and run.replay.episodes == 2
    run.close()
    # Its environments do not repeat the episodes that it has.
    first, second = (batch[0] for batch in seeds)
    assert first == config.seed != second


def test_resumed_runs_start_nowhere_where_others_do(seeds, config, tmp_path, monkeypatch):
    """However many episodes they have: neither where they, other hosts, evaluations nor data sets do."""
    for episodes in (1, 1000, 2000, 10_000, 2**31):
        monkeypatch.setattr(Replay, "episodes", episodes)
        for worker in range(2):
            make_run(config, tmp_path, worker=worker, workers=2).close()
    resumed = [batch[0] for batch in seeds]
    largest = LARGEST_INT + max(COLLECT_SEED, EVAL_SEED, WORKER_SEED * 1000)
    assert len(set(resumed)) == len(resumed) == 10 and min(resumed) > largest
    starts = {stream_seed(seed, index) for seed in [*resumed, config.seed, config.seed + EVAL_SEED] for index in (0, 1)}
    assert len(starts) == 2 * 12


def test_evaluations_play_an_episode_from_each_of_the_same_starts(seeds, config, tmp_path):
    run = make_run(config.replace(envs=2, eval_episodes=3), tmp_path)
    for _ in range(2):
        run.evaluate()
    run.close()
    first, second = read_metrics(tmp_path)
    # Episodes of 4 and 7 decisions side by side, each of which pays as much: 16, 49 and once more 16.
    assert first["eval/return"] == second["eval/return"] == pytest.approx((16 + 49 + 16) / 3)
    assert first["eval/length"] == 5.0 and "train/return" not in first
    _, (_, *resets) = seeds
    assert resets == 2 * [*episode_seeds(config.seed, 3), None, None]  # those of evaluate.py


def test_an_evaluation_waits_for_its_long_episodes(seeds, config, tmp_path, monkeypatch):
    """Whatever the agent does, and whichever of its episodes end first, none replaces another one."""
    starts, reset, lengths = episode_seeds(config.seed, 4), Clock.reset, [20, 2, 3, 4]

    def by_start(self, *, seed=None, options=None):
        self.length = lengths[starts.index(seed)] if seed in starts else 1
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Clock, "reset", by_start)
    run = make_run(config.replace(envs=2, eval_episodes=4), tmp_path)
    shown = []
    run.evaluation._media = lambda episode, collector: shown.append(episode)
    run.evaluate()
    lengths[:] = [3, 9, 9, 2]
    run.evaluate()
    run.close()
    assert [row["eval/length"] for row in read_metrics(tmp_path)] == [29 / 4, 23 / 4]
    assert [(episode.number, episode.length) for episode in shown] == [(0, 20), (0, 3)]


def test_other_hosts_count_all_steps_and_neither_evaluate_nor_save(seeds, config, tmp_path):
    run = make_run(config.replace(prefill=16), tmp_path, worker=1, workers=2)
    run.run()
    assert int(run.agent.step) == 32 and run.turns.decisions == 8  # four steps a decision of both hosts
    assert not list(tmp_path.glob("checkpoints/*")) and (tmp_path / "worker-1" / "metrics.jsonl").exists()
    assert not any("eval/return" in row for row in read_metrics(tmp_path / "worker-1"))


def test_hosts_need_an_episode_before_the_first_update(seeds, config, tmp_path):
    with pytest.raises(UserError, match="raise prefill"):
        make_run(config.replace(prefill=0), tmp_path, workers=2).run()


def test_episodes_without_success_are_failures_once_one_has_succeeded(monkeypatch, config, tmp_path):
    replace_simulators(monkeypatch, lambda *_: EPISODE, infos=[{}, {"success": True}, {"cost": 2.0}])
    config = config.replace(steps=44, eval_every=0, eval_episodes=3, checkpoint_every=0, log_every=24)
    make_run(config, tmp_path / "train").run()
    rows = read_metrics(tmp_path / "train")
    # Three episodes of eight steps each before the first line: nothing, success, and nothing but a cost.
    first = next(row for row in rows if row["step"] == 24)
    assert first["train/success"] == pytest.approx(1 / 3) and first["train/cost"] == pytest.approx(2 / 3)
    assert [row["train/success"] for row in rows if row["step"] > 24 and "train/return" in row] == [0.0]
    make_run(config.replace(eval_every=40, steps=8), tmp_path / "eval").run()
    (row,) = [row for row in read_metrics(tmp_path / "eval") if "eval/return" in row]
    assert row["eval/success"] == pytest.approx(1 / 3) and row["eval/cost"] == pytest.approx(2 / 3)


def test_the_outcomes_of_a_run_are_known_when_it_is_resumed(monkeypatch, config, tmp_path):
    replace_simulators(monkeypatch, lambda *_: EPISODE, infos=[{"success": True}])
    make_run(config.replace(steps=8, eval_every=0), tmp_path).run()
    replace_simulators(monkeypatch, lambda *_: EPISODE)
    run = make_run(config.replace(steps=16, eval_every=0), tmp_path)
    run.run()
    assert [episode["success"].tolist() for episode in run.replay.memory] == [[0.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5]


@pytest.mark.parametrize("envs", [1, 2])
def test_a_run_in_which_no_episode_ends_says_so(seeds, config, tmp_path, envs):
    run = make_run(config.replace(steps=6, eval_every=0, envs=envs), tmp_path)
    with pytest.raises(UserError, match=r"No episode of pointmass_obstacle ended in \d environment steps.*time_limit"):
        run.run()
    assert make_run(config.replace(steps=6, eval_every=0, envs=envs), tmp_path).agent.step >= 6, "it is saved"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dynamics": "deterministic", "free_nats": 3.0}, True),
        ({"dynamics": "deterministic", "free_nats": 0.0}, False),
        ({"dynamics": "rssm", "free_nats": 3.0}, False),
    ],
)
def test_free_nats_of_deterministic_dynamics_are_named(seeds, config, tmp_path, capsys, changes, named):
    make_run(config.replace(**changes), tmp_path).close()
    assert ("free_nats" in capsys.readouterr().err) == named


@pytest.mark.parametrize(
    ("changes", "named"),
    [({}, True), ({"discount": 0.99}, False), ({"value_head": False}, False), ({"planner": "latco"}, False)],
)
def test_a_critic_that_discounts_otherwise_than_plans_is_named(config, capsys, changes, named):
    note_settings(config.replace(**{"planner": "dreamer", "value_head": True, "discount": 0.9} | changes))
    assert ("imagination_discount 0.99" in capsys.readouterr().err) == named


def test_states_that_are_unknown_cannot_be_learned(seeds, config, tmp_path):
    config = config.replace(state_probe=True, eval_every=0)
    states = np.zeros([5, 3], np.float32)
    states[2, 1] = np.nan
    run = make_run(config, tmp_path)
    run.turns.current.replay.add(clock_episode() | {"state": states})
    run.close()
    with pytest.raises(UserError, match="state whose number 1 is NaN at decision 2 .*state_probe"):
        make_run(config, tmp_path)
    make_run(config.replace(state_probe=False), tmp_path).close()


def clock_episode():
    """An episode as a clock of this length plays it."""
    time = np.arange(EPISODE + 1)
    return {
        "image": np.broadcast_to(time[:, None, None, None], [EPISODE + 1, SIZE, SIZE, 3]).astype(np.uint8),
        "action": np.zeros([EPISODE + 1, 2], np.float32),
        "reward": np.float32(REWARD * (time > 0)),
        "discount": np.ones(EPISODE + 1, np.float32),
        "is_first": time == 0,
    }


def test_episodes_before_an_error_of_the_environment_are_kept(seeds, config, tmp_path, monkeypatch):
    step, calls = Clock.step, iter(range(10))

    def fail_at_last(self, action):
        if next(calls) == 9:
            raise UserError("gym_own:Own-v0 failed at step 2 of an episode")
        return step(self, action)

    monkeypatch.setattr(Clock, "step", fail_at_last)
    with pytest.raises(UserError, match="failed at step 2"):
        make_run(config.replace(eval_every=0), tmp_path).run()
    monkeypatch.setattr(Clock, "step", step)
    run = make_run(config.replace(eval_every=0), tmp_path)
    assert run.replay.episodes == 2
    run.run()
    assert int(run.agent.step) == 30 and run.replay.episodes >= 2


def test_a_task_that_reports_no_success_has_none_beside_one_that_does():
    logged = []
    logger = types.SimpleNamespace(
        scalars=lambda values, prefix: logged.extend((prefix + name, value) for name, value in values.items()),
        progress=lambda *_, **__: None,
    )
    metrics = RunMetrics(types.SimpleNamespace(step=0), None, None, logger)
    tasks = {
        task: types.SimpleNamespace(task=task, metric_name=lambda name, task=task: own_name(name, task))
        for task in "ab"
    }
    for task, success in (("a", None), ("b", None), ("b", 1.0), ("b", 0.0)):
        outcome = {} if success is None else {"success": np.array([0.0, success])}
        metrics.episode("train", Episode(0, {"reward": np.zeros(2)} | outcome, {}), tasks[task])
    names = ("train/success", "train/a/success", "train/b/success")
    successes = {name: [value for other, value in logged if other == name] for name in names}
    assert successes == {"train/success": [1.0, 0.0, 0.0], "train/a/success": [], "train/b/success": [1.0, 0.0, 0.0]}


def test_metrics_of_plans_are_means_over_the_decisions_at_which_plans_were_made():
    logged = {}
    logger = types.SimpleNamespace(
        scalars=lambda values, prefix="": logged.update((prefix + name, value) for name, value in values.items()),
        progress=lambda *_, **__: None,
    )
    metrics = RunMetrics(types.SimpleNamespace(step=0), None, None, logger)
    collector = types.SimpleNamespace(task="a", metric_name=lambda name: name)
    plans = {"plan/nu": np.array([1.0, 50.0, 3.0, np.nan]), "model/policy_loss": np.full(4, np.nan)}
    extras = {"planned": np.array([True, False, True, True]), "metrics": plans}
    episode = Episode(0, {"reward": np.zeros(5)}, extras)
    metrics.episode("eval", episode, collector)
    assert not logged.keys() & plans.keys()
    metrics.episode("train", episode, collector)
    assert logged["plan/nu"] == 2.0 and "model/policy_loss" not in logged
