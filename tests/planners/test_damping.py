"""What becomes of a plan and its damping after a step that helps, one that does not, and one that is not finite."""

import numpy as np
import tensorflow as tf
from problems import edge

from optimizers import LatentProblem
from planners import latco, line_search
from planners.latco import LatCo
from planners.line_search import SecondOrderShooting
from planners.residuals import LARGEST_DAMPING

NAN = np.nan


class Scripted(SecondOrderShooting):
    """A state's merit is the state itself, and the two proposals are these."""

    FACTOR = 4.0
    proposed = np.array([[12, 7], [10.0005, 11], [12, 13], [NAN, 9], [NAN, NAN], [6, 5]], float)

    def _proposals(self, z0, search):
        states = tf.constant(self.proposed)[..., None, None]
        return states, -states

    def _merit(self, states, actions, nu):
        return tf.reduce_sum(states, [-2, -1])

    def _optimize(self, z0, seeds, warm, limit):
        raise AssertionError("only its line search is tested")


def test_a_line_search_takes_the_best_step_that_helps():
    planner = Scripted(LatentProblem(lambda z, a: a, lambda z: -z[..., 0], 1, 1), 1, 1, damping=1e-3, tolerance=1e-3)
    now = tf.constant([10.0, 10.0, 10.0, 10.0, NAN, NAN], tf.float64)[:, None, None]
    damping = tf.constant([0.04, 0.04, LARGEST_DAMPING, 2e-3, 0.04, 0.04], tf.float64)
    none, metrics = tf.zeros([6], tf.int32), tf.zeros([6, 1], tf.float64)
    search = line_search.Search(now, -now, tf.ones([6, 1], tf.float64), damping, tf.zeros([6], tf.bool), metrics, none)
    after = planner._iterate(tf.zeros([6, 1], tf.float64), search)
    expected = [7.0, 10.0, 10.0, 9.0, NAN, 5.0]
    np.testing.assert_array_equal(after.states[:, 0, 0], expected)
    np.testing.assert_array_equal(after.actions[:, 0, 0], np.negative(expected))
    np.testing.assert_array_equal(after.metrics[:, 0], np.negative(expected))
    np.testing.assert_allclose(after.damping, [0.01, 0.16, LARGEST_DAMPING, 1e-3, 0.16, 0.01])
    # The second one is hardly worse, as it is at an optimum.
    assert after.rejected.numpy().tolist() == [False, False, True, False, True, False]
    assert after.non_finite.numpy().tolist() == [0, 0, 0, 1, 1, 0]


def test_latco_goes_back_and_lowers_its_damping_once_a_step_has_led_to_a_finite_plan():
    # Beyond 2 the reward is not a number. The second search has just come back from there, the third one is there.
    planner = LatCo(edge(), 1, 9, damping=1e-3)
    column = lambda *values: tf.constant(values, tf.float64)[:, None, None]
    here, before = (column(0.5, 0.5, 3.0), column(0.5, 0.5, 3.0)), (column(0.1, 0.2, 0.3), column(0.1, 0.2, 0.3))
    z0, damping = tf.zeros([3, 1], tf.float64), tf.constant([0.05, 0.05, 0.05], tf.float64)
    metrics, failed = tf.zeros([3, len(planner.CURVES)], tf.float64), tf.constant([False, True, False])
    search = latco.Search(here, before, planner._start_duals(z0), damping, failed, metrics, tf.zeros([3], tf.int32))
    after = planner._iterate(tf.constant(0), z0, (), search)
    np.testing.assert_allclose(after.damping, [0.005, 0.05, 0.5])
    assert after.failed.numpy().tolist() == [False, False, True] and after.non_finite.numpy().tolist() == [0, 0, 1]
    np.testing.assert_array_equal(after.last_finite[0][:, 0, 0], [0.5, 0.5, 0.3])
    moved = after.variables[0][:, 0, 0].numpy()
    assert moved[2] == 0.3 and np.all(moved[:2] != 0.5)
