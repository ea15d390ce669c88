import json
import math
import re
import shutil
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from tools import logger as logger_module
from tools.errors import UserError
from tools.logger import DASHBOARDS, Logger


@pytest.fixture
def log(tmp_path):
    logger = Logger(tmp_path, total_steps=1000, quiet=True)
    yield logger
    logger.close()


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def summaries(logdir):
    """All summary values of all event files as {(tag, step): value}, in the order of writing."""
    found = {}
    for path in sorted(logdir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found[value.tag, event.step] = value
    return found


def scalars(logdir):
    return {
        key: float(tf.make_ndarray(value.tensor))
        for key, value in summaries(logdir).items()
        if value.metadata.plugin_data.plugin_name == "scalars"
    }


def moving_square(frames=12, height=32, width=48):
    video = np.zeros((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        video[frame, 8:24, 2 * frame : 2 * frame + 16] = (250, 20 * frame, 10)
    return video


def test_values_of_one_name_are_averaged_until_write(tmp_path, log):
    log.scalars({"loss": 1.0, "kl": np.float32(3)}, prefix="model/")
    log.scalars({"loss": tf.constant(2.0)}, prefix="model/")
    log.scalars({"model/loss": 6, "success": np.bool_(True), "missing": None})
    before = time.time()
    log.write(30)
    log.scalars({"model/loss": 5.0})
    log.write(60)
    first, second = lines(tmp_path)
    assert abs(first.pop("time") - before) < 60
    assert first == {"step": 30, "model/loss": 3.0, "model/kl": 3.0, "success": 1.0}
    assert (second["step"], second["model/loss"]) == (60, 5.0) and "success" not in second
    assert scalars(tmp_path) == {
        ("model/loss", 30): 3.0,
        ("model/kl", 30): 3.0,
        ("success", 30): 1.0,
        ("model/loss", 60): 5.0,
    }


def test_steps_and_values_may_be_tensors_on_the_device(tmp_path, log):
    step = tf.Variable(7, dtype=tf.int64)
    log.scalars({"a": tf.constant(2, tf.int32), "b": tf.constant(0.5, tf.bfloat16)})
    log.write(step)
    assert {key: lines(tmp_path)[0][key] for key in ("step", "a", "b")} == {"step": 7, "a": 2.0, "b": 0.5}


def test_nothing_collected_writes_no_line(tmp_path, log):
    log.write(10)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("value", [np.zeros(2), tf.zeros([1]), [1.0, 2.0]])
def test_value_that_is_not_a_scalar_is_refused(log, value):
    with pytest.raises(ValueError, match="model/loss has shape"):
        log.scalars({"loss": value}, prefix="model/")


@pytest.mark.parametrize("name", ["step", "time"])
def test_reserved_names_are_refused(log, name):
    with pytest.raises(ValueError, match=f"cannot be named {name}"):
        log.scalars({name: 1.0})


def test_values_that_are_not_finite_are_counted_and_the_json_stays_valid(tmp_path, log):
    for value in (1.0, float("nan"), math.inf, tf.constant(-math.inf)):
        log.scalars({"loss": value, "fine": 2.0})
    log.write(5)
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line["loss"] is None and line["nonfinite/loss"] == 3
    assert line["fine"] == 2.0 and "nonfinite/fine" not in line
    seen = scalars(tmp_path)
    assert math.isnan(seen["loss", 5]) and seen["nonfinite/loss", 5] == 3


def test_opening_again_cuts_off_a_half_line_and_appends(tmp_path):
    logger = Logger(tmp_path, 1000, quiet=True)
    for step in (1, 2):
        logger.scalars({"a": step})
        logger.write(step)
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "a": 3.0')
    again = Logger(tmp_path, 1000, quiet=True)
    again.scalars({"a": 2.5})
    again.write(2)  # the run resumes from an earlier step: history stays
    again.close()
    assert [(line["step"], line["a"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (2, 2.5)]
    assert scalars(tmp_path)["a", 1] == 1.0 and scalars(tmp_path)["a", 2] == 2.5


@pytest.mark.parametrize(("content", "kept"), [(b"", b""), (b"{}", b""), (b"{}\n", b"{}\n"), (b"{}\n\0\0\0", b"{}\n")])
def test_half_line_cases(tmp_path, content, kept):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    Logger(tmp_path, 1000, quiet=True).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept


def test_a_kill_loses_no_line_that_was_written(tmp_path, log):
    """What others read while the file is open, the system has, and keeps when the process is killed."""
    log.scalars({"a": 1.0})
    log.write(4)
    assert [(line["step"], line["a"]) for line in lines(tmp_path)] == [(4, 1.0)]
    assert scalars(tmp_path) == {("a", 4): 1.0}


def test_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*choose another"):
        Logger(tmp_path / "file" / "run", 1000, quiet=True)


def test_a_directory_that_is_deleted_is_not_made_anew(tmp_path):
    logger = Logger(tmp_path / "run", total_steps=1000, quiet=True)
    shutil.rmtree(tmp_path / "run")
    logger.scalars({"loss": 1.0})
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(No such file or directory\)"):
        logger.write(1)
    logger.close()
    assert not list(tmp_path.iterdir())


def test_layout_draws_exactly_the_metrics_of_the_table(tmp_path, log):
    log.write(0)
    value = summaries(tmp_path)["custom_scalars__config__", 0]
    assert value.metadata.plugin_data.plugin_name == "custom_scalars"
    layout = layout_pb2.Layout.FromString(tf.make_ndarray(value.tensor).item())
    tags = [name for _, _, names in DASHBOARDS for name in names]
    drawn = [
        (category.title, chart.title, tuple(tag for tag in tags if any(re.match(p, tag) for p in chart.multiline.tag)))
        for category in layout.category
        for chart in category.chart
    ]
    assert drawn == list(DASHBOARDS)
    titles = [category.title for category in layout.category]
    assert titles == ["Returns and success", "World model", "Value", "Planning", "Speed"]
    charts = {names for _, _, names in DASHBOARDS}
    assert {("plan/predicted_return", "plan/achieved_return"), ("train/cost", "eval/cost")} <= charts


def test_layout_has_charts_of_each_of_several_tasks(tmp_path):
    Logger(tmp_path, 1000, quiet=True, tasks=["dmc_reacher_easy", "gym_Hopper-v5"]).close()
    tensor = summaries(tmp_path)["custom_scalars__config__", 0].tensor
    categories = layout_pb2.Layout.FromString(tf.make_ndarray(tensor).item()).category
    own = {category.title: category.chart for category in categories[-2:]}
    assert [category.title for category in categories[:-2]] == list(dict.fromkeys(group for group, _, _ in DASHBOARDS))
    assert list(own) == ["dmc_reacher_easy", "gym_Hopper-v5"]
    chart = own["gym_Hopper-v5"][0]
    assert chart.title == "return"
    for tag, drawn in {
        "train/gym_Hopper-v5/return": True,
        "eval/gym_Hopper-v5/return": True,
        "eval/return": False,
        "eval/dmc_reacher_easy/return": False,
    }.items():
        assert any(re.match(pattern, tag) for pattern in chart.multiline.tag) == drawn, tag


def test_tensorboard_itself_reads_the_events(tmp_path, log):
    log.scalars({"train/return": 4.0})
    log.image("picture", moving_square()[3])
    log.video("clip", moving_square(), fps=10)
    log.write(9)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["tensors"]
    assert set(tags) == {"custom_scalars__config__", "train/return", "picture", "clip.gif"}
    assert tf.make_ndarray(events.Tensors("train/return")[0].tensor_proto) == 4.0
    assert events.SummaryMetadata("clip.gif").plugin_data.plugin_name == "images"


def test_image_is_shown_and_kept_as_png(tmp_path, log):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    log.image("plan/decoded", image)
    expected, image[:] = image.copy(), 0  # the caller may draw on before write
    log.write(120)
    np.testing.assert_array_equal(imageio.imread(tmp_path / "images" / "plan-decoded-000000120.png"), expected)
    width, height, png = tf.make_ndarray(summaries(tmp_path)["plan/decoded", 120].tensor)[:3]
    assert (width, height) == (b"30", b"20")
    np.testing.assert_array_equal(tf.io.decode_png(png), expected)


def test_video_is_an_animated_gif_and_an_mp4(tmp_path, log):
    video = moving_square()
    log.video("eval/episode", video, fps=10)
    log.image("eval/episode", video[0])  # under the same name, and both are kept
    log.write(120)
    width, height, gif = tf.make_ndarray(summaries(tmp_path)["eval/episode.gif", 120].tensor)
    assert (width, height, gif[:6]) == (b"48", b"32", b"GIF89a")
    frames = imageio.imread(gif, index=None, extension=".gif")
    assert frames.shape == video.shape
    assert np.abs(frames.astype(int) - video).mean() < 3
    details = imageio.immeta(gif, extension=".gif")
    assert (details["duration"], details["loop"]) == (100, 0)

    movie = imageio.imread(tmp_path / "videos" / "eval-episode-000000120.mp4", plugin="FFMPEG")
    assert movie.shape == video.shape
    assert np.abs(movie.astype(int) - video).mean() < 12  # compressed with losses
    assert (tmp_path / "images" / "eval-episode-000000120.png").exists()
    assert ("eval/episode", 120) in summaries(tmp_path)


def test_odd_sizes_become_an_mp4_all_the_same(tmp_path, log):
    log.video("odd", moving_square(height=33, width=47), fps=10)
    log.write(1)
    assert imageio.imread(tmp_path / "videos" / "odd-000000001.mp4", plugin="FFMPEG").shape[1:3] == (34, 48)


def test_gif_is_kept_where_mp4_cannot_be_made(tmp_path, log, monkeypatch):
    imwrite = imageio.imwrite

    def no_encoder(target, *args, **kwargs):
        if str(target).endswith(".mp4"):
            Path(target).write_bytes(b"half")
            raise OSError("no encoder")
        return imwrite(target, *args, **kwargs)

    monkeypatch.setattr(logger_module.imageio, "imwrite", no_encoder)
    log.video("clip", moving_square(), fps=10)
    with pytest.warns(UserWarning, match="kept as a GIF.*no encoder"):
        log.write(3)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["clip-000000003.gif"]
    assert imageio.imread(tmp_path / "videos" / "clip-000000003.gif", index=None).shape == (12, 32, 48, 3)


def test_pictures_are_written_once(tmp_path, log):
    log.image("a", np.zeros((4, 4, 3), np.uint8))
    log.write(1)
    log.write(2)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a-000000001.png"]


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_wrong_pictures_are_refused(log, picture):
    with pytest.raises(ValueError, match=r"a is .* instead of uint8 \[H, W, 3\]"):
        log.image("a", picture)
    with pytest.raises(ValueError, match=r"a is .* instead of uint8 \[T, H, W, 3\]"):
        log.video("a", picture, fps=10)


def test_quiet_prints_nothing(tmp_path, capfd, log):
    log.progress(10, episodes=1)
    assert capfd.readouterr().out == ""
