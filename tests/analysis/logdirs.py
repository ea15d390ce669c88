"""Log directories that are made up, so that every number is known, and what plot.py makes of them."""

import json

import numpy as np
from PIL import Image

import plot
from tools.config import Config

T2 = 4.302652729911275  # 97.5% quantile of Student's t with 2 degrees of freedom, as in tables


def write_run(logdir, lines, task="metaworld_reach", planner="latco", seed=None):
    """A log directory; of a text the lines are as they are."""
    seed = int(logdir.name) if seed is None else seed
    Config({"task": task, "planner": planner, "seed": seed, "logdir": str(logdir)}).save(logdir / "config.yaml")
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (logdir / "metrics.jsonl").write_text(text)
    return logdir


def returns(*points, name="train/return"):
    return [{"step": step, "time": 0.0, name: value} for step, value in points]


def write_matrix(root, scores, name="eval/success", methods=("latco",)):
    """scores [runs, tasks]: what every seed ends with, after half of it."""
    for method in methods:
        for (seed, task), score in np.ndenumerate(np.array(scores)):
            write_run(
                root / f"task{task}" / method / str(seed),
                returns((10, score / 2), (20, score), name=name),
                f"dmc_{task}",
            )


def run(capsys, *argv):
    """The standard output and the notes of a command line."""
    code = plot.main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def refusal(capsys, *argv):
    """The sentence with which a command line is refused."""
    assert plot.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def drawn(out, name, *path):
    value = json.loads((out / f"{name}.json").read_text())
    for key in path:
        value = value[key]
    return value


def count_pixels(path, color):
    """How many pixels of a picture have a colour, given as in matplotlib."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(np.sum(np.abs(pixels - np.round(255 * np.array(color))).max(-1) <= 2))
