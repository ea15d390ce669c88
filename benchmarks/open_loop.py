"""Open-loop prediction of world models after equal training on the same recorded episodes.

    python benchmarks/open_loop.py --data cheetah=logdir/x/episodes --data reach=logdir/y/episodes --updates 1000 \\
        --out results/open_loop --preset dmc small
    python benchmarks/open_loop.py --data reach=logdir/y/episodes --out results/free_nats --preset small \\
        --variants rssm one_nat="--free_nats 1" --batch_size 20     # settings of config.yaml, for all or for one

The newest tenth of the episodes, at least five, is held out. Every variant is trained from the same seed on the same
batches of the others, whose size and length and the replay's capacity are therefore for all variants. It then filters
the first five frames of each held-out chunk and predicts the next `--horizon` steps from the actions alone. Errors are
squared: of images the mean over pixels and channels, which range from 0 to 1 (PSNR in dB is -10 log10 of it); of
rewards as they are. One JSON line per data set and variant, appended to open_loop.jsonl too, has them after 1, 5, 10,
20 and 30 steps, as `mean` over all steps and with the standard error `se` of that mean over the chunks, which are
treated as independent:

`mean_dynamics`: one rollout without noise, from the mean of the posterior through the means of the prior;
`sampled`: rollouts with noise, the average of their errors;
`sampled_average`: the same rollouts, the error of their average prediction;
`posterior`: the reconstruction of a model that sees every frame, the floor of its predictions;
`repeat_last`: the last context frame and its reward repeated, no model at all.

A model without noise has no sampled rollouts. Two kinds of pictures are written: open_loop_<data>.png, the truth, the
prediction and its error on the held-out chunk whose repeat_last error is the median; open_loop.png, the errors
over the horizon.
"""

import checkout

import argparse
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import tensorflow as tf

from analysis import figures
from base_agent import BaseAgent
from benchmarks.open_loop_data import Data, read_data
from benchmarks.open_loop_errors import OpenLoop, Result, typical
from benchmarks.open_loop_figure import draw_curves, draw_frames
from episodes.replay import Replay
from evaluation.files import check_writable
from tools.command_line import Parser, count, place, positive, seconds
from tools.config import Config, load_config
from tools.errors import UserError
from tools.files import append_json, expanded
from tools.program import run_program
from tools.revision import git_revision
from world_model.open_loop import CONTEXT

# label -> words that make it of the settings all variants share.
VARIANTS = {name: ["--dynamics", name] for name in ("rssm", "ssm", "deterministic")}
LINES_FILE = "open_loop.jsonl"
SHARED = ("batch_size", "batch_length", "replay_capacity")  # what decides the batches, with the seed
HORIZONS = (1, 5, 10, 20, 30)  # steps whose errors are printed


def make_agent(config: Config, replay: Replay) -> BaseAgent:
    """A fresh agent for episodes of these shapes."""
    if config.reward_normalization or config.reward_transform != "none":
        raise UserError("Reward errors compare raw rewards: leave reward_normalization and reward_transform off.")
    batch = replay.sample()
    if config.cost_head and "cost" not in batch:
        raise UserError("The episodes to train on have no cost to learn: turn cost_head off, or give others as --data.")
    spaces = {"image": gymnasium.spaces.Box(0, 255, batch["image"].shape[2:], np.uint8)}
    if "state" in batch:
        spaces["state"] = gymnasium.spaces.Box(-np.inf, np.inf, batch["state"].shape[2:], np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, batch["action"].shape[2:], np.float32)
    return BaseAgent(config, gymnasium.spaces.Dict(spaces), action_space)


def train(agent: BaseAgent, replay: Replay, updates: int, limit_seconds: float) -> tuple[int, float | None]:
    """Trains for `updates` updates, or as many as fit into the time after the first one, which compiles.

    Returns:
        the updates done, and the mean seconds of all but the first.
    """

    def update() -> None:
        # Sampled here and not by a thread that runs ahead, so that every variant sees the same batches.
        batch = {key: tf.convert_to_tensor(value) for key, value in replay.sample().items()}
        float(agent.train_step(batch)["loss"])  # waits for the result

    update()
    start, more, seconds = time.perf_counter(), 0, 0.0
    while 1 + more < updates and seconds < limit_seconds:
        update()
        more, seconds = more + 1, time.perf_counter() - start
    return 1 + more, seconds / more if more else None


def compare(data: Data, configs: dict[str, Config], args: argparse.Namespace) -> Iterator[tuple[Result, dict]]:
    """Trains and evaluates every variant on one data set; yields results and lines of JSON."""
    begin = data.replay.random_state
    # All before the first is trained, because a model may refuse its settings.
    agents = {label: make_agent(config, data.replay) for label, config in configs.items()}
    for label, agent in agents.items():
        data.replay.random_state = begin
        updates, seconds = train(agent, data.replay, args.updates, args.limit_seconds)
        evaluation = OpenLoop(agent.model, agent.config.image_bits)
        image, reward = evaluation.errors(data.chunks, args.samples, args.seed)
        shown = evaluation.shown(data.chunks, typical(image["repeat_last"]))
        row = {
            "benchmark": "open_loop",
            "data": data.name,
            "variant": label,
            "settings": " ".join(args.variants[label]),
            "preset": " ".join(args.preset),
            "overrides": " ".join(args.overrides),
            "image": {kind: summary(errors) for kind, errors in image.items()},
            "reward": {kind: summary(errors) for kind, errors in reward.items()},
            "updates": updates,
            "seconds_per_update": None if seconds is None else round(seconds, 4),
            "parameters": sum(math.prod(v.shape) for v in agent.model.trainable_variables),
            "context": CONTEXT,
            "horizon": args.horizon,
            "chunks": len(data.chunks["reward"]),
            "samples": args.samples if evaluation.stochastic else 0,
            "train_episodes": data.replay.episodes,
            "held_out_episodes": data.held_out,
            "seed": args.seed,
        }
        yield Result(label, updates, image, reward, shown), row | git_revision()


def summary(errors: np.ndarray) -> dict[str, float | None]:
    """What is printed of errors [N, K]: after some steps, the mean over all and its standard error over chunks."""
    curve, means = errors.mean(0), errors.mean(1)
    numbers = {str(step): curve[step - 1] for step in HORIZONS if step <= len(curve)} | {"mean": means.mean()}
    numbers["se"] = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {key: float(f"{value:.4g}") if math.isfinite(value) else None for key, value in numbers.items()}


# Program


def write(out: Path, row: dict) -> None:
    """Prints a line of JSON and appends it to open_loop.jsonl."""
    print(json.dumps(row, allow_nan=False), flush=True)
    append_json(out / LINES_FILE, row)


def parse_variants(words: Sequence[str]) -> dict[str, list[str]]:
    """Label -> words of a command line, from `label` for one of `VARIANTS` or `label=words`. Raises UserError."""
    variants = {}
    for word in words:
        label, equals, text = word.partition("=")
        if not label or label in variants:
            raise UserError(f"--variants {word!r} has no name of its own: write NAME, or NAME='--KEY VALUE ...'.")
        if not equals and label not in VARIANTS:
            raise UserError(
                f"--variants {label!r} is none of {', '.join(VARIANTS)}: write {label}='--KEY VALUE ...' for your own."
            )
        try:
            variants[label] = shlex.split(text) if equals else VARIANTS[label]
        except ValueError as error:
            raise UserError(f"--variants {word!r} cannot be split into words ({error}): close its quotes.") from error
    return variants


def load_configs(args: argparse.Namespace) -> dict[str, Config]:
    """Label -> settings of a variant. Raises UserError unless all are trained on the same batches."""
    shared = ["--configs", "defaults", *args.preset, *args.overrides, "--seed", str(args.seed)]
    configs = {label: load_config([*shared, *words]) for label, words in args.variants.items()}
    first = next(iter(configs))
    for label, config in configs.items():
        if config.seed != args.seed:
            raise UserError(f"{label} has seed = {config.seed}: give one for all variants instead, --seed {args.seed}.")
        for key in SHARED:
            if config[key] != configs[first][key]:
                raise UserError(
                    f"{label} has {key} = {config[key]}, {first} has {configs[first][key]}: all variants train on the "
                    f"same batches, give --{key} for all variants."
                )
    return configs


def parse_data(words: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, from `name=folder`. Raises UserError."""
    folders = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not folder or name in folders:
            raise UserError(
                f"--data {word!r} is not NAME=FOLDER with a NAME of its own made of letters, digits, '.', '_' and '-'."
            )
        folders[name] = expanded(folder)
    return folders


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options; what they do not know overrides settings of config.yaml for all variants. Raises UserError."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FOLDER", help="may be given repeatedly")
    parser.add_argument("--out", type=place, required=True, help="folder for open_loop.jsonl and the pictures")
    parser.add_argument("--preset", nargs="*", default=[], help="presets of config.yaml stacked on defaults")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        metavar="NAME[='WORDS']",
        help=f"{', '.join(VARIANTS)}, or a name with the words of a command line that make it (default: all three)",
    )
    parser.add_argument("--updates", type=positive, default=1000, help="of the world model, for each variant")
    parser.add_argument(
        "--limit_seconds",
        type=seconds,
        default=math.inf,
        help="stop the training of a variant after this time, its first update not counted; the variants may then have "
        "unequal numbers of updates",
    )
    parser.add_argument("--horizon", type=positive, default=30, help="steps to predict")
    parser.add_argument("--chunks", type=positive, default=60, help="held-out chunks at most")
    parser.add_argument("--samples", type=count, default=10, help="rollouts with noise")
    parser.add_argument("--seed", type=count, default=0, help="of the weights, the batches and the noise")
    args, overrides = parser.parse_known_args(argv)
    args.overrides = overrides
    args.variants, args.data = parse_variants(args.variants), parse_data(args.data)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line for each data set and variant, writes the pictures and returns the exit code, see
    `tools.program`."""
    return run_program(_compare, argv, lambda: "the same command starts anew; lines that were printed are complete")


def _compare(argv: Sequence[str]) -> int:
    args = parse_options(argv)
    configs = load_configs(args)
    # All data are read first, so that bad data fail before any training.
    first = next(iter(configs.values()))
    sets = [read_data(name, path, first, args.horizon, args.chunks) for name, path in args.data.items()]
    check_writable(args.out / LINES_FILE, "choose another --out")
    results: dict[str, list[Result]] = {}
    for data in sets:
        results[data.name] = []
        for result, row in compare(data, configs, args):
            results[data.name].append(result)
            write(args.out, row)
        figures.save(draw_frames(data, results[data.name]), args.out / f"open_loop_{data.name}.png")
    figures.save(draw_curves(results), args.out / "open_loop.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
