"""Makes data sets of episodes without a learned agent, for `--offline_dir`, and exchanges them with Minari.

    python collect.py episodes --configs metaworld --task metaworld_hammer --episodes 100 --success_rate 0.5 \\
        --out data/metaworld_hammer
    python collect.py export data/metaworld_hammer latent-planning/hammer-v0
    python collect.py import latent-planning/hammer-v0 --out data/hammer

`episodes` mixes episodes of the task's scripted policy, with noise on its actions, and of random actions, until the
data set has the wanted share of successful ones (LatCo ICML section 5.3). A run gets the folder as `--offline_dir`: to
start its replay with, or with `--steps 0 --pretrain N` to train on it alone.

`export` makes a Minari data set of such a folder. `import` makes a folder of a Minari data set on this machine that has
pictures and continuous actions; without pictures, `--replay` plays its episodes again and renders them.
"""

if __name__ == "__main__":
    import tools.startup

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import envs
from episodes.behavior import MixedPolicy
from episodes.dataset import FILE, numbers, read_collection, reported_outcomes, settings, totals, write_collection
from episodes.episode import Episode
from episodes.loading import EpisodeReader
from episodes.replay import Replay
from tools.command_line import Parser, count, place
from tools.config import BEFORE, Config, load_config
from tools.errors import UserError
from tools.files import expanded, writing
from tools.lock import exclusive_folder
from tools.program import run_program
from tools.progress import ProgressLine
from tools.revision import git_revision
from training.driver import Driver

COLLECT_SEED = 2_000_000  # added to the seed, so that a run with the same seed does not start where its data did

# After this many discarded episodes in a row, the requested success rate counts as out of reach.
PATIENCE = 40


class Quota:
    """The numbers of successful and other episodes that a data set still needs.

    Args:
        episodes: in all.
        success_rate: share of successful ones, None to take every episode as it comes.
        successes, failures: those that the data set has already.
    """

    def __init__(self, episodes: int, success_rate: float | None, successes: int = 0, failures: int = 0):
        self.any = success_rate is None
        wanted = 0 if self.any else round(success_rate * episodes)
        self.left = episodes - successes - failures
        self.successes, self.failures = wanted - successes, episodes - wanted - failures

    def scripted(self, rng: np.random.Generator) -> bool:
        """Draws whether the next episode is scripted, so that both kinds are spread over the data set."""
        if self.any:
            return True
        successes, failures = max(self.successes, 0), max(self.failures, 0)
        return rng.random() * (successes + failures) < successes

    def take(self, success: bool) -> bool:
        """Counts a finished episode if the data set still needs it; returns whether it does."""
        place = self.any or (self.successes if success else self.failures) > 0
        if place and self.left > 0:
            self.left -= 1
            self.successes -= success
            self.failures -= not success
            return True
        return False


class DataSet:
    """A folder of episodes with its collection.json, which is kept up to date.

    Args:
        folder: made where it is missing.
        config: the settings of its episodes, present and future.

    Raises:
        UserError: it holds episodes of unknown origin or with other settings, or too many damaged ones.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder, self.config = folder, config
        found, reader = read_collection(folder), EpisodeReader(folder, config.damaged_share)
        holds_any = bool(reader.files or reader.damaged)
        if holds_any and found is None:
            raise UserError(f"{folder} holds episodes of unknown origin: choose another --out.")
        if holds_any and any(
            (BEFORE | found["settings"]).get(key, value) != value for key, value in settings(config).items()
        ):
            raise UserError(f"{folder} holds episodes with other settings ({found['settings']}): choose another --out.")
        self.rows = _rows(reader)
        reader.check_share()
        reader.set_aside()
        self.replay = Replay(folder, 1, 1, 1, seed=0)  # it writes the files; one episode in memory is enough
        found = {key: value for key, value in (found or {}).items() if holds_any or key == "attempts"}
        if not isinstance(found.get("earlier", []), list):
            raise UserError(f"{folder / FILE}: earlier must be a list, not {found['earlier']!r}: repair it.")
        for key in ("scripted_episodes", "attempts"):
            known = found.get(key, 0)
            if type(known) is not int or not 0 <= known < 2**31:
                raise UserError(f"{folder / FILE}: {key} must be a whole number from 0, not {known!r}: repair it.")
        self.facts = {"scripted_episodes": 0, "attempts": 0} | found | {"settings": settings(config)}

    def begin(self, **start: Any) -> None:
        """Notes how a start collects. What an earlier one noted, if that was not the same, moves to `earlier`."""
        before = {key: self.facts[key] for key in start if key in self.facts}
        if self.rows and before != start:
            self.facts["earlier"] = [*self.facts.get("earlier", []), before | {"episodes": len(self.rows)}]
        self.facts |= start

    def add(self, data: dict[str, np.ndarray], **facts: Any) -> None:
        """Writes an episode and updates collection.json with `facts`."""
        self.write()  # first, so that no stop leaves an episode whose origin, or whose attempt, is not known
        self.replay.add(data)
        self.rows.append(numbers(data))
        self.facts |= facts
        self.write()

    def write(self) -> None:
        """Updates collection.json."""
        with writing(self.folder, "choose another --out"):
            write_collection(self.folder, self.summary())

    def summary(self) -> dict[str, Any]:
        """The contents of collection.json."""
        return self.facts | totals(self.rows)


def _rows(reader: EpisodeReader) -> list[tuple[int, float, bool]]:
    """The `numbers` of each usable episode, oldest first. One that is not of the newest one's kind is not usable."""
    newest: list[Episode] = []
    rows = []
    for path in reversed(reader.files):
        episode = reader.read(path, newest)
        if episode is not None:
            rows.append(numbers(episode))
            newest = newest or [episode]
    return rows[::-1]


def collect(
    config: Config, out: Path, episodes: int, success_rate: float | None, noise: float, detours: float = 0.0
) -> dict[str, Any]:
    """Adds episodes to a folder until it has the requested number; an interrupted collection is continued.

    Args:
        config: the task and its settings, the number of parallel environments, the seed and `prefill_correlation`.
        out: folder of the episodes.
        episodes: total number of episodes in the folder.
        success_rate: share of successful episodes; None keeps every scripted episode.
        noise: standard deviation of the noise on scripted actions.
        detours: share of the decisions that ignore the state (see `episodes.behavior.Detours`).

    Returns:
        the contents of its collection.json.

    Raises:
        UserError: the folder holds other episodes, the task has no scripted policy or no success, or the wanted share
          of successful episodes cannot be reached. Episodes on disk stay.
    """
    scripted = None if success_rate == 0.0 else envs.scripted_policy(config.task)
    data = DataSet(out, config)
    done = data.summary()
    quota = Quota(episodes, success_rate, done["successes"], done["episodes"] - done["successes"])
    if not quota.any and min(quota.successes, quota.failures) < 0:
        raise UserError(
            f"{out} has {done['successes']} successful episodes of {done['episodes']}, which leaves no room for a "
            f"share of {success_rate:g} among {episodes}: ask for more --episodes or another --success_rate."
        )
    if quota.left <= 0:
        data.write()  # a kill after the last episode left it out
        return done
    options = {"seed": config.seed, "noise": noise, "detours": detours, "wanted_success_rate": success_rate}
    data.begin(**options, command=["collect.py", *sys.argv[1:]], **git_revision())
    # A second start must not repeat the episodes of the first.
    rng = np.random.default_rng([config.seed, data.facts["attempts"]])
    seed = envs.stream_seed(COLLECT_SEED + config.seed, data.facts["attempts"])
    driver = Driver(envs.make_vector_env(config, config.envs, seed), reported_outcomes(out))
    size = driver.envs.single_action_space.shape[0]
    policy = MixedPolicy(scripted, lambda: quota.scripted(rng), size, noise, config.prefill_correlation, rng, detours)
    try:
        _fill(data, driver, policy, quota)
    finally:
        driver.close()
    return data.summary()


def _fill(data: DataSet, driver: Driver, policy: MixedPolicy, quota: Quota) -> None:
    """Plays until the quota is met. Raises UserError if that takes too long."""
    unused = 0
    with ProgressLine(len(data.rows) + quota.left, "episodes", Console(stderr=True)) as progress:
        progress.update(len(data.rows))
        while quota.left > 0:
            for episode in driver.step(policy):
                if "success" not in episode.data and not (quota.any or quota.successes <= 0):
                    raise UserError("The simulator reports no success to mix by: set --success_rate 0.")
                data.facts["attempts"] += 1
                unused += 1
                if quota.take(numbers(episode.data)[2]):
                    unused = 0
                    scripted = data.facts["scripted_episodes"] + int(episode.extras["scripted"][0])
                    data.add(episode.data, scripted_episodes=scripted)
                else:
                    data.write()  # a later start must not repeat the attempt
                done = data.summary()
                progress.update(done["episodes"], {"success": done["success_rate"] or 0.0})
            if quota.left and unused >= PATIENCE:
                kind = "successful" if quota.successes > 0 else "unsuccessful"
                raise UserError(
                    f"None of the last {unused} episodes was {kind}, of which {quota.left} are still wanted: change "
                    f"--noise or --success_rate ({len(data.rows)} episodes stay in {data.folder})."
                )


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that are settings of config.yaml."""
    parser = Parser(prog="python collect.py", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=Parser)
    make = kinds.add_parser(
        "episodes",
        help="play episodes",
        usage="%(prog)s --out DIR [--episodes N] [--success_rate P] [--noise STD] [--detours P] [--configs PRESET ...] "
        "[--KEY VALUE ...]",
        epilog="Settings of config.yaml follow as --KEY VALUE: task, action_repeat, time_limit, render_quality, "
        "camera, reward, randomize, starts, envs, seed, step_timeout, damaged_share and prefill_correlation (of random "
        "actions) are read.",
    )
    _add_episodes_options(make)
    export = kinds.add_parser("export", help="make a Minari data set of a folder")
    export.add_argument("folder", type=place, metavar="DIR", help="folder of the episodes")
    export.add_argument("dataset", metavar="NAME", help="of the new data set, [namespace/]name-v0")
    export.set_defaults(run=_export)
    _add_import_options(kinds.add_parser("import", help="make a folder of a Minari data set"))
    return parser.parse_known_args(argv)


def _add_episodes_options(make: argparse.ArgumentParser) -> None:
    make.add_argument("--out", type=place, required=True, metavar="DIR", help="folder of the episodes")
    make.add_argument("--episodes", type=count, default=100, metavar="N", help="total number of episodes in the folder")
    make.add_argument(
        "--success_rate",
        type=float,
        metavar="P",
        help="share of successful episodes; 0 for random actions only, which every task can, and without it scripted "
        "episodes are taken as they come",
    )
    make.add_argument("--noise", type=float, default=0.3, metavar="STD", help="on scripted actions")
    make.add_argument(
        "--detours",
        type=float,
        default=0.0,
        metavar="P",
        help="share of the decisions that hold an action, or none, for a few steps whatever the state: they teach a "
        "model what actions do",
    )
    make.set_defaults(run=_play)


def _add_import_options(make: argparse.ArgumentParser) -> None:
    make.add_argument("dataset", metavar="NAME", help="of a data set on this machine (`minari list local`)")
    make.add_argument("--out", type=place, required=True, metavar="DIR", help="folder of the episodes, without any yet")
    make.add_argument(
        "--task",
        default="",
        help="what the episodes are of, so that runs on other tasks refuse them; exported data sets say it themselves",
    )
    make.add_argument(
        "--image", default="", metavar="KEY", help="entry of the observations that holds the pictures, if several do"
    )
    make.add_argument(
        "--replay",
        action="store_true",
        help="for data sets without pictures: play the episodes again from their recorded seeds and render them",
    )
    make.set_defaults(run=_import)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_work, argv, lambda: "start the same command again; episodes that were played are kept")


def _work(argv: Sequence[str]) -> int:
    options, words = parse_options(argv)
    result = options.run(options, words)
    print(json.dumps(result, allow_nan=False))
    return 0


def _play(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    if options.episodes < 1:
        raise UserError(f"--episodes is {options.episodes}: ask for at least one.")
    if options.success_rate is not None and not 0.0 <= options.success_rate <= 1.0:
        raise UserError(f"--success_rate is {options.success_rate}: choose a share from 0 to 1.")
    if not 0.0 <= options.noise < float("inf"):
        raise UserError(f"--noise is {options.noise}: choose a standard deviation from 0.")
    if not 0.0 <= options.detours <= 0.9:
        raise UserError(f"--detours is {options.detours}: choose a share from 0 to 0.9.")
    config = load_config(words).resolved()
    if len(envs.split_tasks(config.task)) > 1:
        raise UserError(f"{config.task} are several tasks: collect the episodes of one at a time.")
    out = expanded(options.out)
    with exclusive_folder(out, "--out"):
        return collect(config, out, options.episodes, options.success_rate, options.noise, options.detours)


def _export(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    _refuse(words)
    from episodes.minari_export import export_folder  # playing does not need it

    return export_folder(expanded(options.folder), options.dataset)


def _import(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    _refuse(words)
    from episodes.minari_import import import_dataset

    out = expanded(options.out)
    # An environment that is played again may print.
    with exclusive_folder(out, "--out"), contextlib.redirect_stdout(sys.stderr):
        return import_dataset(options.dataset, out, options.task, options.image, options.replay)


def _refuse(words: Sequence[str]) -> None:
    if words:
        raise UserError(f"unrecognized arguments: {' '.join(words)}; python collect.py --help says more.")


if __name__ == "__main__":
    sys.exit(main())
