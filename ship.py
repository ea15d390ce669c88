"""Makes a small folder of a trained agent, which needs nothing of its log directory: its settings and its weights.

    python ship.py --logdir logdir/online/metaworld_reach/latco/0 --out shipped/metaworld_reach
    python ship.py --logdir logdir/pointmass_obstacle/latco/0 --out shipped/pointmass_obstacle --mpc_steps 5

Settings of the run can be overridden as in evaluate.py. The folder gets `config.yaml` and `weights.npz`
(training/weights.py: float16, compressed, without the optimizer). Every program takes it as --logdir, and a folder in
shipped/ by its name alone. One line of JSON says what is in it.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents import load_agent
from tools.command_line import Parser, place
from tools.errors import UserError
from tools.files import expanded, writing
from tools.lock import exclusive_folder
from tools.program import run_program
from tools.schema import read_schema
from training.logdir import SETTINGS_FILE, WEIGHTS
from training.weights import write_weights

PLACES = ("init_from", "logdir", "offline_dir")  # settings that name folders of the machine


def ship(logdir: Path, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the folder and returns what is in it, ready for JSON.

    Args:
        logdir: log directory of the run.
        out: the new folder.
        overrides: words of a command line that change the run's settings.

    Raises:
        UserError: see `agents.load_agent` and `training.weights.write_weights`; or `out` holds a run or a model
            already, cannot be written, or another program writes to it.
    """
    with exclusive_folder(out, "--out"):
        if (out / SETTINGS_FILE).exists() or (out / WEIGHTS).exists():
            raise UserError(f"{out} holds a run or a model already: move it away, or choose another --out.")
        agent = load_agent(logdir, overrides)
        settings = read_schema().settings
        try:
            with writing(out, "choose another --out"):
                file = write_weights(agent.checkpointed, out)
                agent.config.replace(**{key: settings[key].default for key in PLACES}).save(out / SETTINGS_FILE)
        except BaseException:
            (out / WEIGHTS).unlink(missing_ok=True)  # half a model would be in the way of the next try
            raise
    return {
        "task": agent.config.task,
        "planner": agent.config.planner,
        "step": int(agent.step),
        "updates": int(agent.updates),
        "weights": int(agent.model.count_params()),
        "bytes": file.stat().st_size,
        "folder": str(out),
    }


def parse_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the words that override settings of the run. Raises UserError."""
    parser = Parser(
        prog="python ship.py",
        usage="%(prog)s --logdir DIR --out DIR [--configs PRESET ...] [--KEY VALUE ...]",
        description=__doc__,
    )
    parser.add_argument("--logdir", type=place, required=True, metavar="DIR", help="log directory of a trained agent")
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="the new folder")
    parser.add_argument_group("--KEY VALUE", "any setting of config.yaml, instead of the run's own: --mpc_steps 5")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_ship, argv, lambda: "start the same command again")


def _ship(argv: Sequence[str]) -> int:
    options, overrides = parse_options(argv)
    print(json.dumps(ship(options.logdir, expanded(options.out), overrides)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
