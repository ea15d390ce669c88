"""Times one update of the world model and says how close it comes to the machine's matrix-product rate.

    python benchmarks/train_step.py                          # LatCo's size: batch 50 x 50, depth 32
    python benchmarks/train_step.py --preset small           # what `small` overrides
    python benchmarks/train_step.py --batch_size 16 --cnn_depth 16 --repeats 10

One JSON line per measurement. `seconds` is the median over `repeats` updates after warm-up; `peak_fraction` is the
multiplications and additions of the update's matrix products and convolutions per second, over those of a large matrix
product timed in between; `memory_gb` is the peak of this process, batch included.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow import keras

from base_agent import BaseAgent
from config import load_config

SIZES = ("batch_size", "batch_length", "stoch", "deter", "hidden", "cnn_depth", "reward_layers", "reward_units")
PEAK_SIZE = 2048


def make_batch(config, actions: int) -> dict[str, tf.Tensor]:
    """Random images, actions and rewards in the shapes of a replay batch."""
    rng, shape = np.random.default_rng(0), [config.batch_size, config.batch_length]
    return {
        "image": tf.constant(rng.integers(0, 256, [*shape, 64, 64, 3], np.uint8)),
        "action": tf.constant(rng.uniform(-1, 1, [*shape, actions]).astype(np.float32)),
        "reward": tf.constant(rng.uniform(0, 1, shape).astype(np.float32)),
        "discount": tf.ones(shape),
        "is_first": tf.zeros(shape, tf.bool),
        "mask": tf.ones(shape),
    }


def layer_flops(layer: keras.Layer, shape: tuple[int, ...] | None = None) -> int:
    """Multiplications and additions of one layer's forward pass for one example.

    `shape` [height, width] for convolutions.
    """
    if isinstance(layer, keras.layers.Conv2DTranspose | keras.layers.Conv2D):
        return 2 * int(np.prod(layer.kernel.shape)) * shape[0] * shape[1]
    if isinstance(layer, keras.layers.GRUCell):
        return 2 * int(np.prod(layer.kernel.shape) + np.prod(layer.recurrent_kernel.shape))
    return 2 * int(np.prod(layer.kernel.shape))


def update_flops(model: keras.Model, examples: int) -> int:
    """Multiplications and additions of an update: each layer forward, and twice that backward (its inputs and its
    weights).

    The first convolution needs no gradient for its input. Elementwise work is not counted.
    """
    total, side = 0, 64
    for conv in model.encoder.convs:
        side = (side - conv.kernel_size[0]) // conv.strides[0] + 1
        total += (2 if conv is model.encoder.convs[0] else 3) * layer_flops(conv, (side, side))
    side = 5
    for deconv in model.decoder.deconvs:
        # A transposed convolution does its products at the input's resolution.
        total += 3 * layer_flops(deconv, (side, side))
        side = (side - 1) * deconv.strides[0] + deconv.kernel_size[0]
    d = model.dynamics
    dense = [model.decoder.stem, model.decoder.first, *model.reward.hidden, model.reward.out]
    dense += [d.stoch_in, d.action_in, d.cell, d.prior_in, d.prior_out, d.post_in, d.embed_in, d.post_out]
    return examples * (total + 3 * sum(layer_flops(layer) for layer in dense))


def timed(function, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls; `function` must wait for its result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def measure(config, actions: int, repeats: int) -> dict:
    """Times updates and matrix products in turn, so that both see the same machine."""
    images = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
    agent = BaseAgent(config, gymnasium.spaces.Dict({"image": images}), action_space)
    batch = make_batch(config, actions)
    matrix = tf.random.normal([PEAK_SIZE, PEAK_SIZE])
    product = tf.function(lambda x: tf.reduce_sum(x @ x))
    start = time.perf_counter()
    float(agent.train_step(batch)["loss"])
    compile_seconds = time.perf_counter() - start
    float(product(matrix))
    updates, products = [], []
    for _ in range(repeats):
        updates += timed(lambda: float(agent.train_step(batch)["loss"]), 1)
        products += timed(lambda: float(product(matrix)), 3)
    seconds, peak = np.median(updates), 2 * PEAK_SIZE**3 / np.median(products)
    flops = update_flops(agent.model, config.batch_size * config.batch_length)
    return {
        "benchmark": "train_step",
        "variant": "rssm_gaussian",
        "seconds": round(float(seconds), 4),
        "peak_fraction": round(float(flops / seconds / peak), 3),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "first_call_seconds": round(compile_seconds, 1),
        "gflop": round(flops / 1e9, 1),
        "peak_gflops": round(peak / 1e9),
        "repeats": repeats,
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    } | {key: config[key] for key in SIZES}


def main() -> None:
    """Parses sizes, measures, prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", nargs="*", default=[], help="presets of config.yaml stacked on defaults, for example small"
    )
    parser.add_argument("--actions", type=int, default=4, help="size of the action vector")
    parser.add_argument("--repeats", type=int, default=5, help="timed updates")
    for key in SIZES:
        parser.add_argument(f"--{key}", type=int, help="overrides the preset")
    args = parser.parse_args()
    changes = [
        word for key in SIZES if getattr(args, key) is not None for word in (f"--{key}", str(getattr(args, key)))
    ]
    config = load_config(["--configs", "defaults", *args.preset, *changes])
    print(json.dumps(measure(config, args.actions, args.repeats)))


if __name__ == "__main__":
    main()
