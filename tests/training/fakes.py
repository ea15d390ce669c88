"""An agent and environments that stand in for real ones, so that the training loop runs in milliseconds."""

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from training.run import TrainingRun
from world_model.rewards import RewardTransform

SIZE = 4  # pixels of the pictures
ACTION_SIZE = 2


def short_run(config, **settings):
    """A config of few steps and small batches, in which happens what the settings say and nothing else."""
    base = {"task": "pointmass_obstacle", "action_repeat": 1, "batch_size": 2, "batch_length": 3, "media": False}
    return config.replace(**base | {"eval_every": 0, "checkpoint_every": 0, "log_every": 0} | settings)


class Clock(gymnasium.Env):
    """Episodes of a given number of decisions, each of which pays that number. Pictures show the time.

    `infos[k]` is the info of the first step of episode k.
    """

    observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)})
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    def __init__(self, length, seeds=None, infos=()):
        self.length, self.seeds, self.infos, self.episode = length, [] if seeds is None else seeds, infos, -1

    def _obs(self):
        return {"image": np.full([SIZE, SIZE, 3], self.time, np.uint8)}

    def reset(self, *, seed=None, options=None):
        self.time, self.episode = 0, self.episode + 1
        self.seeds.append(seed)
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        info = self.infos[self.episode] if self.time == 1 and self.episode < len(self.infos) else {}
        return self._obs(), float(self.length), False, self.time >= self.length, info


def replace_simulators(monkeypatch, length, infos=()):
    """Clocks instead of simulators; `length(task, index)` is that of the episodes of environment `index` of a batch.

    `infos` are those of `Clock`.

    Returns:
        for each batch of environments that is made: its seed, and those of all its resets.
    """
    seeds = []

    def make_vector_env(config, num_envs, seed, task):
        seeds.append([seed])
        makers = [lambda i=i, own=seeds[-1]: Clock(length(task, i), own, infos) for i in range(num_envs)]
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)

    monkeypatch.setattr(envs, "make_vector_env", make_vector_env)
    return seeds


class FakeAgent:
    """Does nothing, but counts its updates and adds up the mean rewards of its batches."""

    state_types = ()

    def __init__(self, config, worker=0, workers=1):
        self.config, self.worker, self.workers, self.worker_seed = config, worker, workers, config.seed + worker
        self.action_size, self.device_batch_size, self.model, self.value_data = ACTION_SIZE, config.batch_size, None, ""
        self.observation_space = Clock.observation_space
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.weight = tf.Variable(0.0)
        self.rewards = RewardTransform("none", 1.0, config.reward_normalization)
        self.noise, self.rng = np.random.default_rng(self.worker_seed), tf.random.Generator.from_seed(config.seed)

    @property
    def checkpointed(self):
        return {"step": self.step, "updates": self.updates, "weight": self.weight, "rewards": self.rewards}

    def batches(self, replay, count=None):
        while True:
            yield replay.sample()

    def train_step(self, batch):
        self.updates.assign_add(1)
        self.weight.assign_add(batch["reward"].mean())
        return {"loss": self.weight.read_value()}

    def random_policy(self, obs, is_first, state):
        return self.noise.uniform(-1, 1, [len(is_first), ACTION_SIZE]), "random", {}

    def policy(self, obs, is_first, state, *, explore, idle=None):
        assert state != "random"
        return np.zeros([len(is_first), ACTION_SIZE]), "policy", {}

    def planned_states(self, state):
        return None


def make_run(config, logdir, **host):
    return TrainingRun(FakeAgent(config, **host), logdir, quiet=True)


def watch(run, monkeypatch):
    """What the run does from now on: name, the step at which, and the number of updates."""
    events = []

    def note(owner, name, event):
        function = getattr(owner, name)
        call = lambda *args: (events.append((event, run.schedule.now, *args)), function(*args))
        monkeypatch.setattr(owner, name, call)

    note(run, "evaluate", "evaluate")
    note(run.checkpoints, "save", "save")
    note(run.metrics, "write", "write")
    note(run.updates, "make", "update")
    return events


def without(events, *names):
    return [event for event in events if event[0] not in names]


def make_episode(decisions, reward):
    """An episode of black pictures whose decisions all pay the same."""
    return {
        "image": np.zeros([decisions + 1, SIZE, SIZE, 3], np.uint8),
        "action": np.zeros([decisions + 1, ACTION_SIZE], np.float32),
        "reward": np.full(decisions + 1, reward, np.float32),
        "discount": np.ones(decisions + 1, np.float32),
        "is_first": np.arange(decisions + 1) == 0,
    }
