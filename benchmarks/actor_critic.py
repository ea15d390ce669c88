"""Times one update of Dreamer's actor and critic against one of the world model.

    python benchmarks/actor_critic.py                              # PlaNet's sizes, batch 50 x 50, H = 15
    python benchmarks/actor_critic.py --preset small --repeats 10
    python benchmarks/actor_critic.py --latent categorical --reinforce_share 1

One JSON line. Both updates run in turns in one process; imagination starts from as many features as the batch has
entries. `seconds` are medians over `repeats` updates after warm-up, `cpu_seconds` those of the time on all cores, which
other programs on the machine disturb less. `ratio` divides those of actor and critic by those of the world model. All
other options are settings.
"""

import checkout

import json
import sys
from collections.abc import Sequence

import gymnasium
import numpy as np
import tensorflow as tf

from benchmarks.memory import peak_gb
from benchmarks.train_step import make_agent, make_batch, timed
from policy_agents import DreamerAgent
from tools.command_line import Parser, positive
from tools.config import load_config
from tools.errors import UserError
from tools.program import run_program

KEYS = ("batch_size", "batch_length", "stoch", "deter", "latent", "imagination_horizon", "reinforce_share")
KEYS += ("policy_layers", "policy_units", "value_layers", "value_units")


def measure(config, actions: int, repeats: int) -> dict:
    """The line."""
    images = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    dreamer = DreamerAgent(config, images, gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32))
    base, batch = make_agent(config, actions), make_batch(config, actions)
    number = config.batch_size * config.batch_length
    start = tf.random.stateless_normal([number, base.model.dynamics.feat_size], [0, 1])
    updates = {
        "world_model": lambda: float(base.train_step(batch)["loss"]),
        "actor_critic": lambda: float(dreamer.behavior.learn(start, tf.ones([number]))["value_loss"]),
    }
    line = {f"{name}_first_call": round(timed(update)[0], 1) for name, update in updates.items()}
    times = np.array(
        [[timed(update) for update in updates.values()] for _ in range(repeats)]
    )  # [repeat, update, clock]
    seconds, cpu = np.median(times, 0).T
    for index, name in enumerate(updates):
        line |= {f"{name}_seconds": round(seconds[index], 4), f"{name}_cpu_seconds": round(cpu[index], 4)}
    line |= {"ratio": round(seconds[1] / seconds[0], 3), "cpu_ratio": round(cpu[1] / cpu[0], 3), "repeats": repeats}
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    return {"benchmark": "actor_critic"} | line | {"memory_gb": peak_gb(), "devices": devices, "actions": actions}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the line and returns the exit code, see `tools.program`."""
    return run_program(_compare, argv, lambda: "the same command starts anew")


def _compare(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--preset", nargs="*", default=[], help="presets of config.yaml stacked on defaults")
    parser.add_argument("--actions", type=positive, default=4, help="size of the action vector")
    parser.add_argument("--repeats", type=positive, default=5, help="timed updates")
    args, words = parser.parse_known_args(argv)
    if any(word.partition("=")[0] == "--planner" for word in words):
        raise UserError("--planner has no place here, where Dreamer learns: leave it out.")
    config = load_config(["--configs", "defaults", *args.preset, *words]).replace(planner="dreamer")
    print(json.dumps(measure(config, args.actions, args.repeats) | {key: config[key] for key in KEYS}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
