"""LatCo's dual update, by hand."""

import numpy as np
import tensorflow as tf

from planners.multipliers import MULTIPLIER_RANGE, scale_multipliers


def test_multipliers_by_hand():
    # log(2.99 + 0.01) = 1.0986; log(0.01) = -4.6052.
    multiplier, violation = tf.constant([2.0, 2.0]), tf.constant([2.99e-4, 0.0])
    found = scale_multipliers(multiplier, violation, 1e-4, 0.1, 0.01)
    np.testing.assert_allclose(found, [2.2197, 1.0790], rtol=1e-4)
    extreme = scale_multipliers(tf.constant([1e-6, 1e10]), tf.constant([0.0, 1e9]), 1e-4, 0.1, 0.01)
    np.testing.assert_allclose(extreme, MULTIPLIER_RANGE)
    np.testing.assert_array_equal(scale_multipliers(multiplier, violation, 1e-4, 0.0, 0.01), multiplier)
