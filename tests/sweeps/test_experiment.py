"""Which runs a sweep has, and which experiments are refused."""

from pathlib import Path

import pytest

import sweep
from sweeps.experiment import experiment_lines, make_runs
from tests.sweeps.commands import DEBUG, TASKS, command, listed
from tools.config import load_config
from tools.errors import UserError
from training import logdir as logdirs


def test_product_is_every_task_with_every_planner_and_seed(capsys, tmp_path):
    argv = command(tmp_path / "out", "--cost_limit", "-1e-3", tasks=TASKS, planners=["cem", "latco"], seeds=[3, 1])
    lines = listed(capsys, argv)
    names = [(task, planner, seed) for seed in "31" for task in TASKS for planner in ("cem", "latco")]
    assert lines == [
        ["python", "planning_agent.py", *DEBUG, "--cost_limit", "-1e-3", "--task", task, "--planner", planner]
        + ["--seed", seed, "--logdir", str(tmp_path / "out" / task / planner / seed)]
        for task, planner, seed in names
    ]
    assert not (tmp_path / "out").exists()


EXPERIMENT = """
# A comment
ours:
  - --configs pointmass --planner latco --task pointmass_obstacle --steps 400
  - --configs pointmass --planner latco --task pointmass_lottery,pointmass_obstacle
theirs:
  - --configs pointmass --planner cem
"""


def experiment(tmp_path, text=EXPERIMENT):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return ["--experiment", str(path), "--out", str(tmp_path / "out"), "--seeds", "0", "1"]


def test_experiment_is_every_line_of_the_rows_with_every_seed(capsys, tmp_path):
    argv = experiment(tmp_path)
    folders = [str(Path(line[-1]).relative_to(tmp_path / "out")) for line in listed(capsys, argv)]
    rows = ["pointmass_obstacle/ours", "pointmass_lottery,pointmass_obstacle/ours", "pointmass_obstacle/theirs"]
    assert folders == [f"{row}/{seed}" for seed in (0, 1) for row in rows]
    assert [line[-1][-8:] for line in listed(capsys, [*argv, "--rows", "theirs"])] == ["theirs/0", "theirs/1"]


def test_row_may_be_called_by_a_number(capsys, tmp_path):
    argv = experiment(tmp_path, "5: [--configs pointmass --planner cem]\n")
    for more in ([], ["--rows", "5"]):
        folders = [str(Path(line[-1]).relative_to(tmp_path / "out")) for line in listed(capsys, [*argv, *more])]
        assert folders == ["pointmass_obstacle/5/0", "pointmass_obstacle/5/1"]


def test_settings_of_the_sweep_come_after_those_of_the_line(tmp_path):
    argv = experiment(tmp_path)
    lines = experiment_lines(Path(argv[1]), ["ours"], ["--configs", "debug", "--envs", "2"])
    run = make_runs(lines, [5], tmp_path)[0]
    config = load_config(run.arguments)
    assert config == run.config
    assert (config.batch_size, config.envs, config.seed, config.logdir) == (4, 2, 5, str(run.folder))
    assert config.steps == 400 and run.method == "ours" and config.planner == "latco"


def test_relative_places_are_those_that_the_sweep_sees(tmp_path, monkeypatch):
    """A run starts in the folder of the program, wherever the sweep does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(logdirs, "SHIPPED", tmp_path / "shipped")
    for name in ("tiny", "pointmass_obstacle"):
        (tmp_path / "shipped" / name).mkdir(parents=True)
        (tmp_path / "shipped" / name / logdirs.WEIGHTS).touch()
        (tmp_path / "shipped" / name / logdirs.SETTINGS_FILE).touch()
    for given, seen in (
        ("old/run", tmp_path / "old/run"),
        ("old/{planner}/{seed}", tmp_path / "old/cem/7"),
        ("~/run", tmp_path / "home/run"),
        ("/far/run", Path("/far/run")),
        ("tiny", tmp_path / "shipped/tiny"),
        ("{task}", tmp_path / "shipped/pointmass_obstacle"),
    ):
        (run,) = make_runs([("cem", [*DEBUG, "--planner", "cem", "--init_from", given])], [7], tmp_path / "out")
        assert load_config(run.arguments).init_from == run.config.init_from == str(seen)
    (run,) = make_runs([("cem", [*DEBUG, "--offline_dir", "data/{planner}"])], [7], tmp_path / "out")
    config = load_config(run.arguments)
    assert (config.offline_dir, config.init_from) == (str(tmp_path / "data/latco"), "")
    # A run of that name beside the sweep comes first, as for planning_agent.py.
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / logdirs.SETTINGS_FILE).touch()
    (run,) = make_runs([("cem", [*DEBUG, "--init_from", "tiny"])], [7], tmp_path / "out")
    assert load_config(run.arguments).init_from == str(tmp_path / "tiny")


def test_runs_that_execute_no_plans_need_none_of_mpc_steps_actions(tmp_path):
    words = [*DEBUG, "--mpc_steps", "6", "--planner"]
    lines = [("dreamer", [*words, "dreamer"]), ("policy", [*words, "policy", "--policy_teacher", "none"])]
    assert len(make_runs(lines, [0], tmp_path)) == 2
    with pytest.raises(UserError, match="mpc_steps is 6"):
        make_runs([("policy", [*words, "policy"])], [0], tmp_path)  # its plans teach


@pytest.mark.parametrize(
    "text, rows, words",
    [
        (EXPERIMENT, ["hers"], ["hers", "theirs"]),
        ("ours: --planner cem", [], ["ours", "list"]),
        ("ours: []", [], ["ours", "list"]),
        ("ours: [3]", [], ["ours", "list"]),
        ("../ours: [--planner cem]", [], ["../ours"]),
        ("ours: ['--planner \"cem']", [], ["command line"]),
        ("ours: [--planner cem --seed 3]", [], ["--seed", "ours"]),
        ("ours: [--help]", [], ["--help", "ours"]),
        ("ours: [--planner cem, --planner latco]", [], ["share", "ours/0"]),
        ("- ours", [], ["name: value"]),
        ("ours: [", [], ["YAML"]),
        ("1.5: [--planner cem]", [], ["1.5", "quotes"]),
        ("true: [--planner cem]", [], ["True", "quotes"]),
        ("5: [--planner cem]\n'5': [--planner cem]", [], ["two rows 5"]),
    ],
)
def test_bad_experiment_gets_one_sentence(text, rows, words, tmp_path, capsys):
    argv = [*experiment(tmp_path, text), *(["--rows", *rows] if rows else [])]
    assert sweep.main([*argv, "--list"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words)
