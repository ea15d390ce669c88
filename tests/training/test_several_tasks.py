"""One agent for several tasks: rounds, steps with different action repeats, metrics of each task, resuming."""

import json

import numpy as np
import pytest
from documentation import read_metrics

import agents
import envs
import plan_report
from base_agent import BaseAgent
from episodes.replay import Replay
from tests.training.fakes import FakeAgent, replace_simulators
from tools.config import Config, load_config
from tools.errors import UserError
from training.logdir import open_logdir
from training.run import TrainingRun

# name -> (simulator steps of a decision in the papers, decisions of an episode below)
TASKS = {"gym_InvertedPendulum-v5": (1, 3), "dmc_cartpole_swingup": (8, 2), "dmc_reacher_easy": (4, 4)}
PENDULUM, CARTPOLE, REACHER = TASKS


@pytest.fixture
def clocks(monkeypatch):
    """Clocks instead of simulators; environment i of a batch has episodes as much longer as `extra` says."""
    extra = [0, 0]
    replace_simulators(monkeypatch, lambda task, index: TASKS[task][1] + extra[index])
    return extra


def make_run(config: Config, logdir, **changes) -> TrainingRun:
    config = config.replace(**{"task": ",".join(TASKS), **changes})
    return TrainingRun(FakeAgent(config), logdir, quiet=True)


def collect(run: TrainingRun, decisions: int) -> list[str]:
    """The task of each decision."""
    tasks = []
    for _ in range(decisions):
        tasks.append(run.turns.current.task)
        run.collect(run.agent.random_policy)
    return tasks


def episodes(run: TrainingRun) -> list[int]:
    return [collector.replay.episodes for collector in run.turns.collectors]


def decisions(run: TrainingRun) -> list[int]:
    return [int(collector.decisions) for collector in run.turns.collectors]


def last_line(logdir) -> dict:
    return json.loads((logdir / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_round_is_one_episode_of_each_task_and_steps_count_its_own_repeat(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, log_every=0)
    tasks = collect(run, 10)
    assert tasks == [PENDULUM] * 3 + [CARTPOLE] * 2 + [REACHER] * 4 + [PENDULUM]
    assert episodes(run) == [1, 1, 1] and decisions(run) == [4, 2, 4]
    assert int(run.agent.step) == 4 * 1 + 2 * 8 + 4 * 4
    run.metrics.write()
    run.close()
    line = last_line(tmp_path)
    assert (line["step"], line["train/decisions"], line["replay/episodes"]) == (36, 10, 3)
    assert line["replay/steps"] == 3 * 1 + 2 * 8 + 4 * 4
    # Each decision pays the number of decisions of its episode: 9, 4 and 16.
    assert [line[f"train/{task}/return"] for task in TASKS] == [9.0, 4.0, 16.0]
    assert line["train/return"] == pytest.approx(29 / 3) and line["train/length"] == 3.0
    folders = [len(list((tmp_path / "episodes" / task).glob("*.npz"))) for task in TASKS]
    assert folders == [1, 1, 1] and not list((tmp_path / "episodes").glob("*.npz"))


def test_resumed_run_counts_and_takes_turns_where_it_stopped(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, log_every=0)
    collect(run, 10)
    run.checkpoints.save()
    mixed = run.replay.sample()
    run.close()
    # The checkpoint knows of the decision in the episode that was lost, and where the samples were.
    run = make_run(tiny_config, tmp_path, log_every=0)
    assert (int(run.agent.step), decisions(run), run.turns.current.task) == (36, [4, 2, 4], PENDULUM)
    np.testing.assert_array_equal(run.replay.sample()["reward"].sum(), mixed["reward"].sum())
    # Killed two episodes later: these are on disk, and more than the checkpoint knows.
    assert collect(run, 6) == [PENDULUM] * 3 + [CARTPOLE] * 2 + [REACHER]
    run.close()
    run = make_run(tiny_config, tmp_path, log_every=0)
    assert (episodes(run), run.turns.current.task) == ([2, 2, 1], REACHER)
    assert decisions(run) == [6, 4, 4] and int(run.agent.step) == 6 * 1 + 4 * 8 + 4 * 4
    run.close()


def test_parallel_environments_collect_an_episode_each_and_tasks_stay_even(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, envs=2, log_every=0)
    # Both environments of a task end their episodes together: rounds of 3, 2 and 4 decisions in two environments.
    assert collect(run, 9) == [PENDULUM] * 3 + [CARTPOLE] * 2 + [REACHER] * 4
    assert episodes(run) == [2, 2, 2] and decisions(run) == [6, 4, 8]
    assert int(run.agent.step) == 2 * (3 * 1 + 2 * 8 + 4 * 4)
    run.close()
    clocks[:] = [0, 5]  # the second environment ends later, so that a turn is two episodes of the first
    run = make_run(tiny_config, tmp_path / "uneven", envs=2, log_every=0)
    for _ in range(60):
        collect(run, 1)
        assert max(episodes(run)) - min(episodes(run)) <= 3
    assert min(episodes(run)) >= 4
    run.close()


def test_prefill_goes_on_until_each_task_has_an_episode(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, prefill=10, steps=1000, log_every=0)
    count = 0
    while run.prefilling():
        assert not run.turns.can_train
        count += len(collect(run, 1))
    assert count == 9 and run.turns.can_train
    run.close()
    short = make_run(tiny_config, tmp_path / "short", prefill=10, steps=12, log_every=0)
    while short.prefilling():
        collect(short, 1)
    assert decisions(short) == [3, 2, 0]  # 19 of 12 steps: the budget is spent
    short.close()
    # One task needs no episode before its first update is due.
    single = make_run(tiny_config, tmp_path / "single", task=REACHER, prefill=8, log_every=0)
    while single.prefilling():
        collect(single, 1)
    assert decisions(single) == [2] and not single.turns.can_train
    single.close()


def test_one_task_keeps_its_folder_metrics_and_checkpoints(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, task=REACHER, log_every=0, envs=2)
    assert isinstance(run.replay, Replay)
    collect(run, 6)
    run.metrics.write()
    run.checkpoints.save()
    saved = [name for name, _ in run.checkpoints.manager.checkpoint.__dict__.items()]
    assert "decisions" not in saved
    run.close()
    assert len(list((tmp_path / "episodes").glob("*.npz"))) == 2
    assert not any(REACHER in name for name in last_line(tmp_path))
    run = make_run(tiny_config, tmp_path, task=REACHER, log_every=0, envs=2)
    assert decisions(run) == [12] and int(run.agent.step) == 48
    run.close()


def test_memory_is_shared_equally(clocks, tiny_config, tmp_path):
    run = make_run(tiny_config, tmp_path, replay_capacity=31)
    assert [collector.replay.capacity for collector in run.turns.collectors] == [10, 10, 10]
    run.close()
    with pytest.raises(UserError, match="capacity is 0"):
        make_run(tiny_config, tmp_path, replay_capacity=2)


def test_probes_and_costs_need_what_every_task_reports(tiny_config):
    several = tiny_config.replace(task="pointmass_obstacle,pointmass_lottery")
    with pytest.raises(UserError, match="no simulator state"):
        BaseAgent(several.replace(state_probe=True), *envs.spaces(several))
    with pytest.raises(UserError, match="reports no cost"):
        BaseAgent(several.replace(cost_head=True), *envs.spaces(several))


def test_too_many_tasks_for_the_name_of_a_folder_are_refused_in_one_sentence(tiny_config, tmp_path):
    tasks = ",".join(f"dmc_task{number}" for number in range(50))
    many = tiny_config.replace(logdir=f"{tmp_path}/{{task}}", task=tasks)
    with pytest.raises(UserError, match="choose another --logdir"):
        open_logdir(many.resolved(), [])


def train(tasks, logdir, *words):
    argv = ["--configs", "defaults", "debug", "--planner", "cem", "--logdir", str(logdir), "--task", *tasks, *words]
    config = load_config(argv).resolved()
    agent = agents.make_agent(config)
    agent.train(open_logdir(config, argv), quiet=True)
    # Nothing is traced anew for another task.
    functions = (agent.train_step, agent.filter, agent.open_loop)
    assert [function.experimental_get_tracing_count() for function in functions] in ([1, 1, 1], [1, 1, 0])
    assert agent.planner.traces == 1
    rows = read_metrics(logdir)
    names = set().union(*rows)
    for task in tasks:
        assert {f"train/{task}/return", f"eval/{task}/return", f"eval/{task}/length"} <= names
        for video in ("eval-{}-episode", "model-{}-open_loop", "plan-{}-plan_above_execution"):
            assert list((logdir / "videos").glob(video.format(task) + "*")), video
        files = sorted((logdir / "episodes" / task).glob("*.npz"))
        assert len(files) >= 2
        with np.load(files[-1], allow_pickle=False) as episode:
            assert "state" not in episode and np.abs(episode["action"][1:]).min() > 0.0  # what the agent put out
    assert all(np.isfinite(row["model/loss"]) for row in rows if "model/loss" in row)
    return rows


@pytest.mark.slow
def test_program_trains_one_agent_on_tasks_of_three_suites(tmp_path):
    tasks = ["pointmass_obstacle", "gym_InvertedPendulum-v5", "dmc_cartpole_swingup"]
    rows = train(tasks, tmp_path, "--eval_every", "1000")  # one evaluation, after the pretraining
    # Each evaluation has an episode of each task, of which the means are taken.
    row = next(row for row in rows if "eval/return" in row)
    assert row["eval/return"] == pytest.approx(np.mean([row[f"eval/{task}/return"] for task in tasks]))
    counts = [len(list((tmp_path / "episodes" / task).glob("*.npz"))) for task in tasks]
    assert max(counts) - min(counts) <= 1


@pytest.mark.slow
def test_program_trains_one_agent_on_three_tasks_of_dm_control(tmp_path, capsys):
    tasks = ["dmc_cartpole_swingup", "dmc_reacher_easy", "dmc_walker_walk"]
    words = ["--time_limit", "24", "--envs", "2"]
    rows = train(tasks, tmp_path, *words, "--steps", "288")
    # Rounds of 24 steps of each task in two environments: 3, 6 and 12 decisions.
    assert rows[-1]["step"] == 288 and rows[-1]["train/decisions"] == 2 * 2 * (3 + 6 + 12)
    assert rows[-1]["replay/steps"] == 288 and rows[-1]["replay/episodes"] == 12
    resumed = train(tasks, tmp_path, *words, "--steps", "340", "--eval_every", "0")
    # One more turn of the first task, then 4 steps of the second in both environments.
    assert resumed[-1]["step"] == 288 + 48 + 8 and resumed[-1]["train/decisions"] == 84 + 6 + 2
    assert resumed[-1]["replay/episodes"] == 14 and resumed[-1]["replay/steps"] == 336
    capsys.readouterr()
    assert plan_report.main(["--logdir", str(tmp_path), "--task", tasks[0], "--rows", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["executed"]) == (tasks[0], 3)
    assert all("plan_dmc_cartpole_swingup_cem_0" in file for file in report["files"])
    assert plan_report.main(["--logdir", str(tmp_path), "--task", "dmc_finger_spin"]) == 2
    assert "dmc_finger_spin" in capsys.readouterr().err
