"""How well a world model knows where things are: the error of the simulator's state read from its features.

    python benchmarks/localization.py --logdir logdir/offline/metaworld_reach/latco/0 --data data/metaworld_reach

A plan starts from the posterior and follows the dynamics, so it cannot be more accurate than they are: a hand
believed to be 10 cm off cannot be steered to a goal of 5 cm. A small network learns to read some entries of the
state (`--entries`; of Meta-World 0 1 2, the hand in metres) from the features of four fifths of the episodes. One line
of JSON gives the median errors on the other episodes:

`posterior`      of the filtered features, by the number of pictures seen: "1", "2", "5", "20", "rest"
`posterior_far`, `posterior_near`  of those farther from the goal than `--near` and of the others, where the suite knows
                 the distance (envs/distance.py)
`open_loop`      of the mean dynamics under the recorded actions, by the number of steps
`still`          of a prediction that nothing moves, by the same: what `open_loop` has to beat
"""

import checkout

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

import envs
import models
from agents import load_agent
from base_agent import BaseAgent
from envs.distance import goal_distance
from episodes.episode import Episode, check_same_kind, episode_files, read_episode
from planners.trajectories import rollout
from tools.command_line import Parser, amount, count, place
from tools.errors import UserError
from tools.files import expanded
from tools.program import run_program
from tools.revision import git_revision
from training.logdir import EPISODES

HELD_OUT = 5  # every fifth episode is for the errors
STEPS = (1, 2, 5, 10, 20, 30)
SEEN = {"1": (0, 1), "2": (1, 2), "5": (4, 5), "20": (19, 20), "rest": (20, None)}
OPEN_LOOP_EVERY = 10  # entries between starts of open-loop predictions


class Probe:
    """A network from features [N, n] to states [N, k], both standardized.

    Args:
        feat: features to learn from.
        state: their states.
        seed: of weights and batches.
        epochs: passes over the data.
    """

    def __init__(self, feat: np.ndarray, state: np.ndarray, seed: int = 0, epochs: int = 12):
        keras.utils.set_random_seed(seed)
        self.mean, self.std = state.mean(0), state.std(0) + 1e-6
        layers = [keras.layers.Dense(256, "elu"), keras.layers.Dense(256, "elu"), keras.layers.Dense(state.shape[1])]
        self.network = keras.Sequential([keras.layers.Normalization(), *layers])
        self.network.layers[0].adapt(feat)
        self.network.compile(keras.optimizers.Adam(1e-3), "mse")
        self.network.fit(feat, (state - self.mean) / self.std, batch_size=256, epochs=epochs, verbose=0)

    def error(self, feat: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Distance [...] between the states read from features [..., n] and the true ones [..., k]."""
        if not feat.size:  # of episodes that are too short, which Keras would refuse
            return np.zeros(state.shape[:-1])
        read = self.network.predict(feat.reshape(-1, feat.shape[-1]), batch_size=4096, verbose=0)
        return np.linalg.norm(read.reshape(state.shape) * self.std + self.mean - state, axis=-1)


def posterior_features(agent: BaseAgent, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """Sampled posterior features [T + 1, n] of episodes, as the agent has them when it acts."""
    rng = tf.random.Generator.from_seed(agent.config.seed)

    @tf.function(autograph=False, reduce_retracing=True)
    def filtered(image, action, is_first, noise):
        embed = agent.model.embed(models.reduce_bits(image, agent.config.image_bits))
        post, _ = agent.model.dynamics.observe(embed, action, is_first, noise)
        return models.get_feat(post)

    features = []
    for episode in episodes:
        inputs = [tf.constant(episode[key][None]) for key in ("image", "action", "is_first")]
        noise = rng.normal([1, len(episode["reward"]), agent.model.dynamics.noise_size])
        features.append(filtered(*inputs, noise)[0].numpy())
    return features


def open_loop_features(agent: BaseAgent, feat: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean predictions from every `OPEN_LOOP_EVERY`-th entry of an episode under its own actions.

    Args:
        agent: whose dynamics predict.
        feat: posterior features [T + 1, n].
        action: [T + 1, A].

    Returns:
        features [S, H, n] after 1 to H = max(`STEPS`) steps, and the entries [S] that they start from; no start where
        the episode is too short.
    """
    horizon = max(STEPS)
    starts = np.arange(0, len(feat) - horizon, OPEN_LOOP_EVERY)
    actions = tf.constant(action[starts[:, None] + np.arange(1, horizon + 1)])
    return rollout(agent.model.dynamics.mean_step, tf.constant(feat[starts]), actions).numpy(), starts


def measure(agent: BaseAgent, episodes: Sequence[Episode], entries: Sequence[int], near: float) -> dict:
    """The figures of the module's head for episodes with a 'state'."""
    features = posterior_features(agent, episodes)
    states = [episode["state"][:, entries] for episode in episodes]
    train, test = ([i for i in range(len(episodes)) if (i % HELD_OUT == 0) == held] for held in (False, True))
    known = [np.concatenate([x[i] for i in train]) for x in (features, states)]
    probe = Probe(known[0], known[1], agent.config.seed)
    errors = [probe.error(features[i], states[i]) for i in test]
    row: dict[str, Any] = {
        "posterior": {name: _median([error[slice(*of)] for error in errors]) for name, of in SEEN.items()}
    }
    tasks = envs.split_tasks(agent.config.task)
    if len(tasks) == 1 and goal_distance(tasks[0], episodes[0]["state"][0]) is not None:
        distances = [[goal_distance(tasks[0], state) for state in episodes[i]["state"]] for i in test]
        far = [np.array(distance) > near for distance in distances]
        row["posterior_far"] = _median([error[mask] for error, mask in zip(errors, far, strict=True)])
        row["posterior_near"] = _median([error[~mask] for error, mask in zip(errors, far, strict=True)])
    predicted, still = [], []
    for i in test:
        feat, starts = open_loop_features(agent, features[i], episodes[i]["action"])
        truth = states[i][starts[:, None] + np.arange(1, max(STEPS) + 1)]
        predicted.append(probe.error(feat, truth))
        still.append(np.linalg.norm(truth - states[i][starts][:, None], axis=-1))
    for name, found in (("open_loop", predicted), ("still", still)):
        row[name] = {str(step): _median([error[:, step - 1] for error in found]) for step in STEPS}
    return row | {"episodes": len(episodes), "held_out": len(test)}


def read_episodes(folder: Path, entries: Sequence[int], action_size: int) -> list[Episode]:
    """The episodes of a folder, which can be measured. Raises UserError where they cannot."""
    files = episode_files(folder)
    episodes = [read_episode(file) for file in files]
    if len(episodes) < 2 * HELD_OUT or "state" not in episodes[0]:
        raise UserError(f"{folder} needs {2 * HELD_OUT} episodes with the simulator's state: give another --data.")
    if max(entries) >= episodes[0]["state"].shape[1]:
        raise UserError(f"The state has {episodes[0]['state'].shape[1]} entries: choose --entries below that.")
    if episodes[0]["action"].shape[1] != action_size:
        found = episodes[0]["action"].shape[1]
        raise UserError(f"Actions in {folder} have {found} numbers, the agent's {action_size}: give another --data.")
    for file, episode in zip(files, episodes, strict=True):
        try:
            check_same_kind(episodes[0], episode)
        except ValueError as error:
            raise UserError(f"{file} is of another kind than the first one ({error}): give another --data.") from None
        unknown = np.isnan(episode["state"][:, entries]).any(0)
        if unknown.any():
            entry = entries[int(np.argmax(unknown))]
            raise UserError(f"In {file}, entry {entry} of the state is not a number: choose other --entries.")
    return episodes


def _median(errors: Sequence[np.ndarray]) -> float | None:
    joined = np.concatenate(errors)
    return round(float(np.median(joined)), 4) if joined.size else None


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON line and returns the exit code, see `tools.program`."""
    return run_program(_measure, argv, lambda: "the same command starts anew")


def _measure(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--logdir", required=True, metavar="DIR", help="log directory of a trained agent")
    parser.add_argument("--data", type=place, metavar="DIR", help="folder of episodes (default: those of the run)")
    parser.add_argument("--entries", type=count, nargs="+", default=[0, 1, 2], metavar="N", help="of the state")
    parser.add_argument("--near", type=amount, default=0.1, metavar="M", help="distance to the goal that is near")
    args, overrides = parser.parse_known_args(argv)
    agent = load_agent(args.logdir, overrides)
    folder = args.data or expanded(args.logdir) / EPISODES
    episodes = read_episodes(folder, args.entries, agent.action_size)
    row = measure(agent, episodes, args.entries, args.near)
    about = {"benchmark": "localization", "task": agent.config.task, "updates": int(agent.updates)}
    print(json.dumps(about | row | git_revision()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
