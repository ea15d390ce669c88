"""Entry point: agents that plan in the latent space of a learned world model, with model-predictive control.

    python planning_agent.py --configs defaults metaworld --planner latco

`--help` lists every setting. Each planner has a subclass of `PlanningAgent` in planner_agents.py.
"""

if __name__ == "__main__":
    import tools.startup

import tools.tensorflow_setup

import dataclasses
import sys
import time
from collections.abc import Sequence

import gymnasium
import numpy as np
import tensorflow as tf

import envs
import models
import optimizers
from agents import make_agent
from base_agent import PolicyState
from distilling_agent import DistillingAgent
from planners.discounting import discounted, start_survival, strip_survival
from planners.plan_state import PlanState, cold_start, plan_metrics
from tools.config import Config, load_config
from tools.files import expanded
from tools.lock import exclusive_folder
from tools.memory import check_memory
from tools.program import run_program
from training.contradictions import check_plan_length
from training.logdir import check_logdir, open_logdir
from world_model.latent_problem import latent_problem


class PlanningAgent(DistillingAgent):
    """Model-predictive control for a batch of environments (LatCo algorithm 1, PlaNet algorithm 1).

    An environment gets a new plan at the start of an episode and after every `mpc_steps` executed actions. The plans
    are part of the policy state (`planners.plan_state.PlanState`).
    """

    state_types: tuple[type, ...] = (PolicyState, PlanState)

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        super().__init__(config, observation_space, action_space)
        check_plan_length(config, self.used_steps)
        self.discounted = config.discount_head or config.discount < 1.0
        self.planner = self.make_planner(config, self.latent_problem())

    def latent_problem(self) -> optimizers.LatentProblem:
        """The learned model as planners see it: functions of features and actions.

        With discounted rewards, the planner's state has one more entry, the log survival probability
        (`planners.discounting.discounted`). `plan_from` strips it from the plans.
        """
        c, dynamics = self.config, self.model.dynamics
        problem = dataclasses.replace(
            latent_problem(self.model, self.action_size),
            constraint=(lambda z: self.model.cost(z)[..., None] - c.cost_limit) if c.cost_head else None,
            value=self.value if c.value_head else None,  # Dreamer has one in any case, for its actor
            log_prob=None if self.old_dynamics is None else dynamics.log_prob,
            old_log_prob=None if self.old_dynamics is None else self.old_dynamics.net.log_prob,
            value_steps=1.0 / (1.0 - c.discount) if c.discount < 1.0 else float(c.planning_horizon),
            policy=self.actor,
        )
        return discounted(problem, self.discount) if self.discounted else problem

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """The planner that settings describe for a latent problem. It needs no agent.

        Args:
            c: the settings.
            problem: the latent problem; its policy, if there is one, learns from the plans.
        """
        raise NotImplementedError("PlanningAgent has no planner of its own: use one of its subclasses.")

    @classmethod
    def planner_options(cls, c: Config, problem: optimizers.LatentProblem) -> dict:
        """The settings that all planners share."""
        options = {"restarts": c.n_parallel_plans, "restart_samples": c.restart_samples, "tolerance": c.plan_tolerance}
        options |= {"initial_candidates": c.initial_candidates, "initial_correlation": c.initial_correlation}
        if c.warm_start == "policy":
            options["policy_start"] = True
        if problem.policy is not None:
            options["keep_plans"] = (c.n_parallel_plans + 1) // 2  # the better half teaches the policy
        return options

    def act(
        self, latent: models.State, is_first: np.ndarray, plan: PlanState | None, idle: np.ndarray
    ) -> tuple[np.ndarray, PlanState, dict]:
        """The next action of every environment's plan, a new plan where none exists or its actions are used up."""
        feat, steps = models.get_feat(latent), self.executed_steps
        need = np.ones_like(is_first) if plan is None else (is_first | (plan.cursor >= steps)) & ~idle
        if plan is not None:
            plan = plan._replace(cursor=np.where(idle, 0, plan.cursor))
        if need.any():
            new = self.make_plans(feat, self._warm_start(plan, is_first))
            # Plans for all environments keep shapes static. Environments in the middle of a plan keep it.
            plan = new if plan is None else plan.replace_where(need, new)
        action = plan.next_action(feat.numpy())
        extras = {"predicted_reward": plan.next_reward(), "planned": need, "metrics": plan.metrics}
        return action, plan._replace(cursor=plan.cursor + 1), extras

    @property
    def searcher(self) -> optimizers.Planner | None:
        """The planner that searches: where a policy acts, its teacher. None if nothing searches."""
        return self.planner

    @property
    def executed_steps(self) -> int:
        """How many actions of a plan are executed."""
        return self.config.mpc_steps

    @property
    def used_steps(self) -> int:
        """How many actions of a plan are executed or learned from; a plan needs as many."""
        return self.executed_steps

    def planned_states(self, state: PolicyState) -> np.ndarray:
        """See `BaseAgent.planned_states`."""
        return state.plan.states

    def _warm_start(
        self, plan: PlanState | None, is_first: np.ndarray, planner: optimizers.Planner | None = None
    ) -> optimizers.WarmStart | None:
        """Warm starts for new plans from the last ones, None without `warm_start: true`."""
        if self.config.warm_start is not True:
            return None
        if plan is None:
            return cold_start(len(is_first), planner or self.planner)
        return plan.next_warm_start(is_first)

    def planner_start(self, feat: tf.Tensor) -> tf.Tensor:
        """The planner's first states at features [..., n]."""
        return start_survival(feat) if self.discounted else feat

    def plan_from(
        self,
        feat: tf.Tensor,
        seed: tf.Tensor,
        warm: optimizers.WarmStart | None = None,
        planner: optimizers.Planner | None = None,
        **options,
    ) -> optimizers.Plan:
        """Calls the planner, or another one, at features [B, n]; states and gains of the plan refer to features.

        Arguments as for `optimizers.Planner.__call__`.
        """
        plan = (planner or self.planner)(self.planner_start(feat), seed, warm, **options)
        return strip_survival(plan) if self.discounted else plan

    def make_plans(
        self, feat: tf.Tensor, warm: optimizers.WarmStart | None = None, planner: optimizers.Planner | None = None
    ) -> PlanState:
        """Plans of the planner, or another one, from features [B, n], ready for execution and with metrics."""
        planner = planner or self.planner
        start, traces = time.perf_counter(), planner.traces
        plan = self.plan_from(feat, self.rng.uniform_full_int([2], tf.int32), warm, planner)
        batch = len(plan.actions.numpy())  # waits for the plan
        # Compilation would distort the time.
        seconds = time.perf_counter() - start if planner.traces == traces else np.nan
        metrics = plan_metrics(plan, planner.finish_steps)
        metrics["speed/plan_seconds"] = np.full(batch, seconds, np.float32)
        return PlanState.begin(plan, metrics, self.config.warm_start is True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_train, argv, lambda: "the same command resumes the run from its last checkpoint")


def _train(argv: Sequence[str]) -> int:
    config = load_config(argv).resolved()
    check_memory(config, envs.split_tasks(config.task))
    agent = make_agent(config)
    # With several hosts, the first one owns the log directory and the others use folders in it.
    logdir = expanded(config.logdir)
    with exclusive_folder(logdir / f"worker-{agent.worker}" if agent.worker else logdir, "--logdir"):
        if not agent.worker:
            check_logdir(config)
        agent.train(logdir, begin=lambda: agent.worker or open_logdir(config, argv))
    return 0


if __name__ == "__main__":
    sys.modules["planning_agent"] = sys.modules[__name__]  # so that agents.py does not import a second copy
    sys.exit(main())
