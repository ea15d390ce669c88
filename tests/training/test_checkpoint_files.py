"""Checkpoints that are damaged or have lost their index, and odd files in the place of those of a run."""

import contextlib
import gc
import importlib
import io
import os
import shutil
import socket

import numpy as np
import pytest
import tensorflow as tf

from tests.training.fakes import FakeAgent, replace_simulators, short_run
from tools.config import load_config
from tools.errors import UserError
from training.checkpoint_files import restore, saved_checkpoints
from training.initial_weights import restore_parts
from training.logdir import FILES, FOLDERS, check_places, open_logdir
from training.packing import pack, read_packed
from training.run import TrainingRun


def settings(config):
    return short_run(config, steps=20, prefill=10, pretrain=2, train_every=5, train_steps=1)


@pytest.fixture
def config(tiny_config, monkeypatch):
    replace_simulators(monkeypatch, lambda task, index: 5)
    return settings(tiny_config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with its last two checkpoints: after the pretraining and at its end."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        replace_simulators(patch, lambda task, index: 5)
        config = settings(load_config(["--configs", "defaults", "debug"]))
        run = TrainingRun(FakeAgent(config), folder, quiet=True)
        run.run()
    assert names(folder) == ["ckpt-2", "ckpt-1"] and int(run.agent.updates) == 4
    return folder


@pytest.fixture
def logdir(finished, tmp_path):
    """A copy of the finished run, which a test may spoil."""
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def foreign_archive():
    file = io.BytesIO()
    np.savez(file, tree=np.array("[1, 2]"))
    return file.getvalue()


def names(logdir):
    return [path.rpartition("/")[2] for path in saved_checkpoints(logdir / "checkpoints")]


def resume(config, logdir, steps=30):
    run = TrainingRun(FakeAgent(config.replace(steps=steps)), logdir, quiet=True)
    updates = int(run.agent.updates)
    run.run()
    return updates


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\xfe binary", b"model_checkpoint_path: 7\n", b"{}"])
def test_a_run_goes_on_without_a_usable_index(config, logdir, capsys, content):
    index = logdir / "checkpoints" / "checkpoint"
    if content is None:
        index.unlink()
    else:
        index.write_bytes(content)
    assert resume(config, logdir) == 4
    assert "names none of the checkpoints beside it, so ckpt-2 is taken" in capsys.readouterr().err
    assert names(logdir)[0] == "ckpt-3"  # none was overwritten or forgotten
    assert tf.train.latest_checkpoint(str(logdir / "checkpoints")).endswith("ckpt-3")
    assert resume(config, logdir, steps=35) == 6
    assert not capsys.readouterr().err and len(names(logdir)) == config.checkpoints_kept


def test_a_run_that_repairs_its_index_says_no_more_than_its_note(config, logdir, caplog, monkeypatch):
    """TensorFlow's functions for this are deprecated, which it says in three lines, once in a process."""
    deprecation = importlib.import_module("tensorflow.python.util.deprecation")
    monkeypatch.setattr(deprecation, "_PRINTED_WARNING", {})
    monkeypatch.setattr(tf.get_logger(), "propagate", True)  # to caplog
    (logdir / "checkpoints" / "checkpoint").unlink()
    assert resume(config, logdir) == 4
    assert not caplog.records


def test_an_index_decides_which_checkpoint_is_the_newest_wherever_it_was_written(logdir):
    index = logdir / "checkpoints" / "checkpoint"
    index.write_text('model_checkpoint_path: "/elsewhere/run/checkpoints/ckpt-1"\n')
    assert names(logdir) == ["ckpt-1", "ckpt-2"]


def test_a_checkpoint_that_a_kill_left_beside_the_index_is_put_away(config, logdir, capsys):
    """Written, but not named yet: the resumed run makes another one, after which it must never count as the newest."""
    folder = logdir / "checkpoints"
    for path in folder.glob("ckpt-2.*"):
        shutil.copy(path, folder / path.name.replace("ckpt-2", "ckpt-7"))
    assert names(logdir) == ["ckpt-2", "ckpt-7", "ckpt-1"]
    assert resume(config, logdir) == 4
    assert sorted(path.name for path in (folder / "unnamed").iterdir()) == [
        "ckpt-7.data-00000-of-00001",
        "ckpt-7.index",
        "ckpt-7.npz",
    ]
    (folder / "checkpoint").unlink()
    assert resume(config, logdir, steps=35) == 6 and not (folder / "damaged").exists()
    assert "so ckpt-3 is taken as the newest" in capsys.readouterr().err


def test_a_checkpoint_that_a_kill_left_is_better_than_a_damaged_one(config, logdir, capsys):
    folder = logdir / "checkpoints"
    for path in folder.glob("ckpt-2.*"):
        shutil.copy(path, folder / path.name.replace("ckpt-2", "ckpt-3"))
    (folder / "ckpt-2.index").write_bytes(b"")
    assert resume(config, logdir) == 4
    assert "ckpt-2 is damaged, so ckpt-3 beside it is used" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["empty", "half", "gone", "flipped"])
def test_a_damaged_newest_checkpoint_is_named_and_set_aside(config, logdir, capsys, suffix, damage):
    path = logdir / "checkpoints" / f"ckpt-2.{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        for i in range(len(content) // 3, 2 * len(content) // 3):
            content[i] ^= 0xFF
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "flipped": content}[damage])
    kept = path.read_bytes() if path.exists() else None
    assert resume(config, logdir) == 2  # that of ckpt-1
    error = capsys.readouterr().err
    if (suffix, damage) == ("index", "gone"):  # then it does not count as a checkpoint, as while it is written
        assert "names none of the checkpoints beside it, so ckpt-1" in error
        return
    assert "ckpt-2 is damaged, so ckpt-1 beside it is used" in error and error.count("\n") == 1
    aside = logdir / "checkpoints" / "damaged"
    assert (aside / "ckpt-2.npz").exists()
    assert kept is None or (aside / path.name).read_bytes() == kept


def put_in_place(path, kind):
    """Something that is not a file. Nobody writes to the pipe, so that reading it would take for ever."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "inside").touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as own:  # its names are short
            own.bind(path.name)
    else:
        path.symlink_to("nowhere")


ODD = ("folder", "pipe", "socket", "link")


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001", "npz"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_a_file_of_a_checkpoint_counts_as_damaged(config, logdir, capsys, suffix, kind):
    path = logdir / "checkpoints" / f"ckpt-2.{suffix}"
    put_in_place(path, kind)
    updates = tf.Variable(0, dtype=tf.int64)
    # An evaluation and a new run with these weights, which leave all as it is.
    with pytest.raises(UserError, match=f"ckpt-2 .* is damaged .*ckpt-2.{suffix} is not a file"):
        restore_parts({"updates": updates}, logdir)
    assert resume(config, logdir) == 2  # that of ckpt-1
    assert "ckpt-2 is damaged, so ckpt-1 beside it is used" in capsys.readouterr().err
    aside = logdir / "checkpoints" / "damaged" / path.name
    assert os.path.lexists(aside) and not aside.is_file()
    assert names(logdir) == ["ckpt-2", "ckpt-1"] and path.is_file()  # the resumed run's own


def test_an_evaluation_finds_the_newest_without_an_index_and_takes_no_older_one(logdir, capsys):
    (logdir / "checkpoints" / "checkpoint").write_bytes(b"\x00\xff")
    before = sorted((logdir / "checkpoints").rglob("*"))
    updates = tf.Variable(0, dtype=tf.int64)
    restore_parts({"updates": updates}, logdir)
    assert int(updates) == 4 and "so ckpt-2 is taken" in capsys.readouterr().err
    path = logdir / "checkpoints" / "ckpt-2.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match="ckpt-2 does not fit this configuration or is damaged"):
        restore_parts({"updates": updates}, logdir)
    assert sorted((logdir / "checkpoints").rglob("*")) == before


def test_nothing_goes_on_from_damaged_checkpoints_alone(config, logdir):
    for path in (logdir / "checkpoints").glob("*.data*"):
        path.write_bytes(b"")
    before = sorted((logdir / "checkpoints").rglob("*"))
    with pytest.raises(UserError, match="ckpt-2 does not fit this configuration or is damaged"):
        resume(config, logdir)
    assert sorted((logdir / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize("shape", [(3,), (2,)], ids=["other shape", "other objects"])
def test_a_refused_checkpoint_is_one_sentence(tmp_path, caplog, monkeypatch, shape):
    """TensorFlow has a line for each variable that was not restored, when the variables are deleted."""
    monkeypatch.setattr(tf.get_logger(), "propagate", True)  # to caplog
    path = tf.train.Checkpoint(a=tf.Variable(tf.zeros([2])), b=tf.Variable(1.0)).write(str(tmp_path / "ckpt-1"))
    with pytest.raises(UserError, match="does not fit this configuration"):
        restore(tf.train.Checkpoint(a=tf.Variable(tf.zeros(shape)), c=tf.Variable(1.0)), path)
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY", foreign_archive()])
def test_weights_go_on_where_the_state_beside_them_is_damaged(config, logdir, capsys, content):
    (logdir / "checkpoints" / "ckpt-2.npz").write_bytes(content)
    assert resume(config, logdir) == 4
    assert "ckpt-2.npz cannot be read" in capsys.readouterr().err


def test_flipped_bits_of_a_state_are_refused_or_harmless(tmp_path):
    state = {"episodes": ["20260101T000000000000"], "schedule": {"save": 3}, "actions": np.arange(3.0)}
    path = tmp_path / "ckpt-1.npz"
    np.savez(path, **pack(state))
    whole, refused = path.read_bytes(), 0
    for position in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert repr(read_packed(path)) == repr(state)
        except (OSError, ValueError):
            refused += 1
    assert refused > len(whole) // 2


@pytest.mark.parametrize("tree", ["[1, 2", '{"tensor": "missing"}', '{"tuple": "Other", "items": []}', "[" * 100_000])
def test_a_state_of_another_kind_is_refused(tmp_path, tree):
    np.savez(tmp_path / "ckpt-1.npz", tree=np.array(tree))
    with pytest.raises(ValueError, match="."):
        read_packed(tmp_path / "ckpt-1.npz")


def test_states_are_deleted_with_their_checkpoints(logdir):
    assert sorted(path.name for path in (logdir / "checkpoints").glob("*.npz")) == ["ckpt-1.npz", "ckpt-2.npz"]


def test_a_checkpoint_from_before_states_goes_on(config, logdir):
    for path in (logdir / "checkpoints").glob("*.npz"):
        path.unlink()
    assert resume(config, logdir) == 4


def test_a_run_whose_checkpoints_are_gone_says_that_it_learns_anew(config, logdir, capsys):
    shutil.rmtree(logdir / "checkpoints")
    assert resume(config, logdir) == 0
    assert "has 4 episodes but no checkpoint: training starts anew with them" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_odd_files_in_the_way_are_named(config, tmp_path, name):
    if name in FILES:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("")
    for start in (lambda: check_places(tmp_path), lambda: open_logdir(config.replace(logdir=str(tmp_path)), [])):
        with pytest.raises(UserError, match=f"{name} is a .* in the place of a .* of the run: move it away"):
            start()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_named_pipe_in_the_way_is_named(config, tmp_path, name):
    """Nobody writes to it, so that reading it would take for ever."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is a pipe or device in the place of a file of the run: move it away"):
        open_logdir(config.replace(logdir=str(tmp_path)), [])


@pytest.mark.parametrize("kind", ODD[:3])
def test_what_is_not_a_file_in_the_place_of_the_index_is_named(config, logdir, kind):
    put_in_place(logdir / "checkpoints" / "checkpoint", kind)
    with pytest.raises(UserError, match="checkpoint is not a file, which should name the newest checkpoint: move it"):
        TrainingRun(FakeAgent(config), logdir, quiet=True)


def test_a_run_that_goes_well_says_nothing(config, logdir, capsys):
    assert resume(config, logdir) == 4 and not capsys.readouterr().err
