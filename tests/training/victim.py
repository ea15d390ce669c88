"""Runs that kill themselves at random moments, for test_kills.py.

    python -m tests.training.victim DIR

Each line on the standard input, "<kind> <seed>", starts a run in DIR/run, and a line of JSON says how it ended.
TensorFlow is imported once: each run is a fork of this process, which itself never uses it. The run has the real loop,
checkpoints, replay and workers; only the agent and the simulator are stand-ins.
"""

import tools.tensorflow_setup

import functools
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import tensorflow as tf

import envs
from envs.workers import WorkerEnvs
from tests.training.clock import Clock, make_clock
from tests.training.fakes import FakeAgent
from tools.config import load_config
from training.run import TrainingRun

EPISODE = 7  # decisions
CHECKPOINT_EVERY = 6  # steps
NOTES = ("started", "reached")  # files with the counts of a run when it resumed and after its last decision
WORDS = (
    f"--configs defaults pointmass debug --action_repeat 1 --steps 1000000 --prefill 14 --pretrain 5 --train_every 2 "
    f"--train_steps 3 --checkpoint_every {CHECKPOINT_EVERY} --eval_every 0 --log_every 4 --media false --batch_size 2 "
    "--batch_length 3"
)


class HeavyAgent(FakeAgent):
    """Its checkpoints take a while to write."""

    def __init__(self, config):
        super().__init__(config)
        self.ballast = tf.Variable(tf.zeros([500_000]))

    @property
    def checkpointed(self):
        return super().checkpointed | {"ballast": self.ballast}


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_soon(seconds):
    threading.Timer(seconds, kill).start()


def aim_at_an_episode(folder, rng):
    """Within milliseconds of the opening or of the renaming of an episode's file."""
    left, delay = rng.randrange(1, 8), rng.choice([0.0, rng.uniform(0.0, 0.003)])

    def watch(event, args):
        nonlocal left
        if event in ("open", "os.rename") and "/episodes/." in str(args[0]):
            left -= 1
            if left == 0:
                kill() if delay == 0.0 else kill_soon(delay)

    sys.addaudithook(watch)


def aim_at_a_checkpoint(folder, rng):
    """While files of the checkpoint folder come and go."""

    def watch():
        left, before = rng.randrange(1, 12), None
        while left:
            try:
                now = {(path.name, path.stat().st_size) for path in (folder / "checkpoints").rglob("*")}
            except OSError:
                continue
            left -= before is not None and now != before
            before = now
        kill()

    threading.Thread(target=watch, daemon=True).start()


def run(kind, seed, folder):
    """One run, which does not return."""
    signal.alarm(600)
    rng, logdir = random.Random(seed), folder / "run"
    if kind == "start":
        kill_soon(rng.uniform(0.0, 3.0))
    config = load_config([*WORDS.split(), "--logdir", str(logdir)]).resolved()
    spaces = Clock.observation_space, Clock.action_space
    envs.make_vector_env = lambda *_: WorkerEnvs(functools.partial(make_clock, EPISODE), [0], spaces)
    training = TrainingRun(HeavyAgent(config), logdir, quiet=True)
    note(folder / "started", training)
    collect = training.collect

    def noted(policy):
        collect(policy)
        note(folder / "reached", training)

    training.collect = noted
    if kind == "anywhere":
        kill_soon(rng.uniform(0.0, 2.0))
    elif kind != "start":
        {"episode": aim_at_an_episode, "checkpoint": aim_at_a_checkpoint}[kind](logdir, rng)
    training.run()


def note(file, training):
    """Step and updates, in one write that replaces all of the one before."""
    text = json.dumps([int(training.agent.step), int(training.agent.updates)]).ljust(60)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.pwrite(descriptor, text.encode(), 0)
    os.close(descriptor)


def notes(folder):
    texts = {name: (folder / name).read_text() for name in NOTES if (folder / name).exists()}
    return {name: json.loads(text) for name, text in texts.items() if text}


def main():
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        kind, seed = line.split()
        for name in NOTES:
            (folder / name).unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            run(kind, int(seed), folder)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"signal": os.WTERMSIG(status), "workers": left_over()} | notes(folder)), flush=True)


def left_over():
    """How many processes of the killed run are left after at most ten seconds."""
    deadline = time.monotonic() + 10.0
    while (count := sum(map(is_worker, Path("/proc").glob("[0-9]*")))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return count


def is_worker(process):
    try:
        mine = f"VICTIM={os.environ['VICTIM']}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return mine and int(process.name) != os.getpid()


if __name__ == "__main__":
    main()
