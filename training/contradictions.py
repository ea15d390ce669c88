"""Settings that contradict each other, or nearly."""

from tools.command_line import note
from tools.config import Config, check_ranges
from tools.errors import UserError


def check_settings(c: Config) -> None:
    """Raises UserError for settings that contradict each other or are out of range."""
    check_ranges(c)
    if c.overshooting >= c.batch_length:
        raise UserError(
            f"overshooting is {c.overshooting}: choose a number from 1 to batch_length - 1, {c.batch_length - 1}."
        )
    if c.value_head and c.discount >= 1.0 and not c.discount_head:
        raise UserError(
            "value_head needs a discount below 1 (ColloDreamer has 0.99) or discount_head: an undiscounted sum of all "
            "future rewards grows without bound."
        )
    if c.value_head and c.strategy != "one":
        raise UserError(f"value_head learns on one device, not with strategy {c.strategy}: use strategy one.")
    if c.augmented_objective and not c.value_head:
        raise UserError("augmented_objective compares the values of states: turn value_head on, too.")
    if c.deterministic and c.strategy != "one":
        raise UserError(f"deterministic is for one device, not for strategy {c.strategy}: use strategy one.")


def note_settings(c: Config) -> None:
    """Names settings that may go together, but hardly do what is wanted."""
    if c.dynamics == "deterministic" and c.free_nats > 0.0:
        note(
            f"free_nats is {c.free_nats:g}, but the states of deterministic dynamics have no noise and stay closer "
            "together than that, so that the prior hardly learns to predict: set --free_nats 0."
        )
    if c.planner == "dreamer" and c.value_head and c.discount != c.imagination_discount:
        note(
            f"the critic discounts by imagination_discount {c.imagination_discount:g}, but plans that end in it by "
            f"discount {c.discount:g}: give both the same value, unless no other planner will use this run."
        )


def check_plan_length(c: Config, used: int) -> None:
    """Raises UserError if more actions of a plan are executed or learned from, `used`, than it has."""
    if used > c.planning_horizon:
        raise UserError(
            f"mpc_steps is {c.mpc_steps} but a plan has only {c.planning_horizon} actions: "
            "raise planning_horizon or lower mpc_steps."
        )
