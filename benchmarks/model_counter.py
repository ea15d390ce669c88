"""Counts what a planner asks of the dynamics while it runs, compiled or not.

The rule: a *step* is one next state, mean or sampled, of one state and action. A *Jacobian* is one state and action
through which derivatives are taken, be it the whole matrix or a product with a vector on the way back. A Jacobian that
gives its next state too counts as a step as well. Restarts, line searches and warm starts count like everything else;
rewards, values, decoders and linear algebra do not.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from optimizers import LatentProblem
from planners.gaussian_latco import moments_by_tape
from planners.linearization import linearize_by_tape


class Count(NamedTuple):
    """Steps of the dynamics, and Jacobians."""

    steps: int
    jacobians: int


class ModelCounter:
    """Variables that grow whenever the functions of a watched problem run, inside of compiled loops too."""

    def __init__(self) -> None:
        self._steps, self._jacobians = (tf.Variable(0, trainable=False, dtype=tf.int64) for _ in range(2))

    def read(self) -> Count:
        """What was counted so far."""
        return Count(int(self._steps), int(self._jacobians))

    def watch(self, problem: LatentProblem) -> LatentProblem:
        """The same problem, counted."""
        step, sample_step = problem.step, problem.sample_step
        linearize = problem.linearize or (lambda z, a: linearize_by_tape(step, z, a))
        moments = problem.linearize_moments
        if moments is None and sample_step is not None:
            moments = lambda z, a, noise: moments_by_tape(sample_step, z, a, noise)
        return dataclasses.replace(
            problem,
            step=self._stepping(step),
            sample_step=sample_step and self._stepping(sample_step),
            filter=problem.filter and self._stepping(problem.filter),
            linearize=self._linearizing(linearize),
            linearize_moments=moments and self._linearizing(moments),
        )

    def _stepping(self, function: Callable) -> Callable:
        """Counts next states, and those whose derivatives are asked for."""

        @tf.custom_gradient
        def passing(state):
            self._steps.assign_add(_rows(state))
            handle = self._jacobians.handle
            if not tf.executing_eagerly():  # the gradient of a loop may use no other resources than the loop itself
                handle = tf.compat.v1.get_default_graph().capture(handle)

            def backward(gradient):
                tf.raw_ops.AssignAddVariableOp(resource=handle, value=_rows(gradient))
                return gradient

            return tf.identity(state), backward

        return lambda *inputs: passing(function(*inputs))

    def _linearizing(self, function: Callable) -> Callable:
        def counted(z, *inputs):
            for count in (self._steps, self._jacobians):
                count.assign_add(_rows(z))
            return function(z, *inputs)

        return counted


def _rows(state: tf.Tensor) -> tf.Tensor:
    """How many states [..., n] there are."""
    return tf.reduce_prod(tf.shape(state, tf.int64)[:-1])
