"""Collocation in the space of images. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.first_order_latco import FirstOrderLatCo
from planners.trajectories import previous_states, rollout
from tools.errors import UserError


class ImageCollocation(FirstOrderLatCo):
    """Collocation of images instead of latent states (LatCo ICML appendix D): Adam on images and actions.

    An image sequence is not Markov, so it is evaluated recurrently: the states are the filter's means along the planned
    images and actions, and pay the reward. The dynamics constraint of image t + 1 is its difference from the decoded
    one-step prediction, pairwise: gradients reach images t and t + 1 and stop at those before.

    Arguments: those of `FirstOrderLatCo`; the problem needs `encode`, `filter` and `decode`. XLA is off by default: it
    makes convolutions on a CPU several times slower.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 5000,
        lr: float = 0.02,
        jit_compile: bool = False,
        **options,
    ):
        if None in (problem.encode, problem.filter, problem.decode):
            raise UserError("Image collocation needs a latent problem with encode, filter and decode.")
        super().__init__(problem, horizon, iterations, lr, jit_compile=jit_compile, **options)

    def _variables(self, z0, actions):
        return self._decode(rollout(self.problem.step, z0, actions)), actions

    def _decode(self, states):
        images = self.problem.decode(tf.reshape(states, [-1, states.shape[-1]]))
        return tf.reshape(images, [*states.shape[:2], *images.shape[1:]])

    def _terms(self, z0, variables, duals):
        images, actions = variables
        embedding = self.problem.encode(tf.reshape(images, [-1, *images.shape[2:]]))
        embedding = tf.reshape(embedding, [*images.shape[:2], embedding.shape[-1]])
        inputs = [tf.transpose(x, [1, 0, 2]) for x in (actions, embedding)]
        states = tf.scan(lambda z, x: self.problem.filter(z, *x), inputs, z0)
        states = tf.transpose(states, [1, 0, 2])
        pairwise = self.problem.filter(tf.stop_gradient(previous_states(z0, states)), actions, embedding)
        predicted = self._decode(self.problem.step(previous_states(z0, pairwise), actions))
        dynamics = tf.reduce_sum(tf.square(images - predicted), list(range(2, images.shape.rank)))
        return self._lagrangian(states, actions, dynamics, duals)
