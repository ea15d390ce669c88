"""Sweeps: what is refused, and what becomes of runs that crash."""

import contextlib
import json
import os
import re
import signal
import textwrap
import threading
import time

import pytest

import sweep
from sweeps.experiment import check_starts, make_runs
from sweeps.runner import _check_capacity, connected
from tests.sweeps.commands import DEBUG, TASKS, command
from tools.errors import UserError
from tools.schema import read_schema


def test_no_setting_is_called_like_an_option():
    options = sweep.parse_options(["--tasks", "a", "--planners", "b", "--seeds", "0", "--out", "x"])[0]
    assert not set(vars(options)) & set(read_schema().settings)


@pytest.mark.parametrize(
    "change, words",
    [
        (["--planners", "cem", "latcoo"], ["latcoo", "latco"]),
        (["--tasks", "metaworld_reach", "atari_pong"], ["atari_pong", "metaworld"]),
        (["--tasks", "pointmass_lotery"], ["lotery", "pointmass_lottery"]),
        (["--configs", "smal"], ["smal", "small"]),
        (["--batchsize", "3"], ["batchsize", "batch_size"]),
        (["--steps", "many"], ["steps", "many"]),
        (["--seed", "3"], ["--seed"]),
        (["--logdir=here"], ["--logdir"]),
        (["--task", "pointmass_lottery"], ["--task"]),
        (["--seeds", "0", "0"], ["share", "pointmass_obstacle/cem/0"]),
        (["--seeds", "-1"], ["-1"]),
        (["--strategy", "multi_worker"], ["multi_worker", "mirrored"]),
        (["--overshooting", "8"], ["overshooting is 8", "batch_length"]),
        (["--mpc_steps", "6"], ["mpc_steps is 6", "5 actions"]),
        (["--experiment", "file.yaml"], ["--experiment", "--tasks"]),
        (["--rows", "ours"], ["--rows", "--experiment"]),
        (["--cpus", "0"], ["--cpus"]),
        (["--cpus", "1000"], ["1000", "--cpus"]),
        (["--cpus", "many"], ["--cpus", "many"]),
        (["--gpus", "1.5"], ["--gpus"]),
        (["--parallel", "0"], ["--parallel"]),
        (["--retries", "-1"], ["--retries"]),
        (["--out", "some{where"], ["some{where"]),
        (["--out", "{task}"], ["{task}", "--out"]),
        (["--init_from", "nowhere"], ["nowhere holds no run", "--init_from"]),
        (["--offline_dir", "nowhere"], ["nowhere holds no episodes", "--offline_dir"]),
        (["--address", ""], ["--address is empty"]),
        (["--address", "127.0.0.1:1"], ["127.0.0.1:1", "ray start"]),
    ],
    ids=lambda value: "-".join(value).strip("-") if "--" in value[0] else "",
)
def test_bad_input_starts_nothing_and_gets_one_sentence(change, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('started')")
    assert sweep.main([*command("out", tasks=["pointmass_obstacle"]), *change], program) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and not captured.out
    assert all(word in captured.err for word in words)
    assert not (tmp_path / "out").exists()


def test_missing_options_and_small_machines_are_told():
    with pytest.raises(UserError, match="--tasks with --planners"):
        sweep.parse_options(["--seeds", "0", "--out", "x"])
    options = sweep.parse_options([*command("x"), "--cpus", "4", "--gpus", "1"])[0]
    small = {"Alive": True, "Resources": {"CPU": 2.0}}
    dead = {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    with pytest.raises(UserError, match="No node has 4 processors and 1 GPUs.*2 and 0"):
        _check_capacity([small, dead], options)
    _check_capacity([small, {**dead, "Alive": True}], options)


def test_runs_that_do_not_fit_the_folder_stop_the_sweep_and_its_marks_stay(tmp_path, capsys):
    argv = command(tmp_path / "out")
    (run,) = make_runs([("cem", [*DEBUG, "--task", TASKS[0], "--planner", "cem"])], [0], tmp_path / "out")
    run.config.save(run.folder / "config.yaml")
    (run.folder / "done.json").write_text(json.dumps({"exit_code": 0, "command": run.identity}))
    assert sweep.main(argv, tmp_path / "none.py") == 0
    assert sweep.main([*argv, "--deter", "9"], tmp_path / "none.py") == 2
    assert "deter = 8, this command says 9" in capsys.readouterr().err
    assert sweep.main(argv, tmp_path / "none.py") == 0


def test_a_run_may_start_from_another_one_of_the_sweep(tmp_path):
    """With --parallel 1 the first one is over by then."""
    words = [*DEBUG, "--planner", "cem"]
    lines = [("one", words), ("two", [*words, "--init_from", str(tmp_path / "pointmass_obstacle/one/{seed}")])]
    runs = make_runs(lines, [0, 1], tmp_path)
    check_starts(runs)
    with pytest.raises(UserError, match="one/0 holds no run"):
        check_starts(runs[1::2])
    runs[1].config.save(runs[1].folder / "config.yaml")  # it has begun, and needs no other any more
    check_starts(runs[1:2])


def test_a_cluster_that_wants_a_token_is_named_in_one_sentence(monkeypatch):
    import ray

    def refuse(**_):
        raise ray.exceptions.AuthenticationError("no token was found")

    monkeypatch.setattr(ray, "init", refuse)
    options = sweep.parse_options([*command("x"), "--address", "auto"])[0]
    with pytest.raises(UserError, match="no token was found.*RAY_AUTH_MODE"), connected(options):
        pass


# Counts its starts, goes on from its last step, and notes when two of one folder overlap.
STEPPING = """
    import fcntl, json, sys, time
    from pathlib import Path

    def option(name):
        return sys.argv[sys.argv.index(name) + 1]

    folder, seed = Path(option("--logdir")), int(option("--seed"))

    def note(name):
        with open(folder / name, "a") as file:
            file.write(json.dumps(sys.argv[1:]) + "\\n")
        return len((folder / name).read_text().splitlines())

    def steps(number):
        alone = open(folder / "alone", "w")
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for step in range(int((folder / "step").read_text()) if (folder / "step").exists() else 0, number):
            time.sleep(0.2)
            print(time.time(), "step", step, flush=True)
            (folder / "step").write_text(str(step + 1))
            with open(folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step + 1, "eval/return": seed}) + "\\n")
        note("ends")
"""


def write_program(tmp_path, text):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(STEPPING) + textwrap.dedent(text))
    return path


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    fast = {"health_check_period_ms": 1000}  # how soon a node counts as dead
    head = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False, "_system_config": fast}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def test_crashes_are_retried_bad_input_is_not_and_complete_runs_are_skipped(cluster, tmp_path, capsys):
    program = write_program(
        tmp_path,
        """
        starts = note("starts")
        if seed == 1 and starts == 1:
            sys.exit(f"crash {starts}")
        if seed in (2, 3):
            print("error: seed", seed)
            sys.exit(seed)
        steps(1)
        """,
    )
    out = tmp_path / "out"
    words = ["--address", cluster.address, "--cpus", "1", "--retries", "1"]
    argv = command(out, *words, seeds=range(4))
    assert sweep.main(argv, program) == 1
    captured = capsys.readouterr()
    folders = [out / TASKS[0] / "cem" / str(seed) for seed in range(4)]
    assert [len(lines(folder / "starts")) for folder in folders] == [1, 2, 1, 2]
    assert [(folder / "done.json").exists() for folder in folders] == [True, True, False, False]
    assert "exit code 2: error: seed 2" in captured.err and "exit code 3: error: seed 3" in captured.err
    assert (
        captured.out.count("retrying") >= 2 and "2 of 4 runs are done, 0 of them from before; 2 failed" in captured.out
    )
    assert "crash 1" in (folders[1] / "sweep.log").read_text()

    write_program(tmp_path, "note('starts'); steps(1)")
    assert sweep.main(argv, program) == 0
    assert [len(lines(folder / "starts")) for folder in folders] == [1, 2, 2, 3]
    argv = command(out, *words, "--steps", "900")
    assert sweep.main(argv, program) == 0
    assert [len(lines(folder / "starts")) for folder in folders] == [2, 2, 2, 3]
    assert sweep.main(argv, tmp_path / "missing.py") == 0
    notes = [json.loads(line) for line in lines(out / "sweep.jsonl")]
    assert len(notes) == 3 and notes[2]["command"][-2:] == ["--steps", "900"] and "commit" in notes[0]


def die(cluster, node, folders):
    """The end of a node: its workers at once, which otherwise outlive their raylet by seconds, then the raylet."""
    for folder in folders:
        if not (folder / "done.json").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(re.search(r"process (\d+)", (folder / "sweep.lock").read_text())[1]), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
def test_runs_of_a_dead_node_go_on_on_another_one(cluster, tmp_path, capsys):
    node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    name = f"/{node.node_id[:6]}"
    program = write_program(tmp_path, "note('starts'); steps(20)")
    out = tmp_path / "out"
    folders = [out / task / "cem" / str(seed) for task in TASKS for seed in range(4)]

    def kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            here = [folder for folder in folders if any(name in line for line in lines(folder / "sweep.log"))]
            if any(2 <= len(lines(folder / "metrics.jsonl")) < 10 for folder in here):
                die(cluster, node, here)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    argv = command(out, "--address", cluster.address, "--cpus", "1", tasks=TASKS, seeds=range(4))
    code = sweep.main(argv, program)
    killer.join()
    text = capsys.readouterr().out
    assert code == 0, text
    starts = [len(lines(folder / "starts")) for folder in folders]
    text += "\n".join((folder / "sweep.log").read_text() for folder in folders if len(lines(folder / "starts")) > 1)
    assert [len(lines(folder / "ends")) for folder in folders] == [1] * 8, text
    assert max(starts) > 1, text
    assert all(
        [json.loads(line)["step"] for line in lines(folder / "metrics.jsonl")] == [*range(1, 21)] for folder in folders
    )
    assert all((folder / "done.json").exists() for folder in folders)


@pytest.mark.slow
def test_trainings_survive_the_death_of_a_node(cluster, tmp_path, capsys):
    node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    name = f"/{node.node_id[:6]}"
    out = tmp_path / "out"
    folders = [out / task / planner / str(seed) for task in TASKS for planner in ("cem", "latco") for seed in (0, 1)]
    resumed = []

    def kill():
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and not resumed:
            here = [folder for folder in folders if any(name in line for line in lines(folder / "sweep.log"))]
            resumed.extend(folder for folder in here if list((folder / "checkpoints").glob("ckpt-*.index")))
            time.sleep(0.2)
        die(cluster, node, resumed)

    killer = threading.Thread(target=kill)
    killer.start()
    words = ["--address", cluster.address, "--cpus", "1", "--parallel", "2", "--media", "false"]
    code = sweep.main(command(out, *words, tasks=TASKS, planners=["cem", "latco"], seeds=[0, 1]))
    killer.join()
    text = capsys.readouterr().out
    assert code == 0 and "8 of 8 runs are done" in text, text
    starts = [len(lines(folder / "runs.jsonl")) for folder in folders]
    assert starts[folders.index(resumed[0])] > 1
    for folder in folders:
        rows = [json.loads(line) for line in lines(folder / "metrics.jsonl")]
        assert rows[-1]["step"] >= 120 and json.loads((folder / "done.json").read_text())["exit_code"] == 0
