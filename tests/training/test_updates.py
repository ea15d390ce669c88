"""Updates that are skipped, and data that no update can learn from, with an agent that does nothing."""

import numpy as np
import pytest
import tensorflow as tf

from episodes.replay import Replay
from tests.training.fakes import ACTION_SIZE, SIZE, FakeAgent, replace_simulators, short_run
from tools.errors import UserError
from training.run import TrainingRun
from training.updates import SkippedUpdates
from world_model.rewards import RewardTransform


class SkippingAgent(FakeAgent):
    """Skips the updates whose numbers are in `bad`."""

    bad = ()

    def train_step(self, batch):
        metrics = super().train_step(batch)
        skipped = int(self.updates) in self.bad
        loss = tf.constant(np.inf if skipped else 1.0)
        return metrics | {"loss": loss, "grad_norm": loss, "skipped_updates": tf.constant(float(skipped))}


@pytest.fixture
def config(tiny_config, monkeypatch):
    replace_simulators(monkeypatch, lambda task, index: 5)
    return short_run(tiny_config, steps=20, prefill=10, pretrain=5, train_every=5, train_steps=2, max_skipped_updates=3)


def train(config, logdir, bad):
    agent = SkippingAgent(config)
    agent.bad = bad
    TrainingRun(agent, logdir, quiet=True).run()
    return agent


def test_skipped_updates_are_named_once_a_row_and_their_batch_is_saved(config, tmp_path, capsys):
    assert int(train(config, tmp_path, bad=(2, 3, 7)).updates) == 9
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "update 2 was skipped, since loss, grad_norm are not finite, with rewards up to 5" in lines[0]
    assert "update 7 was skipped" in lines[1]
    files = sorted((tmp_path / "skipped_updates").iterdir())
    assert [path.name for path in files] == ["update-000000002.npz", "update-000000007.npz"]
    with np.load(files[0], allow_pickle=False) as batch:
        assert {"image", "action", "reward", "mask"} <= set(batch.files)
        assert batch["image"].shape == (2, 3, SIZE, SIZE, 3) and batch["reward"].max() == 5.0


def test_too_many_in_a_row_end_the_run(config, tmp_path, capsys):
    with pytest.raises(UserError, match="3 updates in a row were skipped.*update-000000005.npz.*max_skipped_updates"):
        train(config, tmp_path, bad=(1, 3, 4, 5))
    assert len(list((tmp_path / "episodes").glob("*.npz"))) == 2  # nothing was lost


def test_a_row_goes_on_from_one_phase_to_the_next(config, tmp_path):
    with pytest.raises(UserError, match="3 updates in a row"):
        train(config, tmp_path, bad=(5, 6, 7))


def test_no_number_in_a_row_ends_the_run_at_0(config, tmp_path):
    agent = train(config.replace(max_skipped_updates=0), tmp_path, bad=range(1, 100))
    assert int(agent.updates) == 9 and len(list((tmp_path / "skipped_updates").iterdir())) == 1


def test_the_search_for_a_scale_of_the_loss_is_no_news(tmp_path, capsys):
    skipped = SkippedUpdates(tmp_path / "skipped", most=3, expected=True)
    batch = {"reward": np.ones([1, 2], np.float32)}
    for number in (1, 2, 4, 5):
        skipped.add(number, batch, {"loss": 1.0, "skipped_updates": float(number != 4)})
    skipped.check()
    assert not capsys.readouterr().err and not (tmp_path / "skipped").exists()


def test_batches_do_not_fill_the_disk(tmp_path, capsys):
    skipped = SkippedUpdates(tmp_path, most=0, expected=False)
    for number in range(1, 41):
        skipped.add(number, {"reward": np.ones([1, 2], np.float32)}, {"skipped_updates": float(number % 2)})
    assert len(list(tmp_path.iterdir())) == 10
    assert "the batches of earlier ones are in" in capsys.readouterr().err.splitlines()[-1]


def offline(config, folder, size=SIZE, reward=1.0):
    replay = Replay(folder, 1, 1, 100, 0)
    replay.add(
        {
            "image": np.zeros([6, size, size, 3], np.uint8),
            "action": np.zeros([6, ACTION_SIZE], np.float32),
            "reward": np.full(6, reward, np.float32),
            "discount": np.ones(6, np.float32),
            "is_first": np.arange(6) == 0,
        }
    )
    return config.replace(offline_dir=str(folder), steps=0)


def test_offline_pictures_of_another_size_are_refused(config, tmp_path):
    config = offline(config, tmp_path / "data", size=2 * SIZE)
    with pytest.raises(UserError, match=f"image of an entry in .* is 8 x 8 x 3, this task's {SIZE} x {SIZE} x 3"):
        TrainingRun(FakeAgent(config), tmp_path / "run", quiet=True)


def test_offline_rewards_that_float32_cannot_square_are_refused(config, tmp_path):
    config = offline(config, tmp_path / "data", reward=-3e38)
    with pytest.raises(UserError, match=r"reach 3e\+38, which float32 cannot square"):
        TrainingRun(FakeAgent(config), tmp_path / "run", quiet=True)


def test_offline_rewards_may_be_large_where_they_are_squashed(config, tmp_path):
    config = offline(config, tmp_path / "data", reward=3e38)
    agent = FakeAgent(config)
    agent.rewards = RewardTransform("tanh", 1.0, normalize=False)
    TrainingRun(agent, tmp_path / "run", quiet=True).close()
