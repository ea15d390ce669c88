"""BaseAgent: the world model and its loss, the train step, filtering, exploration, the training loop and checkpoints.

It does not know which planner runs; a subclass says how to act (`act`).
"""

import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from scipy import special
from tensorflow import keras

import envs
import models
from config import Config
from driver import Driver, Episode, Policy
from errors import UserError
from logger import Logger
from replay import Replay

Batch = dict[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]

# TensorFlow 2.21's remapper breaks on an activation inside a while loop and then skips all optimization of that
# function.
tf.config.optimizer.set_experimental_options({"remapping": False})

OPEN_LOOP_CONTEXT = 5
OPEN_LOOP_ROWS = 4


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


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean of values [B, L] over the entries that are not padding."""
    return tf.reduce_sum(values * mask) / tf.reduce_sum(mask)


class BaseAgent:
    """A world model trained online from the episodes that a policy collects (PlaNet and LatCo, algorithm 1)."""

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        c = self.config = config
        keras.utils.set_random_seed(c.seed)
        self.action_size = action_space.shape[0]
        self.repeat = envs.action_repeat(c)
        if not 0.0 <= c.prefill_correlation < 1.0:
            raise UserError(
                f"prefill_correlation is {c.prefill_correlation}: choose a number from 0 up to, not including, 1."
            )
        state_size = observation_space["state"].shape[0] if c.state_probe and "state" in observation_space.spaces else 0
        if c.state_probe and not state_size:
            raise UserError(
                f"The task {c.task} reports no simulator state, so state_probe has nothing to learn: turn it off."
            )
        if c.cost_head and not envs.reports_cost(c):
            raise UserError(f"The task {c.task} reports no cost, so cost_head has nothing to learn: turn it off.")
        self.model = models.WorldModel(
            self.action_size, stoch=c.stoch, deter=c.deter, hidden=c.hidden, act=c.act, min_std=c.min_std,
            cnn_depth=c.cnn_depth, cnn_act=c.cnn_act, reward_layers=c.reward_layers, reward_units=c.reward_units,
            discount_head=c.discount_head, cost_head=c.cost_head, state_size=state_size,
        )  # fmt: skip
        self.optimizer = keras.optimizers.Adam(c.model_lr, epsilon=c.adam_eps)
        self.optimizer.build(self.model.trainable_variables)
        self.rng = tf.random.Generator.from_seed(c.seed)
        self.noise = np.random.default_rng(c.seed)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="environment_steps")
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.train_step = tf.function(self._train_step)
        self.filter = tf.function(self._filter)
        self.open_loop = tf.function(self._open_loop)

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
          noise: standard normal [B, L, stoch].

        Returns:
          the loss, metrics, and the posterior states.
        """
        c, model, mask = self.config, self.model, batch["mask"]
        post, prior = model.dynamics.observe(model.embed(batch["image"]), batch["action"], batch["is_first"], noise)
        feat = models.get_feat(post)
        reward_error = tf.square(model.reward(feat) - batch["reward"])
        kl = masked_mean(model.dynamics.kl(post, prior), mask)
        image_loss = 0.5 * model.image_error(feat, batch["image"], mask / tf.reduce_sum(mask))
        reward_loss = 0.5 * masked_mean(reward_error, mask)
        loss = image_loss + c.reward_scale * reward_loss + c.kl_scale * tf.maximum(kl, c.free_nats)
        metrics = {"image_loss": image_loss, "reward_loss": reward_loss, "kl": kl}
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

    def _train_step(self, batch: Batch) -> Metrics:
        """One Adam step on the loss of a batch. A step whose gradients are not finite is skipped and counted."""
        noise = self.rng.normal([*batch["reward"].shape, self.config.stoch])
        with tf.GradientTape() as tape:
            loss, metrics, _ = self.loss(batch, noise)
        variables = self.model.trainable_variables
        grads, norm = tf.clip_by_global_norm(tape.gradient(loss, variables), self.config.grad_clip)
        finite = tf.math.is_finite(norm)
        tf.cond(finite, lambda: self._apply(grads), lambda: False)
        self.updates.assign_add(1)
        return metrics | {"grad_norm": norm, "skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _apply(self, grads: list[tf.Tensor]) -> bool:
        self.optimizer.apply(grads, self.model.trainable_variables)
        return True

    # Acting

    def _filter(self, image: tf.Tensor, is_first: tf.Tensor, state: models.State, action: tf.Tensor) -> models.State:
        embed = self.model.encoder(models.preprocess(image))
        return self.model.dynamics.obs_step(state, action, embed, is_first, self.rng.normal(state["stoch"].shape))

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
        fresh = self.noise.standard_normal([len(is_first), self.action_size])
        if state is not None:
            fresh = np.where(is_first[:, None], fresh, rho * state + np.sqrt(1.0 - rho**2) * fresh)
        return np.float32(2.0 * special.ndtr(fresh) - 1.0), fresh, {}

    # Pictures

    def _open_loop(self, batch: Batch) -> tf.Tensor:
        """Truth, model and error side by side, uint8 [L, rows * 64, 3 * 64, 3].

        `OPEN_LOOP_CONTEXT` filtered frames, then imagination.
        """
        batch = {key: value[:OPEN_LOOP_ROWS] for key, value in batch.items()}
        model, k = self.model, OPEN_LOOP_CONTEXT
        zeros = tf.zeros([*batch["reward"].shape, self.config.stoch])
        post, _ = model.dynamics.observe(
            model.embed(batch["image"][:, :k]), batch["action"][:, :k], batch["is_first"][:, :k], zeros[:, :k]
        )
        start = {key: value[:, -1] for key, value in post.items()}
        prior = model.dynamics.imagine(start, batch["action"][:, k:], zeros[:, k:])
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


class TrainingRun:
    """One run of the training loop on a log directory.

    Environments, replay, logger, schedules and checkpoints around an agent.
    """

    def __init__(self, agent: BaseAgent, logdir: Path, quiet: bool = False):
        c = self.config = agent.config
        self.agent, self.logdir = agent, logdir
        self.replay = Replay(logdir / "episodes", c.batch_size, c.batch_length, c.replay_capacity, c.seed)
        self.replay_state = tf.Variable("", trainable=False, name="replay_random_state")
        self.noise_state = tf.Variable("", trainable=False, name="noise_random_state")
        self._open_checkpoint()
        self.logger = Logger(logdir, c.steps, quiet)
        self.driver = Driver(envs.make_vector_env(c, c.envs, self._env_seed()))
        self.eval_driver: Driver | None = None
        self.batches = None
        self.train_episodes = self.replay.episodes
        step = int(agent.step)
        self.should_train = Every(c.train_every, step)
        self.should_eval = Every(c.eval_every, step)
        self.should_log = Every(c.log_every, step)
        self.should_save = Every(c.checkpoint_every, step)
        self.clock, self.clock_step = time.perf_counter(), step

    def run(self) -> None:
        """Collects and trains until the budget of environment steps is spent; saves at the end."""
        c, agent = self.config, self.agent
        resumed = agent.updates > 0
        try:
            while agent.step < min(c.prefill, c.steps):
                self.collect(agent.random_policy)
            self.should_train(int(agent.step))  # the prefill is paid for by `pretrain`
            self.driver.policy_state = None  # what the random policy kept means nothing to the agent's
            if agent.updates == 0 and c.pretrain and self.replay.episodes:
                self.update(c.pretrain)
                self.save()
            if self.should_eval(int(agent.step)) or (c.eval_every and not resumed):
                self.evaluate()
            while agent.step < c.steps:
                self.collect(lambda *args: agent.policy(*args, explore=True))
                due = self.should_train(int(agent.step))
                if due and self.replay.episodes:
                    self.update(due * c.train_steps)
                if self.should_eval(int(agent.step)):
                    self.evaluate()
                if self.should_save(int(agent.step)):
                    self.save()
            self.save()
            self.write()
        finally:
            self.close()

    def collect(self, policy: Policy) -> None:
        """One decision in every training environment; finished episodes go to the replay."""
        episodes = self.driver.step(self.timed(policy))
        self.agent.step.assign_add(self.config.envs * self.agent.repeat)
        for episode in episodes:
            self.replay.add(episode.data)
            self.train_episodes += 1
            self.log_episode("train", episode)
        step = int(self.agent.step)
        if self.should_log(step):
            self.write()
        self.logger.progress(step, episodes=self.train_episodes, updates=int(self.agent.updates))

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
            self.batches = iter(self.replay.dataset())
        start = time.perf_counter()
        for _ in range(count):
            metrics = self.agent.train_step(next(self.batches))
            self.logger.scalars(metrics, "model/")
        # Reading one result waits for all of them, so the time below is honest.
        float(metrics["loss"])
        self.logger.scalars({"update_seconds": (time.perf_counter() - start) / count}, "speed/")

    def evaluate(self) -> None:
        """`eval_episodes` episodes without exploration noise, always from the same seeds.

        Also writes a video, an open-loop prediction and the first decoded plan.
        """
        c, agent = self.config, self.agent
        if self.eval_driver is None:
            self.eval_driver = Driver(envs.make_vector_env(c, c.envs, c.seed + 1_000_000))
        self.eval_driver.restart(c.seed + 1_000_000)
        episodes: list[Episode] = []
        first_state = None
        while len(episodes) < c.eval_episodes:
            episodes += self.eval_driver.step(lambda *args: agent.policy(*args, explore=False))
            first_state = first_state or self.eval_driver.policy_state
        for episode in episodes[: c.eval_episodes]:
            self.log_episode("eval", episode)
        if c.media:
            first = min(episodes, key=lambda episode: episode.env)
            self.logger.video("eval/episode", first.data["image"], fps=20)
            self.open_loop_video()
            self.plan_media(first, first_state)
        self.write()

    def open_loop_video(self) -> None:
        """Predictions of the model on replayed chunks, if chunks are longer than the context."""
        if self.config.batch_length <= OPEN_LOOP_CONTEXT or self.config.batch_size < OPEN_LOOP_ROWS:
            return
        batch = {key: tf.convert_to_tensor(value) for key, value in self.replay.sample().items()}
        self.logger.video("model/open_loop", self.agent.open_loop(batch).numpy(), fps=10)

    def plan_media(self, episode: Episode, policy_state: dict) -> None:
        """The first plan of an evaluation, decoded, above the frames of its execution (LatCo ICML figure 5)."""
        if "plan_states" not in policy_state:
            return
        states = policy_state["plan_states"][episode.env]
        shown = min(len(states), episode.length)
        decoded = models.postprocess(self.agent.model.decode(states[None, :shown])[0]).numpy()
        executed = episode.data["image"][1 : shown + 1]
        self.logger.video("plan/plan_above_execution", np.concatenate([decoded, executed], 1), fps=10)
        columns = np.linspace(0, shown - 1, min(shown, 10)).round().astype(int)
        rows = [np.concatenate(list(frames[columns]), 1) for frames in (decoded, executed)]
        self.logger.image("plan/plan_above_execution", np.concatenate(rows, 0))

    def log_episode(self, mode: str, episode: Episode) -> None:
        """Logs an episode's summary and what its plans promised against what they achieved."""
        stats = episode.summary()
        self.logger.scalars(stats, f"{mode}/")
        if mode == "train":
            self.logger.progress(
                int(self.agent.step), **{"return": stats["return"], "success": stats.get("success", float("nan"))}
            )
        if "predicted_reward" in episode.extras:
            predicted = float(episode.extras["predicted_reward"].sum())
            prefix = "plan/" if mode == "train" else "plan/eval_"
            self.logger.scalars({"predicted_return": predicted, "achieved_return": stats["return"]}, prefix)
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
        self.logger.scalars(
            {"steps": self.replay.steps * self.agent.repeat, "episodes": self.replay.episodes}, "replay/"
        )
        self.logger.scalars({"updates": int(self.agent.updates), "decisions": step // self.agent.repeat}, "train/")
        self.logger.write(step)

    def _env_seed(self) -> int:
        # A resumed run must not replay the episodes it already has.
        return self.config.seed + 1000 * self.replay.episodes

    # Checkpoints

    def _open_checkpoint(self) -> None:
        agent = self.agent
        self.checkpoint = tf.train.Checkpoint(
            model=agent.model, optimizer=agent.optimizer, step=agent.step, updates=agent.updates, rng=agent.rng,
            replay_state=self.replay_state, noise_state=self.noise_state,
        )  # fmt: skip
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.logdir / "checkpoints"), self.config.checkpoints_kept
        )
        if self.manager.latest_checkpoint:
            restore(self.checkpoint, self.manager.latest_checkpoint)
            self.replay.random_state = json.loads(self.replay_state.numpy())
            agent.noise.bit_generator.state = json.loads(self.noise_state.numpy())
        # Episodes are saved more often than weights: after a crash the data may be ahead of the last checkpoint, and
        # they were paid for.
        agent.step.assign(max(int(agent.step), self.replay.steps * agent.repeat))

    def save(self) -> None:
        """Writes a checkpoint (atomic: the index that names the newest one is replaced last) and drops the oldest."""
        self.replay_state.assign(json.dumps(self.replay.random_state))
        self.noise_state.assign(json.dumps(self.agent.noise.bit_generator.state))
        self.manager.save()

    def close(self) -> None:
        """Closes logger and environments."""
        self.batches = None
        self.logger.close()
        for driver in (self.driver, self.eval_driver):
            if driver is not None:
                driver.close()
