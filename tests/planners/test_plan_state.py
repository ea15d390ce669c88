"""Plans in execution, and what is logged about them."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from planners.plan_state import PlanState, before_finish


def test_feedback_is_on_the_distance_to_the_state_for_which_an_action_was_planned():
    """Entry t of the states is where action t leads, so that action t was planned for entry t - 1."""
    rng = np.random.default_rng(0)
    actions, states, gains = rng.normal(size=[3, 4, 2]), rng.normal(size=[3, 4, 5]), rng.normal(size=[3, 4, 2, 5])
    rewards, feat = rng.normal(size=[3, 4]), rng.normal(size=[3, 5])
    plans = PlanState(actions, states, rewards, {}, np.array([0, 1, 3]), gains=gains)
    found = plans.next_action(feat)
    np.testing.assert_array_equal(found[0], actions[0, 0])  # a plan starts where the environment is
    np.testing.assert_allclose(found[1], actions[1, 1] + gains[1, 1] @ (feat[1] - states[1, 0]))
    np.testing.assert_allclose(found[2], actions[2, 3] + gains[2, 3] @ (feat[2] - states[2, 2]))
    np.testing.assert_array_equal(plans.next_reward(), [rewards[0, 0], rewards[1, 1], rewards[2, 3]])


def test_violations_at_the_end_of_a_search_whatever_became_of_its_finish():
    """Finished, left out since it was not finite, and the same after a search that stopped early."""
    curve = [[4, 3, 2, 1, 0, 0], [8, 7, 6, 5, 5, 5], [9, 8, 0, 0, 0, 0], [9, 8, 8, 8, 8, 8]]
    curves, iterations = {"dynamics_violation": tf.constant(curve)}, tf.constant([6, 4, 4, 2])
    plan = SimpleNamespace(curves=curves, iterations=iterations)
    assert before_finish(plan, "dynamics_violation", 2).tolist() == [1, 5, 8, 8]
    assert before_finish(plan, "dynamics_violation", 0).tolist() == [0, 5, 0, 8]
