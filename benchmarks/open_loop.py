"""Open-loop prediction of world models after equal training on the same recorded episodes.

    python benchmarks/open_loop.py --data cheetah=logdir/x/episodes --data reach=logdir/y/episodes --updates 1000 \\
        --out results/open_loop --preset dmc small
    python benchmarks/open_loop.py --data reach=logdir/y/episodes --out results/free_nats --preset small \\
        --variants rssm one_nat="--free_nats 1" --batch_size 20     # any setting of config.yaml, for all or for one

The newest tenth of the episodes, at least five, is held out. Every variant is trained from the same seed on the same
batches of the others, then filters the first five frames of each held-out chunk and predicts the next `--horizon`
steps from the actions alone. Errors are squared: of images the mean over pixels and channels, which range from 0 to 1
(PSNR in dB is -10 log10 of it); of rewards as they are. One JSON line per data set and variant, appended to
open_loop.jsonl too, has them after 1, 5, 10, 20 and 30 steps, as `mean` over all steps and with the standard error `se`
of that mean over the chunks, which are treated as independent:

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
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import models
from base_agent import BaseAgent
from episodes.episode import Episode, read_episode
from episodes.replay import Replay
from tools.config import Config, load_config
from tools.errors import UserError
from tools.files import append_json
from tools.revision import git_revision
from world_model.open_loop import CONTEXT, predict_open_loop

# label -> words that make it of the settings all variants share.
VARIANTS = {name: ["--dynamics", name] for name in ("rssm", "ssm", "deterministic")}
HORIZONS = (1, 5, 10, 20, 30)  # steps whose errors are printed
HELD_OUT = 5  # episodes at least, a tenth where that is more
EVAL_BATCH = 20  # chunks predicted in one call
KEYS = ("image", "action", "reward", "is_first")  # of a chunk

# How the kinds of errors are drawn, in this order.
STYLES: dict[str, tuple[Any, str]] = {
    "mean_dynamics": ("-", "mean dynamics"),
    "sampled_average": ("--", "average of sampled rollouts"),
    "posterior": (":", "filtered (floor)"),
}
SIZE, GAP = models.IMAGE_SHAPE[0], 4  # pixels of a frame and between frames
COLUMNS = 7  # predicted steps shown at most

Errors = dict[str, np.ndarray]


class Data(NamedTuple):
    """One recorded data set.

    Attributes:
        name: as the command line calls it.
        replay: the episodes to train on.
        chunks: held-out image, action, reward and is_first, [N, CONTEXT + K, ...].
        held_out: episodes that are not in `replay`.
    """

    name: str
    replay: Replay
    chunks: Episode
    held_out: int


class Result(NamedTuple):
    """One variant on one data set.

    Attributes:
        label: name of the variant.
        updates: it was trained for.
        image: kind of prediction -> squared errors [N, K].
        reward: the same for rewards.
        shown: what it makes of the chunk in the picture, [CONTEXT + K, 64, 64, 3] around [-0.5, 0.5]: reconstructions
            of the context, then predictions of the mean dynamics.
    """

    label: str
    updates: int
    image: Errors
    reward: Errors
    shown: np.ndarray


class OpenLoop:
    """Compiled predictions of one world model on chunks of one shape."""

    def __init__(self, model: models.WorldModel, bits: int = 8):
        self.model, self.bits = model, bits
        self.imagine = tf.function(self._imagine)
        self.filter = tf.function(self._filter)

    @property
    def stochastic(self) -> bool:
        """Whether the transitions take noise at all."""
        return self.model.dynamics.noise_size > 0

    def noise(self, batch: Episode, seed: Sequence[int]) -> tf.Tensor:
        """Standard normal numbers for all steps of a batch."""
        return tf.random.stateless_normal([*batch["reward"].shape, self.model.dynamics.noise_size], seed)

    def _decode(self, feat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.model.decode(feat), self.model.reward(feat)

    def _reduced(self, batch: Episode) -> Episode:
        return {**batch, "image": models.reduce_bits(batch["image"], self.bits)}

    def _filter(self, batch: Episode, noise: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Images [B, L, 64, 64, 3] and rewards [B, L] of the posterior at all steps."""
        embed = self.model.embed(self._reduced(batch)["image"])
        post, _ = self.model.dynamics.observe(embed, batch["action"], batch["is_first"], noise)
        return self._decode(models.get_feat(post))

    def _imagine(self, batch: Episode, noise: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Images [B, K, 64, 64, 3] and rewards [B, K] predicted for the steps after the context."""
        return self._decode(predict_open_loop(self.model, self._reduced(batch), noise)[:, CONTEXT:])

    def errors(self, chunks: Episode, samples: int, seed: int) -> tuple[Errors, Errors]:
        """Squared errors of images (mean over pixels) and of rewards on chunks [N, L, ...]: kind -> [N, K] each."""
        rows = []
        for index, (batch, count) in enumerate(_batches(chunks)):
            kinds = self._batch_errors(batch, [(seed, index * samples + i) for i in range(samples)])
            rows.append({kind: [error[:count].numpy() for error in pair] for kind, pair in kinds.items()})
        image, reward = ({kind: np.concatenate([row[kind][i] for row in rows]) for kind in rows[0]} for i in (0, 1))
        return image, reward

    def _batch_errors(self, batch: Episode, seeds: list[tuple[int, int]]) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        image, reward = models.preprocess(batch["image"]), batch["reward"]
        truth = image[:, CONTEXT:], reward[:, CONTEXT:]
        last = image[:, CONTEXT - 1 : CONTEXT], reward[:, CONTEXT - 1 : CONTEXT]
        filtered = self.filter(batch, None)
        kinds = {
            "repeat_last": squared_errors(truth, last),
            "posterior": squared_errors(truth, [x[:, CONTEXT:] for x in filtered]),
            "mean_dynamics": squared_errors(truth, self.imagine(batch, None)),
        }
        if self.stochastic and seeds:
            kinds |= self._sampled_errors(batch, truth, seeds)
        return kinds

    def _sampled_errors(
        self, batch: Episode, truth: tuple[tf.Tensor, tf.Tensor], seeds: list[tuple[int, int]]
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        # One rollout at a time: the images of all of them would take gigabytes.
        average, error = [0.0, 0.0], [0.0, 0.0]
        for seed in seeds:
            predicted = self.imagine(batch, self.noise(batch, seed))
            average = [a + p / len(seeds) for a, p in zip(average, predicted, strict=True)]
            error = [e + s / len(seeds) for e, s in zip(error, squared_errors(truth, predicted), strict=True)]
        return {"sampled": tuple(error), "sampled_average": squared_errors(truth, average)}

    def shown(self, chunks: Episode, index: int) -> np.ndarray:
        """`Result.shown` of one chunk."""
        # In a batch of the usual size, for which the functions are compiled.
        batch, _ = next(_batches({key: value[index : index + 1] for key, value in chunks.items()}))
        context, predicted = self.filter(batch, None)[0][:, :CONTEXT], self.imagine(batch, None)[0]
        return tf.concat([context, predicted], 1)[0].numpy()


def squared_errors(truth: Sequence[tf.Tensor], predicted: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Of images [B, K, ...], mean over pixels and channels, and of rewards [B, K]: [B, K] each."""
    return tf.reduce_mean(tf.square(predicted[0] - truth[0]), [2, 3, 4]), tf.square(predicted[1] - truth[1])


def _batches(chunks: Episode) -> Iterator[tuple[dict[str, tf.Tensor], int]]:
    """Batches of `EVAL_BATCH` chunks, the last filled up with its last chunk, and how many of them are new."""
    total = len(chunks["reward"])
    for start in range(0, total, EVAL_BATCH):
        rows = np.minimum(np.arange(start, start + EVAL_BATCH), total - 1)
        yield {key: tf.constant(value[rows]) for key, value in chunks.items()}, min(EVAL_BATCH, total - start)


# Data


def read_data(name: str, folder: Path, config: Config, horizon: int, count: int) -> Data:
    """Splits a folder of episodes, which stays as it is, into a replay of the older and chunks of the newest.

    Args:
        name: of the data set.
        folder: of episode files as `episodes.replay.Replay` writes them.
        config: batch size and length, replay capacity and seed.
        horizon: steps to predict, K.
        count: chunks at most.

    Raises:
        UserError: there are too few episodes, all held-out ones are too short, or a file is not a usable episode.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give --data {name}=FOLDER the episodes/ of a log directory.")
    paths = sorted(folder.glob("*.npz"))
    held_out = max(HELD_OUT, round(len(paths) / 10))
    if len(paths) <= held_out:
        raise UserError(
            f"{folder} holds {len(paths)} episodes, but {held_out} are held out and at least one is for training: "
            "collect more, or give --data another folder."
        )
    episodes = [read_episode(path) for path in paths[-held_out:]]
    chunks = cut(episodes, CONTEXT + horizon, count)
    if not len(chunks["reward"]):
        longest = max(len(episode["reward"]) for episode in episodes)
        hint = f"choose --horizon {longest - CONTEXT} or less" if longest > CONTEXT else "record longer ones"
        raise UserError(
            f"The held-out episodes of {folder} have at most {longest} entries, too short for {CONTEXT} of context and "
            f"{horizon} predicted: {hint}."
        )
    replay = _read_replay(folder, paths[:-held_out], config)
    _check_shapes(folder, replay, chunks)
    return Data(name, replay, chunks, held_out)


def cut(episodes: Sequence[Episode], length: int, count: int) -> Episode:
    """At most `count` chunks [N, length, ...] that do not overlap, spread evenly over all that there are."""
    places = [(e, t) for e in episodes for t in range(0, len(e["reward"]) - length + 1, length)]
    picked = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))
    shapes = {key: (0, length, *episodes[0][key].shape[1:]) for key in KEYS}
    empty = {key: np.zeros(shapes[key], episodes[0][key].dtype) for key in KEYS}
    if not places:
        return empty
    return {key: np.stack([places[i][0][key][places[i][1] : places[i][1] + length] for i in picked]) for key in KEYS}


def _read_replay(folder: Path, paths: Sequence[Path], config: Config) -> Replay:
    """A replay of some episodes of a folder, through links in a folder of its own. All that it needs is in memory."""
    with tempfile.TemporaryDirectory() as links:
        for path in paths:
            (Path(links) / path.name).symlink_to(path.resolve())
        try:
            return Replay(links, config.batch_size, config.batch_length, config.replay_capacity, config.seed)
        except UserError as error:
            raise UserError(str(error).replace(links, str(folder))) from error


def _check_shapes(folder: Path, replay: Replay, chunks: Episode) -> None:
    """Raises UserError unless training and held-out episodes are of one kind, with images that the model takes."""
    batch = replay.sample()
    for key in KEYS:
        found, expected = chunks[key].shape[2:], batch[key].shape[2:]
        if found != expected:
            raise UserError(f"{folder} mixes episodes whose {key} is {found} and {expected}: separate them.")
    if chunks["image"].shape[2:] != models.IMAGE_SHAPE:
        raise UserError(
            f"The images of {folder} are {chunks['image'].shape[2:]}, the model's {models.IMAGE_SHAPE}: "
            "record episodes with this program."
        )


# Training


def make_agent(config: Config, replay: Replay) -> BaseAgent:
    """A fresh agent for episodes of these shapes."""
    if config.reward_normalization or config.reward_transform != "none":
        raise UserError("Reward errors compare raw rewards: leave reward_normalization and reward_transform off.")
    batch = replay.sample()
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


def typical(errors: np.ndarray) -> int:
    """The chunk whose mean error is the median, the lower one of two, of errors [N, K]."""
    means = errors.mean(1)
    return int(np.argsort(means, kind="stable")[(len(means) - 1) // 2])


def summary(errors: np.ndarray) -> dict[str, float | None]:
    """What is printed of errors [N, K]: after some steps, the mean over all and its standard error over chunks."""
    curve, means = errors.mean(0), errors.mean(1)
    numbers = {str(step): curve[step - 1] for step in HORIZONS if step <= len(curve)} | {"mean": means.mean()}
    numbers["se"] = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {key: float(f"{value:.4g}") if math.isfinite(value) else None for key, value in numbers.items()}


# Pictures


def draw_frames(data: Data, results: Sequence[Result]) -> Figure:
    """Truth, model and error of one held-out chunk, three rows for each variant, time from left to right."""
    chunk = typical(results[0].image["repeat_last"])
    truth = models.preprocess(data.chunks["image"][chunk]).numpy()
    predicted = len(truth) - CONTEXT
    steps = np.unique(np.linspace(1, predicted, min(predicted, COLUMNS)).round().astype(int))
    steps = np.concatenate([[1 - CONTEXT, 0], steps])  # the first and the last frame of the context
    lefts, tops = _places([2, len(steps) - 2]), _places([3] * len(results))
    sheet = np.full([tops[-1] + SIZE, lefts[-1] + SIZE, 3], 255, np.uint8)
    labels = []
    for row, result in enumerate(results):
        error = (result.shown - truth) / 2.0
        for top, frames in zip(tops[3 * row :], (truth, result.shown, error), strict=False):
            frames = models.postprocess(frames[steps + CONTEXT - 1]).numpy()
            for left, frame in zip(lefts, frames, strict=True):
                sheet[top : top + SIZE, left : left + SIZE] = frame
        score = f"{result.image['mean_dynamics'][chunk].mean():.2g}"
        labels += ["truth", f"{result.label}\n{result.updates} updates", f"error\nmean square {score}"]

    figure = Figure(figsize=(1.9 + 0.9 * len(lefts), 1.3 + 0.9 * len(tops)), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    axis.set_xticks(np.array(lefts) + SIZE / 2 - 0.5, [f"{step:+d}" if step else "0" for step in steps])
    axis.set_yticks(np.array(tops) + SIZE / 2 - 0.5, labels, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for left, right, text in ((0, 1, "context, filtered"), (2, -1, "predicted from the actions alone")):
        axis.text((lefts[left] + lefts[right] + SIZE) / 2, -2 * GAP, text, ha="center", va="bottom", fontsize=9)
    axis.axvline((lefts[1] + SIZE + lefts[2]) / 2 - 0.5, color="C3", linewidth=2)
    axis.set_xlabel("time step (agent decisions after the context); an error of zero is grey")
    figure.suptitle(f"{data.name}: held-out chunk {chunk}, mean dynamics", fontsize=10)
    return figure


def _places(groups: Sequence[int]) -> list[int]:
    """First pixels of frames in a row, in groups that stand apart."""
    places, start = [], 0
    for count in groups:
        places += [start + i * (SIZE + GAP) for i in range(count)]
        start = places[-1] + SIZE + 3 * GAP
    return places


def draw_curves(results: dict[str, list[Result]]) -> Figure:
    """Errors over the horizon, a column of two panels for each data set."""
    figure = Figure(figsize=(1.0 + 4.6 * len(results), 7.4), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(results), sharex="col", squeeze=False)
    for column, (name, variants) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(name, fontsize=10)
        for axis, quantity in zip(column, ("image", "reward"), strict=True):
            _draw_errors(axis, {result.label: getattr(result, quantity) for result in variants})
        column[1].set_xlabel("predicted step (agent decisions)")
    axes[0, 0].set_ylabel("squared error of the image,\nmean over pixels in [0, 1]")
    axes[1, 0].set_ylabel("squared error of the reward")
    labels = list(dict.fromkeys(result.label for variants in results.values() for result in variants))
    handles = [Line2D([], [], color=f"C{i}", linewidth=3, label=label) for i, label in enumerate(labels)]
    handles += [Line2D([], [], color="0.3", linestyle=line, label=text) for line, text in STYLES.values()]
    handles.append(Line2D([], [], color="0.6", linestyle="-.", label="last frame repeated"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * min(len(results), 2), fontsize=8)
    return figure


def _draw_errors(axis: Axes, variants: dict[str, Errors]) -> None:
    """Means over the chunks of label -> kind -> errors [N, K]; repeat_last is the same for all."""
    baseline = next(iter(variants.values()))["repeat_last"].mean(0)
    steps = np.arange(1, len(baseline) + 1)
    axis.plot(steps, baseline, color="0.6", linestyle="-.")
    for index, errors in enumerate(variants.values()):
        for kind in errors.keys() & STYLES.keys():
            axis.plot(steps, errors[kind].mean(0), color=f"C{index}", linestyle=STYLES[kind][0])
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.3)


# Program


def make_folder(out: Path) -> None:
    """Makes the folder for the results if need be. Raises UserError unless it can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "open_loop.jsonl").touch()
    except OSError as error:
        raise UserError(f"{out} cannot be written to ({error.strerror}): choose another --out.") from error


def write(out: Path, row: dict) -> None:
    """Prints a line of JSON and appends it to open_loop.jsonl."""
    print(json.dumps(row, allow_nan=False), flush=True)
    append_json(out / "open_loop.jsonl", row)


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


def parse_data(words: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, from `name=folder`. Raises UserError."""
    folders = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not folder or name in folders:
            raise UserError(
                f"--data {word!r} is not NAME=FOLDER with a NAME of its own made of letters, digits, '.', '_' and '-'."
            )
        folders[name] = Path(folder).expanduser()
    return folders


def _at_least(smallest: int):
    def number(text: str) -> int:
        if not text.isdecimal() or not smallest <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest} on")
        return int(text)

    return number


def _seconds(text: str) -> float:
    if not float(text) > 0:  # NaN, too
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return float(text)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; what they do not know overrides settings of config.yaml for all variants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FOLDER", help="may be given repeatedly")
    parser.add_argument("--out", type=Path, required=True, help="folder for open_loop.jsonl and the pictures")
    parser.add_argument("--preset", nargs="*", default=[], help="presets of config.yaml stacked on defaults")
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), metavar="NAME[='WORDS']",
        help=f"{', '.join(VARIANTS)}, or a name with the words of a command line that make it (default: all three)",
    )  # fmt: skip
    parser.add_argument("--updates", type=_at_least(1), default=1000, help="of the world model, for each variant")
    parser.add_argument(
        "--limit_seconds", type=_seconds, default=math.inf,
        help="stop the training of a variant after this time, its first update not counted; the variants may then have "
        "unequal numbers of updates",
    )  # fmt: skip
    parser.add_argument("--horizon", type=_at_least(1), default=30, help="steps to predict")
    parser.add_argument("--chunks", type=_at_least(1), default=60, help="held-out chunks at most")
    parser.add_argument("--samples", type=_at_least(0), default=10, help="rollouts with noise")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the weights, the batches and the noise")
    args, overrides = parser.parse_known_args(argv)
    args.overrides = overrides
    args.variants, args.data = parse_variants(args.variants), parse_data(args.data)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line for each data set and variant and writes the pictures; exit code 2 for bad input."""
    try:
        args = parse_options(argv)
        shared = ["--configs", "defaults", *args.preset, *args.overrides]
        configs = {
            label: load_config([*shared, *words, "--seed", str(args.seed)]) for label, words in args.variants.items()
        }
        # All data are read first, so that bad data fail before any training.
        first = next(iter(configs.values()))
        sets = [read_data(name, path, first, args.horizon, args.chunks) for name, path in args.data.items()]
        make_folder(args.out)
        results: dict[str, list[Result]] = {}
        for data in sets:
            results[data.name] = []
            for result, row in compare(data, configs, args):
                results[data.name].append(result)
                write(args.out, row)
            draw_frames(data, results[data.name]).savefig(args.out / f"open_loop_{data.name}.png")
        draw_curves(results).savefig(args.out / "open_loop.png")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
