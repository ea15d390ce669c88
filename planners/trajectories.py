"""Rollouts of actions and policies, and what they are worth. Conventions and shapes: optimizers.py."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

from planners.seeds import POLICY, fold_in, per_plan

if TYPE_CHECKING:  # optimizers.py imports this module
    from optimizers import LatentProblem


def rollout(step: Callable, z0: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Return the states [..., H, n] reached by actions [..., H, m] from z0 [..., n] under `step`."""
    time_first = tf.transpose(actions, [actions.shape.rank - 2, *range(actions.shape.rank - 2), actions.shape.rank - 1])
    states = tf.scan(step, time_first, z0)
    return tf.transpose(states, [*range(1, actions.shape.rank - 1), 0, actions.shape.rank - 1])


def previous_states(z0: tf.Tensor, states: tf.Tensor) -> tf.Tensor:
    """The states [B, H, n] in which the actions are taken: z_0 ... z_{H-1}."""
    return tf.concat([z0[:, None], states[:, :-1]], 1)


def policy_noise(problem: "LatentProblem", horizon: int, seeds: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Standard normal noise [B, H, m] of a policy's actions, from one seed per plan, int32 [B, 2]."""
    shape = [horizon, problem.action_size]
    draw = lambda seed: tf.random.stateless_normal(shape, seed, dtype=dtype)
    return per_plan(draw, fold_in(seeds, POLICY), dtype)


def policy_rollout(problem: "LatentProblem", z0: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What the problem's policy does from z0 [..., n] along the mean dynamics.

    Args:
        problem: with a policy.
        z0: first states.
        noise: of the actions [..., H, m], 0 for the mean.

    Returns:
        actions [..., H, m] and the states [..., H, n] that they lead to.
    """

    def step(before, noise):
        action = problem.policy(before[0], noise)
        return problem.step(before[0], action), action

    axes = [noise.shape.rank - 2, *range(noise.shape.rank - 2), noise.shape.rank - 1]
    states, actions = tf.scan(
        step, tf.transpose(noise, axes), (z0, tf.zeros([*z0.shape[:-1], noise.shape[-1]], z0.dtype))
    )
    back = [*range(1, noise.shape.rank - 1), 0, noise.shape.rank - 1]
    return tf.transpose(actions, back), tf.transpose(states, back)


def sampled_return(
    problem: "LatentProblem", z0: tf.Tensor, actions: tf.Tensor, seeds: tf.Tensor, samples: int
) -> tf.Tensor:
    """`return_under_noise` of `samples` rollouts, from one seed per plan, int32 [B, 2]."""
    shape = [samples, actions.shape[1], problem.noise_size]
    noise = per_plan(lambda seed: tf.random.stateless_normal(shape, seed, dtype=z0.dtype), seeds, z0.dtype)
    return return_under_noise(problem, z0, actions, noise)


def return_under_noise(problem: "LatentProblem", z0: tf.Tensor, actions: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Mean return [B], terminal value included, of K sampled rollouts of actions [B, H, m] from z0 [B, n].

    `noise` [B, K, H, noise_size] is standard normal.
    """
    m, spread = problem.action_size, lambda x: tf.repeat(x[:, None], noise.shape[1], 1)
    inputs = tf.concat([spread(actions), noise], -1)
    states = rollout(lambda z, x: problem.sample_step(z, x[..., :m], x[..., m:]), spread(z0), inputs)
    return tf.reduce_mean(tf.reduce_sum(objective_rewards(problem, states), -1), -1)


def candidate_returns(
    problem: "LatentProblem", z0: tf.Tensor, actions: tf.Tensor, seeds: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns of many action sequences, terminal value included, one rollout each, without keeping the states.

    Args:
        problem: the latent problem.
        z0: first states [B, n].
        actions: [B, J, H, m].
        seeds: one seed per plan, int32 [B, 2], for one sampled trajectory per sequence; None for the mean dynamics.

    Returns:
        [B, J], the lowest number where the return is not finite.
    """
    B, J, H = actions.shape[:3]
    start = tf.repeat(z0, J, axis=0)  # [B J, n]
    actions = tf.transpose(tf.reshape(actions, [B * J, *actions.shape[2:]]), [1, 0, 2])

    def body(t, z, total):
        if seeds is None:
            z = problem.step(z, actions[t])
        else:
            draw = lambda seed: tf.random.stateless_normal([J, problem.noise_size], seed, dtype=z0.dtype)
            noise = tf.reshape(per_plan(draw, fold_in(seeds, t), z0.dtype), [B * J, problem.noise_size])
            z = problem.sample_step(z, actions[t], noise)
        return t + 1, z, total + problem.reward(z)

    first = (0, start, tf.zeros(start.shape[:1], z0.dtype))
    _, z, total = tf.while_loop(lambda t, *_: t < H, body, first, maximum_iterations=H)
    if problem.value is not None:
        total += problem.value(z)
    total = tf.reshape(total, [B, J])
    return tf.where(tf.math.is_finite(total), total, total.dtype.min)


def objective_rewards(problem: "LatentProblem", states: tf.Tensor) -> tf.Tensor:
    """The terms of the objective, [..., H]: rewards of states [..., H, n], the terminal value added to the last."""
    rewards = problem.reward(states)
    if problem.value is None:
        return rewards
    last = rewards[..., -1] + problem.value(states[..., -1, :])
    return tf.concat([rewards[..., :-1], last[..., None]], -1)


def best_finite(problem: "LatentProblem", z0: tf.Tensor, candidates: list[tuple[tf.Tensor, tf.Tensor]]) -> tuple:
    """The first candidate (states [B, H, n], actions [B, H, m]) that is finite and has a finite return.

    Returns:
        (actions, states, rewards [B, H]): actions clipped to the bounds, and the rewards of their rollout without a
        terminal value.
    """
    bound = problem.a_max
    states, actions = (tf.stack(x, 1) for x in zip(*candidates, strict=True))  # [B, C, H, ...]
    actions = tf.clip_by_value(actions, -bound, bound)
    ends = rollout(problem.step, tf.repeat(z0[:, None], len(candidates), 1), actions)
    rewards = problem.reward(ends)
    finite = tf.reduce_all(tf.math.is_finite(objective_rewards(problem, ends)), -1)
    finite &= tf.reduce_all(tf.math.is_finite(states), [-2, -1])
    best = tf.argmax(tf.cast(finite, tf.int32), 1, tf.int32)  # the first maximum; candidate 0 if none is finite
    return tuple(tf.gather(x, best, batch_dims=1) for x in (actions, states, rewards))
