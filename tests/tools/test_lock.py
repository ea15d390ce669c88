"""The lock of a folder: one writer at a time, and nothing left of a program that was refused."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools import lock
from tools.errors import UserError
from tools.lock import exclusive_folder, locked

ROOT = Path(__file__).parents[2]


def test_a_second_program_is_refused_and_told_who_works_there(tmp_path: Path):
    folder = tmp_path / "a" / "run"
    with exclusive_folder(folder, "--logdir"):
        with pytest.raises(UserError, match=rf"process {os.getpid()}\) writes to {folder}.*--logdir"):
            exclusive_folder(folder, "--logdir").__enter__()
        assert (folder / "sweep.lock").exists()
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with exclusive_folder(folder, "--logdir"):
        pass


def test_what_a_killed_program_left_half_written_is_removed(tmp_path: Path):
    (tmp_path / "episodes").mkdir()
    mine, gone = (f"{socket.gethostname()}.{process}" for process in (os.getpid(), 2**30))
    kept = [tmp_path / ".hidden", tmp_path / f".a.npz.{mine}", tmp_path / "episodes" / ".a.npz.elsewhere.7"]
    left = [tmp_path / f".collection.json.{gone}", tmp_path / "episodes" / f".a.npz.{gone}"]
    for path in (*kept, *left):
        path.touch()
    with exclusive_folder(tmp_path, "--logdir"):
        assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_the_lock_of_a_sweep_keeps_a_program_away_that_the_sweep_did_not_start(tmp_path: Path, monkeypatch):
    with locked(tmp_path, 1.0, "node seven") as descriptor:
        with pytest.raises(UserError, match="node seven"):
            exclusive_folder(tmp_path, "--logdir").__enter__()
        monkeypatch.setenv(lock.INHERITED, str(descriptor))
        with exclusive_folder(tmp_path, "--logdir"):
            pass
        # A variable that has come further than its lock opens nothing.
        other = tmp_path / "other"
        other.mkdir()
        with locked(other, 1.0, "node eight"), pytest.raises(UserError, match="node eight"):
            exclusive_folder(other, "--logdir").__enter__()
    assert (tmp_path / "sweep.lock").exists()


def test_a_refused_program_leaves_no_folder(tmp_path: Path):
    with pytest.raises(UserError), exclusive_folder(tmp_path / "a" / "b", "--out"):
        (tmp_path / "a" / "b" / "episodes").mkdir()
        raise UserError("no")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_ends_with_a_killed_process_and_is_not_that_of_a_removed_file(tmp_path: Path):
    program = f"from tools.lock import *; locked(Path({str(tmp_path)!r}), 0, 'x').__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -9
    with exclusive_folder(tmp_path, "--logdir"):
        gone = os.open(tmp_path / "sweep.lock", os.O_RDWR)
        (tmp_path / "sweep.lock").unlink()
        with locked(tmp_path, 0.0, "second") as descriptor:
            assert not os.path.samestat(os.fstat(gone), os.fstat(descriptor))
        os.close(gone)


def test_a_lock_whose_owner_ends_meanwhile_is_free(tmp_path: Path, monkeypatch):
    try_lock, tries = lock._try_lock, []

    def first_in_use(path):
        tries.append(path)
        if len(tries) > 1:
            return try_lock(path)
        path.unlink(missing_ok=True)  # as its owner does at its end
        return None

    monkeypatch.setattr(lock, "_try_lock", first_in_use)
    with exclusive_folder(tmp_path, "--logdir"):
        assert len(tries) == 2


def test_folders_that_cannot_be_written_are_refused_but_not_those_without_locks(tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/run cannot be written .*--logdir"):
        exclusive_folder(tmp_path / "file" / "run", "--logdir").__enter__()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive_folder(tmp_path / "run", "--logdir"):
        assert list((tmp_path / "run").iterdir()) == []
    assert not (tmp_path / "run").exists()
