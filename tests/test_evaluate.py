"""evaluate.py: one run of the whole program on a recorded run, and refusals."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

import agents
import envs
import evaluate
from envs.distance import goal_distance
from evaluation import files
from evaluation.episodes import episode_seeds
from tests.recorded import STEPS, UPDATES, recorded_run
from tools.config import load_config
from tools.errors import UserError
from training.logdir import open_logdir
from training.run import TrainingRun

DEBUG = ["--configs", "defaults", "pointmass", "debug"]
EPISODES = 3


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    return recorded_run(tmp_path_factory.mktemp("runs") / "pointmass_obstacle" / "latco_small" / "0")


@pytest.fixture(scope="module")
def evaluation(logdir):
    """Three episodes in two environments: the line, and the folder."""
    words = ["--episodes", str(EPISODES), "--envs", "2", "--seed", "5", "--show", "1", "--configs", "latco_iclr"]
    out = logdir.parent / "new" / "all.jsonl"
    assert evaluate.main(["--logdir", str(logdir), *words, "--planning_horizon", "8", "--out", str(out)]) == 0
    assert out.read_text() == (logdir / "evaluations.jsonl").read_text()
    (line,) = map(json.loads, out.read_text().splitlines())
    return line, logdir / "evaluations" / f"latco_small_{STEPS}_5"


def read_table(folder):
    with (folder / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return np.array([float(row[name]) for row in read_table(folder)])


def first_states(logdir, seeds):
    """The states that an environment starts from if it is reset with each seed in turn."""
    batch = envs.make_vector_env(load_config(DEBUG), 1, 99)
    try:
        return [batch.reset(seed=[seed])[0]["state"][0].copy() for seed in seeds]
    finally:
        batch.close()


def test_line_and_table_say_the_same(evaluation):
    line, folder = evaluation
    assert column(folder, "episode").tolist() == [0, 1, 2]
    assert column(folder, "seed").tolist() == episode_seeds(5, EPISODES)
    assert {row["task"] for row in read_table(folder)} == {line["task"]}
    for name in ("return", "predicted_return", "cost"):
        assert np.mean(column(folder, name)) == pytest.approx(line[name]["mean"], rel=1e-12)
        assert np.std(column(folder, name), ddof=1) == pytest.approx(line[name]["std"])
    for name in ("success", "success_final"):
        assert np.mean(column(folder, name)) == line[name]["mean"]
    assert np.mean(column(folder, "length")) == line["length"] == 20.0
    assert column(folder, "plans").tolist() == [5, 5, 5]  # after 0, 4, 8, 12 and 16 of the 20 decisions
    assert (column(folder, "dynamics_violation") > 0.0).all()  # of LatCo's search, before the finish
    (only,) = line["by_distance"]
    distances = column(folder, "distance")
    assert (only["low"], only["high"], only["episodes"]) == (distances.min(), distances.max(), EPISODES)
    assert only["success"] == line["success"]


def test_line_says_what_was_evaluated(evaluation, logdir):
    line, folder = evaluation
    expected = {
        "task": "pointmass_obstacle",
        "planner": "latco",
        "method": "latco_small",
        "logdir": str(logdir),
        "checkpoint_step": STEPS,
        "updates": UPDATES,
        "seed": 5,
        "envs": 2,
        "episodes": EPISODES,
        "folder": str(folder),
        "overrides": ["--configs", "latco_iclr", "--planning_horizon", "8"],
    }
    assert {key: line[key] for key in expected} == expected
    assert 0.0 < line["plan_seconds"] < 60.0 and len(line["commit"]) in (0, 40) and line["modified"] in (True, False)


def test_evaluated_episodes_start_where_their_seeds_say(evaluation, logdir):
    states = first_states(logdir, episode_seeds(5, EPISODES))
    distances = [goal_distance("pointmass_obstacle", state) for state in states]
    np.testing.assert_array_equal(column(evaluation[1], "distance"), distances)


def test_pictures_and_videos(evaluation):
    folder = evaluation[1]
    names = ["episode_001_plans.mp4", "episode_001_plans.png", "episodes.csv", "episodes.mp4"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "success_by_distance.png"]
    assert imageio.imread(folder / "episodes.mp4").shape == (21, 66, 3 * 66, 3)
    assert imageio.imread(folder / "episode_001_plans.mp4").shape == (20, 64, 132, 3)
    # Five plans, each above its execution; nine columns.
    assert Image.open(folder / "episode_001_plans.png").size == (round((1.6 + 0.9 * 9) * 120), round(10.3 * 120))


def test_progress_and_table_leave_the_output_to_the_lines(evaluation, capsys):
    rows = [{key: float(value) for key, value in row.items() if key != "task"} for row in read_table(evaluation[1])]
    files.show_table(rows, "title of the table")
    captured = capsys.readouterr()
    assert not captured.out and "title of the table" in captured.err
    assert all(f"{row['return']:.4g}" in captured.err for row in rows)


def test_nothing_is_replaced(evaluation, tmp_path):
    assert files.new_folder(tmp_path, "a b") == tmp_path / "a-b"
    assert files.new_folder(tmp_path, "a b") == tmp_path / "a-b_2"
    assert files.new_folder(evaluation[1].parent, evaluation[1].name).name == f"latco_small_{STEPS}_5_2"


def test_method_is_named_like_the_folder_above_the_seeds(logdir, tmp_path):
    assert evaluate.method_name(logdir, "latco") == "latco_small"
    assert evaluate.method_name(logdir, "cem") == "cem"
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "config.yaml").write_bytes((logdir / "config.yaml").read_bytes())
    assert evaluate.method_name(tmp_path / "trial", "latco") == "latco"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--episodes", "0"], ["--episodes", "at least 1"]),
        (["--envs", "0"], ["--envs", "at least 1"]),
        (["--episodes", "2", "--show", "0", "2"], ["--show 2", "last episode, 1"]),
        (["--stoch", "5"], ["stoch = 4", "5", "--logdir"]),
        (["--configs", "small"], ["--logdir", "stoch"]),
        (["--task", "pointmass_lottery"], ["pointmass_obstacle", "pointmass_lottery"]),
        (["--planner", "latcoo"], ["latcoo", "'latco'"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--out", "/dev/null/lines.jsonl"], ["/dev/null", "cannot be written"]),
        (["--episodes", str(2**31 - 1)], ["the results of 2147483647 episodes need", "lower episodes"]),
        (["--episodes", "999999", "--envs", "999999"], ["processes of 999999 environments need", "lower envs"]),
        (["3"], ["'3' is out of place"]),
    ],
)
def test_bad_options_are_refused(logdir, argv, words, capsys):
    before = sorted(logdir.rglob("*"))
    assert evaluate.main(["--logdir", str(logdir), *argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
    assert sorted(logdir.rglob("*")) == before


def test_missing_runs_and_checkpoints_are_refused(logdir, tmp_path, capsys):
    assert evaluate.main(["--logdir", str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_bytes((logdir / "config.yaml").read_bytes())
    assert evaluate.main(["--logdir", str(tmp_path)]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert evaluate.main([]) == 2 and "--logdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate: 0.1\nlayers: 3\n", "has no task"),
        ("task: 3\nplanner: latco\nseed: 0\n", "task must be a name, not 3"),
        ("task: pointmass_obstacle\nplanner: latco\nseed: zero\n", "seed must be a whole number, not 'zero'"),
    ],
)
def test_config_of_another_project_is_refused(tmp_path, capsys, text, words):
    (tmp_path / "config.yaml").write_text(text)
    assert evaluate.main(["--logdir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_method_of_any_length_has_a_folder(tmp_path):
    for name in ("m" * 300, "\u00fc" * 300):
        assert files.new_folder(tmp_path, name).is_dir() and files.new_folder(tmp_path, name).name.endswith("_2")


def test_places_that_cannot_be_written_are_refused_before_the_evaluation(tmp_path):
    (tmp_path / "evaluations").touch()
    with pytest.raises(UserError, match=r"evaluations cannot be written.*--out FILE"):
        files.find_places(tmp_path)
    with pytest.raises(UserError, match=r"file cannot be written.*choose another --out"):
        (tmp_path / "file").touch()
        files.find_places(tmp_path, tmp_path / "file" / "lines.jsonl")


def test_trying_whether_places_can_be_written_leaves_no_mark(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "old.jsonl").write_text("{}\n")
    places = files.find_places(tmp_path / "run", tmp_path / "new" / "lines.jsonl")
    own, other = places.files
    assert (own, other) == (tmp_path / "run" / "evaluations.jsonl", tmp_path / "new" / "lines.jsonl")
    assert places.folder == tmp_path / "run" / "evaluations"
    files.find_places(tmp_path / "run", tmp_path / "old.jsonl")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "old.jsonl", tmp_path / "run"]
    assert (tmp_path / "old.jsonl").read_text() == "{}\n"


def test_trying_whether_a_file_can_be_written_spares_the_line_of_another_program(tmp_path, monkeypatch):
    file, mkdir = tmp_path / "run" / "evaluations.jsonl", Path.mkdir

    def write_meanwhile(folder, **options):
        mkdir(folder, **options)
        file.write_text("{}\n")

    monkeypatch.setattr(Path, "mkdir", write_meanwhile)
    files.check_writable(file)
    assert file.read_text() == "{}\n"


def test_a_line_is_written_once_where_out_is_the_run_s_own_file(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "run" / "evaluations.jsonl"
    assert files.find_places(tmp_path / "run", Path("run/../run/evaluations.jsonl")).files == (own,)


def test_a_read_only_run_is_evaluated_elsewhere(logdir, tmp_path, capsys, line_by_line):
    readonly, out = tmp_path / "run", tmp_path / "mine" / "lines.jsonl"
    shutil.copytree(logdir, readonly, ignore=shutil.ignore_patterns("evaluations*"))
    (readonly / "evaluations.jsonl").mkdir()  # nobody can append to it, not even the superuser of a container
    words = ["--logdir", str(readonly), "--episodes", "1", "--planner", "random_shooting", "--media", "false"]
    assert evaluate.main(words) == 2
    assert "--out FILE" in capsys.readouterr().err
    before = sorted(readonly.rglob("*"))
    assert evaluate.main([*words, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert f"note: {readonly} cannot be written: all files go to {out.parent}\n" in captured.err
    line = json.loads(captured.out)
    assert out.read_text() == captured.out and line["folder"].startswith(str(out.parent / "evaluations"))
    assert sorted(readonly.rglob("*")) == before and (Path(line["folder"]) / "episodes.csv").is_file()


def test_numbers_are_kept_where_the_disk_has_no_room_for_pictures(logdir, tmp_path, capsys, monkeypatch, line_by_line):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shutil.copytree(logdir, run := tmp_path / "run", ignore=shutil.ignore_patterns("evaluations*"))
    monkeypatch.setattr(files, "write_video", fail)
    assert evaluate.main(["--logdir", str(run), "--episodes", "1", "--planner", "random_shooting"]) == 2
    assert "make room" in capsys.readouterr().err
    line = json.loads((run / "evaluations.jsonl").read_text())
    assert line["return"]["mean"] == column(Path(line["folder"]), "return")[0]


def test_help_explains_the_program(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(
        word in text for word in ("--episodes", "--show", "--KEY", "Wilson", "figure 4")
    )


@pytest.mark.slow
def test_another_planner_starts_from_the_same_states(evaluation, logdir, capsys):
    words = ["--episodes", "4", "--envs", "3", "--seed", "5", "--planner", "cem", "--media", "false"]
    assert evaluate.main(["--logdir", str(logdir), *words]) == 0
    line = json.loads(capsys.readouterr().out)
    folder = logdir / "evaluations" / f"cem_{STEPS}_5"
    assert (line["planner"], line["method"], line["folder"], line["envs"]) == ("cem", "cem", str(folder), 3)
    assert [path.name for path in folder.iterdir()] == ["episodes.csv"]
    assert column(folder, "distance")[:EPISODES].tolist() == column(evaluation[1], "distance").tolist()
    assert (column(folder, "return")[:EPISODES] != column(evaluation[1], "return")).all()
    assert len((logdir / "evaluations.jsonl").read_text().splitlines()) == 2


def make_run(logdir, *words):
    """An agent with its first weights in a log directory."""
    argv = [*DEBUG, *words, "--logdir", str(logdir)]
    config = load_config(argv).resolved()
    run = TrainingRun(agents.make_agent(config), open_logdir(config, argv), quiet=True)
    run.checkpoints.save()
    run.close()
    return logdir


@pytest.mark.slow
def test_each_of_several_tasks_has_its_line(tmp_path, capsys):
    tasks = ["pointmass_obstacle", "pointmass_lottery"]
    logdir = make_run(tmp_path / "run", "--planner", "cem", "--task", *tasks)
    capsys.readouterr()
    assert evaluate.main(["--logdir", str(logdir), "--episodes", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["task"] for line in lines] == tasks and "cost" in lines[0] and "cost" not in lines[1]
    assert evaluate.main(["--logdir", str(logdir), "--episodes", "2", "--task", tasks[1], "--method", "my way"]) == 0
    single = json.loads(capsys.readouterr().out)
    assert single["return"] == lines[1]["return"] and single["method"] == "my way"
    assert (logdir / "evaluations" / f"{tasks[1]}_my-way_0_0" / "episodes.csv").is_file()
