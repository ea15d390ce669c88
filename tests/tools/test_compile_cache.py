import tools.tensorflow_setup

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import compile_cache
from tools.compile_cache import cache_flags, clean, is_whole, machine

ROOT = Path(__file__).parents[2]
WHOLE = b"\x0a\x03key\x12\x81\x01" + 129 * b"c" + b"\x1a\x00"  # lengths 3, 129 (two bytes) and 0
PROGRAM = """
import tools.tensorflow_setup
import tensorflow as tf
print(float(tf.function(lambda x: tf.reduce_sum(x @ x), jit_compile=True)(tf.ones([3, 3]))))
"""


def run(directory: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COMPILE_CACHE_DIR": directory}
    environment.pop("TF_XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_program_finds_what_the_last_one_compiled(tmp_path: Path):
    first = run(str(tmp_path))
    assert (first.returncode, first.stdout, first.stderr) == (0, "27.0\n", "")
    folder = tmp_path / machine()
    (entry,) = folder.iterdir()
    made = entry.stat().st_mtime_ns
    assert is_whole(entry.read_bytes())
    second = run(str(tmp_path))
    assert (second.returncode, second.stdout, second.stderr) == (0, "27.0\n", "")
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [made]  # read, not written again


@pytest.mark.parametrize("data", [b"", b"\x0a", WHOLE[:-1], WHOLE + b"\x00", b"\x0a\x80", b"PK\x03\x04", b"\xff" * 99])
def test_damaged_entries_are_recognized(data: bytes):
    assert is_whole(WHOLE)
    assert not is_whole(data)


def test_the_oldest_files_go_first(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compile_cache, "LARGEST", 2 * len(WHOLE))
    for age, name in enumerate(["new.pb", "damaged.pb", "old.pb", "oldest.pb"]):
        (tmp_path / name).write_bytes(WHOLE if name != "damaged.pb" else b"")
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "other.txt").write_bytes(b"1" * 10_000)
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pb", "old.pb", "other.txt"]


def test_files_that_another_program_removes_meanwhile_do_not_matter(tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / machine()
    folder.mkdir()
    (folder / "gone.pb").symlink_to("nothing")  # listed, but gone when it is looked at
    for age, name in enumerate(["new.pb", "old.pb", "oldest.pb"]):
        (folder / name).write_bytes(WHOLE)
        os.utime(folder / name, (1000 - age, 1000 - age))

    def is_whole_and_the_next_is_gone(data: bytes) -> bool:
        (folder / "old.pb").unlink(missing_ok=True)
        return is_whole(data)

    monkeypatch.setattr(compile_cache, "is_whole", is_whole_and_the_next_is_gone)
    assert cache_flags(str(tmp_path), "").endswith(str(folder))
    assert capsys.readouterr().err == ""
    assert (folder / "new.pb").exists() and (folder / "oldest.pb").exists()


def test_a_folder_that_cannot_be_used_is_named_and_left_out(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    assert cache_flags(str(tmp_path / "file"), "--other=1") == "--other=1"
    assert cache_flags(str(tmp_path / "white space"), "") == ""
    assert cache_flags("~no_such_user/cache", "") == ""
    monkeypatch.setattr(compile_cache, "FREE", 2**62)
    assert cache_flags(str(tmp_path), "") == ""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("Nothing compiled is kept: COMPILE_CACHE_DIR ") for line in lines)
    reasons = ["Not a directory", "white space", "no_such_user", "nearly full"]
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True))


def test_other_flags_are_kept(tmp_path: Path):
    flag = "--tf_xla_persistent_cache_directory="
    assert cache_flags(str(tmp_path), "--other=1") == f"--other=1 {flag}{tmp_path / machine()}"
    assert cache_flags(str(tmp_path), flag + "/mine") == flag + "/mine"
    assert cache_flags("", "--other=1") == "--other=1"
