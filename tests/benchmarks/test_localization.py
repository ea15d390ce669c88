"""The localization benchmark on features whose errors are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import localization
from episodes.replay import Replay

RNG = np.random.default_rng(0)
HORIZON = max(localization.STEPS)


@pytest.mark.slow
def test_a_probe_reads_what_the_features_hold_and_no_more():
    state = RNG.uniform(-0.5, 0.5, (3000, 3)).astype(np.float32)
    mixed = state @ RNG.normal(size=(3, 8)).astype(np.float32)
    whole = localization.Probe(mixed[:2500], state[:2500], epochs=20)
    assert np.median(whole.error(mixed[2500:], state[2500:])) < 0.02
    # Features that tell nothing: the error of the mean, 0.48 for a cube of side 1.
    blind = localization.Probe(np.zeros_like(mixed[:2500]), state[:2500], epochs=2)
    assert np.median(blind.error(np.zeros_like(mixed[2500:]), state[2500:])) == pytest.approx(0.48, abs=0.05)


class Line:
    """Dynamics of a point that moves by its action, seen through features with an error of 0.1 in the first entry."""

    noise_size = 1

    def mean_step(self, z, a):
        return z + tf.pad(a, [[0, 0], [0, z.shape[1] - a.shape[1]]])


def test_open_loop_predictions_follow_the_recorded_actions():
    steps = HORIZON + 15
    action = RNG.uniform(-1, 1, (steps + 1, 1)).astype(np.float32)
    action[0] = 0.0
    position = np.cumsum(action, 0)
    agent = SimpleNamespace(model=SimpleNamespace(dynamics=Line()))
    feat, starts = localization.open_loop_features(agent, np.pad(position, [[0, 0], [0, 1]]), action)
    assert feat.shape == (2, HORIZON, 2) and list(starts) == [0, 10]
    for row, start in enumerate(starts):
        np.testing.assert_allclose(feat[row, :, 0], position[start + 1 : start + HORIZON + 1, 0], atol=1e-5)
    short, none = localization.open_loop_features(agent, np.zeros((5, 2), np.float32), action)
    assert short.shape[0] == 0 and none.size == 0


def test_pictures_have_the_bits_that_the_model_knows():
    class Seen:
        """Its posterior is the picture."""

        noise_size = 1

        def observe(self, embed, action, is_first, noise):
            return {"deter": embed, "stoch": embed[..., :0]}, None

    model = SimpleNamespace(dynamics=Seen(), embed=lambda image: tf.cast(image[..., 0, 0, :], tf.float32))
    agent = SimpleNamespace(config=SimpleNamespace(seed=0, image_bits=5), model=model)
    image = np.full([2, 64, 64, 3], 255, np.uint8)
    episode = {"image": image, "action": np.zeros([2, 1], np.float32), "is_first": np.array([True, False])}
    episode["reward"] = np.zeros(2, np.float32)
    (features,) = localization.posterior_features(agent, [episode])
    assert np.unique(features).tolist() == [252.0]  # the middle of 248 to 255


def test_errors_are_sorted_by_pictures_seen_distance_and_steps(monkeypatch):
    def episode():
        # The first picture misplaces the hand by 0.2 m, later ones do not; actions move it by 1 cm a step.
        state = np.zeros((HORIZON + 1, 39), np.float32)
        state[:, 0] = 0.3 + 0.01 * np.arange(HORIZON + 1)
        return {"state": state, "action": np.full((HORIZON + 1, 1), 0.01, np.float32)}

    def features(agent, episodes):
        seen = [episode["state"][:, :3].copy() for episode in episodes]
        for feat in seen:
            feat[0, 1] += 0.2
        return seen

    exact = SimpleNamespace(error=lambda feat, state: np.linalg.norm(feat - state, axis=-1))
    monkeypatch.setattr(localization, "posterior_features", features)
    monkeypatch.setattr(localization, "Probe", lambda *args: exact)
    config = SimpleNamespace(task="metaworld_reach", seed=0)
    agent = SimpleNamespace(config=config, model=SimpleNamespace(dynamics=Line()))
    row = localization.measure(agent, [episode() for _ in range(10)], [0, 1, 2], near=0.1)
    assert row["posterior"] == {"1": pytest.approx(0.2), "2": 0.0, "5": 0.0, "20": 0.0, "rest": 0.0}
    assert row["posterior_near"] is None and row["posterior_far"] == 0.0
    assert row["open_loop"] == {str(step): pytest.approx(0.2) for step in localization.STEPS}
    assert row["still"] == {str(step): pytest.approx(0.01 * step, abs=1e-4) for step in localization.STEPS}
    assert (row["episodes"], row["held_out"]) == (10, 2)


def test_bad_input_is_refused(capsys, tmp_path):
    assert localization.main(["--logdir", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_number_that_is_no_distance_is_refused(capsys):
    for near in ("nan", "-1", "inf"):
        assert localization.main(["--logdir", "run", "--near", near]) == 2
        said = capsys.readouterr().err
        assert "--near" in said and said.count("\n") == 1


class Network:
    """Reads the first three numbers. Like Keras, it cannot read nothing."""

    def predict(self, feat, **options):
        assert len(feat)
        return feat[:, :3]


def test_held_out_episodes_that_are_too_short_have_no_open_loop_error(monkeypatch):
    probe = localization.Probe.__new__(localization.Probe)
    probe.mean, probe.std, probe.network = 0.0, 1.0, Network()
    monkeypatch.setattr(localization, "posterior_features", lambda agent, episodes: [e["state"] for e in episodes])
    monkeypatch.setattr(localization, "Probe", lambda *args: probe)
    config = SimpleNamespace(task="gym_x", seed=0)
    agent = SimpleNamespace(config=config, model=SimpleNamespace(dynamics=Line()))
    episodes = [{"state": np.ones((6, 3), np.float32), "action": np.zeros((6, 1), np.float32)} for _ in range(10)]
    row = localization.measure(agent, episodes, [0, 1, 2], near=0.1)
    assert set(row["open_loop"].values()) == set(row["still"].values()) == {None}
    assert row["posterior"] == {"1": 0.0, "2": 0.0, "5": 0.0, "20": None, "rest": None}


def test_the_distance_to_the_goal_is_that_of_a_single_task(monkeypatch):
    exact = SimpleNamespace(error=lambda feat, state: np.linalg.norm(feat - state, axis=-1))
    monkeypatch.setattr(localization, "posterior_features", lambda agent, episodes: [e["state"] for e in episodes])
    monkeypatch.setattr(localization, "Probe", lambda *args: exact)
    config = SimpleNamespace(task="pointmass_obstacle,pointmass_lottery", seed=0)
    agent = SimpleNamespace(config=config, model=SimpleNamespace(dynamics=Line()))
    episodes = [{"state": np.zeros((4, 4), np.float32), "action": np.zeros((4, 1), np.float32)} for _ in range(10)]
    row = localization.measure(agent, episodes, [0, 1, 2, 3], near=0.1)
    assert row["posterior"]["1"] == 0.0 and "posterior_far" not in row


def episode_of(state_size=3, action_size=1, entries=4, fill=0.5):
    """A valid episode with a state, or none of size 0."""
    episode = {
        "image": np.zeros((entries, 64, 64, 3), np.uint8),
        "action": np.zeros((entries, action_size), np.float32),
        "reward": np.zeros(entries, np.float32),
        "discount": np.ones(entries, np.float32),
        "is_first": np.arange(entries) == 0,
    }
    state = np.full((entries, state_size), fill, np.float32)
    return episode | ({"state": state} if state_size else {})


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (episode_of(0), "its keys are"),
        (episode_of(2), "state has shape (2,)"),
        (episode_of(fill=np.nan), "entry 0 of the state is not a number"),
        (episode_of(action_size=2), "action has shape (2,)"),
    ],
)
def test_episodes_that_cannot_be_measured_are_refused(tmp_path, monkeypatch, capsys, last, words):
    replay = Replay(tmp_path / "episodes", 1, 1, 1000, 0)
    for episode in [episode_of()] * 9:
        replay.add(episode)
    other = Replay(tmp_path / "other", 1, 1, 1000, 0)
    other.add(last)
    path = next((tmp_path / "other").glob("*.npz"))
    path.rename(tmp_path / "episodes" / path.name)
    agent = SimpleNamespace(config=SimpleNamespace(task="gym_x"), updates=0, action_size=1)
    monkeypatch.setattr(localization, "load_agent", lambda logdir, overrides: agent)
    assert localization.main(["--logdir", str(tmp_path), "--entries", "0"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_episodes_with_other_actions_than_the_agent_s_are_refused(tmp_path, monkeypatch, capsys):
    replay = Replay(tmp_path / "episodes", 1, 1, 1000, 0)
    for _ in range(10):
        replay.add(episode_of(action_size=2))
    agent = SimpleNamespace(config=SimpleNamespace(task="gym_x"), updates=0, action_size=1)
    monkeypatch.setattr(localization, "load_agent", lambda logdir, overrides: agent)
    assert localization.main(["--logdir", str(tmp_path), "--entries", "0"]) == 2
    assert "Actions in" in capsys.readouterr().err
