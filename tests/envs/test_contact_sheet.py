"""The sheet of pictures of many tasks."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from envs.contact_sheet import MARGIN, SCALE, TITLE_HEIGHT, contact_sheet, main


def test_the_contact_sheet_puts_each_picture_below_its_title():
    pictures = {str(index): np.full((64, 64, 3), 30 * index, np.uint8) for index in range(8)}
    sheet = np.asarray(contact_sheet(pictures))
    width, height = 64 * SCALE + MARGIN, 64 * SCALE + MARGIN + TITLE_HEIGHT
    assert sheet.shape == (2 * height + MARGIN, 6 * width + MARGIN, 3)
    row, column = height + MARGIN + TITLE_HEIGHT, width + MARGIN  # of the eighth: second row, second column
    assert (sheet[row : row + 64 * SCALE, column : column + 64 * SCALE] == 210).all()
    assert (sheet[row - TITLE_HEIGHT : row, column : column + 20] < 100).any(), "a title"


def exit_code_and_error(*words: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as error:
        return main(words), error.getvalue()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tasks", "mass_obstacle"], "'mass_obstacle' is not a task"),
        (["--out", "sheet"], "neither a .png nor a .pdf"),
        (["--tasks", "pointmass_obstacle", "--out", "/dev/null/sheet.png"], "/dev/null"),
        (["--seed", "-1"], "not a whole number"),
    ],
)
def test_bad_input_is_one_sentence(words, expected, in_worker):
    code, error = in_worker(exit_code_and_error, *words)
    assert code == 2 and error.startswith("error: ") and expected in error and error.count("\n") == 1


def test_the_sheet_is_written_into_a_new_folder(in_worker, tmp_path: Path):
    out = tmp_path / "new" / "sheet.png"
    assert in_worker(exit_code_and_error, "--tasks", "pointmass_obstacle", "--out", str(out)) == (0, "")
    assert out.stat().st_size > 1000
