"""Does the replay keep up with the train step? One JSON line a measurement.

    python benchmarks/replay.py                                    # the papers' batch: 50 chunks of 50 images
    python benchmarks/replay.py --batch_size 16 --batch_length 32  # a small one
    python benchmarks/replay.py --train_seconds 0.2                # what a train step of 0.2 s waits for its batch

`add` is what storing one episode costs the agent, `load` what one costs at the start, `sample` the bare sampling,
`dataset` the same through TensorFlow's pipeline with nothing else to do, `phase` a pipeline for one batch, which the
setting `deterministic` makes anew for each training phase, `wait` the time that a train step (matrix products on all
cores) waits for its batch.
"""

import checkout

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from episodes.episode import Episode
from episodes.replay import Replay
from tools.command_line import Parser, positive, seconds
from tools.program import run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Measures with the sizes of the command line and returns the exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "the same command starts anew")


def _measure(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(folder, options.batch_size, options.batch_length, capacity=10**9, seed=0)
        episodes = [make_episode(options, seed) for seed in range(options.episodes)]
        report(options, "add", [timed(functools.partial(replay.add, episode)) for episode in episodes])
        load = timed(lambda: Replay(folder, options.batch_size, options.batch_length, capacity=10**9, seed=0))
        report(options, "load", [load / options.episodes])

        replay.sample()
        report(options, "sample", [timed(replay.sample) for _ in range(options.batches)])
        iterator = iter(replay.dataset())
        for _ in range(10):  # past what was prefetched before the clock started
            next(iterator)
        report(options, "dataset", [timed(lambda: next(iterator)) for _ in range(options.batches)], mean=True)
        report(options, "phase", [timed(lambda: list(replay.dataset(1))) for _ in range(options.batches)])
        report(options, "wait", [wait_for_batch(iterator, options.train_seconds) for _ in range(options.batches)])
    return 0


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Sizes; the defaults are those of the papers."""
    parser = Parser(description=__doc__)
    parser.add_argument("--batch_size", type=positive, default=50, help="chunks a batch")
    parser.add_argument("--batch_length", type=positive, default=50, help="entries a chunk")
    parser.add_argument("--image_size", type=positive, default=64, help="pixels a side")
    parser.add_argument("--action_size", type=positive, default=4, help="numbers an action")
    parser.add_argument("--episodes", type=positive, default=20, help="episodes in the replay")
    parser.add_argument("--episode_length", type=positive, default=150, help="transitions an episode")
    parser.add_argument("--batches", type=positive, default=30, help="batches measured")
    parser.add_argument("--train_seconds", type=seconds, default=0.1, help="duration of the imitated train step")
    return parser.parse_args(argv)


def make_episode(options: argparse.Namespace, seed: int) -> Episode:
    """An episode that compresses about as well as a rendered one: a smooth scene, a moving square, a little noise."""
    rng = np.random.default_rng(seed)
    entries, size = options.episode_length + 1, options.image_size
    ramp = np.linspace(0, 200, size)
    image = np.broadcast_to(ramp[:, None, None] * 0.5 + ramp[None, :, None] * 0.5, (entries, size, size, 3)).astype(
        np.uint8
    )
    image[:, ::2] += rng.integers(0, 3, image[:, ::2].shape, np.uint8)
    for entry in range(entries):
        corner = entry % (size - size // 8)
        image[entry, corner : corner + size // 8, corner : corner + size // 8] = rng.integers(256, size=3)
    action = rng.uniform(-1, 1, (entries, options.action_size)).astype(np.float32)
    action[0] = 0
    return {
        "image": image,
        "action": action,
        "reward": np.zeros(entries, np.float32),
        "discount": np.ones(entries, np.float32),
        "is_first": np.arange(entries) == 0,
    }


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wait_for_batch(iterator: Any, train_seconds: float) -> float:
    """Seconds that the next batch takes to come after a train step of the given duration."""
    import tensorflow as tf

    matrix = tf.ones((1024, 1024))
    end = time.perf_counter() + train_seconds
    while time.perf_counter() < end:
        tf.matmul(matrix, matrix).numpy()
    return timed(lambda: next(iterator))


def report(options: argparse.Namespace, name: str, seconds: list[float], mean: bool = False) -> None:
    """Print one line: the median, or the mean where prefetching makes single times meaningless."""
    value = float(np.mean(seconds) if mean else np.median(seconds))
    line = {"name": name, "seconds": round(value, 5), "slowest_seconds": round(max(seconds), 5)}
    if name in ("sample", "dataset"):
        line["batches_per_second"] = round(1 / value, 1)
        pixels = options.batch_size * options.batch_length * options.image_size**2 * 3
        line["gigabytes_per_second"] = round(pixels / value / 1e9, 2)
    sizes = ("batch_size", "batch_length", "image_size", "action_size", "episodes", "episode_length", "batches")
    line |= {size: getattr(options, size) for size in sizes}
    if name == "wait":
        line["train_seconds"] = options.train_seconds
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
