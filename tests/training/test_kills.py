"""SIGKILL at random moments, writes among them: nothing that was stored is lost, and nothing is left running."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from episodes.episode import episode_files, read_episode
from tests.training.victim import CHECKPOINT_EVERY, EPISODE

ROOT = Path(__file__).parents[2]
KINDS = ["anywhere", "episode", "checkpoint", "start"]
KILLS = 20


@pytest.mark.slow
def test_a_run_that_is_killed_at_20_moments_loses_nothing_that_was_stored(tmp_path):
    rng, known, steps = random.Random(7), {}, 0
    environment = os.environ | {"VICTIM": str(os.getpid())}
    victim = subprocess.Popen(
        [sys.executable, "-m", "tests.training.victim", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with victim:
        for number in range(KILLS):
            kind = KINDS[number % len(KINDS)]
            print(kind, rng.randrange(10**6), file=victim.stdin, flush=True)
            end = json.loads(victim.stdout.readline())
            assert end["signal"] == 9 and end["workers"] == 0, (kind, end)
            if "started" in end:  # it resumed from all that the one before had stored
                assert end["started"][0] == steps or number == 0, (kind, end)
            known, steps = check(tmp_path / "run", known, steps, end)
        victim.stdin.close()
    assert victim.returncode == 0 and steps > 3 * EPISODE


def check(logdir, known, steps, end):
    """What is stored after a kill: the episodes' digests, and the step from which the next run goes on."""
    files = episode_files(logdir / "episodes")
    for file in files:
        read_episode(file)
    digests = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in files}
    assert known.items() <= digests.items()
    saved = saved_counts(logdir / "checkpoints")
    here = max(saved[0], len(files) * EPISODE)
    assert here >= steps
    if "reached" in end:
        # Back to the last checkpoint at most, which is written within the step that is due; before the first one, to
        # the last whole episode.
        step, updates = end["reached"]
        assert step - here <= max(CHECKPOINT_EVERY, EPISODE)
        assert updates - saved[1] <= 3 * (CHECKPOINT_EVERY // 2 + 1) + 5
    return digests, here


def saved_counts(folder):
    """Step and updates of the newest checkpoint, which can be read as a whole."""
    newest = tf.train.latest_checkpoint(str(folder))
    if newest is None:
        return 0, 0
    reader = tf.train.load_checkpoint(newest)
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return tuple(int(values[f"{name}/.ATTRIBUTES/VARIABLE_VALUE"]) for name in ("step", "updates"))
