"""Evaluations: numbers by hand, starts, one run of the whole program on an agent that was not trained, refusals."""

import csv
import json
import types

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

import agents
import envs
import evaluate
from envs.distance import goal_distance
from tools.config import load_config
from tools.errors import UserError
from training.driver import Driver, Episode
from training.logdir import open_logdir
from training.run import TrainingRun

DEBUG = ["--configs", "defaults", "pointmass", "debug"]
EPISODES = 3


def make_run(logdir, *words):
    """An agent with its first weights in a log directory."""
    argv = [*DEBUG, *words, "--logdir", str(logdir)]
    config = load_config(argv).resolved()
    run = TrainingRun(agents.make_agent(config), open_logdir(config, argv), quiet=True)
    run.checkpoints.save()
    run.close()
    return logdir


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "pointmass_obstacle" / "latco_small" / "0")


@pytest.fixture(scope="module")
def evaluation(logdir):
    """Three episodes in two environments: the line, and the folder."""
    words = ["--episodes", str(EPISODES), "--envs", "2", "--seed", "5", "--show", "1", "--configs", "latco_iclr"]
    out = logdir.parent / "all.jsonl"
    assert evaluate.main(["--logdir", str(logdir), *words, "--planning_horizon", "8", "--out", str(out)]) == 0
    assert out.read_text() == (logdir / "evaluations.jsonl").read_text()
    (line,) = map(json.loads, out.read_text().splitlines())
    return line, logdir / "evaluations" / "latco_small_0_5"


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


# Numbers


def test_interval_of_a_mean_is_students():
    # 2.5 +- 3.182446 sqrt(5 / 3) / sqrt(4); the factor is tabulated for three degrees of freedom.
    interval = evaluate.mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval["mean"] == 2.5 and interval["std"] == pytest.approx(1.2909944)
    assert interval["low"] == pytest.approx(2.5 - 2.0542604, abs=1e-5)
    assert interval["high"] == pytest.approx(2.5 + 2.0542604, abs=1e-5)
    assert evaluate.mean_interval([7.0]) == {"mean": 7.0, "low": None, "high": None, "std": None}
    assert evaluate.mean_interval([3.0, 3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "std": 0.0}
    assert evaluate.mean_interval([np.inf, 1.0])["mean"] is None


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(8, 10, 0.4901625, 0.9433178), (0, 4, 0.0, 0.4898908), (4, 4, 0.5101092, 1.0)]
)
def test_interval_of_a_share_is_wilsons(hits, count, low, high):
    z = 1.959964
    middle, half = hits + z**2 / 2, z * np.sqrt(hits * (count - hits) / count + z**2 / 4)
    assert ((middle - half) / (count + z**2), (middle + half) / (count + z**2)) == pytest.approx((low, high), abs=1e-6)
    interval = evaluate.share_interval([1.0] * hits + [0.0] * (count - hits))
    assert interval["mean"] == hits / count
    assert (interval["low"], interval["high"]) == pytest.approx((low, high), abs=1e-6)


def test_bins_of_the_distance_have_as_many_episodes_each():
    distances = [5.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0]
    near, far = evaluate.by_distance(distances, [float(distance < 4.5) for distance in distances])
    assert (near["low"], near["high"], near["episodes"], near["success"]["mean"]) == (1.0, 4.5, 4, 1.0)
    assert (far["low"], far["high"], far["episodes"], far["success"]["mean"]) == (4.5, 8.0, 4, 0.0)
    assert near["success"] == evaluate.share_interval([1.0] * 4)
    assert len(evaluate.by_distance(np.arange(100.0), np.ones(100))) == evaluate.BINS
    (same,) = evaluate.by_distance([2.0] * 8, [1.0, 0.0] * 4)
    assert (same["low"], same["high"], same["episodes"], same["success"]["mean"]) == (2.0, 2.0, 8, 0.5)


def test_distances_by_hand():
    state = np.zeros(39)
    state[0:3], state[4:7], state[36:39] = [1, 0, 0], [1, 3, 4], [1, 3, 2]
    assert goal_distance("metaworld_push", state) == pytest.approx(5.0 + 2.0)
    assert goal_distance("metaworld_reach", state) == pytest.approx(np.sqrt(9.0 + 4.0))
    assert goal_distance("pointmass_obstacle", np.array([0.6, 0.1, 9.0, 9.0])) == pytest.approx(0.5)
    assert goal_distance("pointmass_lottery", np.array([0.15, 0.0, 9.0, 9.0, 0.0])) == pytest.approx(0.4)
    assert goal_distance("dmc_walker_walk", state) is None and goal_distance("metaworld_push", None) is None


# Starts


def play(num_envs, seeds):
    """Episodes of uniform actions, by number."""
    driver = Driver(envs.make_vector_env(load_config(DEBUG).replace(time_limit=2 + num_envs), num_envs, num_envs))
    rng, episodes = np.random.default_rng(num_envs), {}
    try:
        driver.restart(seeds)
        while len(episodes) < len(seeds):
            done = driver.step(lambda obs, is_first, state: (rng.uniform(-1, 1, [len(is_first), 2]), state, {}))
            episodes |= {episode.number: episode for episode in done}
    finally:
        driver.close()
    return [episodes[number] for number in range(len(seeds))]


def test_starts_depend_on_the_seed_alone():
    seeds = evaluate.episode_seeds(3, 4)
    assert len(set(seeds)) == 4 and evaluate.episode_seeds(3, 2) == seeds[:2] != evaluate.episode_seeds(4, 2)
    one, three = play(1, seeds), play(3, seeds)
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a.data["state"][0], b.data["state"][0])
        np.testing.assert_array_equal(a.data["image"][0], b.data["image"][0])
        assert a.length != b.length and (a.data["state"][1] != b.data["state"][1]).any()
        # The obstacle task pays the negative distance of the state that a step leads to.
        assert goal_distance("pointmass_obstacle", a.data["state"][1]) == pytest.approx(-a.data["reward"][1], abs=1e-5)
    assert len({tuple(episode.data["state"][0]) for episode in one}) == 4


def test_environments_that_wait_ask_for_no_plans():
    class Agent:
        def policy(self, obs, is_first, state, explore, idle):
            assert explore is False
            planned = (state >= 2) & ~idle
            extras = {"planned": planned, "metrics": {"speed/plan_seconds": np.array([0.25, 9.0, 0.25])}}
            return np.zeros([3, 2]), state, extras

    driver = types.SimpleNamespace(waiting=np.array([False, True, False]))
    policy = evaluate.Policy(Agent(), driver, plans=False)
    assert policy({}, np.zeros(3, bool), np.array([2, 2, 2]))[2]["planned"].tolist() == [True, False, True]
    policy({}, np.zeros(3, bool), np.array([1, 2, 1]))
    assert policy.plan_seconds == [0.25]


# The whole program


def test_line_and_table_say_the_same(evaluation):
    line, folder = evaluation
    assert column(folder, "episode").tolist() == [0, 1, 2]
    assert column(folder, "seed").tolist() == evaluate.episode_seeds(5, EPISODES)
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
        "task": "pointmass_obstacle", "planner": "latco", "method": "latco_small", "logdir": str(logdir),
        "checkpoint_step": 0, "updates": 0, "seed": 5, "envs": 2, "episodes": EPISODES, "folder": str(folder),
        "overrides": ["--configs", "latco_iclr", "--planning_horizon", "8"],
    }  # fmt: skip
    assert {key: line[key] for key in expected} == expected
    assert 0.0 < line["plan_seconds"] < 60.0 and len(line["commit"]) in (0, 40) and line["modified"] in (True, False)


def test_evaluated_episodes_start_where_their_seeds_say(evaluation, logdir):
    states = first_states(logdir, evaluate.episode_seeds(5, EPISODES))
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
    rows = [{key: float(value) for key, value in row.items()} for row in read_table(evaluation[1])]
    evaluate.show_table(rows, "title of the table")
    captured = capsys.readouterr()
    assert not captured.out and "title of the table" in captured.err
    assert all(f"{row['return']:.4g}" in captured.err for row in rows)


def test_nothing_is_replaced(evaluation, tmp_path):
    assert evaluate.new_folder(tmp_path, "a b") == tmp_path / "a-b"
    assert evaluate.new_folder(tmp_path, "a b") == tmp_path / "a-b_2"
    assert evaluate.new_folder(evaluation[1].parent, evaluation[1].name).name == "latco_small_0_5_2"


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


def test_places_that_cannot_be_written_are_refused_before_the_evaluation(tmp_path):
    (tmp_path / "evaluations").touch()
    with pytest.raises(UserError, match=r"evaluations cannot be written"):
        evaluate.check_writable(tmp_path / "evaluations.jsonl", tmp_path / "evaluations")


def test_help_explains_the_program(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(
        word in text for word in ("--episodes", "--show", "--KEY", "Wilson", "figure 4")
    )


# Pictures


def numbered(values):
    """Pictures of one grey each."""
    return np.broadcast_to(np.uint8(values)[:, None, None, None], [len(values), 64, 64, 3])


@pytest.fixture
def drawn():
    """Plans of four actions after 0 and 3 of 5 decisions; their states say 10 (plan) + time, pictures 100 + time."""
    states = np.array([[11, 12, 13, 14]] * 3 + [[24, 25, 26, 27]] * 2, np.float32)[..., None]
    extras = {
        "planned": np.array([True, False, False, True, False]),
        "plan_start": np.array([10, 0, 0, 23, 0], np.float32)[:, None],
        "plan_states": states,
        "predicted_reward": np.array([1, 2, 3, 40, 50], np.float32),
    }
    data = {"image": numbered(100 + np.arange(6)), "reward": np.array([0, 5, 6, 7, 8, 9], np.float32)}
    decode = lambda feat: np.float32(feat)[..., None, None] / 255.0 - 0.5 + np.zeros([64, 64, 3], np.float32)  # noqa: E731
    agent = types.SimpleNamespace(model=types.SimpleNamespace(decode=decode), rewards=lambda rewards: rewards)
    return evaluate.executed_plans(agent, Episode(0, data, extras, number=7))


def test_plans_are_shown_with_what_came_of_them(drawn):
    first, second = drawn
    assert (first.time, first.executed, first.predicted, first.achieved) == (0, 3, 6.0, 18.0)
    assert (second.time, second.executed, second.predicted, second.achieved) == (3, 2, 90.0, 17.0)
    planned, executed = (row[:, 0, 0, 0].tolist() for row in first.rows(np.array([0, 1, 3, 4])))
    assert planned == [10, 11, 13, 14] and executed == [100, 101, 103, 255 - (255 - 104) // 3]  # the last one paler
    planned, executed = (row[:, 0, 0, 0].tolist() for row in second.rows(np.arange(5)))
    assert planned == [23, 24, 25, 26, 27] and executed == [103, 104, 105, 255, 255]  # the episode was over
    labels = [label.get_text() for label in evaluate.draw_plans(drawn, "").axes[0].get_yticklabels()]
    assert labels[0] == "plan at 0\npredicted 6.00" and labels[3] == "execution\nachieved 17.00"


def test_video_shows_each_decision_as_planned_and_executed(drawn):
    video = evaluate.plan_video(drawn)
    assert video.shape == (5, 64, 132, 3) and video.dtype == np.uint8
    assert video[:, 0, 0, 0].tolist() == [11, 12, 13, 24, 25]
    assert video[:, 0, -1, 0].tolist() == [101, 102, 103, 104, 105]


def test_grid_holds_last_frames_and_fills_up_with_white():
    videos = [numbered([k, k + 1] if k == 10 else [k]) for k in (10, 20, 30, 40, 50)]
    sheet = evaluate.grid(videos)
    assert sheet.shape == (2, 2 * 66, 4 * 66, 3)
    assert sheet[1, 33, 33::66, 0].tolist() == [11, 20, 30, 40]
    assert sheet[1, 66 + 33, 33::66, 0].tolist() == [50, 255, 255, 255]


def test_success_is_drawn_over_the_distance():
    bins = evaluate.by_distance(np.arange(8.0), [1.0] * 4 + [0.0] * 4)
    axis = evaluate.draw_by_distance(bins, "title").axes[0]
    assert [text.get_text() for text in axis.texts] == ["4", "4"]
    assert [container.lines[0].get_xydata().tolist() for container in axis.containers] == [[[1.75, 1.0]], [[5.25, 0.0]]]


@pytest.mark.slow
def test_another_planner_starts_from_the_same_states(evaluation, logdir, capsys):
    words = ["--episodes", "4", "--envs", "3", "--seed", "5", "--planner", "cem", "--media", "false"]
    assert evaluate.main(["--logdir", str(logdir), *words]) == 0
    line = json.loads(capsys.readouterr().out)
    folder = logdir / "evaluations" / "cem_0_5"
    assert (line["planner"], line["method"], line["folder"], line["envs"]) == ("cem", "cem", str(folder), 3)
    assert [path.name for path in folder.iterdir()] == ["episodes.csv"]
    assert column(folder, "distance")[:EPISODES].tolist() == column(evaluation[1], "distance").tolist()
    assert (column(folder, "return")[:EPISODES] != column(evaluation[1], "return")).all()
    assert len((logdir / "evaluations.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_each_of_several_tasks_has_its_line(tmp_path, capsys):
    tasks = ["pointmass_obstacle", "pointmass_lottery"]
    logdir = make_run(tmp_path / "run", "--planner", "cem", "--task", *tasks)
    capsys.readouterr()
    assert evaluate.main(["--logdir", str(logdir), "--episodes", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["task"] for line in lines] == tasks and "cost" in lines[0] and "cost" not in lines[1]
    assert evaluate.main(["--logdir", str(logdir), "--episodes", "2", "--task", tasks[1], "--method", "my way"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["return"] == lines[1]["return"] and alone["method"] == "my way"
    assert (logdir / "evaluations" / f"{tasks[1]}_my-way_0_0" / "episodes.csv").is_file()
