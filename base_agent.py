"""BaseAgent: the world model, its update, filtering and exploration.

The training loop is in training/run.py. Neither depends on a planner: a subclass defines how to act (`act`) and, for
pictures, which states it plans to reach (`planned_states`).
"""

import tools.tensorflow_setup

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow import keras

import envs
import models
from episodes.behavior import correlated_actions
from episodes.mixed_replay import MixedReplay
from episodes.replay import Replay
from tools.config import Config
from tools.errors import UserError
from tools.memory import enough_memory
from training.agent import Batch
from training.contradictions import check_settings
from training.data_parallel import compiles_update, make_strategy, place_among_workers
from training.run import TrainingRun
from world_model.device_shares import device_seed, devices
from world_model.loss import world_model_loss
from world_model.old_dynamics import OldDynamics
from world_model.open_loop import open_loop_video
from world_model.rewards import RewardTransform
from world_model.value import ValueLearner

Metrics = models.Metrics

WORKER_SEED = 10_000_000  # host k adds k times this to the seed of the run


class PolicyState(NamedTuple):
    """What a policy carries from one step of B environments to the next.

    Attributes:
        latent: the filtered states.
        action: float32 [B, A], the last actions.
        plan: the second result of `BaseAgent.act`.
    """

    latent: models.State
    action: np.ndarray
    plan: Any = None


class BaseAgent:
    """A world model trained online from the episodes that a policy collects (PlaNet and LatCo, algorithm 1)."""

    state_types: tuple[type, ...] = (PolicyState,)

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        c = self.config = config
        check_settings(c)
        self.strategy = make_strategy(c.strategy, c.batch_size)
        compiled = compiles_update(c.compile_update, self.strategy)
        self.worker, self.workers = place_among_workers(self.strategy)
        if self.workers > 1 and c.reward_normalization:
            raise UserError("reward_normalization knows the rewards of one host only: turn it off with several hosts.")
        keras.utils.set_random_seed(c.seed)
        if c.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.action_size, self.observation_space = action_space.shape[0], observation_space
        self.rewards = RewardTransform(c.reward_transform, c.reward_bound, c.reward_normalization)
        with self.strategy.scope(), models.layer_precision(c.precision):
            self.model = self._make_model()
            self.optimizer = models.make_adam(c.model_lr, c.adam_eps, c.precision)
            self.optimizer.build(self.model.trainable_variables)
            # Built last, so that the world model's initial weights do not depend on value_head.
            self.value = ValueLearner(c, self.model.dynamics.feat_size) if c.value_head else None
            self.old_dynamics = OldDynamics(self.model, c.augmented_target_every) if c.augmented_objective else None
        self.value_data = c.value_data if c.value_head else ""
        self.rng = tf.random.Generator.from_seed(c.seed)
        # Hosts share weights, but each collects its own episodes.
        self.worker_seed = c.seed + WORKER_SEED * self.worker
        self.noise = np.random.default_rng(self.worker_seed)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="environment_steps")
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.train_step = tf.function(self._train_step, autograph=False)
        self.differentiate: Callable = self._differentiate
        if compiled:
            self.differentiate = tf.function(self._differentiate, autograph=False, jit_compile=True)
        self.filter = tf.function(self._filter, autograph=False)
        self.open_loop = tf.function(self._open_loop, autograph=False)

    def _make_model(self) -> models.WorldModel:
        """A world model with the settings' heads. Raises UserError where the task gives a head nothing to learn."""
        c, spaces = self.config, self.observation_space.spaces
        state_size = spaces["state"].shape[0] if c.state_probe and "state" in spaces else 0
        if c.state_probe and not state_size:
            raise UserError(
                f"{c.task} provides no simulator state to regress (several tasks have none in common): turn "
                "state_probe off."
            )
        if c.cost_head and not envs.reports_cost(c):
            raise UserError(f"The task {c.task} reports no cost, so cost_head has nothing to learn: turn it off.")
        return models.WorldModel(
            self.action_size,
            stoch=c.stoch,
            deter=c.deter,
            hidden=c.hidden,
            act=c.act,
            min_std=c.min_std,
            cnn_depth=c.cnn_depth,
            cnn_act=c.cnn_act,
            reward_layers=c.reward_layers,
            reward_units=c.reward_units,
            dynamics=c.dynamics,
            latent=c.latent,
            classes=c.classes,
            unimix=c.unimix,
            discount_head=c.discount_head,
            cost_head=c.cost_head,
            state_size=state_size,
        )

    # Learning

    def loss(self, batch: Batch, noise: tf.Tensor) -> tuple[tf.Tensor, Metrics, models.State]:
        """The loss of the world model on a batch, its terms and the posterior states: see `world_model_loss`."""
        reward = self.rewards(batch["reward"])
        return world_model_loss(self.config, self.model, batch, reward, noise, self.loss_scale)

    def batches(self, replay: Replay | MixedReplay, count: int | None = None) -> Iterator[Batch]:
        """Training batches, one of `device_batch_size` chunks for each device; on one device `count` may end them."""
        if self.strategy.num_replicas_in_sync == 1:
            return iter(replay.dataset(count))
        return iter(self.strategy.distribute_datasets_from_function(lambda _: replay.dataset()))

    @property
    def loss_scale(self) -> tf.Tensor:
        """See `models.loss_scale`."""
        return models.loss_scale(self.optimizer)

    @property
    def checkpointed(self) -> dict[str, Any]:
        """The parts of the agent that are saved, by their names in a checkpoint."""
        names = ("model", "optimizer", "rewards", "step", "updates", "value", "old_dynamics")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    @property
    def device_batch_size(self) -> int:
        """Chunks per batch and device."""
        return self.config.batch_size // self.strategy.num_replicas_in_sync

    def _train_step(self, batch: Batch) -> Metrics:
        """One Adam step on the loss of a batch. A step whose gradients are not finite is skipped and counted."""
        seed = self.rng.uniform_full_int([2], tf.int32)
        grads, norm, shares, feat = self.strategy.run(self._gradients, args=(batch, seed))
        behavior = self._learn_behavior(feat, batch)
        norm = self.strategy.experimental_local_results(norm)[0]  # the same on all devices
        finite = tf.math.is_finite(norm)
        # TensorFlow requires the conditional outside of the per-device code. With float16's scaled loss, the optimizer
        # itself skips the step and lowers the scale.
        tf.cond(finite | (self.config.precision == "float16"), lambda: self._apply(grads), lambda: False)
        self.updates.assign_add(1)
        if self.old_dynamics is not None:
            self.old_dynamics.follow(self.updates)
        metrics = {name: self.strategy.reduce("SUM", share, None) for name, share in shares.items()}
        return metrics | behavior | {"grad_norm": norm, "skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, Metrics, tf.Tensor]:
        """Gradients of the loss; runs on each device.

        Returns:
            the clipped gradients of the whole batch, their norm before clipping without the state probe's, this
            device's shares of the metrics, and the features of its posterior states [B, L, n].
        """
        c, seeds = self.config, tf.random.split(device_seed(seed), 2)
        batch = batch | {"image": models.reduce_bits(batch["image"], c.image_bits, seeds[1])}
        size = c.overshooting * self.model.dynamics.noise_size
        noise = tf.random.stateless_normal([*batch["reward"].shape, size], seeds[0])
        grads, metrics, feat = self.differentiate(batch, noise)
        if devices() > 1:
            grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
        probe = 0 if self.model.probe is None else len(self.model.probe.trainable_variables)  # the last ones
        grads, own = grads[: len(grads) - probe], grads[len(grads) - probe :]
        grads, norm = self._clipped(grads)
        if own:
            # By themselves: states in large units must not shorten the steps of all other weights.
            own, own_norm = self._clipped(own)
            norm += 0.0 * own_norm  # not finite where the probe's is not, so that the step is skipped
        return [*grads, *own], norm, metrics, feat

    def _clipped(self, grads: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of the scaled loss, clipped, and their norm before clipping, without the scale."""
        scale = self.loss_scale
        norm = tf.linalg.global_norm(grads) / scale
        return tf.clip_by_global_norm(grads, self.config.grad_clip * scale, norm * scale)[0], norm

    def _differentiate(self, batch: Batch, noise: tf.Tensor) -> tuple[list[tf.Tensor], Metrics, tf.Tensor]:
        """Gradients of the scaled loss, metrics and features, without random numbers: XLA would draw others."""
        with tf.GradientTape() as tape:
            loss, metrics, post = self.loss(batch, noise)
            scaled = loss * self.loss_scale
        return tape.gradient(scaled, self.model.trainable_variables), metrics, models.get_feat(post)

    def _apply(self, grads: list[tf.Tensor]) -> bool:
        """Makes the step on all devices; true, since both branches of `tf.cond` return something."""

        def apply(grads):
            # Keras sums gradients over devices, but these are summed already: clipping needed the sum.
            self.optimizer.apply([grad / devices() for grad in grads], self.model.trainable_variables)

        self.strategy.run(apply, args=(grads,))
        return True

    def _learn_behavior(self, feat: tf.Tensor, batch: Batch) -> Metrics:
        """One update of the value and the policy, where they learn from batches.

        Args:
            feat: features of the posterior states [B, L, n]. They and the world model are constants here.
            batch: the replay batch.
        """
        return self._learn_value(feat, batch) if self.value_data == "replay" else {}

    def _learn_value(self, feat: tf.Tensor, batch: Batch) -> Metrics:
        """One update of the value network on a batch's posterior states (ColloDreamer section 5, first variant)."""
        # Rewards are predicted, as in plans. Discounts are the recorded ones: 0 at terminal states.
        follows = (batch["mask"] > 0.0) & ~batch["is_first"]
        return self.value.learn(feat, self.model.reward(feat), self.config.discount * batch["discount"], follows)

    # Acting

    def _filter(self, image: tf.Tensor, is_first: tf.Tensor, state: models.State, action: tf.Tensor) -> models.State:
        """The latent state after B images, from the state before and the action that led to them."""
        image = models.reduce_bits(image, self.config.image_bits)
        embed = self.model.encoder(models.preprocess(image))
        noise = self.rng.normal([image.shape[0], self.model.dynamics.noise_size])
        return self.model.dynamics.obs_step(state, action, embed, is_first, noise)

    def infer_first(self, image: np.ndarray) -> tf.Tensor:
        """Features [B, n] of the first states of episodes, inferred from their first images, uint8 [B, 64, 64, 3]."""
        batch = len(image)
        start, action = self.model.dynamics.initial(batch), np.zeros([batch, self.action_size], np.float32)
        return models.get_feat(self.filter(image, np.ones(batch, bool), start, action))

    def policy(
        self,
        obs: dict[str, np.ndarray],
        is_first: np.ndarray,
        state: PolicyState | None,
        *,
        explore: bool,
        idle: np.ndarray | None = None,
    ) -> tuple[np.ndarray, PolicyState, dict]:
        """Filters the observations of B environments and acts: a policy for `training.driver.Driver`.

        Args:
            obs: 'image' uint8 [B, 64, 64, 3].
            is_first: bool [B], which environments start an episode.
            state: the policy state of the previous step, or None.
            explore: whether to add exploration noise.
            idle: bool [B], which environments only wait for the others and need no plan, or None.

        Raises:
            UserError: an action is not a number.
        """
        batch = len(is_first)
        if state is None:
            state = PolicyState(self.model.dynamics.initial(batch), np.zeros([batch, self.action_size], np.float32))
        latent = self.filter(obs["image"], is_first, state.latent, state.action)
        action, plan, extras = self.act(latent, is_first, state.plan, np.zeros(batch, bool) if idle is None else idle)
        if explore:
            action = self._explore(latent, action)
        action = np.clip(action, -1.0, 1.0).astype(np.float32)
        if np.isnan(action).any():
            raise UserError(
                "The agent chose an action that is not a number, so its weights have grown beyond bounds: choose lower "
                "learning rates (model_lr, policy_lr, actor_lr, value_lr) and another --logdir."
            )
        return action, PolicyState(latent, action, plan), extras

    def _explore(self, latent: models.State, action: np.ndarray) -> np.ndarray:
        """Actions [B, A] with exploration noise, not clipped yet."""
        return action + self.config.expl_noise * self.noise.standard_normal(action.shape)

    def act(
        self, latent: models.State, is_first: np.ndarray, plan: Any, idle: np.ndarray
    ) -> tuple[np.ndarray, Any, dict]:
        """Acts in filtered states.

        Args:
            latent: of B environments.
            is_first: bool [B], which environments start an episode.
            plan: what the previous call returned, None at first.
            idle: bool [B], which environments may be given any action.

        Returns:
            actions [B, A]; the plan for the next call; and extras to record: 'predicted_reward' [B] of the actions,
            'planned' bool [B], where a plan was made, and 'metrics', name -> [B], to log for these.
        """
        raise NotImplementedError("BaseAgent cannot act: use a subclass such as PlanningAgent.")

    def planned_states(self, state: PolicyState) -> np.ndarray | None:
        """The features [B, H, n] that the agent plans to reach next, for pictures; None if it does not plan."""
        return None

    def random_policy(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any, dict[str, np.ndarray]]:
        """Uniform actions in [-1, 1], correlated over time by `prefill_correlation` (see `correlated_actions`)."""
        rho = self.config.prefill_correlation
        return *correlated_actions(state, is_first, self.action_size, rho, self.noise), {}

    def _open_loop(self, batch: Batch) -> tf.Tensor:
        return open_loop_video(self.model, batch, self.config.image_bits)

    # The training loop

    def train(self, logdir: Path, quiet: bool = False, begin: Callable[[], object] = lambda: None) -> None:
        """Trains until `steps` environment steps are collected, resuming from the last checkpoint in `logdir`.

        Arguments and errors are those of `TrainingRun`.
        """
        with enough_memory():
            TrainingRun(self, logdir, quiet, begin).run()
