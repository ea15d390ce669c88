"""The gauge of planners on a trained model: its numbers by hand, one whole run on a point mass, refusals."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from problems import BUILDERS, TARGET, WEIGHTS, A, B, linear_quadratic, linear_quadratic_optimum, with_value

import agents
import envs
from benchmarks import plan_figure, plan_losses, plan_quality, plan_variants
from benchmarks.execution import Played, play_open_loop, play_scripted
from benchmarks.plan_losses import Plans
from evaluation.episodes import episode_seeds
from evaluation.numbers import share_interval
from planners.trajectories import rollout
from tools.config import load_config
from training.driver import Episode
from training.logdir import open_logdir
from training.run import TrainingRun

DEBUG = ["--configs", "defaults", "pointmass", "debug"]
STARTS, HORIZON = 2, 5


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """An agent with its first weights."""
    folder = tmp_path_factory.mktemp("runs") / "0"
    argv = [*DEBUG, "--logdir", str(folder)]
    config = load_config(argv).resolved()
    run = TrainingRun(agents.make_agent(config), open_logdir(config, argv), quiet=True)
    run.checkpoints.save()
    run.close()
    return folder


def plans(*scores):
    """Plans of one step whose only action says which they are."""
    scores = np.array(scores, np.float32)
    return Plans(scores[:, None, None], scores, scores)


# The best plans


def test_best_plan_of_each_start_is_the_best_of_all_candidates():
    best, names = plan_variants.best_known({"a": plans(1, 2, np.nan), "b": plans(0, 5, -3), "c": plans(1, 4, -np.inf)})
    assert names == ["a", "b", "b"]
    np.testing.assert_array_equal(best.score, [1, 5, -3])
    np.testing.assert_array_equal(best.actions[:, 0, 0], [1, 5, -3])


def test_search_finds_the_optimum_of_every_start():
    planner = BUILDERS["gd"][0](linear_quadratic(), 4, restarts=3, jit_compile=False)
    agent = types.SimpleNamespace(planner=planner, planner_start=lambda z: z)
    z0 = np.array([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]], np.float32)
    starts = types.SimpleNamespace(features=tf.constant(z0), seed=7)
    many = plan_variants.search(agent, starts, "gd")
    single = plan_losses.found(BUILDERS["gd"][0](linear_quadratic(), 4, jit_compile=False)(z0, [7, 0]))
    best, _ = plan_variants.best_known({"many": many, "single": single})
    optimum = [linear_quadratic_optimum(z, 4)[1] for z in z0]
    assert many.actions.shape == (2, 4, 1) and planner.traces == 1
    assert np.all(best.score >= np.maximum(many.score, single.score)) and np.all(best.score <= optimum)


def test_plans_that_nobody_found_are_judged_by_the_mean_dynamics():
    z0, actions = np.array([[0.5, -0.5, 0.0]]), np.array([[[0.3], [-0.2]]])
    z, returns = z0[0], 0.0
    for action in actions[0]:
        z = A @ z + B @ action
        returns -= np.sum(WEIGHTS * (z - TARGET) ** 2)
    judged = plan_losses.judged(linear_quadratic(), tf.constant(z0), actions)
    assert judged.returns == pytest.approx([returns]) and judged.score == pytest.approx([returns])
    problem = with_value(linear_quadratic())
    valued = plan_losses.judged(problem, tf.constant(z0), actions)
    value = problem.value(rollout(problem.step, tf.constant(z0), tf.constant(actions))[:, -1]).numpy()
    assert valued.returns == pytest.approx([returns]) and valued.score == pytest.approx(returns + value)


def test_pool_is_as_large_as_wanted():
    config = load_config([*DEBUG, "--cem_candidates", "50", "--discount", "0.9"])
    agent = types.SimpleNamespace(config=config)
    pool = plan_variants.pool(agent, 32)
    assert list(pool) == ["latco x 32", "gd x 16", "cem, 4 x candidates"]
    made = load_config([*DEBUG, *pool["cem, 4 x candidates"]])
    assert (made.cem_candidates, made.sample_states, made.discount, made.planning_horizon) == (200, False, 0.9, 5)
    many = load_config([*DEBUG, "--restart_samples", "9", *pool["gd x 16"]])
    assert (many.n_parallel_plans, many.restart_samples) == (16, 0)
    assert plan_variants.pool(agent, 0) == {}
    agent.config = config.replace(cost_head=True)
    assert list(plan_variants.pool(agent, 4)) == ["latco x 4"]


def test_violations_before_the_finish_are_told():
    planner = BUILDERS["latco"][0](linear_quadratic(), 4, finish=2, jit_compile=False)
    row, plan, _ = plan_losses.measure(planner, np.array([[9.0, -0.5, 0.0]], np.float32), 3)
    for name in ("dynamics_violation", "action_violation"):
        assert row[name] == 0.0
        assert row[f"search_{name}"] == pytest.approx(float(plan.curves[name][0, -3]), rel=1e-3)
    assert row["search_dynamics_violation"] > 0.0 and row["return_se"] is None


# Losses


def test_losses_by_hand():
    found = Plans(np.zeros([2, 1, 1]), np.array([2.0, 4.0]), np.array([3.0, 5.0]))  # a terminal value of 1
    line = plan_losses.losses(found, plans(4, 6), np.array([1.0, 3.5]), np.array([2.5, 1.5]))
    assert line["return_best"] == 5.0 and line["return_best_se"] == pytest.approx(1.0)
    assert (line["search_gap"], line["search_loss"], line["search_loss_se"]) == (0.8, 1.0, 0.0)
    assert line["noise_loss"] == 0.75 and line["noise_loss_se"] == pytest.approx(0.25)
    assert line["achieved_open_loop"] == 2.0 and line["achieved_open_loop_se"] == pytest.approx(0.5)
    assert line["model_loss"] == 1.0 and line["model_loss_se"] == pytest.approx(1.5)
    negative = plan_losses.losses(plans(-3), plans(-2), np.array([-3.0]), np.array([-4.0]))
    assert (negative["search_gap"], negative["search_loss"], negative["search_loss_se"]) == (None, 1.0, None)


def test_numbers_of_a_line_are_json():
    line = plan_losses.rounded({"a": np.array([1.0000001, np.nan]), "b": [np.int64(3), None, "x"], "c": {"d": True}})
    assert line == {"a": [1.0, None], "b": [3, None, "x"], "c": {"d": True}}


class Line:
    """Two environments: a step pays seed + action; the one with an odd seed ends at its second step."""

    num_envs = 2

    def __init__(self):
        self.seeds, self.steps, self.ended = [0, 0], np.zeros(2, int), np.zeros(2, bool)

    def reset(self, seed=None, options=None):
        mask = np.ones(2, bool) if options is None else options["reset_mask"]
        self.seeds = self.seeds if seed is None else seed
        self.steps[mask], self.ended[mask] = 0, False
        return {"image": np.zeros([2, 64, 64, 3], np.uint8)}, {}

    def step(self, action):
        assert not self.ended.any()
        self.steps += 1
        self.ended = (np.array(self.seeds) % 2 == 1) & (self.steps == 2)
        reward = np.array(self.seeds) + action[:, 0]
        return {}, reward, self.ended.copy(), np.zeros(2, bool), {"success": np.float32(reward > 4)}


def test_open_loop_execution_by_hand():
    seeds = [2, 3, 4]
    actions = np.float32([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [9.0]], [[-0.1], [0.0], [0.6]]])
    played = play_open_loop(Line(), seeds, actions)
    np.testing.assert_allclose(played.rewards, [[2.1, 2.2, 2.3], [3.4, 3.5, 0.0], [3.9, 4.0, 4.6]])
    np.testing.assert_array_equal(played.alive, [[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(played.success.any(1), [False, False, True])
    agent = types.SimpleNamespace(rewards=lambda r: 2.0 * r + 1.0, config=types.SimpleNamespace(discount=0.5))
    expected = [5.2 / 2 + 5.4 / 4 + 5.6 / 8, 7.8 / 2 + 8.0 / 4, 8.8 / 2 + 9.0 / 4 + 10.2 / 8]
    np.testing.assert_allclose(plan_losses.achieved(agent, played), expected, rtol=1e-6)
    assert played.first(2).rewards.shape == (3, 2)


def test_starts_whose_environment_is_lost_are_played_again():
    class Losing(Line):
        """Loses its second environment at the second step of all."""

        steps_left = 2

        def step(self, action):
            self.steps_left -= 1
            obs, reward, *ended, info = super().step(action)
            lost = np.array([False, self.steps_left == 0])
            return obs, np.where(lost, 0.0, reward), *ended, info | ({"lost": lost} if lost.any() else {})

    seeds, actions = [2, 4, 6], np.float32(np.arange(9).reshape(3, 3, 1)) / 10
    for right, played in zip(
        play_open_loop(Line(), seeds, actions), play_open_loop(Losing(), seeds, actions), strict=True
    ):
        np.testing.assert_array_equal(played, right)


def test_episodes_are_weighted_as_their_plans_were():
    data = {"reward": np.float32([0, 1, 1, 1, 1, 1])}
    extras = {"planned": np.array([1, 0, 0, 1, 0], bool), "predicted_reward": np.float32([0.5, 0.25, 0.1, 0.5, 0.3])}
    agent = types.SimpleNamespace(rewards=lambda r: r, config=types.SimpleNamespace(discount=0.5))
    predicted, came = plan_losses.episode_returns(agent, Episode(0, data, extras))
    assert predicted == pytest.approx(1.65) and came == pytest.approx(0.5 + 0.25 + 0.125 + 0.5 + 0.25)


def test_actions_bring_what_they_bring_when_played_by_hand():
    config, seeds = load_config(DEBUG).resolved(), episode_seeds(0, 3)
    actions = np.random.default_rng(0).uniform(-1, 1, [3, 4, 2]).astype(np.float32)
    rewards = np.zeros([3, 4])
    batch, single = envs.make_vector_env(config, 2, 1), envs.make_vector_env(config, 1, 2)
    try:
        played = play_open_loop(batch, seeds, actions)
        for row, seed in enumerate(seeds):
            single.reset(seed=[seed])
            rewards[row] = [single.step(action[None])[1][0] for action in actions[row]]
    finally:
        batch.close()
        single.close()
    np.testing.assert_allclose(played.rewards, rewards, rtol=1e-6)
    assert played.alive.all() and not played.success.any()


@pytest.mark.slow
def test_scripted_actions_bring_the_same_in_the_environments():
    config = load_config(["--configs", "defaults", "metaworld", "debug"]).resolved()
    seeds = episode_seeds(0, 2)
    scripted = play_scripted(config, "metaworld_reach", seeds, 3, 5)
    assert scripted.actions.shape == (2, 3, 5) and not scripted.actions[..., 4].any() and scripted.actions.any()
    assert play_scripted(config, "pointmass_obstacle", seeds, 3, 2) is None
    batch = envs.make_vector_env(config.replace(reward="dense"), 2, 9)
    try:
        dense = play_scripted(config.replace(reward="dense"), "metaworld_reach", seeds, 3, 4)
        played = play_open_loop(batch, seeds, dense.actions)
    finally:
        batch.close()
    np.testing.assert_allclose(played.rewards, dense.rewards, rtol=1e-5)
    np.testing.assert_array_equal(dense.actions, scripted.actions[..., :4])


# The program


def assert_losses_add_up(lines):
    """The numbers of a line against each other and against those of the best plans."""
    best = next(line for line in lines if line["variant"] == "best_known")
    assert best["return_mean"] == best["return_best"] and best["search_loss"] == 0.0
    for line in lines:
        each = line["per_start"]
        assert each["best"] == best["per_start"]["best"] and each["best_by"] == best["per_start"]["best_by"]
        assert all(found <= top for found, top in zip(each["found"], each["best"], strict=True))
        assert line["return_mean"] == pytest.approx(np.mean(each["found"]), rel=1e-4, abs=2e-3)
        assert line["model_loss"] == pytest.approx(line["return_mean"] - line["achieved_open_loop"], rel=1e-4, abs=2e-3)
        assert line["noise_loss"] == pytest.approx(line["return_mean"] - line["return_sampled"], rel=1e-4, abs=2e-3)


def test_lines_of_a_problem_with_a_known_solution(monkeypatch):
    """All of the gauge but the world model, whose compilation takes most of the time of a whole run."""
    seeds = [2, 4]
    config = load_config([*DEBUG, "--planning_horizon", "4"]).resolved()

    def agent_of(name, **options):
        planner = BUILDERS[name][0](linear_quadratic(), 4, jit_compile=False, **options)
        parts = {"planner": planner, "planner_start": lambda z: z, "rewards": lambda r: r, "config": config}
        return types.SimpleNamespace(**parts, step=3, updates=5)

    def run_episodes(agent, task, numbers, num_envs):
        data = {"reward": np.float32([0, 1, 2]), "success": np.float32([0, 0, 1])}
        extras = {"planned": np.array([1, 0], bool), "predicted_reward": np.float32([2, 2]), "metrics": {}}
        return [Episode(0, data, extras, number) for number in range(len(numbers))], 0.5

    monkeypatch.setattr(plan_variants, "pool", lambda agent, best_of: {f"ilqr of {best_of}": ["ilqr"]})
    monkeypatch.setattr(plan_variants, "load_agent", lambda logdir, words: agent_of(words[-1]))
    monkeypatch.setattr(plan_losses, "run_episodes", run_episodes)
    pushed = Played(np.full([2, 6, 1], 5.0, np.float32), np.ones([2, 6], np.float32), np.ones([2, 6], bool), None)
    z0 = tf.constant([[0.5, -0.5, 0.0], [-1.0, 0.2, 0.0]])
    starts = plan_losses.Starts("pointmass_obstacle", 0, seeds, z0, Line(), pushed)
    agents = {"cem": (["--planner", "cem"], agent_of("cem"))}
    lines = list(plan_variants.gauge("run", agents, starts, 2, [], 3))
    assert [line["variant"] for line in lines] == ["scripted", "idle", "best_known", "cem"]
    assert_losses_add_up(lines)
    scripted, idle, best, cem = lines
    problem, z, still = linear_quadratic(), z0, 0.0
    for _ in range(4):
        z = problem.step(z, tf.zeros([2, 1]))
        still += problem.reward(z).numpy().mean()
    assert idle["return_mean"] == pytest.approx(still, rel=1e-4)
    optimum = np.mean([linear_quadratic_optimum(z, 4)[1] for z in z0.numpy()])
    assert scripted["return_mean"] < best["return_best"] <= optimum
    assert cem["search_loss"] == pytest.approx(best["return_best"] - cem["return_mean"], abs=1e-3)
    assert set(best["per_start"]["best_by"]) <= {"ilqr of 2", "cem", "idle"}
    assert (scripted["achieved_open_loop"], scripted["step"], scripted["updates"]) == (4.0, 3, 5)  # 4 of 6 actions
    assert (cem["episode_predicted"], cem["episode_achieved"], cem["plan_seconds"], cem["envs"]) == (4.0, 3.0, 0.5, 2)
    assert cem["success"]["mean"] == 1.0 and cem["per_start"]["episode_achieved"] == [3.0, 3.0]


@pytest.mark.slow
def test_whole_run(logdir, tmp_path, capsys, monkeypatch):
    def script(config, task, seeds, steps, size):
        """Straight ahead, for which nothing was played."""
        shape = (len(seeds), steps)
        return Played(np.ones([*shape, size], np.float32), np.full(shape, -1.0, np.float32), np.ones(shape, bool), None)

    gd = ["--planner", "gd", "--n_parallel_plans", "2"]  # LatCo compiles longest
    monkeypatch.setattr(plan_variants, "pool", lambda agent, best_of: {f"gd of {best_of}": gd})
    monkeypatch.setattr(plan_quality, "play_scripted", script)
    out, figure = tmp_path / "new" / "lines.jsonl", tmp_path / "losses.png"
    words = ["--variants", "cem", "--variant", "ahead: --planner random_shooting --mpc_steps 2 --warm_start true"]
    words += ["--execute", "--starts", str(STARTS), "--envs", "2", "--gd_iterations", "2"]
    assert plan_quality.main(["--logdir", str(logdir), *words, "--out", str(out), "--figure", str(figure)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["scripted", "idle", "best_known", "cem", "ahead"]
    scripted, _, best, cem, ahead = lines
    assert scripted["achieved_open_loop"] == -HORIZON and "success_open_loop" not in scripted
    assert_losses_add_up(lines)
    assert all(len(line["commit"]) in (0, 40) for line in lines)
    assert (ahead["mpc_steps"], ahead["warm_start"], cem["mpc_steps"]) == (2, True, 4)
    assert ahead["words"] == ["--gd_iterations", "2", *plan_quality.shlex.split(words[3].partition(":")[2])]
    for line in (cem, ahead):
        each = line["per_start"]
        assert each["seed"] == episode_seeds(0, STARTS) and len(each["distance"]) == STARTS
        assert line["episode_achieved"] == pytest.approx(np.mean(each["return"]), rel=1e-3)  # rewards are not changed
        assert line["success"] == plan_losses.rounded(share_interval(each["success"]))
    assert each["distance"] == cem["per_start"]["distance"]
    assert Image.open(figure).size[0] > 1000


def test_without_execution_lines_are_of_plans_only(logdir, capsys, line_by_line):
    argv = ["--logdir", str(logdir), "--variants", "gd", "--starts", "2", "--gd_iterations", "2"]
    assert plan_quality.main(argv) == 0
    idle, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert idle["variant"] == "idle" and np.isfinite(idle["return_mean"])
    assert line["iterations"] == 2 and line["horizon"] == HORIZON and line["action_violation"] >= 0.0
    assert "achieved_open_loop" not in line and "per_start" not in line


def test_a_number_that_is_none_ends_no_call(logdir, monkeypatch, tmp_path, capsys):
    planner = types.SimpleNamespace(horizon=4)
    parts = {"config": load_config(DEBUG), "step": 0, "planner": planner, "planner_start": lambda z: z}
    monkeypatch.setattr(plan_quality, "load_agent", lambda logdir, words: types.SimpleNamespace(**parts))
    monkeypatch.setattr(plan_quality.envs, "make_vector_env", lambda *args: types.SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(plan_losses, "start_states", lambda *args: np.zeros([2, 3]))
    monkeypatch.setattr(plan_losses, "idle", lambda *args: plans(1.0, 2.0))
    monkeypatch.setattr(plan_losses, "measure", lambda *args: ({"return_mean": 1.0, "return_sampled": np.inf}, 0, 0))
    out, words = tmp_path / "lines.jsonl", ["--variants", "cem", "--starts", "2"]
    assert plan_quality.main(["--logdir", str(logdir), *words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert json.loads(out.read_text().splitlines()[1])["return_sampled"] is None


def test_without_execution_starts_are_those_of_the_task(monkeypatch):
    config = load_config([*DEBUG, "--task", "pointmass_lottery pointmass_obstacle"])
    agent = types.SimpleNamespace(config=config, step=0)
    made = []

    def environments(config, number, seed, task):
        made.append(task)
        raise KeyError  # far enough

    monkeypatch.setattr(plan_quality, "load_agent", lambda logdir, words: agent)
    monkeypatch.setattr(plan_quality.envs, "make_vector_env", environments)
    for words in ([], ["--task", "pointmass_obstacle"]):
        options, overrides = plan_quality.parse_options(["--logdir", "run", *words])
        with pytest.raises(KeyError):
            next(plan_quality.plans_only(options, {"cem": overrides}))
    assert made == ["pointmass_lottery", "pointmass_obstacle"]


def refusal(capsys, *argv):
    """The sentence with which a command line is refused."""
    assert plan_quality.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--variants", "latcoo"], ["latcoo", "'latco'"]),
        (["--variant", "latco5 --planner latco"], ["--variant", "NAME: --KEY"]),
        (["--variants", "cem", "--variant", "cem: --planner cem"], ["NAME of its own"]),
        (["--variant", "best_known: --planner cem"], ["best_known"]),
        (["--variant", "a: --planner 'cem"], ["quotes"]),
        (["--starts", "0"], ["--starts"]),
        (["--best_of", "-1"], ["--best_of"]),
        (["--figure", "a.png"], ["--execute"]),
        (["--figure", "a.txt", "--execute"], [".png"]),
        (["--variant", "a: --planer cem", "--execute"], ["--planer", "--planner"]),
        (["--variants", "random_shooting", "--variant", "a: --planer cem"], ["--planer", "--planner"]),
        (["--variants", "random_shooting", "--variant", "a: --planner cme"], ["cme", "'cem'"]),
        (["--variants", "cem", "--variant", "a: --randomize false", "--execute"], ["randomize", "starts"]),
        (["--variants", "cem", "--execute", "--task", "pointmass_lottery"], ["pointmass_lottery"]),
        (["--variants", "cem", "--task", "pointmass_lottery"], ["pointmass_lottery"]),
    ],
)
def test_bad_options_are_refused(logdir, argv, words, capsys):
    sentence = refusal(capsys, "--logdir", logdir, *argv)
    assert all(word in sentence for word in words), sentence


def test_missing_run_is_refused(tmp_path, capsys):
    assert "holds no run" in refusal(capsys, "--logdir", tmp_path, "--variants", "cem")


def test_bars_show_the_lines():
    row = {"variant": "a", "task": "t", "starts": 2, "updates": 3, "horizon": 5, "return_best": 2.0, "return_mean": 1.0}
    row |= {"return_se": 0.5, "return_sampled": 0.5, "achieved_open_loop": -1.0, "achieved_open_loop_se": None}
    played = row | {"variant": "b", "episode_predicted": 4.0, "episode_achieved": 3.0}
    figure = plan_figure.draw([row | {"variant": "best_known"}, row, played | {"horizon": 6}])
    first, episodes = figure.axes
    assert [bar.get_width() for bar in first.patches] == [2.0, 2.0, 1.0, 1.0, 0.5, 0.5, -1.0, -1.0]
    assert [bar.get_width() for bar in episodes.patches] == [4.0, 3.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a (H = 5)", "b (H = 6)"]
    assert plan_figure.interval(row, "return_mean") == (1.0, 0.5, 1.5)
