"""The sheet of pictures of many tasks."""

import numpy as np

from envs.contact_sheet import MARGIN, SCALE, TITLE_HEIGHT, contact_sheet


def test_the_contact_sheet_puts_each_picture_below_its_title():
    pictures = {str(index): np.full((64, 64, 3), 30 * index, np.uint8) for index in range(8)}
    sheet = np.asarray(contact_sheet(pictures))
    width, height = 64 * SCALE + MARGIN, 64 * SCALE + MARGIN + TITLE_HEIGHT
    assert sheet.shape == (2 * height + MARGIN, 6 * width + MARGIN, 3)
    row, column = height + MARGIN + TITLE_HEIGHT, width + MARGIN  # of the eighth: second row, second column
    assert (sheet[row : row + 64 * SCALE, column : column + 64 * SCALE] == 210).all()
    assert (sheet[row - TITLE_HEIGHT : row, column : column + 20] < 100).any(), "a title"
