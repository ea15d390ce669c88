"""BaseAgent: the world model and its loss, the train step, filtering, exploration, the training loop and checkpoints.

It does not know which planner runs; a subclass says how to act (`act`).
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow import keras

import envs
import models
from analysis.runs import own_name
from episodes.dataset import check_collection
from episodes.replay import MixedReplay, Replay
from tools.config import Config
from tools.errors import UserError
from tools.logger import Logger
from training.data_parallel import (
    at_least,
    device_seed,
    devices,
    make_strategy,
    masked_mean,
    place_among_workers,
    total,
)
from training.driver import Driver, Episode, Policy, correlated_actions
from world_model.rewards import RewardTransform
from world_model.value import ValueLearner

Batch = dict[str, tf.Tensor]
Metrics = models.Metrics

# TensorFlow 2.21's remapper breaks on an activation inside a while loop and then skips all optimization of that
# function.
tf.config.optimizer.set_experimental_options({"remapping": False})

OPEN_LOOP_CONTEXT = 5
OPEN_LOOP_ROWS = 4
PRETRAIN_SLICE = 50  # updates between looks at the clock and the schedules
EVAL_SEED = 1_000_000  # added to the seed of a run
WORKER_SEED = 10_000_000  # the same, for each host before this one


class Every:
    """Says how many multiples of `period` a growing count has passed since the last question.

    A period of 0 means never.
    """

    def __init__(self, period: int, start: int = 0):
        self.period = period
        self.last = start // period if period else 0

    def __call__(self, count: int) -> int:
        if not self.period:
            return 0
        passed = count // self.period - self.last
        self.last = count // self.period
        return passed


def restore(checkpoint: tf.train.Checkpoint, path: str, partial: bool = False) -> None:
    """Reads a checkpoint file into objects, each of which must be found in it.

    Args:
      checkpoint: names the objects.
      path: the file, without its suffix.
      partial: whether the file may hold more than these objects.

    Raises:
      UserError: the file is damaged or was made with another configuration.
    """
    try:
        status = checkpoint.restore(path)
        if partial:
            status.expect_partial().assert_existing_objects_matched()
        else:
            status.assert_existing_objects_matched().assert_consumed()
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:  # IndexError: a file cut short
        raise UserError(
            f"The checkpoint {path} does not fit this configuration or is damaged "
            f"({str(error).splitlines()[0][:200]}): "
            "start with the configuration that made it, or choose another --logdir."
        ) from error


def _check_settings(c: Config) -> None:
    """Raises UserError for numbers that make no sense."""
    envs.check_settings(c)
    longest = c.batch_length - 1
    for key, sensible, words in (
        ("kl_balance", 0.0 <= c.kl_balance <= 1.0, "choose a share from 0 to 1"),
        ("overshooting", 1 <= c.overshooting <= longest, f"choose a number from 1 to batch_length - 1, {longest}"),
        ("image_bits", 1 <= c.image_bits <= 8, "colour values have 1 to 8 bits"),
        ("value_lambda", 0.0 <= c.value_lambda <= 1.0, "choose a number from 0 to 1"),
        ("value_dropout", 0.0 <= c.value_dropout < 1.0, "choose a share from 0 up to, not including, 1"),
        ("value_bound", c.value_bound >= 0.0, "choose a positive number, or 0 for no bound"),
        ("value_layers", c.value_layers >= 0, "choose a number of hidden layers, 0 or more"),
        ("value_units", c.value_units >= 1, "a layer has at least one unit"),
        ("value_updates", c.value_updates >= 1, "choose a number of Adam steps, 1 or more"),
        ("value_target_every", c.value_target_every >= 1, "choose a number of updates, 1 or more"),
    ):
        if not sensible:
            raise UserError(f"{key} is {c[key]}: {words}.")
    if c.value_head and c.discount >= 1.0 and not c.discount_head:
        raise UserError(
            "value_head needs a discount below 1 (ColloDreamer has 0.99) or discount_head: the sum of all rewards to "
            "come grows without bound."
        )
    if c.value_head and c.strategy != "one":
        raise UserError(f"value_head learns on one device, not with strategy {c.strategy}: use strategy one.")


class BaseAgent:
    """A world model trained online from the episodes that a policy collects (PlaNet and LatCo, algorithm 1)."""

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        c = self.config = config
        _check_settings(c)
        self.strategy = make_strategy(c.strategy, c.batch_size)
        self.worker, self.workers = place_among_workers(self.strategy)
        if self.workers > 1 and c.reward_normalization:
            raise UserError("reward_normalization knows the rewards of one host only: turn it off with several hosts.")
        keras.utils.set_random_seed(c.seed)
        self.action_size = action_space.shape[0]
        state_size = observation_space["state"].shape[0] if c.state_probe and "state" in observation_space.spaces else 0
        if c.state_probe and not state_size:
            raise UserError(
                f"There is no simulator state to learn from {c.task} (several tasks have none in common): turn "
                "state_probe off."
            )
        if c.cost_head and not envs.reports_cost(c):
            raise UserError(f"The task {c.task} reports no cost, so cost_head has nothing to learn: turn it off.")
        self.rewards = RewardTransform(c.reward_transform, c.reward_bound, c.reward_normalization)
        with self.strategy.scope(), models.layer_precision(c.precision):
            self.model = models.WorldModel(
                self.action_size, stoch=c.stoch, deter=c.deter, hidden=c.hidden, act=c.act, min_std=c.min_std,
                cnn_depth=c.cnn_depth, cnn_act=c.cnn_act, reward_layers=c.reward_layers, reward_units=c.reward_units,
                dynamics=c.dynamics, latent=c.latent, classes=c.classes, unimix=c.unimix,
                discount_head=c.discount_head, cost_head=c.cost_head, state_size=state_size,
            )  # fmt: skip
            self.optimizer = models.make_adam(c.model_lr, c.adam_eps, c.precision)
            self.optimizer.build(self.model.trainable_variables)
            # After the world model, whose random weights stay what they are without it.
            self.value = ValueLearner(c, self.model.dynamics.feat_size) if c.value_head else None
        self.value_data = c.value_data if c.value_head else ""
        self.rng = tf.random.Generator.from_seed(c.seed)
        # Hosts have the same weights but experience of their own.
        self.worker_seed = c.seed + WORKER_SEED * self.worker
        self.noise = np.random.default_rng(self.worker_seed)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="environment_steps")
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.train_step = tf.function(self._train_step, autograph=False)
        self.filter = tf.function(self._filter, autograph=False)
        self.open_loop = tf.function(self._open_loop, autograph=False)

    # Learning

    def loss(self, batch: Batch, noise: tf.Tensor) -> tuple[tf.Tensor, Metrics, models.State]:
        """The variational bound (PlaNet equation 3, LatCo equation 2) and its terms.

            time          t=0        t=1        t=2
            is_first      true       false      false
            action        0     .--> a_1   .--> a_2          a_t led from image_{t-1} to image_t
            image         o_0 --'    o_1 --'    o_2
            post          z_0 -----> z_1 -----> z_2          z_t ~ q(z_t | z_{t-1}, a_t, o_t)
            prior                    z_1        z_2          z_t ~ p(z_t | z_{t-1}, a_t), which the KL term compares
            reward        0          r_1        r_2          came with image_t; predicted from z_t, as is discount_t
            cost          c_0        c_1        c_2          came with image_t; predicted from z_t

        A chunk that starts within an episode starts from the zero state too. Entries with mask 0 are padding and count
        in no term. Gaussian log-likelihoods have unit variance and are given up to their constant.

        Args:
          batch: a replay batch, arrays [B, L, ...].
          noise: standard normal [B, L, overshooting * noise_size]: for the posterior, then for each distance of
            overshooting.

        Returns:
          the loss, metrics, and the posterior states; loss and metrics are this device's shares (`distribution.py`),
          on a single device simply the values.
        """
        c, model, mask = self.config, self.model, batch["mask"]
        size = model.dynamics.noise_size
        post, prior = model.dynamics.observe(
            model.embed(batch["image"]), batch["action"], batch["is_first"], noise[..., :size]
        )
        feat = models.get_feat(post)
        # Of the mean over all entries, so that the weights are constants, and in the size of the scaled loss.
        image_error = model.image_error(feat, batch["image"], mask / total(tf.reduce_sum(mask)), self.loss_scale)
        image_loss = 0.5 * image_error
        reward_error = tf.square(model.reward(feat) - self.rewards(batch["reward"]))
        reward_loss = 0.5 * masked_mean(reward_error, mask)
        kl_loss, metrics = self._kl_loss(post, prior, batch, noise[..., size:])
        loss = image_loss + c.reward_scale * reward_loss + kl_loss
        metrics |= {"image_loss": image_loss, "reward_loss": reward_loss}
        if model.discount is not None:
            cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(batch["discount"], model.discount(feat))
            metrics["discount_loss"] = masked_mean(cross_entropy, mask)
            loss += c.discount_scale * metrics["discount_loss"]
        if model.cost is not None:
            metrics["cost_loss"] = 0.5 * masked_mean(tf.square(model.cost(feat) - batch["cost"]), mask)
            loss += c.cost_scale * metrics["cost_loss"]
        if model.probe is not None:
            error = tf.square(model.probe(tf.stop_gradient(feat)) - batch["state"])
            metrics["state_loss"] = 0.5 * masked_mean(tf.reduce_mean(error, -1), mask)
            loss += metrics["state_loss"]
        return loss, metrics | {"loss": loss}, post

    def _kl_loss(
        self, post: models.State, prior: models.State, batch: Batch, noise: tf.Tensor
    ) -> tuple[tf.Tensor, Metrics]:
        """The divergence terms: (1 / D) sum over d of beta_d max(KL_d, free nats) (PlaNet equation 7).

        One-step divergences are balanced (DreamerV2 algorithm 2) with the share `kl_balance`.
        """
        c, dynamics, mask = self.config, self.model.dynamics, batch["mask"]
        kl = masked_mean(dynamics.kl(post, prior), mask)
        loss, metrics = at_least(kl, c.free_nats), {"kl": kl}
        if c.kl_balance:
            still_post, still_prior = tf.nest.map_structure(tf.stop_gradient, (post, prior))
            train_prior = at_least(masked_mean(dynamics.kl(still_post, prior), mask), c.free_nats)
            train_post = at_least(masked_mean(dynamics.kl(post, still_prior), mask), c.free_nats)
            loss = c.kl_balance * train_prior + (1.0 - c.kl_balance) * train_post
        loss *= c.kl_scale
        if c.overshooting > 1:
            noise = tf.reshape(noise, [*mask.shape, c.overshooting - 1, dynamics.noise_size])
            sums, counts = dynamics.overshoot(post, prior, batch["action"], batch["is_first"], mask, noise)
            kls = tf.math.divide_no_nan(sums, total(counts))
            metrics["overshooting_kl"] = tf.reduce_mean(kls)
            loss = (loss + c.overshooting_scale * tf.reduce_sum(at_least(kls, c.free_nats))) / c.overshooting
        return loss, metrics

    def batches(self, replay: Replay) -> Iterator[Batch]:
        """Training batches without end, spread over the devices of the strategy.

        `replay` yields what one device takes, `device_batch_size` chunks at a time.
        """
        if self.strategy.num_replicas_in_sync == 1:
            return iter(replay.dataset())
        return iter(self.strategy.distribute_datasets_from_function(lambda _: replay.dataset()))

    @property
    def loss_scale(self) -> tf.Tensor:
        """See `models.loss_scale`."""
        return models.loss_scale(self.optimizer)

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, by its names in a checkpoint."""
        parts = {
            "model": self.model, "optimizer": self.optimizer, "rewards": self.rewards, "step": self.step,
            "updates": self.updates,
        }  # fmt: skip
        return parts if self.value is None else parts | {"value": self.value}

    @property
    def device_batch_size(self) -> int:
        """Chunks of a batch that one device takes."""
        return self.config.batch_size // self.strategy.num_replicas_in_sync

    def _train_step(self, batch: Batch) -> Metrics:
        """One Adam step on the loss of a batch. A step whose gradients are not finite is skipped and counted."""
        seed = self.rng.uniform_full_int([2], tf.int32)
        grads, norm, shares, feat = self.strategy.run(self._gradients, args=(batch, seed))
        values = self._learn_value(feat, batch) if self.value_data == "replay" else {}
        norm = self.strategy.experimental_local_results(norm)[0]  # the same on all devices
        finite = tf.math.is_finite(norm)
        # A conditional around the update must stand outside of what runs on each device. With a scaled loss the
        # optimizer skips the step itself, and lowers the scale.
        update = lambda: self._update(grads)  # noqa: E731
        tf.cond(finite | (self.config.precision == "float16"), update, lambda: False)
        self.updates.assign_add(1)
        metrics = {name: self.strategy.reduce("SUM", share, None) for name, share in shares.items()}
        return metrics | values | {"grad_norm": norm, "skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _learn_value(self, feat: tf.Tensor, batch: Batch) -> Metrics:
        """One update of the value on the posterior states of a batch (ColloDreamer section 5, the first style).

        The rewards are those that the model predicts, as in plans. The discounts are the recorded ones: 0 at terminal
        states.
        """
        follows = (batch["mask"] > 0.0) & ~batch["is_first"]
        return self.value.learn(feat, self.model.reward(feat), self.config.discount * batch["discount"], follows)

    def _gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, Metrics, tf.Tensor]:
        """On each device: the whole batch's clipped gradients, their norm before clipping, shares of the metrics, and
        the features of the posterior states [B, L, n]."""
        c, seeds = self.config, tf.random.split(device_seed(seed), 2)
        batch = batch | {"image": models.reduce_bits(batch["image"], c.image_bits, seeds[1])}
        size = c.overshooting * self.model.dynamics.noise_size
        noise = tf.random.stateless_normal([*batch["reward"].shape, size], seeds[0])
        scale = self.loss_scale
        with tf.GradientTape() as tape:
            loss, metrics, post = self.loss(batch, noise)
            scaled = loss * scale
        grads = tape.gradient(scaled, self.model.trainable_variables)
        if devices() > 1:
            grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
        norm = tf.linalg.global_norm(grads) / scale
        grads, _ = tf.clip_by_global_norm(grads, c.grad_clip * scale, norm * scale)
        return grads, norm, metrics, models.get_feat(post)

    def _update(self, grads: list[tf.Tensor]) -> bool:
        self.strategy.run(self._apply, args=(grads,))
        return True

    def _apply(self, grads: list[tf.Tensor]) -> None:
        # Keras sums gradients over the devices, which hold the same ones here: they were summed to be clipped.
        self.optimizer.apply([grad / devices() for grad in grads], self.model.trainable_variables)

    # Acting

    def _filter(self, image: tf.Tensor, is_first: tf.Tensor, state: models.State, action: tf.Tensor) -> models.State:
        image = models.reduce_bits(image, self.config.image_bits)
        embed = self.model.encoder(models.preprocess(image))
        noise = self.rng.normal([image.shape[0], self.model.dynamics.noise_size])
        return self.model.dynamics.obs_step(state, action, embed, is_first, noise)

    def policy(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any, *, explore: bool
    ) -> tuple[np.ndarray, Any, dict]:
        """Filters the observations of a batch of environments and acts; see `driver.Driver` for the contract.

        Args:
          obs: 'image' uint8 [B, 64, 64, 3].
          is_first: bool [B], which environments start an episode.
          state: the policy state of the previous step, or None.
          explore: whether to add exploration noise.
        """
        if state is None:
            batch = len(is_first)
            state = {
                "latent": self.model.dynamics.initial(batch),
                "action": np.zeros([batch, self.action_size], np.float32),
            }
        latent = self.filter(obs["image"], is_first, state["latent"], state["action"])
        action, state, extras = self.act(latent, is_first, state)
        if explore:
            action = action + self.config.expl_noise * self.noise.standard_normal(action.shape)
        action = np.clip(action, -1.0, 1.0).astype(np.float32)
        return action, {**state, "latent": latent, "action": action}, extras

    def act(
        self, latent: models.State, is_first: np.ndarray, state: dict
    ) -> tuple[np.ndarray, dict, dict[str, np.ndarray]]:
        """Actions [B, A] for filtered states, the policy state to keep, what to record per action (name -> [B])."""
        raise NotImplementedError("BaseAgent does not act: use a subclass such as PlanningAgent.")

    def random_policy(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any, dict[str, np.ndarray]]:
        """Uniform actions in [-1, 1] whose underlying Gaussian has a correlation of `prefill_correlation` in time."""
        rho = self.config.prefill_correlation
        return *correlated_actions(state, is_first, self.action_size, rho, self.noise), {}

    # Pictures

    def _open_loop(self, batch: Batch) -> tf.Tensor:
        """Truth, model and error side by side, uint8 [L, rows * 64, 3 * 64, 3].

        `OPEN_LOOP_CONTEXT` filtered frames, then imagination, both of means.
        """
        batch = {key: value[:OPEN_LOOP_ROWS] for key, value in batch.items()}
        batch["image"] = models.reduce_bits(batch["image"], self.config.image_bits)
        model, k = self.model, OPEN_LOOP_CONTEXT
        post, _ = model.dynamics.observe(
            model.embed(batch["image"][:, :k]), batch["action"][:, :k], batch["is_first"][:, :k]
        )
        start = {key: value[:, -1] for key, value in post.items()}
        prior = model.dynamics.imagine(start, batch["action"][:, k:])
        decoded = model.decode(tf.concat([models.get_feat(post), models.get_feat(prior)], 1))
        truth = models.preprocess(batch["image"])
        video = tf.concat([truth, decoded, (decoded - truth) / 2.0], 3)
        return models.postprocess(tf.concat(tf.unstack(video), 1))

    # The training loop

    def train(self, logdir: Path, quiet: bool = False) -> None:
        """Runs until `steps` environment steps are collected.

        Prefill, pretraining, then acting and training in turn. Resumes from `logdir`.
        """
        TrainingRun(self, logdir, quiet).run()


class Collector:
    """The environments and episodes of one task of a run.

    Attributes:
      task: its name.
      repeat: simulator steps of a decision.
      replay: its episodes.
      decisions: of all its training environments so far.
      driver: of its training environments, None before `start`.
      eval_driver: of its evaluation environments, None before the first evaluation.
    """

    def __init__(self, agent: BaseAgent, task: str, logdir: Path):
        config, tasks = agent.config, envs.split_tasks(agent.config.task)
        self.config, self.task, self.alone, self.seed = config, task, len(tasks) == 1, agent.worker_seed
        self.repeat = envs.action_repeat(config.replace(task=task))
        folder = logdir / "episodes" if self.alone else logdir / "episodes" / task
        self.replay = Replay(
            folder, agent.device_batch_size, config.batch_length, config.replay_capacity // len(tasks),
            self.seed + tasks.index(task), self._offline_folder(),
        )  # fmt: skip
        if config.offline_dir:
            self._check_offline(agent.action_size)
        self.decisions = tf.Variable(0, dtype=tf.int64, trainable=False, name="decisions")
        self.driver: Driver | None = None
        self.eval_driver: Driver | None = None

    def _offline_folder(self) -> Path | None:
        """Where the episodes of this task are that the run starts with, checked against its settings."""
        if not self.config.offline_dir:
            return None
        if not self.alone:
            raise UserError(f"offline_dir holds episodes of one task, this run has {self.config.task}: leave it out.")
        folder = Path(self.config.offline_dir).expanduser()
        check_collection(folder, self.config)
        return folder

    def _check_offline(self, action_size: int) -> None:
        """Raises UserError where episodes of another origin lack what the model learns from."""
        for episode in self.replay.memory[:1]:
            found = episode["action"].shape[1]
            if found != action_size:
                raise UserError(
                    f"Actions in {self.config.offline_dir} have {found} numbers, this task's {action_size}."
                )
            for key, wanted in (("cost", self.config.cost_head), ("state", self.config.state_probe)):
                if wanted and key not in episode:
                    name = {"cost": "cost_head", "state": "state_probe"}[key]
                    raise UserError(f"Episodes in {self.config.offline_dir} have no {key} to learn: turn {name} off.")

    def start(self) -> None:
        """Starts the training environments. A resumed run must not replay the episodes it already has."""
        self.driver = self._make_driver(self.seed + 1000 * self.replay.episodes)

    def start_evaluation(self) -> Driver:
        """The evaluation environments at the start of episodes that are the same in every evaluation."""
        seed = self.config.seed + EVAL_SEED
        if self.eval_driver is None:
            self.eval_driver = self._make_driver(seed)
        self.eval_driver.restart(seed)
        return self.eval_driver

    def name(self, name: str) -> str:
        """How a metric of this task is called."""
        return name if self.alone else own_name(name, self.task)

    def close(self) -> None:
        """Closes all environments."""
        for driver in (self.driver, self.eval_driver):
            if driver is not None:
                driver.close()

    def _make_driver(self, seed: int) -> Driver:
        return Driver(envs.make_vector_env(self.config, self.config.envs, seed, self.task))


class TrainingRun:
    """One run of the training loop on a log directory.

    Environments, replay, logger, schedules and checkpoints around an agent. Several tasks take turns (PlaNet section
    5): a round collects an episode of each in every training environment, and batches mix their episodes.
    """

    def __init__(self, agent: BaseAgent, logdir: Path, quiet: bool = False):
        c = self.config = agent.config
        self.agent, self.logdir = agent, logdir
        tasks = envs.split_tasks(c.task)
        self.folder = logdir / f"worker-{agent.worker}" if agent.worker else logdir
        self.collectors = [Collector(agent, task, self.folder) for task in tasks]
        replays = [collector.replay for collector in self.collectors]
        self.replay = replays[0]
        if len(tasks) > 1:
            self.replay = MixedReplay(replays, agent.device_batch_size, agent.worker_seed + len(tasks))
        self.replay_state = tf.Variable("", trainable=False, name="replay_random_state")
        self.noise_state = tf.Variable("", trainable=False, name="noise_random_state")
        self.offline = c.steps == 0
        if self.offline and not self.can_train():
            raise UserError("steps is 0, so the run collects nothing, and has no episodes either: give --offline_dir.")
        if self.offline and agent.value_data == "plans":
            raise UserError("steps is 0, so no plans are made that a value could learn from: set --value_data replay.")
        self._open_checkpoint()
        total, unit = (c.pretrain, "updates") if self.offline else (c.steps, "steps")
        self.logger = Logger(self.folder, total, quiet, tasks if len(tasks) > 1 else (), unit)
        if not self.offline:
            for collector in self.collectors:
                collector.start()
        self._next_turn()
        self.batches = None
        self.train_episodes = self.replay.episodes
        step = self.axis()
        self.should_train = Every(c.train_every, step)
        self.should_eval = Every(c.eval_every, step)
        self.should_log = Every(c.log_every, step)
        self.should_save = Every(c.checkpoint_every, step)
        self.clock, self.clock_step = time.perf_counter(), int(agent.step)

    def axis(self) -> int:
        """What everything named `_every` counts: environment steps, or updates where nothing is collected."""
        return int(self.agent.updates if self.offline else self.agent.step)

    def run(self) -> None:
        """Collects and trains until the budget of environment steps is spent; saves at the end."""
        c, agent = self.config, self.agent
        resumed = agent.updates >= max(c.pretrain, 1)
        try:
            while self.prefilling():
                self.collect(agent.random_policy)
            if agent.workers > 1 and not self.can_train():
                raise UserError(
                    "Hosts update together, so each needs an episode before the first update: raise prefill."
                )
            self.should_train(int(agent.step))  # the prefill is paid for by `pretrain`
            for collector in self.collectors:
                if collector.driver:
                    collector.driver.policy_state = None  # what the random policy kept means nothing to the agent's
            if not resumed and self.can_train():
                self.pretrain()
            if self.should_eval(self.axis()) or (c.eval_every and not resumed):
                self.evaluate()
            while agent.step < c.steps:
                self.collect(lambda *args: agent.policy(*args, explore=True))
                due = self.should_train(int(agent.step))
                if due and self.can_train():
                    self.update(due * c.train_steps)
                if self.should_eval(int(agent.step)):
                    self.evaluate()
                if self.should_save(int(agent.step)):
                    self.save()
            self.save()
            self.write()
        finally:
            self.close()

    def prefilling(self) -> bool:
        """Whether random actions are due: for `prefill` steps, and of several tasks until each has an episode."""
        c, step = self.config, int(self.agent.step)
        wanting = len(self.collectors) > 1 and not self.can_train()
        return step < c.steps and (step < c.prefill or wanting)

    def can_train(self) -> bool:
        """Whether there are episodes (of each task) to train on."""
        return all(collector.replay.entries for collector in self.collectors)

    def pretrain(self) -> None:
        """Updates until there are `pretrain` of them; an interrupted pretraining goes on from its last checkpoint.

        What is named _every counts updates here. Without environment steps this is the whole training, with evaluations
        on the way.
        """
        c, agent = self.config, self.agent
        start = int(agent.updates)
        should_log, should_save = Every(c.log_every, start), Every(c.checkpoint_every, start)
        while (updates := int(agent.updates)) < c.pretrain:
            if should_log(updates):
                self.write()
            if should_save(updates):
                self.save()
            if self.offline and self.should_eval(updates):
                self.evaluate()
            self.update(min(PRETRAIN_SLICE, c.pretrain - updates))
        self.save()

    def collect(self, policy: Policy) -> None:
        """One decision in every training environment of the task in turn; finished episodes go to its replay."""
        collector = self.collector
        episodes = collector.driver.step(self.timed(policy))
        collector.decisions.assign_add(self.config.envs)
        self.agent.step.assign_add(self.config.envs * collector.repeat * self.agent.workers)
        for episode in episodes:
            collector.replay.add(episode.data)
            self.agent.rewards.add(episode.data["reward"][1:])
            self.train_episodes += 1
            self.log_episode("train", episode, collector)
        if collector.replay.episodes >= self.turn_ends:
            self._next_turn()
        step = int(self.agent.step)
        if self.should_log(step):
            self.write()
        self.logger.progress(step, episodes=self.train_episodes, updates=int(self.agent.updates))

    def _next_turn(self) -> None:
        # The task with the fewest episodes, the first of them: that is one after the other, also where an earlier run
        # stopped within a round, and it evens out what parallel environments that end at once have collected too much.
        self.collector = min(self.collectors, key=lambda collector: collector.replay.episodes)
        self.turn_ends = self.collector.replay.episodes + self.config.envs

    def timed(self, policy: Policy) -> Policy:
        """The policy, with its seconds per call logged."""

        def call(*args):
            start = time.perf_counter()
            result = policy(*args)
            self.logger.scalars({"speed/policy_seconds": time.perf_counter() - start})
            return result

        return call

    def update(self, count: int) -> None:
        """`count` updates of the world model."""
        if self.batches is None:
            self.batches = self.agent.batches(self.replay)
        step, before = self.axis(), int(self.agent.updates)
        start = time.perf_counter()
        for done in range(1, count + 1):
            metrics = self.agent.train_step(next(self.batches))
            self.logger.scalars(metrics, "model/")
            # Reading the agent's own count would wait for the device.
            self.logger.progress(before + done if self.offline else step, updates=before + done)
        # Reading one result waits for all of them, so the time below is honest.
        float(metrics["loss"])
        self.logger.scalars({"update_seconds": (time.perf_counter() - start) / count}, "speed/")

    def evaluate(self) -> None:
        """`eval_episodes` episodes of each task without exploration noise, always from the same seeds.

        Also writes a video, an open-loop prediction and the first decoded plan of each task. Of several hosts the first
        does it, and the others wait for it in the next update.
        """
        if self.agent.worker:
            return
        for collector in self.collectors:
            self.evaluate_task(collector)
        self.write()

    def evaluate_task(self, collector: Collector) -> None:
        """The evaluation of one task."""
        c, agent = self.config, self.agent
        driver = collector.start_evaluation()
        episodes: list[Episode] = []
        first_state = None
        while len(episodes) < c.eval_episodes:
            episodes += driver.step(lambda *args: agent.policy(*args, explore=False))
            first_state = first_state or driver.policy_state
        for episode in episodes[: c.eval_episodes]:
            self.log_episode("eval", episode, collector)
        if c.media:
            first = min(episodes, key=lambda episode: episode.env)
            self.logger.video(collector.name("eval/episode"), first.data["image"], fps=20)
            self.open_loop_video(collector)
            self.plan_media(first, first_state, collector.name("plan/plan_above_execution"))

    def open_loop_video(self, collector: Collector) -> None:
        """Predictions of the model on replayed chunks of a task, if chunks are longer than the context."""
        if self.config.batch_length <= OPEN_LOOP_CONTEXT or self.config.batch_size < OPEN_LOOP_ROWS:
            return
        if not self.can_train():
            return
        chunks = collector.replay.sample()
        # With keys that only this task has, the function would be traced anew.
        batch = {key: tf.convert_to_tensor(chunks[key]) for key in self.replay.chunk()}
        self.logger.video(collector.name("model/open_loop"), self.agent.open_loop(batch).numpy(), fps=10)

    def plan_media(self, episode: Episode, policy_state: dict, name: str) -> None:
        """The first plan of an evaluation, decoded, above the frames of its execution (LatCo ICML figure 5)."""
        if "plan_states" not in policy_state:
            return
        states = policy_state["plan_states"][episode.env]
        shown = min(len(states), episode.length)
        decoded = models.postprocess(self.agent.model.decode(states[None, :shown])[0]).numpy()
        executed = episode.data["image"][1 : shown + 1]
        self.logger.video(name, np.concatenate([decoded, executed], 1), fps=10)
        columns = np.linspace(0, shown - 1, min(shown, 10)).round().astype(int)
        rows = [np.concatenate(list(frames[columns]), 1) for frames in (decoded, executed)]
        self.logger.image(name, np.concatenate(rows, 0))

    def log_episode(self, mode: str, episode: Episode, collector: Collector) -> None:
        """Logs an episode's summary, of several tasks under its own too, and what its plans promised and achieved."""
        stats = episode.summary()
        for prefix in {f"{mode}/", collector.name(f"{mode}/")}:
            self.logger.scalars(stats, prefix)
        if mode == "train":
            self.logger.progress(
                int(self.agent.step), **{"return": stats["return"], "success": stats.get("success", float("nan"))}
            )
        if "predicted_reward" in episode.extras:
            predicted = float(episode.extras["predicted_reward"].sum())
            # In the units that the model learned, so that the two can be compared.
            achieved = float(tf.reduce_sum(self.agent.rewards(tf.constant(episode.data["reward"][1:]))))
            prefix = "plan/" if mode == "train" else "plan/eval_"
            self.logger.scalars({"predicted_return": predicted, "achieved_return": achieved}, prefix)
        if mode == "train" and "planned" in episode.extras:
            self.log_plans(episode.extras)

    def log_plans(self, extras: dict[str, np.ndarray]) -> None:
        """Means over an episode's plans of what the planner said of them.

        A plan's statistics stand at the step that made it.
        """
        planned = extras["planned"]
        for name, values in extras.items():
            known = values[planned & np.isfinite(values)]
            if "/" in name and known.size:
                self.logger.scalars({name: float(known.mean())})

    def write(self) -> None:
        """Writes all metrics since the last call, with the speed of the run."""
        step, now = int(self.agent.step), time.perf_counter()
        if step > self.clock_step:
            self.logger.scalars({"env_steps_per_second": (step - self.clock_step) / (now - self.clock)}, "speed/")
            self.clock, self.clock_step = now, step
        steps = sum(collector.replay.steps * collector.repeat for collector in self.collectors)
        decisions = sum(int(collector.decisions) for collector in self.collectors)
        self.logger.scalars({"steps": steps, "episodes": self.replay.episodes}, "replay/")
        self.logger.scalars({"updates": int(self.agent.updates), "decisions": decisions}, "train/")
        self.logger.write(self.axis())

    # Checkpoints

    def _open_checkpoint(self) -> None:
        agent = self.agent
        # Of one task they follow from the steps.
        decisions = {"decisions": [collector.decisions for collector in self.collectors]}
        self.checkpoint = tf.train.Checkpoint(
            **agent.learned, rng=agent.rng, replay_state=self.replay_state, noise_state=self.noise_state,
            **(decisions if len(self.collectors) > 1 else {}),
        )  # fmt: skip
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.logdir / "checkpoints"), self.config.checkpoints_kept
        )
        if self.manager.latest_checkpoint:
            restore(self.checkpoint, self.manager.latest_checkpoint)
            if not agent.worker:
                self.replay.random_state = json.loads(self.replay_state.numpy())
                agent.noise.bit_generator.state = json.loads(self.noise_state.numpy())
        else:  # statistics are in checkpoints; the first start takes them from the offline episodes
            for episode in (episode for collector in self.collectors for episode in collector.replay.memory):
                agent.rewards.add(episode["reward"][1:])
        self._count_decisions()

    def _count_decisions(self) -> None:
        """Sets decisions and steps to those of the checkpoint, or of the episodes where these are more.

        Episodes are saved more often than weights: after a crash the data may be ahead of the last checkpoint, and they
        were paid for. Several hosts must agree, so they start from the checkpoint.
        """
        if len(self.collectors) == 1:
            repeat = self.collectors[0].repeat * self.agent.workers
            self.collectors[0].decisions.assign(int(self.agent.step) // repeat)
        if self.agent.workers > 1:
            return
        for collector in self.collectors:
            collector.decisions.assign(max(int(collector.decisions), collector.replay.steps))
        self.agent.step.assign(sum(int(collector.decisions) * collector.repeat for collector in self.collectors))

    def save(self) -> None:
        """Writes a checkpoint (atomic: the index that names the newest one is replaced last) and drops the oldest.

        Of several hosts the first does it; all read it, so the log directory must be one that all of them see.
        """
        if self.agent.worker:
            return
        self.replay_state.assign(json.dumps(self.replay.random_state))
        self.noise_state.assign(json.dumps(self.agent.noise.bit_generator.state))
        self.manager.save()

    def close(self) -> None:
        """Closes logger and environments."""
        self.batches = None
        self.logger.close()
        for collector in self.collectors:
            collector.close()
