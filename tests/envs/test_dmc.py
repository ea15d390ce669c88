"""DM Control: pictures and time limits."""

import numpy as np
import pytest

import envs
from tests.envs.rollouts import make_config, rollout


def test_a_task_of_dm_control_without_a_time_limit_ends(in_worker):
    course = in_worker(rollout, make_config("dmc_lqr_lqr_2_1", action_repeat=500), 0, np.zeros((2, 4)))
    assert np.flatnonzero(course["truncated"]).tolist() == [2]


def dm_control_pictures(domain: str, task: str, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """The same state drawn by us in full quality and by dm_control itself."""
    env = envs.make_env(make_config(f"dmc_{domain}_{task}", render_quality="full"), 3)
    ours = env.reset()[0]["image"]
    theirs = env.unwrapped.physics.render(64, 64, camera_id=camera)
    env.close()
    return ours, theirs


@pytest.mark.parametrize(("domain", "task", "camera"), [("walker", "walk", 0), ("quadruped", "escape", 2)])
def test_full_quality_is_the_suite_s_own_picture(domain, task, camera, in_worker):
    ours, theirs = in_worker(dm_control_pictures, domain, task, camera)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 5


def test_fast_quality_shows_the_same_scene(in_worker):
    fast, full = (
        in_worker(rollout, make_config("dmc_cheetah_run", render_quality=quality), 0, np.zeros((0, 6)))["image"][0]
        for quality in ("fast", "full")
    )
    difference = np.abs(fast.astype(int) - full)
    assert difference.max() > 0 and difference.mean() < 12
