"""Agents that act by a policy instead of planning: Dreamer, and the policy that was learned from plans."""

import gymnasium
import numpy as np
import tensorflow as tf

import models
import optimizers
from agents import make_planner
from planners.plan_state import PlanState
from planners.policy import PolicyRollout
from planning_agent import PlanningAgent
from policies.actor import Actor
from policies.imagination import ActorCritic
from tools.config import Config
from training.agent import Batch
from world_model.latent_problem import latent_problem
from world_model.value import ValueLearner


class ActorAgent(PlanningAgent):
    """Acts by its policy. Its plan is the policy's rollout along the mean dynamics, whose first action is executed."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.policy.PolicyRollout`."""
        options = {"restarts": c.n_parallel_plans, "restart_samples": c.restart_samples}
        return PolicyRollout(problem, c.planning_horizon, **options)

    @property
    def executed_steps(self) -> int:
        """One, so that the policy sees every state."""
        return 1


class DreamerAgent(ActorAgent):
    """Dreamer: an actor and a critic learned in imagination (Hafner et al. 2020).

    While collecting it takes samples of its actions, with exploration noise added to them.
    """

    def make_actor(self) -> Actor:
        """The actor; also makes the critic, unless `value_head` has."""
        c = self.config
        self.value_data = "imagination"
        if self.value is None:
            with models.layer_precision(c.precision):
                self.value = ValueLearner(c, self.model.dynamics.feat_size)
        actor = self.new_actor(c.actor_lr)
        problem = latent_problem(self.model, self.action_size)
        self.behavior = ActorCritic(c, problem, self.imagined_discount, actor, self.value)
        self.sample_action = tf.function(actor.__call__, autograph=False)
        return actor

    def make_distiller(self) -> None:
        """None: plans teach nothing."""

    def imagined_discount(self, z: tf.Tensor) -> tf.Tensor:
        """The factor [...] on what comes after imagined features z [..., n]; `discount_head` is Dreamer's pcont."""
        gamma = self.config.imagination_discount
        if self.model.discount is None:
            return tf.fill(z.shape[:-1], gamma)
        return gamma * tf.sigmoid(self.model.discount(z))

    def _learn_behavior(self, feat: tf.Tensor, batch: Batch) -> models.Metrics:
        """One update of actor and critic, from every state of the batch that is neither padding nor terminal."""
        counts = batch["mask"] * batch["discount"]
        return self.behavior.learn(tf.reshape(feat, [-1, feat.shape[-1]]), tf.reshape(counts, [-1]))

    def _explore(self, latent: models.State, action: np.ndarray) -> np.ndarray:
        sample = self.sample_action(models.get_feat(latent), self.rng.normal(action.shape))
        return super()._explore(latent, sample.numpy())


class PolicyAgent(ActorAgent):
    """Acts by a policy learned from plans.

    While collecting, the planner `policy_teacher` plans every `mpc_steps` decisions from where the policy is, and the
    policy learns from these plans. They are not executed.

    Attributes:
        teacher: that planner, or None.
    """

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        super().__init__(config, observation_space, action_space)
        name = config.policy_teacher
        self.teacher = None if name == "none" else make_planner(config.replace(planner=name), self.planner.problem)

    @property
    def searcher(self) -> optimizers.Planner | None:
        """The teacher."""
        return self.teacher

    @property
    def used_steps(self) -> int:
        """Those of the teacher's plans that the policy learns from."""
        return super().used_steps if self.config.policy_teacher == "none" else self.config.mpc_steps

    def make_actor(self) -> Actor:
        """The policy."""
        return self.new_actor(self.config.policy_lr)

    def teacher_plans(
        self, feat: tf.Tensor, is_first: np.ndarray, before: PlanState | None, plan: PlanState, planned: np.ndarray
    ) -> tuple[PlanState, PlanState | None, np.ndarray]:
        """The teacher's plans, which are remembered beside the policy's own."""
        if self.teacher is None:
            return plan, None, planned
        plans = None if before is None else before.teacher
        need = np.ones_like(is_first) if plans is None else is_first | (plans.cursor >= self.config.mpc_steps)
        if need.any():
            new = self.make_plans(feat, self._warm_start(plans, is_first, self.teacher), self.teacher)
            plans = new if plans is None else plans.replace_where(need, new)
        return plan._replace(teacher=plans._replace(cursor=plans.cursor + 1)), plans, need
