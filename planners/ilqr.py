"""Iterative LQR. Conventions and shapes: optimizers.py."""

import tensorflow as tf

from optimizers import LatentProblem
from planners.line_search import SecondOrderShooting
from planners.linearization import linearize, values_and_gradients
from planners.rows import all_finite, where_rows
from planners.trajectories import previous_states


class ILQR(SecondOrderShooting):
    """Iterative LQR (Tassa et al. 2012, as in LatCo ICML appendix D), with Gauss-Newton curvature.

    The reward head has rectified units, so its second derivative is zero almost everywhere; the squared residual's
    Gauss-Newton curvature g g^T takes its place. The regularizer mu is added to Q_uu; it doubles where Q_uu fails to be
    positive definite or no step size helps, and halves after a success. Actions are clipped to their bounds in the
    forward pass.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: number of backward and forward passes.
        feedback: return the gains around the plan; the papers execute the open-loop actions.
        **options: those of `SecondOrderShooting`.
    """

    FACTOR = 2.0

    def __init__(self, problem: LatentProblem, horizon: int, iterations: int = 50, feedback: bool = False, **options):
        super().__init__(problem, horizon, iterations, **options)
        self.feedback = feedback

    def _optimize(self, z0, seeds, warm, limit):
        found = self._search(z0, seeds, warm, limit)
        gains = self._final_gains(z0, found[0]) if self.feedback else None
        plan = self._plan(z0, *found, gains)
        if gains is not None:  # NaN gains would spoil an otherwise valid plan
            plan = plan._replace(gains=where_rows(all_finite(gains), gains, tf.zeros_like(gains)))
        return plan

    def _final_gains(self, z0, search):
        """Gains [B, H, m, n] around the plan found. Rejected steps have raised mu, which would make them small."""
        smallest = tf.fill(search.damping.shape, tf.cast(self.damping, z0.dtype))
        return self._backward(z0, search._replace(damping=smallest))[1]

    def _backward(self, z0, search):
        """Feedforward steps [B, H, m] and gains [B, H, m, n] (Tassa et al., equations 6, 10 and 11)."""
        _, A, B = linearize(self.problem, z0, search.states, search.actions)
        rho, g = values_and_gradients(self._residuals, search.states)
        mu = search.damping[:, None, None] * tf.eye(B.shape[-1], dtype=B.dtype)
        H, m, n = self.horizon, B.shape[-1], B.shape[-2]

        def body(t, vx, vxx, history):
            at, bt, gt = (tf.gather(x, t, axis=1) for x in (A, B, g))
            vx = (vx + tf.linalg.matvec(gt, tf.gather(rho, t, axis=1), transpose_a=True))[..., None]
            vxx = vxx + tf.matmul(gt, gt, transpose_a=True)
            qx, qu = tf.matmul(at, vx, transpose_a=True), tf.matmul(bt, vx, transpose_a=True)
            va, vb = vxx @ at, vxx @ bt
            qxx, quu = tf.matmul(at, va, transpose_a=True), tf.matmul(bt, vb, transpose_a=True)
            qux = tf.matmul(bt, va, transpose_a=True)
            gain = -tf.linalg.cholesky_solve(tf.linalg.cholesky(quu + mu), tf.concat([qu, qux], -1))
            k, K = gain[..., :1], gain[..., 1:]
            vx = qx + tf.matmul(K, quu @ k + qu, transpose_a=True) + tf.matmul(qux, k, transpose_a=True)
            cross = tf.matmul(K, qux, transpose_a=True)
            vxx = qxx + tf.matmul(K, quu @ K, transpose_a=True) + cross + tf.linalg.matrix_transpose(cross)
            return t - 1, vx[..., 0], vxx, history.write(t, gain)

        history = tf.TensorArray(B.dtype, H, element_shape=[B.shape[0], m, 1 + n])
        start = (H - 1, tf.zeros_like(g[:, 0, 0]), tf.zeros([B.shape[0], n, n], B.dtype), history)
        loop = tf.while_loop(lambda t, *_: t >= 0, body, start, maximum_iterations=H)
        gains = tf.transpose(loop[-1].stack(), [1, 0, 2, 3])
        return gains[..., 0], gains[..., 1:]

    def _proposals(self, z0, search):
        k, K = self._backward(z0, search)
        L, bound = len(self.STEP_SIZES), self.problem.a_max
        sizes = tf.constant(self.STEP_SIZES, k.dtype)[:, None]
        old = previous_states(z0, search.states)

        def body(t, z, states, actions):
            deviation = (z - tf.gather(old, t, axis=1)[:, None])[..., None]
            feedback = (tf.gather(K, t, axis=1)[:, None] @ deviation)[..., 0]
            action = tf.gather(search.actions, t, axis=1)[:, None] + sizes * tf.gather(k, t, axis=1)[:, None] + feedback
            action = tf.clip_by_value(action, -bound, bound)
            z = self.problem.step(z, action)
            return t + 1, z, states.write(t, z), actions.write(t, action)

        start = tf.repeat(z0[:, None], L, 1)
        arrays = [
            tf.TensorArray(k.dtype, self.horizon, element_shape=[*start.shape[:2], size])
            for size in (start.shape[-1], k.shape[-1])
        ]
        loop = tf.while_loop(lambda t, *_: t < self.horizon, body, (0, start, *arrays), maximum_iterations=self.horizon)
        return tuple(tf.transpose(x.stack(), [1, 2, 0, 3]) for x in loop[2:])

    def _merit(self, states, actions, nu):
        return tf.reduce_sum(tf.square(self._residuals(states)), [-2, -1])
