"""Pictures of evaluations."""

import numpy as np

from evaluation.numbers import by_distance
from evaluation.pictures import draw_by_distance, grid


def numbered(values):
    """Pictures of one grey each."""
    return np.broadcast_to(np.uint8(values)[:, None, None, None], [len(values), 64, 64, 3])


def test_grid_holds_last_frames_and_fills_up_with_white():
    videos = [numbered([k, k + 1] if k == 10 else [k]) for k in (10, 20, 30, 40, 50)]
    sheet = grid(videos)
    assert sheet.shape == (2, 2 * 66, 4 * 66, 3)
    assert sheet[1, 33, 33::66, 0].tolist() == [11, 20, 30, 40]
    assert sheet[1, 66 + 33, 33::66, 0].tolist() == [50, 255, 255, 255]


def test_success_is_drawn_over_the_distance():
    bins = by_distance(np.arange(8.0), [1.0] * 4 + [0.0] * 4)
    axis = draw_by_distance(bins, "title").axes[0]
    assert [text.get_text() for text in axis.texts] == ["4", "4"]
    assert [container.lines[0].get_xydata().tolist() for container in axis.containers] == [[[1.75, 1.0]], [[5.25, 0.0]]]
