"""One logger for everything worth seeing: `metrics.jsonl`, TensorBoard, pictures, videos and a live progress line.

    tensorboard --logdir logdir        # `dashboards` are under "Custom Scalars", videos play under "Images"

Steps are environment steps everywhere (agent decisions times action repeat), except in a run that collects nothing: its
steps are updates.
"""

import math
import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.image import metadata as image_metadata

from tools.errors import UserError
from tools.files import append_json, writing
from tools.metric_names import METRICS_FILE, own_name
from tools.progress import ProgressLine

# What TensorBoard's "Custom Scalars" page shows, in this order: (group, chart, metrics drawn into the chart).
# One more line is one more chart; a metric that a run never logs leaves its chart empty.
Dashboards = tuple[tuple[str, str, tuple[str, ...]], ...]
EPISODES = "Returns and success"
DASHBOARDS: Dashboards = (
    (EPISODES, "return", ("train/return", "eval/return")),
    (EPISODES, "success at any step", ("train/success", "eval/success")),
    (EPISODES, "success at the final step", ("eval/success_final",)),
    (EPISODES, "cost of an episode", ("train/cost", "eval/cost")),
    ("World model", "loss", ("model/loss",)),
    ("World model", "image loss", ("model/image_loss",)),
    ("World model", "reward loss", ("model/reward_loss",)),
    ("World model", "cost loss", ("model/cost_loss",)),
    ("World model", "KL divergence, posterior from prior", ("model/kl",)),
    ("World model", "state probe loss", ("model/state_loss",)),
    ("World model", "gradient norm", ("model/grad_norm",)),
    ("Value", "value, where plans end and where it learns", ("plan/value", "model/value")),
    ("Value", "value loss", ("model/value_loss",)),
    ("Planning", "return of the plan, predicted and achieved", ("plan/predicted_return", "plan/achieved_return")),
    ("Planning", "dynamics violation", ("plan/dynamics_violation",)),
    ("Planning", "action violation", ("plan/action_violation",)),
    ("Planning", "multiplier of the dynamics, lambda", ("plan/lam",)),
    ("Planning", "multiplier of the action bound, nu", ("plan/nu",)),
    ("Planning", "plans that were not finite", ("plan/non_finite",)),
    ("Speed", "environment steps a second", ("speed/env_steps_per_second",)),
    ("Speed", "seconds an update", ("speed/update_seconds",)),
    ("Speed", "seconds a plan", ("speed/plan_seconds",)),
    ("Speed", "seconds a policy step", ("speed/policy_seconds",)),
)


class Logger:
    """Collects scalars, images and videos until `write`, then sends them everywhere at once.

    A log directory opened again is continued: a last line of `metrics.jsonl` that a killed process left half-written is
    cut off, then lines are appended. Lines beyond the step that the run resumes from stay, since they are what
    happened; figures leave them out (analysis/runs.py).

    Args:
        logdir: log directory; created when missing.
        total_steps: environment steps of the whole run, for the time left.
        quiet: no progress line.
        tasks: the tasks that have metrics of their own.
        unit: what the steps of the whole run are.

    Raises:
        UserError: when the log directory cannot be written.
    """

    def __init__(
        self,
        logdir: str | os.PathLike,
        total_steps: int,
        quiet: bool = False,
        tasks: Sequence[str] = (),
        unit: str = "steps",
    ) -> None:
        self.logdir = Path(logdir)
        self._metrics = self.logdir / METRICS_FILE
        try:
            self.logdir.mkdir(parents=True, exist_ok=True)
            _cut_half_line(self._metrics)
        except OSError as error:
            raise UserError(f"The log directory {logdir} cannot be written ({error}); choose another one.") from error
        self._writer = tf.summary.create_file_writer(str(self.logdir))
        with self._writer.as_default():
            _write_layout(tasks)
        self.unit = unit
        self._progress = None if quiet else ProgressLine(total_steps, unit)
        self._scalars: dict[str, list[Any]] = defaultdict(list)
        self._images: dict[str, np.ndarray] = {}
        self._videos: dict[str, tuple[np.ndarray, float]] = {}

    def scalars(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Collect values; `write` averages those of one name. Cheap: device tensors are fetched at `write` only.

        Args:
            values: name to a float, NumPy or TensorFlow scalar; None is left out.
            prefix: put before every name, such as 'model/'; what stands before the slash groups in TensorBoard.

        Raises:
            ValueError: for a value that is not a scalar, and for the names `step` and `time`, which every line has.
        """
        for key, value in values.items():
            name = prefix + key
            if tuple(np.shape(value)):
                raise ValueError(f"{name} has shape {tuple(np.shape(value))}, but a metric is one number; reduce it.")
            if name in ("step", "time"):
                raise ValueError(f"A metric cannot be named {name}, which every line has already; give it a prefix.")
            if value is not None:
                self._scalars[name].append(value)

    @property
    def state(self) -> dict[str, list[float]]:
        """What was collected by `scalars` since the last `write`."""
        return {name: [float(value) for value in values] for name, values in self._scalars.items()}

    @state.setter
    def state(self, state: Mapping[str, list[float]]) -> None:
        self._scalars = defaultdict(list, {name: list(values) for name, values in state.items()})

    def image(self, name: str, image: np.ndarray) -> None:
        """Keep one picture for `write`: TensorBoard's "Images" page and `images/<name>-<step>.png`.

        Args:
            name: a slash groups it in TensorBoard and becomes a dash in the file name.
            image: uint8 [H, W, 3]. Of several under one name the last before `write` is shown.

        Raises:
            ValueError: for another dtype or shape.
        """
        self._images[name] = _checked(name, image, rank=3)

    def video(self, name: str, video: np.ndarray, fps: float) -> None:
        """Keep one video for `write`: `<name>.gif` on TensorBoard's "Images" page and `videos/<name>-<step>.mp4`.

        Args:
            name: a slash groups it in TensorBoard and becomes a dash in the file name.
            video: uint8 [T, H, W, 3]. Of several under one name the last before `write` is shown.
            fps: frames a second.

        Raises:
            ValueError: for another dtype or shape.
        """
        self._videos[name] = (_checked(name, video, rank=4), fps)

    def write(self, step: int) -> None:
        """Send everything collected since the last call to every output.

        A mean that is not finite is `null` in `metrics.jsonl`, where JSON knows no other word for it, and NaN in
        TensorBoard; the metric `nonfinite/<name>` counts the values that were not finite.

        Args:
            step: environment steps so far.

        Raises:
            UserError: when the log directory cannot be written.
        """
        with writing(self.logdir):
            self._write(step)

    def _write(self, step: int) -> None:
        metrics = _means(self._scalars)
        if metrics:
            line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
            line |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            append_json(self._metrics, line, make_folder=False)  # a run does not go on in a folder that was deleted
        with self._writer.as_default(step=int(step)):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)
            for name, image in self._images.items():
                tf.summary.image(name, image[None])
                imageio.imwrite(self._media_path("images", name, step, ".png"), image)
            for name, (video, fps) in self._videos.items():
                gif = _encode_gif(video, fps)
                _write_gif_summary(f"{name}.gif", gif, video.shape)  # its own tag beside a picture of the same name
                write_video(self._media_path("videos", name, step, ".mp4"), video, fps, gif)
        self._writer.flush()
        for collected in (self._scalars, self._images, self._videos):
            collected.clear()

    def progress(self, step: int, **fields: float | None) -> None:
        """Refresh the progress line; a field keeps its last value until it is given again.

        Args:
            step: environment steps so far.
            fields: what else to show, such as `episodes=3`; None and NaN are not shown.
        """
        if self._progress:
            self._progress.update(int(step), fields)

    def close(self) -> None:
        """Close the files and end the progress line; what was collected after the last `write` is dropped."""
        if self._progress:
            self._progress.close()
        with writing(self.logdir):
            self._writer.close()

    def _media_path(self, folder: str, name: str, step: int, suffix: str) -> Path:
        safe = re.sub(r"[^\w.-]+", "-", name)
        path = self.logdir / folder / f"{safe}-{int(step):09d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path


def dashboards(tasks: Sequence[str] = ()) -> Dashboards:
    """`DASHBOARDS`, then a group for each of several tasks with its own returns, success and cost."""
    episodes = [(title, names) for group, title, names in DASHBOARDS if group == EPISODES]
    own = [(task, title, tuple(own_name(name, task) for name in names)) for task in tasks for title, names in episodes]
    return (*DASHBOARDS, *own)


def layout(tasks: Sequence[str] = ()) -> layout_pb2.Layout:
    """`dashboards` as the message that TensorBoard's custom scalars plugin reads."""
    categories: dict[str, layout_pb2.Category] = {}
    for group, title, names in dashboards(tasks):
        category = categories.setdefault(group, layout_pb2.Category(title=group))
        # The plugin matches tags by regular expressions from the start, so eval/success alone would draw its longer
        # namesakes, too.
        tags = [f"^{re.escape(name)}$" for name in names]
        category.chart.append(layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags)))
    return layout_pb2.Layout(category=categories.values())


def _write_layout(tasks: Sequence[str]) -> None:
    tf.summary.write(
        custom_scalar_metadata.CONFIG_SUMMARY_TAG,
        tf.constant(layout(tasks).SerializeToString()),
        step=0,
        metadata=custom_scalar_metadata.create_summary_metadata(),
    )


def _write_gif_summary(name: str, gif: bytes, shape: tuple[int, ...]) -> None:
    """A summary holds pictures in encoded form, which TensorBoard hands to the browser as they are, so a GIF plays."""
    _, height, width, _ = shape
    tf.summary.write(
        name,
        tf.constant([str(width).encode(), str(height).encode(), gif]),
        metadata=image_metadata.create_summary_metadata(display_name=None, description=None),
    )


def _encode_gif(video: np.ndarray, fps: float) -> bytes:
    return imageio.imwrite("<bytes>", video, extension=".gif", duration=1000 / fps, loop=0)


def write_video(path: Path, video: np.ndarray, fps: float, gif: bytes | None = None) -> None:
    """Write `path` as MP4, or a GIF beside it when there is no working encoder.

    Args:
        path: ends in .mp4; its folder exists.
        video: uint8 [T, H, W, 3].
        fps: frames a second.
        gif: the same video as a GIF, if it is there already.
    """
    _, height, width, _ = video.shape
    even = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # H.264 needs even sizes
    try:
        imageio.imwrite(path, even, plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=2)
    except (ImportError, OSError, RuntimeError) as error:
        warnings.warn(f"{path.name} is kept as a GIF, since encoding it failed ({error}).", stacklevel=2)
        path.unlink(missing_ok=True)
        path.with_suffix(".gif").write_bytes(gif or _encode_gif(video, fps))


def _means(scalars: Mapping[str, list[Any]]) -> dict[str, float]:
    """Mean of each list, and under `nonfinite/<name>` how many of its values were not finite, if any were."""
    means = {}
    for name, collected in scalars.items():
        values = np.array([float(value) for value in collected])
        with np.errstate(invalid="ignore"):  # the mean of both infinities
            means[name] = float(values.mean())
        if bad := np.count_nonzero(~np.isfinite(values)):
            means[f"nonfinite/{name}"] = int(bad)
    return means


def _checked(name: str, picture: np.ndarray, rank: int) -> np.ndarray:
    """A checked copy, since the caller may reuse its array before `write`."""
    picture = np.array(picture)
    if picture.dtype != np.uint8 or picture.ndim != rank or picture.shape[-1] != 3 or not picture.size:
        expected = "[T, H, W, 3]" if rank == 4 else "[H, W, 3]"
        raise ValueError(f"{name} is {picture.dtype} {picture.shape} instead of uint8 {expected}")
    return picture


def _cut_half_line(path: Path) -> None:
    """Cut off what a killed process left after the last line end."""
    path.touch()
    with open(path, "rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)
