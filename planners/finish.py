"""The end of a collocation search: a plan that satisfies the action bounds and the dynamics exactly.

Multipliers only react to violated bounds, so the last iterate of collocation may lie slightly outside, and clipping it
for execution changes the plan. The finish clips it once, rolls it out, and improves the result with projected
Gauss-Newton steps on the actions (Bertsekas 1982). Actions at a bound that the gradient pushes outwards stay there, the
others take the condensed step without slacks. A line search over clipped rollouts accepts a step only if the return
under the model grows.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem, Plan
from planners.least_squares import projected_shooting_step
from planners.linearization import linearize, values_and_gradients
from planners.multipliers import squared_constraint_violation
from planners.residuals import DAMPING_FACTOR
from planners.rows import where_rows
from planners.trajectories import objective_rewards, rollout

STEP_SIZES = (1.0, 0.3, 0.1, 0.03)
DAMPING = 1e-3  # first and smallest damping of the actions, as in GN


class Finished(NamedTuple):
    """A plan that follows the dynamics.

    Attributes:
        states: [B, H, n], the rollout of the actions.
        actions: [B, H, m], within the bounds.
        score: [B], rewards and terminal value under the mean dynamics.
        violation: [B], squared violation of the state constraint, which no step may increase.
        damping: [B], of the next step.
    """

    states: tf.Tensor
    actions: tf.Tensor
    score: tf.Tensor
    violation: tf.Tensor
    damping: tf.Tensor


def finish_plans(
    problem: LatentProblem, z0: tf.Tensor, actions: tf.Tensor, count: int, limit: tf.Tensor, residuals: Callable
) -> tuple[Finished, tf.Tensor]:
    """Finishes plans that start in z0 [B, n]: clips and rolls them out, then improves them.

    Args:
        problem: the latent problem.
        z0: first states [B, n].
        actions: [B, H, m], of any size; they are clipped first.
        count: the largest number of steps.
        limit: scalar, how many of them to take.
        residuals: states [B, H, n] -> residuals of the objective [B, H, k].

    Returns:
        the finished plan, and its score after each step [B, count], constant from `limit` on.
    """
    start = _rolled_out(problem, z0, actions, tf.fill([z0.shape[0]], tf.cast(DAMPING, z0.dtype)))

    def body(k, plan, history):
        plan = _projected_step(problem, z0, plan, residuals)
        return k + 1, plan, history.write(k, plan.score)

    history = tf.TensorArray(z0.dtype, count, element_shape=[z0.shape[0]])
    _, plan, history = tf.while_loop(lambda k, *_: k < limit, body, (0, start, history), maximum_iterations=count)
    scores = tf.transpose(history.stack())
    return plan, tf.where(tf.range(count) < limit, scores, plan.score[:, None])


def better_of_pairs(plans: Finished, scores: tf.Tensor, excess: tf.Tensor) -> tuple[Finished, tf.Tensor]:
    """Of 2 B finished plans, the better one of plans b and B + b: less excess or, at the same, a higher score.

    Args:
        plans: 2 B of them.
        scores: after each step, [2 B, count].
        excess: of the plans beyond what the state constraint tolerates, [2 B].

    Returns:
        B plans, and their scores after each step.
    """
    B = excess.shape[0] // 2
    known = tf.where(tf.math.is_finite(plans.score), plans.score, plans.score.dtype.min)
    worse = tf.where(excess[:B] == excess[B:], known[:B] < known[B:], excess[:B] > excess[B:])
    return tf.nest.map_structure(lambda x: where_rows(worse, x[B:], x[:B]), (plans, scores))


def finished_curves(plan: Plan, end: Finished, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """The curves [B, K] of a search with those of its finish, which follow its last iteration.

    Args:
        plan: what the search found, with curves [B, K], of which the last `count` are still to come.
        end: the finished plan.
        scores: after each step of the finish, [B, count].
    """
    count, held = scores.shape[1], tf.ones_like(scores)
    tails = {"reward": scores, "dynamics_violation": 0.0 * held, "action_violation": 0.0 * held}
    tails["constraint_violation"] = end.violation[:, None] * held
    curves, K = {}, next(iter(plan.curves.values())).shape[1]
    since = tf.range(K) - plan.iterations[:, None]  # [B, K], negative during the search
    index = tf.where(since < 0, tf.range(K), K - count + tf.minimum(since, count - 1))
    for name, curve in plan.curves.items():
        tail = tails.get(name, curve[:, -1:] * held)
        curves[name] = tf.gather(tf.concat([curve[:, : K - count], tail], 1), index, batch_dims=1)
    return curves


def _rolled_out(problem, z0, actions, damping):
    """The plan of actions [..., H, m] from z0 [..., n]: clipped, and rolled out."""
    actions = tf.clip_by_value(actions, -problem.a_max, problem.a_max)
    states = rollout(problem.step, z0, actions)
    score = tf.reduce_sum(objective_rewards(problem, states), -1)
    return Finished(states, actions, score, squared_constraint_violation(problem, states), damping)


def _projected_step(problem, z0, plan, residuals):
    """One projected step with a line search. If no step size helps, the plan stays and its damping grows."""
    _, A, B = linearize(problem, z0, plan.states, plan.actions)
    rho, g = values_and_gradients(residuals, plan.states)
    bound, L = problem.a_max, len(STEP_SIZES)
    side = tf.sign(plan.actions) * tf.cast(tf.abs(plan.actions) >= bound, plan.actions.dtype)
    step = projected_shooting_step(A, B, rho, g, side, plan.damping)
    sizes = tf.constant(STEP_SIZES, step.dtype)[:, None, None]
    tried = plan.actions[:, None] + sizes * step[:, None]
    tried = _rolled_out(problem, tf.repeat(z0[:, None], L, 1), tried, tf.repeat(plan.damping[:, None], L, 1))
    allowed = tf.math.is_finite(tried.score) & (tried.violation <= plan.violation[:, None])
    score = tf.where(allowed, tried.score, tried.score.dtype.min)
    best = tf.argmax(score, 1, tf.int32)
    better = tf.reduce_max(score, 1) > plan.score
    moved = Finished(*(tf.gather(x, best, batch_dims=1) for x in tried))
    damping = tf.where(better, tf.maximum(plan.damping / DAMPING_FACTOR, DAMPING), plan.damping * DAMPING_FACTOR)
    return where_rows(better, moved, plan)._replace(damping=damping)
