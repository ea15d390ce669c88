"""Lines that a benchmark finds again."""

import pytest

from benchmarks.own_lines import read_own_lines
from tools.errors import UserError


def test_own_lines_are_found_and_no_file_is_no_line(tmp_path):
    path = tmp_path / "board.jsonl"
    assert read_own_lines(path, "board") == []
    path.write_text('{"benchmark": "board", "kind": "trial"}\n{"benchmark": "board", "kind": "result", "seconds": 2}\n')
    assert [line.get("seconds") for line in read_own_lines(path, "board")] == [None, 2]
    assert len(read_own_lines(path, "board", ("trial", "result"))) == 2
    with pytest.raises(UserError, match="choose another --out"):
        read_own_lines(path, "board", ("trial",))


@pytest.mark.parametrize(
    "content",
    ['{"benchmark": "other"}', '{"kind": 1}', "[1]", "1", '"text"', "{", "[" * 100_000, b"\xff\xfe"],
    ids=["other", "unnamed", "list", "number", "text", "cut off", "deep", "not text"],
)
def test_lines_of_something_else_are_refused(content, tmp_path):
    path = tmp_path / "board.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="not a file that this program wrote"):
        read_own_lines(path, "board")
