"""Entry point: agents that plan in the latent space of a learned world model, with model-predictive control.

    python planning_agent.py --configs defaults metaworld --planner latco

`--help` lists every setting. A new planner is one subclass of `PlanningAgent` and one line in `PLANNERS`.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Before TensorFlow is imported: its start-up notices would hide the progress line. Set it to 0 to see them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import numpy as np
import tensorflow as tf

import envs
import models
import optimizers
from base_agent import BaseAgent
from config import Config, load_config
from errors import UserError, unknown

# What a log directory's episodes and weights depend on: a resumed run must agree with the first one in these.
FIXED_KEYS = (
    "task", "action_repeat", "time_limit", "reward", "camera", "stoch", "deter", "hidden", "min_std", "act", "cnn_act",
    "cnn_depth", "reward_layers", "reward_units", "discount_head", "state_probe",
)  # fmt: skip


class PlanningAgent(BaseAgent):
    """Model-predictive control for a batch of environments (LatCo algorithm 1, PlaNet algorithm 1).

    An environment gets a new plan at the start of an episode and whenever `mpc_steps` actions of its last one are
    executed. The plans travel in the policy state: 'plan_actions' [B, H, A], 'plan_states' [B, H, n], 'plan_rewards'
    [B, H], 'plan_stats' (name -> [B]) and 'cursor' [B], the number of actions already executed.
    """

    def __init__(self, config: Config, observation_space: gymnasium.spaces.Dict, action_space: gymnasium.spaces.Box):
        super().__init__(config, observation_space, action_space)
        if config.mpc_steps > config.planning_horizon:
            raise UserError(
                f"mpc_steps is {config.mpc_steps} but a plan has only {config.planning_horizon} actions: "
                "raise planning_horizon or lower mpc_steps."
            )
        self.planner = self.make_planner(self.latent_problem())

    def latent_problem(self) -> optimizers.LatentProblem:
        """The learned model as planners see it: functions of features and actions."""
        dynamics = self.model.dynamics
        return optimizers.LatentProblem(
            step=dynamics.mean_step,
            reward=self.model.reward,
            state_size=dynamics.feat_size,
            action_size=self.action_size,
            sample_step=dynamics.sample_step,
            linearize=dynamics.linearize,
        )

    def make_planner(self, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """The trajectory optimizer, built from the config."""
        raise NotImplementedError("PlanningAgent has no optimizer: use a subclass from PLANNERS.")

    def act(
        self, latent: models.State, is_first: np.ndarray, state: dict
    ) -> tuple[np.ndarray, dict, dict[str, np.ndarray]]:
        """The next action of every environment's plan, after planning anew where a plan is missing or used up."""
        # Without a plan, as after a prefill that ended within an episode, it counts as used up.
        cursor = state.get("cursor", np.full(len(is_first), self.config.mpc_steps))
        need = is_first | (cursor >= self.config.mpc_steps)
        if need.any():
            plans = self.plan(latent)
            # Plans are made for the whole batch, so that shapes stay static; environments in the middle of a plan keep
            # theirs.
            keep = {key: state.get(key, value) for key, value in plans.items()}
            state = state | {key: _where(need, plans[key], keep[key]) for key in plans}
            cursor = np.where(need, 0, cursor)
        rows = np.arange(len(is_first))
        action, predicted = state["plan_actions"][rows, cursor], state["plan_rewards"][rows, cursor]
        extras = {"predicted_reward": predicted, "planned": need, **state["plan_stats"]}
        return action, state | {"cursor": cursor + 1}, extras

    def plan(self, latent: models.State) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
        """Plans from latent states: the plan entries of the policy state, with the last iteration's statistics."""
        start, traces = time.perf_counter(), self.planner.traces
        plan = self.planner(models.get_feat(latent), self.rng.uniform_full_int([2], tf.int32))
        actions = plan.actions.numpy()
        # A call that compiles says nothing about the speed of planning.
        seconds = time.perf_counter() - start if self.planner.traces == traces else np.nan
        stats = {f"plan/{name}": curve[:, -1].numpy() for name, curve in plan.curves.items() if name != "reward"}
        stats |= {
            "plan/non_finite": plan.non_finite.numpy().astype(np.float32),
            "speed/plan_seconds": np.full(len(actions), seconds, np.float32),
        }
        return {
            "plan_actions": actions,
            "plan_states": plan.states.numpy(),
            "plan_rewards": plan.rewards.numpy(),
            "plan_stats": stats,
        }


def _where(mask: np.ndarray, new, old):
    """`new` in the rows of `mask` [B], `old` elsewhere, through dicts."""
    if isinstance(new, dict):
        return {key: _where(mask, new[key], old[key]) for key in new}
    return np.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)


class CEMAgent(PlanningAgent):
    """PlaNet: the cross-entropy method over actions (PlaNet algorithm 2)."""

    def make_planner(self, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `optimizers.CEM`."""
        c = self.config
        return optimizers.CEM(
            problem, c.planning_horizon, c.cem_iterations, c.cem_candidates, c.cem_elites, c.cem_sample_states
        )


class LatCoAgent(PlanningAgent):
    """Latent collocation.

    States and actions together, by Levenberg-Marquardt under multipliers (LatCo ICML algorithm 1).
    """

    def make_planner(self, problem: optimizers.LatentProblem) -> optimizers.Planner:
        """See `optimizers.LatCo`."""
        c = self.config
        return optimizers.LatCo(
            problem, c.planning_horizon, c.latco_iterations, c.latco_solver,
            damping=c.latco_damping, eps_dyn=c.latco_eps_dyn, eps_act=c.latco_eps_act, eta=c.latco_eta,
            dual_lr=c.latco_dual_lr, dual_log=c.latco_dual_log, lam_init=c.latco_lam_init, nu_init=c.latco_nu_init,
        )  # fmt: skip


PLANNERS = {
    "cem": CEMAgent,
    "latco": LatCoAgent,
}


def make_agent(config: Config) -> PlanningAgent:
    """The agent of `config.planner` for `config.task`. Raises UserError for an unknown planner or task."""
    if config.planner not in PLANNERS:
        raise unknown("planner", config.planner, PLANNERS)
    return PLANNERS[config.planner](config, *envs.spaces(config))


def open_logdir(config: Config, argv: Sequence[str]) -> Path:
    """Creates or resumes the log directory: checks the settings of a run already there, saves the config, command and
    git revision.

    Raises:
      UserError: the directory holds a run whose episodes or weights do not fit this config.
    """
    logdir = Path(config.logdir).expanduser()
    saved = logdir / "config.yaml"
    if saved.exists():
        before = Config.load(saved)
        for key in FIXED_KEYS:
            if before.get(key) != config[key]:
                raise UserError(
                    f"{logdir} holds a run with {key} = {before.get(key)}, this command says {config[key]}: "
                    f"choose another --logdir, or the same {key}."
                )
    try:
        logdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The log directory {logdir} cannot be created ({error.strerror}): choose another --logdir."
        ) from error
    config.save(saved)
    run = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["planning_agent.py", *argv],
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "machine": platform.machine(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }
    with open(logdir / "runs.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    return logdir


def _git(*args: str) -> str:
    """Output of a git command on this checkout, or '' where there is none."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0 done, 2 for bad input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        config = load_config(argv).resolved()
        agent = make_agent(config)
        agent.train(open_logdir(config, argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on in {config.logdir} from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
