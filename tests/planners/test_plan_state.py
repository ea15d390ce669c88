"""Plans in execution."""

import numpy as np

from planners.plan_state import PlanState


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
