"""Jacobians of a latent problem along trajectories, and gradients by states. Conventions and shapes: optimizers.py."""

from collections.abc import Callable

import tensorflow as tf

from optimizers import LatentProblem
from planners.trajectories import previous_states

# Numbers of the Jacobians that are computed at once, 4 MiB, so that they stay in the processor's cache.
CACHED = 2**20


def linearize_by_tape(step: Callable, z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (mu [N, n], A [N, n, n], B [N, n, m]) of `step` at z [N, n], a [N, m] by automatic differentiation."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        inputs = tf.concat([z, a], -1)
        tape.watch(inputs)
        mu = step(inputs[:, : z.shape[-1]], inputs[:, z.shape[-1] :])
    jacobian = tape.batch_jacobian(mu, inputs)
    return mu, jacobian[..., : z.shape[-1]], jacobian[..., z.shape[-1] :]


def linearize(problem: LatentProblem, z0: tf.Tensor, states: tf.Tensor, actions: tf.Tensor) -> list[tf.Tensor]:
    """Mean next states mu [B, H, n] and Jacobians A [B, H, n, n], B [B, H, n, m] along a trajectory from z0 [B, n]."""
    B, H, n = states.shape
    inputs = [previous_states(z0, states), actions]
    count = plans_at_once(B, H * n * (n + actions.shape[-1]))

    def group(inputs):
        flat = [tf.reshape(x, [-1, x.shape[-1]]) for x in inputs]
        return tuple(problem.linearize(*flat) if problem.linearize else linearize_by_tape(problem.step, *flat))

    if count == B:
        result = group(inputs)
    else:
        inputs = [tf.reshape(x, [B // count, count, *x.shape[1:]]) for x in inputs]
        result = tf.map_fn(group, inputs, fn_output_signature=(states.dtype,) * 3)
    return [tf.reshape(x, [B, H, *x.shape[-rank:]]) for x, rank in zip(result, (1, 2, 2), strict=True)]


def plans_at_once(batch: int, numbers: int) -> int:
    """How many plans of a batch to linearize at once: all on a GPU, otherwise as many as fit in a processor's cache.

    The parts of a Jacobian are read several times.

    Args:
        batch: number of plans. The result divides it.
        numbers: size of the Jacobians of one plan.
    """
    if tf.config.list_physical_devices("GPU"):
        return batch
    return max(
        count for count in range(1, batch + 1) if batch % count == 0 and (count == 1 or count * numbers <= CACHED)
    )


def values_and_gradients(function: Callable, states: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Values [...] or [..., c] of a function at states [..., n], and their gradients by that state [..., (c,) n]."""
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(states)
        values = function(states)
        columns = [values] if values.shape.rank < states.shape.rank else tf.unstack(values, axis=-1)
    gradients = [tape.gradient(column, states, unconnected_gradients="zero") for column in columns]
    return values, gradients[0] if values.shape.rank < states.shape.rank else tf.stack(gradients, -2)
