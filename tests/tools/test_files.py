import json
import math
from pathlib import Path

import pytest

from tools import files
from tools.files import append_json, replaced


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
