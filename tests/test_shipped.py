"""Models without a log directory: written, found by name, loaded and refused; and the demonstration with one."""

import errno
import io
import json
import shutil
import types
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow as tf
from documentation import commands
from matplotlib.figure import Figure
from PIL import Image

import agents
import demo
import evaluate
import plan_report
import planning_agent
import ship
from evaluation import side_by_side
from tools.config import Config, load_config
from tools.errors import UserError
from training import logdir as logdirs
from training.initial_weights import start_from
from training.logdir import SHIPPED, WEIGHTS, shipped_models
from training.weights import fingerprint, read_weights, write_weights
from world_model.rewards import RewardTransform

LARGEST = 5e6  # bytes of a model in the repository
RUN = Path(__file__).with_name("checkpoint_33d80e7") / "categorical_value"  # a log directory; it has a value network


@pytest.fixture(scope="module")
def trained():
    """The agent of a log directory, and that directory."""
    return agents.load_agent(RUN), RUN


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    """The folder of shipped models with the agent as `tiny`, and what the program said of it."""
    folder = tmp_path_factory.mktemp("shipped")
    return folder, ship.ship(trained[1], folder / "tiny", ["--mpc_steps", "3"])


@pytest.fixture
def by_name(shipped, monkeypatch):
    """The model is known by its name."""
    monkeypatch.setattr(logdirs, "SHIPPED", shipped[0])
    return "tiny"


def test_a_shipped_model_is_the_agent_up_to_the_rounding_of_float16(trained, by_name):
    agent = trained[0]
    # With another seed no weight is right by itself.
    loaded = agents.load_agent(by_name, ["--seed", "5", "--planner", "cem"])
    pairs = list(zip(loaded.model.weights, agent.model.weights, strict=True))
    pairs += list(zip(loaded.value.weights, agent.value.weights, strict=True))
    assert len(pairs) > 40
    for own, right in pairs:
        rounded = right.numpy().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(own.numpy(), rounded)
        np.testing.assert_allclose(rounded, right.numpy(), rtol=2**-11, atol=2**-25)
    assert any(np.any(own.numpy() != right.numpy()) for own, right in pairs)
    assert loaded.config.mpc_steps == 3 != agent.config.mpc_steps
    assert (int(loaded.step), int(loaded.updates)) == (int(agent.step), int(agent.updates)) and int(agent.updates) > 0


def test_a_shipped_model_predicts_what_the_agent_does(trained, by_name):
    loaded, rng = agents.load_agent(by_name), np.random.default_rng(0)
    z = tf.constant(rng.standard_normal([6, loaded.model.dynamics.feat_size]), tf.float32)
    a = tf.constant(rng.uniform(-1, 1, [6, 2]), tf.float32)
    for function in (
        lambda agent: agent.model.dynamics.mean_step(z, a),
        lambda agent: agent.model.reward(z),
        lambda agent: agent.model.decoder(z),
        lambda agent: agent.value(z),
    ):
        np.testing.assert_allclose(function(loaded), function(trained[0]), rtol=0.01, atol=0.01)


def test_a_fingerprint_is_of_the_weights_alone(trained, by_name):
    models = [agents.load_agent(by_name), agents.load_agent(by_name, ["--seed", "5", "--planner", "gd"]), trained[0]]
    same, again, other = (fingerprint(agent.checkpointed) for agent in models)
    assert same == again != other and len(same) == 12


def test_statistics_of_rewards_are_kept_whole(tmp_path):
    rewards, other = RewardTransform("none", 1.0, True), RewardTransform("none", 1.0, True)
    rewards.add(np.array([0.1, 1e5, 3.0]))
    write_weights({"rewards": rewards}, tmp_path)
    read_weights({"rewards": other}, tmp_path)
    for name in ("count", "mean", "squares"):
        assert float(getattr(other, name)) == float(getattr(rewards, name)) > 0.0


def test_the_folder_names_no_place_of_the_machine(trained, shipped):
    folder, line = shipped
    assert sorted(path.name for path in (folder / "tiny").iterdir()) == ["config.yaml", WEIGHTS]
    assert str(trained[1].parent) not in (folder / "tiny" / "config.yaml").read_text()
    assert line["bytes"] == (folder / "tiny" / WEIGHTS).stat().st_size and line["updates"] == int(trained[0].updates)
    # Half the bytes of the weights, and the headers of the archive.
    assert (
        line["bytes"] < 2 * sum(int(tf.size(x)) for x in [*trained[0].model.weights, *trained[0].value.weights]) + 3e4
    )


def test_programs_take_its_name(by_name, monkeypatch, capsys):
    monkeypatch.setattr(plan_report, "report", lambda logdir, out, *_: {"logdir": str(logdir), "out": str(out)})
    assert plan_report.main(["--logdir", by_name]) == 0
    folder = logdirs.SHIPPED / by_name
    assert json.loads(capsys.readouterr().out) == {"logdir": str(folder), "out": str(folder / "reports")}
    played = []
    monkeypatch.setattr(evaluate, "run_episodes", lambda agent, *_: played.append(agent.config.logdir) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.main(["--logdir", by_name])
    assert played == [str(folder)]


def test_a_folder_of_the_same_name_comes_first(trained, by_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert logdirs.find_logdir("tiny") == logdirs.SHIPPED / "tiny"
    shutil.copy(trained[1] / "config.yaml", "tiny")
    assert logdirs.find_logdir("tiny") == Path("tiny")


def test_a_run_starts_from_it(trained, by_name, tmp_path):
    config = trained[0].config.replace(init_from=by_name, logdir=str(tmp_path / "new"), seed=3)
    agent = agents.make_agent(config)
    before = [variable.numpy() for variable in agent.optimizer.variables]
    start_from(agent, Path(by_name))
    right = trained[0].model.reward.out.kernel.numpy().astype(np.float16)
    np.testing.assert_array_equal(agent.model.reward.out.kernel.numpy(), right)
    assert int(agent.updates) == int(trained[0].updates) and int(agent.step) == 0
    for old, new in zip(before, agent.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def refused(*words):
    """Runs a function that must be refused and returns the sentence."""
    function, *arguments = words
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_names_are_refused_with_those_there_are(by_name):
    assert "(tiny)" in refused(agents.load_agent, "tini") and "(tiny)" in refused(agents.load_agent, "../tiny")
    assert "holds no run" in refused(ship.ship, Path("nowhere"), Path("out"))
    assert not Path("out").exists()


def test_damaged_and_foreign_weights_are_refused(shipped, tmp_path):
    copy = shutil.copytree(shipped[0] / "tiny", tmp_path / "copy")
    config = Config.load(copy / "config.yaml")
    config.replace(stoch=5).save(copy / "config.yaml")
    assert "does not fit" in refused(agents.load_agent, copy)
    config.save(copy / "config.yaml")
    whole, parts = (copy / WEIGHTS).read_bytes(), agents.load_agent(copy).checkpointed
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        (copy / WEIGHTS).write_bytes(damaged)
        assert "is damaged" in refused(read_weights, parts, copy)
    with np.load(io.BytesIO(whole)) as saved:
        arrays = dict(saved)
    name = next(name for name in arrays if name.startswith("model/"))
    for wrong in (np.full(arrays[name].shape, "1"), np.full(arrays[name].shape, np.nan), np.array([{}], object)):
        np.savez(copy / WEIGHTS, **arrays | {name: wrong})
        assert "is damaged" in refused(read_weights, parts, copy)
    np.savez(copy / WEIGHTS, **{"model/0/conv2d/kernel": np.array([{}], object)})  # a pickle
    assert "is damaged" in refused(agents.load_agent, copy)
    (copy / WEIGHTS).unlink()
    assert "no checkpoint" in refused(agents.load_agent, copy)


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    for value in (np.nan, 1e6):
        part = tf.Variable([1.0, value])
        assert "float16" in refused(write_weights, {"part": part}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_overwritten_nor_trained_on_in_place(trained, shipped, capsys):
    folder = shipped[0] / "tiny"
    before = (folder / WEIGHTS).read_bytes()
    assert "already" in refused(ship.ship, trained[1], folder)
    assert planning_agent.main(["--configs", "pointmass", "debug", "--logdir", str(folder)]) == 2
    assert "--init_from" in capsys.readouterr().err
    assert (folder / WEIGHTS).read_bytes() == before


def test_of_two_programs_that_ship_to_one_folder_the_later_one_is_refused(trained, tmp_path, monkeypatch):
    said = []

    def load(*_):
        said.append(refused(ship.ship, trained[1], tmp_path / "tiny"))  # while the first one is at work
        return trained[0]

    monkeypatch.setattr(ship, "load_agent", load)
    ship.ship(trained[1], tmp_path / "tiny")
    assert len(said) == 1 and "choose another --out" in said[0]
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["config.yaml", WEIGHTS]


@pytest.mark.parametrize("words", ["full", "not finite"])
def test_half_a_model_is_not_left_behind(trained, tmp_path, monkeypatch, words):
    def fail(*_):
        raise OSError(errno.ENOSPC, "the disk is full") if words == "full" else UserError("weights are not finite")

    monkeypatch.setattr(ship, "load_agent", lambda *_: trained[0])
    monkeypatch.setattr(*((Config, "save") if words == "full" else (ship, "write_weights")), fail)
    assert words in refused(ship.ship, trained[1], tmp_path / "new" / "tiny")
    assert not list(tmp_path.iterdir())


def coloured(model, feat):
    """Pictures, uint8 [T, 64, 64, 3], that differ where features [T, n] do, as those of an untrained decoder do not."""
    values = np.asarray(feat).sum(-1)[:, None] * np.array([1e3, 3e3, 7e3])
    return np.broadcast_to((values % 251).astype(np.uint8)[:, None, None], (len(values), 64, 64, 3)).copy()


@pytest.mark.slow
def test_demonstration(by_name, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "decode", coloured)
    results, (picture, video) = demo.demonstrate(by_name, ["--latco_iterations", "3"], seed=2, out=tmp_path)
    assert (picture, video) == (tmp_path / "tiny_2.png", tmp_path / "tiny_2.mp4")
    assert Image.open(picture).size[0] > 600
    latco, cem = (result.side for result in results)
    # The same first picture and first state.
    np.testing.assert_array_equal(latco.executed.frames[0], cem.executed.frames[0])
    np.testing.assert_array_equal(latco.planned[0], cem.planned[0])
    assert list(latco.iterations) == list(cem.iterations) == [0, 1, 2, 3]
    for side, seconds in results:
        assert len(side.planned) == 6 and np.isfinite(side.predicted).all() and seconds > 0.0
        assert len(side.executed.frames) == 21 and len(side.predicted) == len(side.goals) == 20
        assert len(side.executed.rewards) == 20 and np.all(side.executed.rewards < 0.0)
        # The search that is shown is that of the plan that is executed first, and there are others after it.
        np.testing.assert_array_equal(side.goals[0], side.ends[-1])
        changes = 1 + np.flatnonzero(np.any(side.goals[1:] != side.goals[:-1], (1, 2, 3)))
        assert list(changes) == [5, 10, 15]
    frames = imageio.imread(video)
    assert len(frames) == 3 * 4 + (20 + 1) + 12 and np.any(frames[0] != frames[-1])

    said = demo.report(results, [picture, video], by_name, 2)
    assert str(picture) in said and str(video) in said
    for words in commands(said):
        assert words[0] == "make" or words[1] in ("demo.py", "evaluate.py", "plan_report.py")
    table = {line.split()[0]: line.split() for line in said.split("\n") if line.startswith(("latco", "cem"))}
    assert float(table["cem"][3]) == pytest.approx(cem.executed.rewards.sum(), abs=0.051)
    assert table["latco"][-1] == {True: "yes", False: "no"}[latco.executed.success]


def test_demonstration_has_the_preset_and_the_horizon_of_the_run(by_name):
    config = load_config(demo.closed_loop(by_name, []))
    preset = load_config(["--configs", "closed_loop"])
    # This run has no finish, which keeping the start needs.
    assert {key for key in config if config[key] != preset[key]} == {"planning_horizon", "latco_keep_start"}
    assert config.planning_horizon == 5 == config.mpc_steps
    path = logdirs.SHIPPED / by_name / "config.yaml"
    whole = path.read_bytes()
    Config.load(path).replace(planning_horizon=3, latco_finish=10).save(path)
    short = load_config(demo.closed_loop(by_name, []))
    path.write_bytes(whole)
    assert short.planning_horizon == 3 == short.mpc_steps and short.latco_keep_start


def test_presets_of_the_command_line_are_stronger_than_those_of_the_demonstration(by_name):
    settings = lambda *words: load_config([*demo.closed_loop(by_name, words), *words])
    assert settings("--configs", "icem").mpc_steps == 1
    config = settings("--configs", "closed_loop")
    assert (config.planning_horizon, config.mpc_steps) == (50, 5)
    config = settings("--configs", "icem", "--planning_horizon=3")
    assert (config.planning_horizon, config.mpc_steps) == (3, 1)
    assert settings("--planning_horizon", "3").mpc_steps == 3  # no more than there are
    assert settings("--planning_horizon", "9").mpc_steps == 5
    assert not settings().latco_keep_start and settings("--latco_finish", "5").latco_keep_start


def test_files_of_the_demonstration_have_the_names_of_all_folders_of_a_run(by_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "here" / run / "0" for run in ("one", "other")]
    for folder in folders:
        shutil.copytree(logdirs.SHIPPED / by_name, folder)
    assert demo.name_of(by_name) == by_name
    assert [demo.name_of(str(folder)) for folder in folders] == ["here-one-0", "here-other-0"]
    assert demo.name_of("here/one/0/") == "here-one-0"
    monkeypatch.chdir(folders[0])
    assert demo.name_of(".") == demo.name_of(str(folders[0])) == "-".join(folders[0].parts[1:])
    assert demo.name_of("../../other/0") == demo.name_of(str(folders[1])) == "-".join(folders[1].parts[1:])


def test_demonstration_is_titled_after_the_task_wherever_the_model_is(by_name, tmp_path, monkeypatch):
    folder = tmp_path / "run" / "latco" / "0"
    shutil.copytree(logdirs.SHIPPED / by_name, folder)
    titles = []
    monkeypatch.setattr(demo, "load_agent", lambda *_: types.SimpleNamespace(config=load_config([])))
    monkeypatch.setattr(demo, "play", lambda *_: demo.Result(None, None))
    monkeypatch.setattr(demo, "draw_picture", lambda _, title: titles.append(title) or Figure())
    monkeypatch.setattr(demo, "draw_video", lambda _, title: titles.append(title) or [np.zeros([16, 16, 3], np.uint8)])
    demo.demonstrate(str(folder), [], 2, tmp_path / "out")
    assert [title.partition(":")[0] for title in titles] == ["metaworld_reach, seed 2"] * 2


def test_demonstration_refuses_what_it_cannot_do(by_name, tmp_path, capsys):
    (tmp_path / "file").touch()
    for words, sentence in (
        (["--model", "nothing"], "(tiny)"),
        (["--model", by_name, "--stoch", "5"], "stoch"),
        (["--model", by_name, "--planner=gd"], "--planner"),
        (["--model", by_name, "--out", str(tmp_path / "file")], "--out"),
        (["--model", by_name, "--sampling_elites", "400"], "elites"),  # before LatCo acts, which has none
    ):
        assert demo.main(["--out", str(tmp_path / "out"), *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_demonstration_takes_the_option_by_which_other_programs_name_a_model():
    # As a setting it would have had no effect: the default model would have acted.
    options, overrides = demo.parse_options(["--logdir", "metaworld_reach", "--latco_iterations", "3"])
    assert str(options.model) == "metaworld_reach" and overrides == ["--latco_iterations", "3"]


@pytest.mark.parametrize("name", shipped_models())
def test_every_model_of_the_repository_is_small_and_described(name):
    folder = SHIPPED / name
    assert (folder / WEIGHTS).stat().st_size <= LARGEST
    config = load_config([], saved=Config.load(folder / "config.yaml"))
    assert config.task == name and not (config.offline_dir or config.init_from)
    assert f"shipped/{name}" in (SHIPPED / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_demonstration_of_the_default_model(tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path)]) == 0
    assert "pointmass_obstacle_0.mp4" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".mp4"}
