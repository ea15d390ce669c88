"""The policies that collect data without an agent."""

import numpy as np
import pytest

from episodes.behavior import DETOUR_STEPS, Detours, MixedPolicy


def run_policy(choices, noise, firsts, scripted=lambda state: state[:2]):
    """Actions [calls, 2, 2] of two environments whose states tell them and the call apart, and which were scripted."""
    choices = list(choices)
    policy = MixedPolicy(scripted, lambda: choices.pop(0), 2, noise, 0.5, np.random.default_rng(0))
    state, actions, kinds = None, [], []
    for call, is_first in enumerate(firsts):
        obs = {"state": np.array([[call, -0.25, 9.0], [0.5, call, 9.0]], np.float32)}
        action, state, extras = policy(obs, np.array(is_first), state)
        actions.append(action)
        kinds.append(extras["scripted"].tolist())
    assert not choices
    return np.array(actions), kinds


def test_the_kind_of_an_episode_is_decided_at_its_start_alone():
    firsts = [(True, True), (False, False), (False, True), (True, False)]
    _, kinds = run_policy([True, False, True, False], 0.3, firsts)
    assert kinds == [[True, False], [True, False], [True, True], [False, True]]


def test_scripted_actions_without_noise_are_the_scripted_policy_s_clipped():
    actions, _ = run_policy([True, True], 0.0, [(True, True), (False, False), (False, False)])
    expected = [[[0, -0.25], [0.5, 0]], [[1, -0.25], [0.5, 1]], [[1, -0.25], [0.5, 1]]]
    np.testing.assert_array_equal(actions, expected)
    assert actions.dtype == np.float32


def test_noise_is_added_to_scripted_actions_and_stays_within_bounds():
    actions, _ = run_policy(
        [True, True], 0.2, [(True, True), *[(False, False)] * 999], lambda state: np.array([0, 7.0])
    )
    np.testing.assert_allclose(actions[..., 0].std(), 0.2, rtol=0.1)
    np.testing.assert_allclose(actions[..., 0].mean(), 0.0, atol=0.02)
    # 7 counts as 1, so that half of its noise is visible.
    assert actions[..., 1].max() == 1.0 and 0.4 < (actions[..., 1] < 1.0).mean() < 0.6


def test_scripted_rows_do_not_touch_random_ones():
    firsts = [(True, True), *[(False, False)] * 20]
    mixed, _ = run_policy([True, False], 0.3, firsts)
    random, _ = run_policy([False, False], 0.3, firsts, scripted=None)
    np.testing.assert_array_equal(mixed[:, 1], random[:, 1])
    assert (mixed[:, 0] != random[:, 0]).all() and np.abs(random).max() <= 1


def run_detours(share, steps, firsts=None):
    """Actions [steps, 50, 2] of detours from actions that are all 7, and whether they are part of a detour."""
    detours, state, actions = Detours(share, 2, np.random.default_rng(0)), None, []
    for step in range(steps):
        is_first = np.full(50, step == 0) if firsts is None else firsts[step]
        action, state = detours(np.full([50, 2], 7.0, np.float32), is_first, state)
        actions.append(action)
    actions = np.array(actions)
    return actions, (actions != 7.0).all(-1)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_detours_take_their_share_of_the_decisions(share):
    _, detour = run_detours(share, 4000)
    np.testing.assert_allclose(detour[100:].mean(), share, atol=0.015)  # an episode begins without one


def test_half_of_the_detours_do_nothing():
    actions, detour = run_detours(0.3, 2000)
    begins = detour[1:] & (actions[1:] != actions[:-1]).any(-1)
    np.testing.assert_allclose(detour.sum() / begins.sum(), DETOUR_STEPS, rtol=0.05)
    np.testing.assert_allclose((actions[1:][begins] == 0).all(-1).mean(), 0.5, atol=0.03)
    assert np.abs(actions[detour]).max() <= 1.0 and actions.dtype == np.float32


def test_a_detour_ends_with_its_episode():
    firsts = np.ones([400, 50], bool)
    _, detour = run_detours(0.3, 400, firsts)
    begin = 0.3 / (DETOUR_STEPS * 0.7 + 0.3)
    np.testing.assert_allclose(detour.mean(), begin, rtol=0.1)  # each lasts for one decision


def test_without_detours_nothing_is_drawn():
    rng = np.random.default_rng(0)
    action, state = Detours(0.0, 2, rng)(np.ones([3, 2]), np.ones(3, bool), None)
    assert (action == 1.0).all() and state is None
    assert rng.random() == np.random.default_rng(0).random()
