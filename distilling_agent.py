"""DistillingAgent: a base agent that distills plans into a value network and a policy. It makes no plans itself."""

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf

import models
from base_agent import BaseAgent, PolicyState
from planners.plan_state import PlanState
from policies.actor import Actor
from policies.distillation import Distiller
from tools.config import Config
from tools.errors import UserError
from training.agent import Batch
from training.initial_weights import PLAN_MEMORY


class DistillingAgent(BaseAgent):
    """Learns the return after a state (`value_data: plans`) and a policy from plans.

    Attributes:
        actor: the policy, or None.
        distiller: teaches it, or None.
    """

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        super().__init__(config, observation_space, action_space)
        self.learn_value_from_plans = tf.function(self._learn_value_from_plans, autograph=False)
        self.actor = self.make_actor()
        self.distiller = self.make_distiller()

    def discount(self, z: tf.Tensor) -> tf.Tensor:
        """The factor [...] on rewards after features z [..., n]: `discount` times the discount head's prediction."""
        if self.model.discount is None:
            return tf.fill(z.shape[:-1], tf.cast(self.config.discount, z.dtype))
        return self.config.discount * tf.sigmoid(self.model.discount(z))

    def make_actor(self) -> Actor | None:
        """The policy network, if the settings ask for one."""
        c = self.config
        if c.warm_start != "policy" and not c.policy_candidates:
            return None
        return self.new_actor(c.policy_lr)

    def new_actor(self, lr: float) -> Actor:
        """A policy network that learns at this rate."""
        c = self.config
        if c.strategy != "one":
            raise UserError(f"A policy learns on one device, not with strategy {c.strategy}: use strategy one.")
        return Actor(c, self.model.dynamics.feat_size, self.action_size, lr)

    def make_distiller(self) -> Distiller | None:
        """What teaches the policy by plans, or by the actions of episodes in offline runs."""
        if self.actor is None:
            return None
        dynamics = self.model.dynamics
        return Distiller(self.config, self.actor, dynamics.mean_step, dynamics.feat_size, self.action_size)

    @property
    def checkpointed(self) -> dict[str, Any]:
        """See `BaseAgent.checkpointed`."""
        parts = super().checkpointed | ({} if self.actor is None else {"actor": self.actor})
        return parts if self.distiller is None else parts | {PLAN_MEMORY: self.distiller.memory}

    def policy(
        self,
        obs: dict[str, np.ndarray],
        is_first: np.ndarray,
        state: PolicyState | None,
        *,
        explore: bool,
        idle: np.ndarray | None = None,
    ) -> tuple[np.ndarray, PolicyState, dict]:
        """As `BaseAgent.policy`. Plans made while collecting also train value (`value_data: plans`) and actor."""
        before = None if state is None else state.plan
        action, state, extras = super().policy(obs, is_first, state, explore=explore, idle=idle)
        if not explore:
            return action, state, extras
        feat = models.get_feat(state.latent)
        plan, targets, planned = self.teacher_plans(feat, is_first, before, state.plan, extras["planned"])
        metrics = extras["metrics"] | ({} if targets is None else self.learn_from_plans(feat, targets, planned))
        return action, state._replace(plan=plan), extras | {"metrics": metrics}

    def teacher_plans(
        self, feat: tf.Tensor, is_first: np.ndarray, before: PlanState | None, plan: PlanState, planned: np.ndarray
    ) -> tuple[PlanState, PlanState | None, np.ndarray]:
        """What value and policy learn from while collecting: here, the plans that are executed.

        Args:
            feat: features [B, n] of the present states.
            is_first: bool [B], which environments start an episode.
            before: the plans of the step before, or None.
            plan: those of this step.
            planned: bool [B], which of them are new.

        Returns:
            the plans of this step; those to learn from, or None; and which of these are new, bool [B].
        """
        del feat, is_first, before
        return plan, plan, planned

    def learn_from_plans(self, feat: tf.Tensor, plan: PlanState, planned: np.ndarray) -> dict[str, np.ndarray]:
        """Trains the value and the policy on plans.

        Args:
            feat: the features [B, n] in which they start.
            plan: the plans.
            planned: bool [B], which of them are new.

        Returns:
            metrics [B], NaN where there is no new plan.
        """
        losses: dict[str, tf.Tensor] = {}
        names: list[str] = []
        if self.value_data == "plans":
            names += ["value_loss", "value"]
            for _ in range(self.config.value_updates if planned.any() else 0):
                losses |= self.learn_value_from_plans(feat, plan.states, planned)
        if self.distiller is not None:
            names += ["policy_loss", "policy_std"]
            if planned.any():
                self.distiller.add(feat, plan.kept, plan.kept_scores, planned)
                for _ in range(self.config.policy_updates):
                    losses |= self.distiller.learn()
        return {f"model/{name}": np.where(planned, float(losses.get(name, np.nan)), np.nan) for name in names}

    def _learn_behavior(self, feat: tf.Tensor, batch: Batch) -> models.Metrics:
        """See `BaseAgent._learn_behavior`. In offline runs the policy learns from the recorded actions."""
        metrics = super()._learn_behavior(feat, batch)
        if self.distiller is None or self.config.steps:
            return metrics
        follows = (batch["mask"] > 0.0) & ~batch["is_first"]
        rewards = self.rewards(batch["reward"])
        return metrics | self.distiller.learn_from_episodes(feat, batch["action"], rewards, follows)

    def _learn_value_from_plans(self, feat: tf.Tensor, states: tf.Tensor, planned: tf.Tensor) -> models.Metrics:
        """One update of the value network on planned states (ColloDreamer algorithm 1, but after the search).

        The target of a state is the sum of the rewards planned after it plus the target network's value of the last
        state.

        Args:
            feat: first states of the plans [B, n].
            states: planned states [B, H, n].
            planned: bool [B], which plans to learn from.
        """
        feat = tf.concat([feat[:, None], states], 1)
        follows = tf.repeat(planned[:, None], feat.shape[1], 1)
        return self.value.learn(feat, self.model.reward(feat), self.discount(feat), follows)
