import fcntl
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import files
from tools.errors import UserError
from tools.files import append_json, expanded, remove_empty, replaced

ROOT = Path(__file__).parents[2]


def test_a_leading_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/runs") == Path("/home/me/runs") and expanded(Path("a/~b")) == Path("a/~b")
    with pytest.raises(UserError, match="^~no_such_user/runs names a home directory that is not known"):
        expanded("~no_such_user/runs")
    sources = [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
    users = [path for path in sources if ".expanduser()" in path.read_text(encoding="utf-8")]
    assert users == [ROOT / "tools" / "files.py"]  # all others ask this function


def test_a_replaced_file_is_old_until_it_is_complete(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replaced(path) as file:
        file.write("new é")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "new é"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_crash_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def crash(*_):
        raise OSError("the disk is gone")

    if moment != "write":
        monkeypatch.setattr(files.os, moment, crash)
    with pytest.raises(OSError, match="the disk is gone"), replaced(path, "wb") as file:
        file.write(b"ne")
        if moment == "write":
            crash()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_lines_are_appended_and_are_json(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    lines = [{"task": "é", "value": 1.5}, {"value": None}]
    for line in lines:
        append_json(path, line)
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_json(path, {"value": math.nan})
    assert len(path.read_text().splitlines()) == 2


def test_the_first_line_makes_its_folder_unless_a_folder_must_be_there(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "lines.jsonl"
    with pytest.raises(FileNotFoundError, match="new/folder"):
        append_json(path, {"step": 1}, make_folder=False)
    assert not list(tmp_path.iterdir())
    append_json(path, {"step": 1})
    assert path.read_text() == '{"step": 1}\n'


def test_a_line_goes_into_a_pipe(tmp_path: Path):
    """As evaluate.py's with --out /dev/stdout."""
    os.mkfifo(path := tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    append_json(path, {"step": 1})
    reader.join()
    assert read == ['{"step": 1}\n']


def test_a_line_is_not_lost_in_a_file_that_another_program_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As evaluate.py does where it tries whether it can write."""
    path, lock, removed = tmp_path / "lines.jsonl", fcntl.flock, []

    def remove_first(file, operation):
        if not removed:
            removed.append(path.unlink())
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    append_json(path, {"step": 1})
    assert removed and path.read_text() == '{"step": 1}\n'


def test_a_device_without_room_says_so():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_json(Path("/dev/full"), {"step": 1})


def test_a_line_is_appended_as_a_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    append_json(path, {"step": 1})
    program = f"""
import resource, signal
from pathlib import Path
from tools.files import append_json, replaced, writing
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a disk that is full after 4 kB
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with writing(Path("the folder")):
        append_json(Path({str(path)!r}), {{"long": "x" * 9000}})
except Exception as error:
    print(type(error).__name__, error)
try:
    with writing(Path("the folder")), replaced(Path({str(path)!r}), "wb") as file:
        file.write(bytes(9000))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    line = f"UserError {path} cannot be written (File too large): make room, then start the same command again."
    assert done.stdout.splitlines() == [line, line]
    assert path.read_text() == '{"step": 1}\n' and list(tmp_path.iterdir()) == [path]


def test_programs_that_append_to_one_file_do_not_mix_their_lines(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    program = f"""
import sys
from pathlib import Path
from tools.files import append_json
for number in range(50):
    append_json(Path({str(path)!r}), {{"who": sys.argv[1] * 20000, "number": number}})
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, who], cwd=ROOT) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for who in "ab":
        assert [line["number"] for line in lines if line["who"] == who * 20000] == list(range(50))


def test_empty_folders_are_removed_and_others_stay(tmp_path: Path):
    folders = [tmp_path / "a" / "b", tmp_path / "a"]
    (folders[0] / "inside").mkdir(parents=True)
    remove_empty(folders)
    assert list(tmp_path.iterdir()) == []
    (folders[0] / "inside").mkdir(parents=True)
    (folders[0] / "file").touch()
    remove_empty(folders)
    assert (folders[0] / "file").exists()
    remove_empty([])
