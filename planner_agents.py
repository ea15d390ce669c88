"""The agent of each planner: a `PlanningAgent` that makes the planner from the settings.

agents.py lists them by the name of the planner. Agents that act by a policy are in policy_agents.py.
"""

import optimizers
from planners.cem import CEM, RandomShooting
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.latco import LatCo
from planning_agent import PlanningAgent
from tools.config import Config


def sampling_options(c: Config, problem: optimizers.LatentProblem) -> dict:
    """The settings that sampling planners share."""
    shared = {"sample_states": c.sample_states, "policy_share": c.policy_candidates}
    return PlanningAgent.planner_options(c, problem) | shared


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
        return sampling_options(c, problem) | {"iterations": c.sampling_iterations, "elites": c.sampling_elites}


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
        options = sampling_options(c, problem)
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
