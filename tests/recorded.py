"""A run that nothing has to be trained for: a recorded checkpoint in a log directory of today."""

import shutil
from pathlib import Path

from tools.config import load_config
from training.logdir import read_config

RECORDED = Path(__file__).with_name("checkpoint_33d80e7")  # LatCo on pointmass_obstacle, of the sizes of `debug`
STEPS, UPDATES = 60, 42  # of `gaussian`


def recorded_run(logdir: Path) -> Path:
    """The run `gaussian` in a log directory, as one that is started today: with a finish and pictures."""
    shutil.copytree(RECORDED / "gaussian", logdir)
    config = load_config([], saved=read_config(logdir)).replace(latco_finish=2, media=True, logdir=str(logdir))
    config.save(logdir / "config.yaml")
    return logdir
