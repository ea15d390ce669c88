"""Open-loop prediction of world models: errors against slow references, equal training, refusals."""

import json
import math

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import models
from base_agent import BaseAgent
from benchmarks import open_loop, open_loop_data, open_loop_errors
from episodes.replay import Replay

ENTRIES, HORIZON = 25, 7  # an episode has two chunks of 5 + 7 entries and one entry left over
CONTEXT = open_loop.CONTEXT


def make_episode(rng, entries=ENTRIES, reward=None):
    """A bright bar that actions move over noise; the reward is its place."""
    action = rng.uniform(-1, 1, [entries, 2]).astype(np.float32)
    action[0] = 0.0
    place = np.clip(30 + 10 * np.cumsum(action[:, 0]), 0, 60)
    image = rng.integers(0, 60, [entries, 64, 64, 3]).astype(np.uint8)
    for frame, left in zip(image, place.astype(int), strict=True):
        frame[:, left : left + 4] = 250
    return {
        "image": image,
        "action": action,
        "reward": np.full(entries, reward, np.float32) if reward else np.float32(place / 60),
        "discount": np.ones(entries, np.float32),
        "is_first": np.arange(entries) == 0,
    }


def record(folder, episodes):
    replay = Replay(folder, 1, 1, 1, 0)
    for episode in episodes:
        replay.add(episode)
    return folder


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    return [make_episode(rng) for _ in range(8)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, episodes):
    """A folder of the episodes that no test changes."""
    return record(tmp_path_factory.mktemp("data") / "episodes", episodes)


def arguments(tmp_path, folder, *words):
    base = ["--data", f"bar={folder}", "--out", str(tmp_path / "out"), "--preset", "debug", "--horizon", str(HORIZON)]
    return [*base, *words]


def refusal(capsys, argv):
    """The sentence with which a command line is refused."""
    assert open_loop.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


def held_out_chunks(episodes):
    return open_loop_data.cut(episodes, CONTEXT + HORIZON, 100)


@pytest.mark.slow
def test_program_compares_variants_on_equal_batches(tmp_path, capsys, episodes, monkeypatch):
    folder = record(tmp_path / "episodes", episodes)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    variants = ["plain=--configs debug", "frozen=--model_lr 0"]
    states, train = [], open_loop.train

    def spy(agent, replay, *args):
        states.append(replay.random_state)
        return train(agent, replay, *args)

    monkeypatch.setattr(open_loop, "train", spy)
    argv = arguments(tmp_path, folder, "--data", f"two={folder}", "--updates", "3", "--samples", "2", "--seed", "4")
    assert open_loop.main([*argv, "--variants", *variants, "--model_lr", "0.01"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [json.loads(line) for line in (tmp_path / "out" / "open_loop.jsonl").read_text().splitlines()]
    assert [(row["data"], row["variant"]) for row in rows] == [
        (data, variant.split("=")[0]) for data in ("bar", "two") for variant in variants
    ]
    assert len(states) == 4 and all(state == states[0] for state in states)
    plain, frozen, repeated, _ = rows
    # Another training on the same batches from the same weights gives the same model, no training gives another one.
    for quantity, kind in (("image", "mean_dynamics"), ("reward", "posterior"), ("reward", "sampled")):
        errors = [row[quantity][kind]["mean"] for row in (plain, frozen, repeated)]
        np.testing.assert_allclose(errors[2], errors[0], 2e-3)
        assert abs(errors[1] - errors[0]) > 4e-3 * errors[0]
    assert (plain["settings"], frozen["settings"]) == ("--configs debug", "--model_lr 0")
    for row in rows:
        kinds = {"mean_dynamics", "sampled", "sampled_average", "posterior", "repeat_last"}
        assert row["image"].keys() == row["reward"].keys() == kinds
        assert all(numbers.keys() == {"1", "5", "mean", "se"} for numbers in row["image"].values())
        assert (row["updates"], row["samples"], row["seed"], row["preset"]) == (3, 2, 4, "debug")
        assert row["overrides"] == "--model_lr 0.01"
        assert (row["train_episodes"], row["held_out_episodes"], row["chunks"]) == (3, 5, 10)
        assert row["seconds_per_update"] > 0 and row["parameters"] == plain["parameters"] > 1000
        assert len(row["commit"]) in (0, 40) and row["modified"] in (True, False)
    check_baseline(plain, episodes[-5:])
    # Two columns of context and seven of predictions, three rows for each of two variants; two panels a data set.
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "out").glob("*.png")}
    assert sizes.keys() == {"open_loop_bar.png", "open_loop_two.png", "open_loop.png"}
    assert sizes["open_loop_bar.png"] == (round(120 * (1.9 + 0.9 * 9)), round(120 * (1.3 + 0.9 * 6)))
    assert sizes["open_loop.png"] == (round(120 * (1.0 + 4.6 * 2)), round(120 * 7.4))
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def check_baseline(row, held_out):
    """The last context frame and reward repeated, by hand."""
    image, reward = [], []
    for episode in held_out:
        for start in (0, CONTEXT + HORIZON):
            last = start + CONTEXT - 1
            for k in range(1, HORIZON + 1):
                difference = (episode["image"][last + k] / 255.0) - (episode["image"][last] / 255.0)
                image.append((difference**2).mean())
                reward.append((float(episode["reward"][last + k]) - float(episode["reward"][last])) ** 2)
    for quantity, errors in (("image", image), ("reward", reward)):
        errors = np.reshape(errors, [-1, HORIZON])
        numbers = row[quantity]["repeat_last"]
        np.testing.assert_allclose([numbers["1"], numbers["5"]], errors.mean(0)[[0, 4]], 1e-3)
        np.testing.assert_allclose(numbers["mean"], errors.mean(), 1e-3)
        np.testing.assert_allclose(numbers["se"], errors.mean(1).std(ddof=1) / math.sqrt(len(errors)), 1e-3)


@pytest.fixture
def model(tiny_config):
    image = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return BaseAgent(tiny_config, gymnasium.spaces.Dict({"image": image}), action).model


def slow_rollout(model, chunk, noise):
    """Images and rewards step by step for one chunk: filtered at all steps, and imagined after the context."""
    dynamics = model.dynamics
    state, filtered, start = dynamics.initial(1), [], None
    for t, image in enumerate(chunk["image"]):
        embed = model.encoder(models.preprocess(image[None]))
        first, action = chunk["is_first"][t][None], chunk["action"][t][None]
        state = dynamics.obs_step(state, action, embed, first, noise[t][None])
        filtered.append(state)
        start = state if t == CONTEXT - 1 else start
    imagined, state = [], start
    for t in range(CONTEXT, len(chunk["image"])):
        steps = dynamics.imagine(state, chunk["action"][None, t : t + 1], noise[None, t : t + 1])
        state = {key: value[:, 0] for key, value in steps.items()}
        imagined.append(state)
    feats = [[models.get_feat(state) for state in states] for states in (filtered, imagined)]
    return [[(model.decoder(z)[0].numpy(), model.reward(z)[0].numpy()) for z in zs] for zs in feats]


@pytest.mark.slow
def test_errors_are_those_of_single_steps(model, episodes, monkeypatch):
    monkeypatch.setattr(open_loop_errors, "EVAL_BATCH", 2)
    chunks = {key: value[:3] for key, value in held_out_chunks(episodes).items()}  # the second batch is filled up
    assert chunks["is_first"][:, 0].tolist() == [True, False, True]
    evaluation = open_loop_errors.OpenLoop(model)
    image, reward = evaluation.errors(chunks, samples=2, seed=5)
    shown = evaluation.shown(chunks, 1)
    length, size = CONTEXT + HORIZON, model.dynamics.noise_size
    for n in range(3):
        chunk = {key: value[n] for key, value in chunks.items()}
        truth = [(x / 255.0 - 0.5, r) for x, r in zip(chunk["image"], chunk["reward"], strict=True)]
        filtered, mean = slow_rollout(model, chunk, tf.zeros([length, size]))
        check(image["posterior"][n], reward["posterior"][n], filtered[CONTEXT:], truth)
        check(image["mean_dynamics"][n], reward["mean_dynamics"][n], mean, truth)
        if n == 1:
            frames = [x for x, _ in filtered[:CONTEXT] + mean]
            np.testing.assert_allclose(shown, frames, atol=1e-5)
        noise = [tf.random.stateless_normal([2, length, size], [5, n // 2 * 2 + i])[n % 2] for i in range(2)]
        rollouts = [slow_rollout(model, chunk, x)[1] for x in noise]
        average = [((a + b) / 2, (r + s) / 2) for (a, r), (b, s) in zip(*rollouts, strict=True)]
        check(image["sampled_average"][n], reward["sampled_average"][n], average, truth)
        both = [squared(rollout, truth) for rollout in rollouts]
        np.testing.assert_allclose(image["sampled"][n], np.mean([e[0] for e in both], 0), rtol=1e-3)
        np.testing.assert_allclose(reward["sampled"][n], np.mean([e[1] for e in both], 0), rtol=1e-3)
    assert evaluation.imagine.experimental_get_tracing_count() == 2  # with noise and without
    assert evaluation.filter.experimental_get_tracing_count() == 1


def squared(predicted, truth):
    pairs = list(zip(predicted, truth[CONTEXT:], strict=True))
    return [((x - y) ** 2).mean() for (x, _), (y, _) in pairs], [(r - s) ** 2 for (_, r), (_, s) in pairs]


def check(image_errors, reward_errors, predicted, truth):
    for errors, reference in zip((image_errors, reward_errors), squared(predicted, truth), strict=True):
        np.testing.assert_allclose(errors, reference, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_no_samples_no_sampled_errors(model, episodes):
    image, reward = open_loop_errors.OpenLoop(model).errors(held_out_chunks(episodes[:1]), samples=0, seed=0)
    assert image.keys() == reward.keys() == {"repeat_last", "posterior", "mean_dynamics"}


def test_newest_tenth_is_never_trained_on(tmp_path, tiny_config):
    rng = np.random.default_rng(1)
    folder = record(tmp_path / "episodes", [make_episode(rng, 9, reward=i + 1) for i in range(66)])
    data = open_loop_data.read_data("bar", folder, tiny_config, horizon=2, count=5)
    assert data.held_out == 7 and data.replay.episodes == 59
    assert {int(reward) for reward in data.chunks["reward"][:, 0]} == {60, 62, 63, 64, 66}  # 5 of 7, spread evenly
    trained = {int(reward) for _ in range(200) for reward in data.replay.sample()["reward"][:, 0]}
    assert trained == set(range(1, 60))


def test_chunks_do_not_overlap_and_short_episodes_are_left_out():
    rng = np.random.default_rng(2)
    episodes = [make_episode(rng, entries) for entries in (5, 11, 3)]
    chunks = open_loop_data.cut(episodes, 5, 10)
    expected = [episodes[0]["reward"], episodes[1]["reward"][:5], episodes[1]["reward"][5:10]]
    np.testing.assert_array_equal(chunks["reward"], expected)
    np.testing.assert_array_equal(chunks["action"][2], episodes[1]["action"][5:10])
    assert open_loop_data.cut(episodes, 12, 10)["image"].shape == (0, 12, 64, 64, 3)


def test_summary_and_typical_chunk_by_hand():
    errors = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [3.0, 3.0, 3.0, 3.0, 8.0], [0.0, 0.0, 0.0, 0.0, 5.0]])
    assert open_loop.summary(errors) == {"1": 1.333, "5": 6.0, "mean": 2.667, "se": 0.8819}
    assert open_loop_errors.typical(errors) == 0 and open_loop_errors.typical(errors[:2]) == 0
    assert open_loop.summary(np.array([[1.0, np.nan]])) == {"1": 1.0, "mean": None, "se": None}


class Recorder:
    """Stands for an agent: keeps the batches that it is trained on."""

    def __init__(self):
        self.batches = []

    def train_step(self, batch):
        self.batches.append({key: value.numpy() for key, value in batch.items()})
        return {"loss": 0.0}


def test_training_stops_at_its_updates_or_its_time(tmp_path, episodes):
    folder = record(tmp_path / "episodes", episodes)
    replays = [Replay(folder, 2, 6, 1000, seed=3) for _ in range(2)]
    agent = Recorder()
    updates, seconds = open_loop.train(agent, replays[0], 4, math.inf)
    assert updates == len(agent.batches) == 4 and seconds > 0
    for batch in agent.batches:
        expected = replays[1].sample()
        assert batch.keys() == expected.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], expected[key])
    # The first update does not count, the second one takes longer than the limit.
    assert open_loop.train(agent, replays[0], 1000, 1e-9)[0] == 2 and len(agent.batches) == 6
    assert open_loop.train(agent, replays[0], 1, math.inf) == (1, None)


def test_variants_on_the_command_line():
    default = open_loop.parse_options(["--data", "a=b", "--out", "c"]).variants
    assert list(default) == ["rssm", "ssm", "deterministic"] and default["ssm"] == ["--dynamics", "ssm"]
    own = open_loop.parse_variants(["ssm", "x=--act 'a b' --free_nats=1", "rssm="])
    assert own == {"ssm": ["--dynamics", "ssm"], "x": ["--act", "a b", "--free_nats=1"], "rssm": []}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--variants", "rsm"], ["'rsm'", "rssm"]),
        (["--variants", "a=", "a="], ["'a='", "name of its own"]),
        (["--variants", "a=--x 'y"], ["quot"]),
        (["--variants", "a=--free_nast 1"], ["--free_nast", "--free_nats"]),
        (["--variants", "a=", "--upadtes", "3"], ["--upadtes"]),
        (["--variants", "a=", "--preset", "dbug"], ["'dbug'", "'debug'"]),
        (["--variants", "a=", "--data", "bar=elsewhere"], ["'bar=elsewhere'"]),
        (["--variants", "a=", "--data", "a/b=elsewhere"], ["'a/b=elsewhere'"]),
        (["--variants", "a=", "--data", "elsewhere"], ["'elsewhere'", "NAME=FOLDER"]),
        (["--variants", "a=", "--data", "b=nowhere"], ["nowhere is not a folder"]),
        (["--variants", "a=", "b=--cost_head true"], ["cost_head"]),
        (["--variants", "a=", "--horizon", "21"], ["25 entries", "--horizon 20"]),
        (["--variants", "a=", "b=--batch_size 3"], ["b has batch_size = 3, a", "for all variants"]),
        (["--variants", "a=", "b=--configs small"], ["b has batch_", "for all variants"]),
        (["--variants", "a=", "b=--replay_capacity 999"], ["replay_capacity = 999"]),
        (["--variants", "a=--seed 3", "--seed", "1"], ["a has seed = 3", "--seed 1"]),
    ],
)
def test_bad_options_are_refused_before_training(tmp_path, capsys, recorded, words, named):
    sentence = refusal(capsys, arguments(tmp_path, recorded, *words))
    assert all(word in sentence for word in named), sentence


def test_a_cost_that_no_episode_has_is_refused_before_training(tmp_path, capsys, recorded, monkeypatch):
    monkeypatch.setattr("envs.reports_cost", lambda config: True)
    sentence = refusal(capsys, arguments(tmp_path, recorded, "--variants", "a=--cost_head true"))
    assert "have no cost" in sentence and "cost_head" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [["--updates", "0"], ["--horizon", "x"], ["--limit_seconds", "nan"], ["--seed", "-1"]]
)
def test_bad_numbers_are_refused(tmp_path, capsys, words):
    assert words[0] in refusal(capsys, arguments(tmp_path, "nowhere", *words))


def test_bad_episodes_are_refused_and_kept(tmp_path, capsys, episodes):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds 0 episodes" in refusal(capsys, arguments(tmp_path, empty, "--variants", "a="))
    few = record(tmp_path / "few", episodes[:5])
    assert "holds 5 episodes" in refusal(capsys, arguments(tmp_path, few, "--variants", "a="))
    short = record(tmp_path / "short", [make_episode(np.random.default_rng(3), 5) for _ in range(6)])
    assert "record longer" in refusal(capsys, arguments(tmp_path, short, "--variants", "a="))
    for position in (0, -1):  # one to train on, one held out
        folder = record(tmp_path / f"broken{position}", episodes[:6])
        broken = sorted(folder.glob("*.npz"))[position]
        broken.write_bytes(b"not an episode")
        sentence = refusal(capsys, arguments(tmp_path, folder, "--variants", "a="))
        assert str(folder) in sentence and broken.name in sentence
        assert broken.read_bytes() == b"not an episode"
    wide = make_episode(np.random.default_rng(4))
    wide["action"] = np.repeat(wide["action"], 2, 1)
    folder = record(tmp_path / "mixed", [episodes[0]])
    for path in record(tmp_path / "wide", [wide] * 5).glob("*.npz"):
        path.rename(folder / path.name)
    assert "action is (4,) and (2,)" in refusal(capsys, arguments(tmp_path, folder, "--variants", "a="))
    (tmp_path / "file").touch()
    good = record(tmp_path / "good", episodes)
    argv = arguments(tmp_path, good, "--variants", "a=", "--out", str(tmp_path / "file" / "out"))
    assert "--out" in refusal(capsys, argv)
