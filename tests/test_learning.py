"""An agent that works must reach a return that random actions do not."""

import numpy as np
import pytest

import planning_agent

# Uniform random actions on pointmass_obstacle return -36.7 with a standard deviation of 5.1 (200 episodes). Driving
# straight at the wall returns -23.2, the way round it -13.4. Two standard deviations above random is what a model that
# predicts motion and distance reaches whichever of the two ways it plans.
RANDOM_RETURN, RANDOM_STD = -36.7, 5.1


@pytest.mark.slow
def test_latco_learns_to_approach_the_goal_of_the_obstacle_task(tmp_path):
    argv = ["--configs", "defaults", "pointmass", "small", "--planner", "latco", "--steps", "4500", "--eval_every", "0"]
    assert planning_agent.main([*argv, "--logdir", str(tmp_path)]) == 0
    episodes = sorted((tmp_path / "episodes").glob("*.npz"))
    assert len(episodes) == 150
    returns = [np.load(path, allow_pickle=False)["reward"].sum() for path in episodes]
    assert np.mean(returns[-20:]) > RANDOM_RETURN + 2 * RANDOM_STD
