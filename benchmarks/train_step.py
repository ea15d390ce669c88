"""Times one update of the world model, and says how close it comes to the machine's matrix-product rate.

    python benchmarks/train_step.py                          # LatCo's size: batch 50 x 50, depth 32
    python benchmarks/train_step.py --preset small           # what `small` overrides
    python benchmarks/train_step.py --all                    # every variant, full and small size, against the plain one
    python benchmarks/train_step.py --variants ssm_gaussian --batch_size 16 --cnn_depth 16 --repeats 10
    python benchmarks/train_step.py --profile profile        # one update for TensorBoard's profiler

One JSON line per variant. Each runs in a process of its own, in turns with the plain update (plain_update.py beside
this) and with a large matrix product, so that all see the same machine. `seconds` is the median over `repeats` updates
after warm-up, `cpu_seconds` that of the time on all cores, which other programs on the machine disturb less;
`ratio_to_plain` and `cpu_ratio_to_plain` divide them by the plain update's. `peak_fraction` is the multiplications and
additions of the update's matrix products and convolutions per second, over those of the matrix product in the same
process. `memory_gb` is the peak of the process, batch included, `memory_before_gb` the peak before the first update.
The variant `bfloat16` is compared with the plain update in float32, too; only some processors are fast at it.
All use oneDNN as the program does, unless TF_ENABLE_ONEDNN_OPTS=0; `plain_default` is the plain update with what
TensorFlow chooses for the processor.
"""

import checkout

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow import keras

from base_agent import BaseAgent
from benchmarks.memory import peak_gb
from benchmarks.plain_update import PlainUpdate
from tools.command_line import Parser, place, positive
from tools.config import load_config
from tools.errors import UserError
from tools.files import writing
from tools.program import run_program
from training.contradictions import check_settings

# The command line of each variant of the world model.
VARIANTS = {
    "rssm_gaussian": [],
    "rssm_categorical": ["--latent", "categorical"],
    "ssm_gaussian": ["--dynamics", "ssm"],
    "deterministic": ["--dynamics", "deterministic"],
    "overshooting": ["--overshooting", "5"],
    "deterministic_kernels": ["--deterministic", "true"],
    "bfloat16": ["--precision", "bfloat16"],
}
PLAIN = ("plain", "plain_default")
SIZES = ("batch_size", "batch_length", "stoch", "deter", "hidden", "cnn_depth", "reward_layers", "reward_units")
PRESETS = {"full": [], "small": ["small"]}
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


def leaves(layer: keras.Layer) -> Iterator[keras.Layer]:
    """The layers within a layer that have none within them."""
    parts = getattr(layer, "layers", [])
    yield from (leaf for part in parts for leaf in leaves(part)) if parts else (layer,)


def kernel_flops(layer: keras.Layer) -> int:
    """Multiplications and additions of a layer's kernels with one input vector, or one pixel's for a convolution."""
    names = ("kernel", "recurrent_kernel")
    return sum(2 * int(np.prod(getattr(layer, name).shape)) for name in names if hasattr(layer, name))


def update_flops(model: keras.Model, examples: int) -> int:
    """Multiplications and additions of an update: each layer forward, and twice that backward (its inputs and weights).

    The first convolution needs no gradient for its input. Layers other than convolutions count once an example, however
    often a loss uses them. Elementwise work is not counted.
    """
    total, side = 0, 64
    for conv in model.encoder.convs:
        side = (side - conv.kernel_size[0]) // conv.strides[0] + 1
        total += (2 if conv is model.encoder.convs[0] else 3) * kernel_flops(conv) * side**2
    side = 5
    for deconv in model.decoder.deconvs:
        # A transposed convolution does its products at the input's resolution.
        total += 3 * kernel_flops(deconv) * side**2
        side = (side - 1) * deconv.strides[0] + deconv.kernel_size[0]
    convolutions = [*model.encoder.convs, *model.decoder.deconvs]
    others = [leaf for leaf in leaves(model) if all(leaf is not conv for conv in convolutions)]
    return examples * (total + 3 * sum(kernel_flops(leaf) for leaf in others))


def timed(function) -> tuple[float, float]:
    """Seconds and seconds on all cores of a call; `function` must wait for its result."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


def make_agent(config, actions: int) -> BaseAgent:
    """An agent whose observations are images alone."""
    images = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
    return BaseAgent(config, gymnasium.spaces.Dict({"image": images}), action_space)


def serve(variant: str, config, actions: int) -> None:
    """The process of one variant: an update and a matrix product for every line on the standard input.

    Prints a JSON line after the warm-up and after every update.
    """
    # The plain update does the same products (its concatenated inputs are the same weights side by side).
    agent, batch = make_agent(config, actions), make_batch(config, actions)
    flops = update_flops(agent.model, config.batch_size * config.batch_length)
    train_step = lambda batch: agent.train_step(batch)["loss"]
    if variant in PLAIN:
        agent, train_step = None, PlainUpdate(config)
    matrix = tf.random.normal([PEAK_SIZE, PEAK_SIZE])
    product = tf.function(lambda x: tf.reduce_sum(x @ x))
    before = peak_gb()
    first, _ = timed(lambda: float(train_step(batch)))
    float(product(matrix))
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    answer = {"gflop": round(flops / 1e9, 1), "first_call_seconds": round(first, 1), "memory_before_gb": before}
    print(json.dumps(answer | {"devices": devices}), flush=True)
    for _ in sys.stdin:
        seconds, cpu = timed(lambda: float(train_step(batch)))
        products = [timed(lambda: float(product(matrix)))[0] for _ in range(3)]
        answer = {"seconds": seconds, "cpu": cpu, "product": float(np.median(products)), "memory_gb": peak_gb()}
        print(json.dumps(answer), flush=True)


class Worker:
    """The process that `serve`s a variant."""

    def __init__(self, variant: str, words: list[str], actions: int):
        self.variant = variant
        self.answers: list[dict[str, float]] = []
        command = [sys.executable, __file__, "--serve", variant, "--actions", str(actions), "--config", *words]
        env = dict(os.environ)
        if variant == "plain_default":
            # Neither 0 nor 1, so that TensorFlow decides, and set, so that tools.tensorflow_setup leaves it.
            env["TF_ENABLE_ONEDNN_OPTS"] = "default"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self.read()

    def read(self) -> dict:
        """The next answer."""
        line = self.process.stdout.readline()
        if not line:
            raise UserError(
                f"The variant {self.variant} stopped with exit code {self.process.wait()}: see its message above."
            )
        return json.loads(line)

    def update(self) -> None:
        """Has it do one update."""
        print(file=self.process.stdin, flush=True)
        self.answers.append(self.read())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def median(self, key: str, last: int) -> float:
        """Over the last updates."""
        return float(np.median([answer[key] for answer in self.answers[-last:]]))

    def report(self, repeats: int) -> dict:
        """What it measured in the last `repeats` updates."""
        peak, seconds = 2 * PEAK_SIZE**3 / self.median("product", repeats) / 1e9, self.median("seconds", repeats)
        return {
            "benchmark": "train_step",
            "variant": self.variant,
            "seconds": round(seconds, 4),
            "cpu_seconds": round(self.median("cpu", repeats), 4),
            "peak_fraction": round(self.ready["gflop"] / seconds / peak, 3),
            "peak_gflops": round(peak),
            "memory_gb": self.answers[-1]["memory_gb"],
            "repeats": repeats,
        } | self.ready


def compare(words: list[str], variants: list[str], size: str, actions: int, repeats: int) -> None:
    """Prints a line for each variant, timed in turns with the plain update.

    `words` is the command line of the configuration.
    """
    config = load_config(words)
    for variant in variants:
        check_settings(load_config([*words, *VARIANTS.get(variant, [])]))
    plain = Worker("plain", words, actions)
    for variant in variants:
        worker = plain if variant == "plain" else Worker(variant, [*words, *VARIANTS.get(variant, [])], actions)
        for _ in range(repeats):
            for process in {id(plain): plain, id(worker): worker}.values():
                process.update()
        ratios = {
            f"{name}ratio_to_plain": round(worker.median(key, repeats) / plain.median(key, repeats), 3)
            for name, key in (("", "seconds"), ("cpu_", "cpu"))
        }
        print(json.dumps(worker.report(repeats) | ratios | {"size": size} | {key: config[key] for key in SIZES}))
        sys.stdout.flush()
        if worker is not plain:
            worker.close()
    plain.close()


def profile(config, actions: int, folder: Path) -> None:
    """Writes TensorFlow's profile of one update after warm-up. Raises UserError where the folder cannot be written."""
    with writing(folder, "choose another --profile"):
        folder.mkdir(parents=True, exist_ok=True)
    agent, batch = make_agent(config, actions), make_batch(config, actions)
    float(agent.train_step(batch)["loss"])
    with tf.profiler.experimental.Profile(str(folder)):
        float(agent.train_step(batch)["loss"])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints JSON lines and returns the exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "the same command starts anew; lines that were printed are complete")


def _measure(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--preset", nargs="*", default=[], help="presets of config.yaml stacked on defaults, for example small"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--variants", nargs="+", choices=[*PLAIN, *VARIANTS], default=["plain", "rssm_gaussian"], help="which"
    )
    what.add_argument("--all", action="store_true", help="all variants at full and small size")
    what.add_argument("--profile", type=place, metavar="DIR", help="write a profile of one update there and stop")
    parser.add_argument("--actions", type=positive, default=4, help="size of the action vector")
    parser.add_argument("--repeats", type=positive, default=5, help="timed updates")
    parser.add_argument("--serve", choices=[*PLAIN, *VARIANTS], help=argparse.SUPPRESS)
    parser.add_argument("--config", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    for key in SIZES:
        parser.add_argument(f"--{key}", type=int, help="overrides the preset")
    args = parser.parse_args(argv)
    if args.all and args.preset:
        raise UserError("--all measures the full and the small size: leave --preset out.")
    if args.serve:
        serve(args.serve, load_config(args.config), args.actions)
        return 0
    changes = [
        word for key in SIZES if getattr(args, key) is not None for word in (f"--{key}", str(getattr(args, key)))
    ]
    words = ["--configs", "defaults", *args.preset, *changes]
    if args.profile:
        profile(load_config(words), args.actions, args.profile)
    elif args.all:
        for size, presets in PRESETS.items():
            words = ["--configs", "defaults", *presets, *changes]
            compare(words, [*PLAIN, *VARIANTS], size, args.actions, args.repeats)
    else:
        compare(words, args.variants, "+".join(args.preset) or "full", args.actions, args.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
