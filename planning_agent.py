"""Entry point: agents that plan in the latent space of a learned world model, with model-predictive control.

    python planning_agent.py --configs defaults metaworld --planner latco

`--help` lists every setting. A new planner is one subclass of `PlanningAgent` and one line in agents.py.
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
from planners.cem import CEM, RandomShooting
from planners.discounting import discounted, start_survival, strip_survival
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.latco import LatCo
from planners.plan_state import PlanState, cold_start, plan_metrics
from taught_agent import TaughtAgent
from tools.config import Config, load_config
from tools.files import expanded
from tools.lock import exclusive_folder
from tools.memory import check_memory
from tools.program import run_program
from training.contradictions import check_plan_length
from training.logdir import check_logdir, open_logdir
from world_model.latent_problem import latent_problem


class PlanningAgent(TaughtAgent):
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
            value=self.value,
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

    @classmethod
    def sampling_options(cls, c: Config, problem: optimizers.LatentProblem) -> dict:
        """The settings that sampling planners share."""
        options = cls.planner_options(c, problem)
        return options | {"sample_states": c.sample_states, "policy_share": c.policy_candidates}

    def act(
        self, latent: models.State, is_first: np.ndarray, plan: PlanState | None, idle: np.ndarray
    ) -> tuple[np.ndarray, PlanState, dict]:
        """The next action of every environment's plan, a new plan where none exists or its actions are used up."""
        feat, steps = models.get_feat(latent), self.executed_steps
        need = np.ones_like(is_first) if plan is None else (is_first | (plan.cursor >= steps)) & ~idle
        if plan is not None:
            plan = plan._replace(cursor=np.where(idle, 0, plan.cursor))
        if need.any():
            new = self.make_plans(feat, self._warm(plan, is_first))
            # Plans for all environments keep shapes static. Environments in the middle of a plan keep it.
            plan = new if plan is None else plan.replace_where(need, new)
        action = plan.next_action(feat.numpy())
        extras = {"predicted_reward": plan.next_reward(), "planned": need, "metrics": plan.metrics}
        return action, plan._replace(cursor=plan.cursor + 1), extras

    @property
    def executed_steps(self) -> int:
        """How many actions of a plan are executed."""
        return self.config.mpc_steps

    @property
    def used_steps(self) -> int:
        """How many actions of a plan are executed or taught; a plan needs as many."""
        return self.executed_steps

    def planned_states(self, state: PolicyState) -> np.ndarray:
        """See `BaseAgent.planned_states`."""
        return state.plan.states

    def _warm(
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


class RandomShootingAgent(PlanningAgent):
    """Executes the best of many uniformly random action sequences."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.cem.RandomShooting`."""
        options = cls.planner_options(c, problem)
        return RandomShooting(
            problem, c.planning_horizon, c.sampling_iterations, c.cem_candidates, c.sample_states, **options
        )


class CEMAgent(PlanningAgent):
    """PlaNet: the cross-entropy method over actions (PlaNet algorithm 2)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.cem.CEM`."""
        return CEM(problem, c.planning_horizon, candidates=c.cem_candidates, **cls.options(c, problem))

    @classmethod
    def options(cls, c: Config, problem: optimizers.LatentProblem) -> dict:
        """Options that CEM and MPPI share."""
        return cls.sampling_options(c, problem) | {"iterations": c.sampling_iterations, "elites": c.sampling_elites}


class MPPIAgent(CEMAgent):
    """MPPI as in LatCo's appendix D: CEM with elites weighted by their returns."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.cem.CEM`."""
        options = cls.options(c, problem) | {"gamma": c.mppi_gamma}
        return CEM(problem, c.planning_horizon, candidates=c.mppi_candidates, **options)


class ICEMAgent(PlanningAgent):
    """Improved CEM (Pinneri et al. 2020)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.icem.ICEM`."""
        options = cls.sampling_options(c, problem)
        options |= {"candidates": c.icem_candidates, "elites": c.icem_elites}
        options |= {"decay": c.icem_decay, "keep": c.icem_keep, "momentum": c.icem_momentum}
        return ICEM(problem, c.planning_horizon, c.icem_iterations, beta=c.icem_beta, std=c.icem_std, **options)


class GDAgent(PlanningAgent):
    """Shooting by gradient descent on the actions."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.gd.GD`."""
        options = cls.planner_options(c, problem)
        options |= {"eps_act": c.eps_act, "dual_lr": c.dual_lr, "eta": c.dual_eta, "dual_every": c.dual_every}
        return GD(problem, c.planning_horizon, c.gd_iterations, c.gd_lr, **options)


class GNAgent(PlanningAgent):
    """Shooting by Gauss-Newton on the actions."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.gn.GN`."""
        options = cls.planner_options(c, problem)
        options |= {"eps_act": c.eps_act, "dual_lr": c.dual_lr, "eta": c.dual_eta}
        return GN(problem, c.planning_horizon, c.gn_iterations, damping=c.gn_damping, **options)


class ILQRAgent(PlanningAgent):
    """Iterative LQR on the latent dynamics."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.ilqr.ILQR`."""
        options = cls.planner_options(c, problem)
        return ILQR(problem, c.planning_horizon, c.ilqr_iterations, c.ilqr_feedback, damping=c.ilqr_damping, **options)


class LatCoAgent(PlanningAgent):
    """Latent collocation: Levenberg-Marquardt on states and actions, with multipliers (LatCo ICML algorithm 1)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.latco.LatCo`."""
        return LatCo(problem, c.planning_horizon, c.latco_iterations, eps_dyn=c.eps_dyn, **cls.options(c, problem))

    @classmethod
    def options(cls, c: Config, problem: optimizers.LatentProblem) -> dict:
        """Options that deterministic and Gaussian LatCo share."""
        options = cls.planner_options(c, problem)
        options |= {"solver": c.latco_solver, "damping": c.latco_damping, "finish": c.latco_finish}
        options |= {"keep_start": c.latco_keep_start}
        options |= {"eps_act": c.eps_act, "eps_con": c.eps_con}
        options |= {"dual_lr": c.dual_lr, "eta": c.dual_eta, "dual_log": c.latco_dual_log}
        options |= {"lam_init": c.latco_lam_init, "nu_init": c.latco_nu_init, "kappa_init": c.latco_kappa_init}
        return options


class GaussianLatCoAgent(LatCoAgent):
    """Latent collocation with Gaussian plans (LatCo ICML algorithms 2 and 3)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.gaussian_latco.GaussianLatCo`."""
        options = cls.options(c, problem) | {"samples": c.gaussian_samples, "eps_dyn": c.gaussian_eps_dyn}
        return GaussianLatCo(problem, c.planning_horizon, c.gaussian_iterations, **options)


class FirstOrderLatCoAgent(PlanningAgent):
    """LatCo without second-order optimization (LatCo ICML table 3)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.first_order_latco.FirstOrderLatCo`."""
        return FirstOrderLatCo(problem, c.planning_horizon, lr=c.first_order_lr, **cls.options(c, problem))

    @classmethod
    def options(cls, c: Config, problem: optimizers.LatentProblem) -> dict:
        """Options that collocation of states and collocation of images share."""
        options = cls.planner_options(c, problem) | {"iterations": c.first_order_iterations}
        options |= {"eps_dyn": c.eps_dyn, "eps_act": c.eps_act}
        return options | {"dual_lr": c.first_order_dual_lr, "dual_every": c.dual_every}


class ImageCollocationAgent(FirstOrderLatCoAgent):
    """Collocation of images (LatCo ICML table 3)."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.image_collocation.ImageCollocation`."""
        return ImageCollocation(problem, c.planning_horizon, lr=c.image_lr, **cls.options(c, problem))


class GRASPAgent(PlanningAgent):
    """GRASP (Psenka et al. 2026): noisy lifted states under a soft dynamics penalty."""

    @classmethod
    def make_planner(cls, c: Config, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `planners.grasp.GRASP`."""
        options = cls.planner_options(c, problem) | {"lam": c.grasp_lam}
        options |= {"sync_every": c.grasp_sync_every, "sync_steps": c.grasp_sync_steps, "sync_lr": c.grasp_sync_lr}
        return GRASP(problem, c.planning_horizon, c.grasp_iterations, c.grasp_lr, noise=c.grasp_noise, **options)


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
