"""What environments return and raise: converted, or refused with environment and step."""

import json
from pathlib import Path

import numpy as np
import pytest

import envs
from tests.envs import own
from tests.envs.own import Own, play
from tests.envs.rollouts import make_config
from tools.errors import UserError


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"success": True}, {"success": 1.0}),
        ({"success": np.array([0])}, {"success": 0.0}),
        ({"is_success": np.True_}, {"success": 1.0}),
        ({"is_success": True, "success": False}, {"success": 0.0}),
        ({"final_info": {"is_success": True, "cost": np.float32(0.5)}}, {"success": 1.0, "cost": 0.5}),
        ({"final_info": {"success": True}, "success": False}, {"success": 0.0}),
        ({"success": None, "final_info": None, "TimeLimit.truncated": True}, {}),
    ],
)
def test_success_is_found_under_the_names_that_people_give_it(info, kept, make_own):
    env = make_own(infos=({}, info))
    _, first, second, _ = play(env)
    assert first[-1] == kept and second[-1] == {}


@pytest.mark.parametrize(("name", "value"), [("success", "yes"), ("cost", np.nan), ("is_success", [1, 0])])
def test_an_outcome_that_is_no_number_is_refused_with_its_step(name, value, make_own):
    words = f"{name.removeprefix('is_')} in info is .*{value}".replace("[", r"\[")
    with pytest.raises(UserError, match=rf"gym_Own0-v0 failed at step 2 .*{words}"):
        play(make_own(infos=({}, {}, {name: value})))


@pytest.mark.parametrize(("infos", "found"), [(({}, {}, {}, {"cost": 0.5}), True), (({}, {"success": 1}), False)])
def test_a_cost_at_some_steps_only_is_a_cost_to_learn(infos, found, make_own, monkeypatch):
    env = make_own(infos=infos)
    monkeypatch.setattr(envs, "make_env", lambda config, seed: env)
    assert envs._play_for_cost(make_config("gym_Own0-v0")) is found


def test_a_state_may_be_unknown_or_huge(make_own):
    env = make_own(observation=np.array([np.nan, 1e300]))
    for obs, *_ in play(env):
        assert np.isnan(obs["state"][0]) and obs["state"][1] == np.finfo(np.float32).max


@pytest.mark.parametrize("reward", [None, np.zeros(2), -np.inf, np.nan, 1e300, "1"])
def test_rewards_that_are_no_numbers_are_refused_with_environment_and_step(reward, make_own):
    with pytest.raises(UserError, match=r"gym_Own0-v0 failed at step 1 of an episode: the reward is .* finite number"):
        play(make_own(rewards=reward))


def test_rewards_of_repeated_steps_whose_sum_float32_cannot_hold_are_refused(make_own):
    with pytest.raises(UserError, match=r"rewards of 2 simulator steps add up to 6e\+38, .* scale them down"):
        play(make_own({"action_repeat": 2}, rewards=3e38))
    assert play(make_own({"action_repeat": 2}, rewards=1e38))[1][1] == 2e38


@pytest.mark.parametrize("error", [OSError("no licence server"), SystemExit(3)])
def test_an_environment_that_fails_at_its_end_loses_nothing(error, make_own, monkeypatch, capsys):
    def close(self):
        raise error

    monkeypatch.setattr(Own, "close", close)
    env = make_own()
    play(env)
    env.close()
    assert capsys.readouterr().err == (
        f"note: gym_Own0-v0 failed at its end: {type(error).__name__}: {error} (test_guard.py, line "
        f"{close.__code__.co_firstlineno + 1}). Correct it there.\n"
    )


@pytest.mark.parametrize("reward", [1, True, np.float32(1.0), np.ones(1), np.ones((), np.int64)])
def test_rewards_of_any_kind_of_number_are_taken(reward, make_own):
    assert [row[1] for row in play(make_own(rewards=reward))[1:]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("method", "result", "words"),
    [
        ("step", lambda *_: (np.zeros(2), 0.0, False, {}), "expected 5, got 4"),
        ("step", lambda *_: (np.zeros(2), 0.0, False, False, None), "info is None instead of a dictionary"),
        ("step", lambda *_: (np.zeros(3), 0.0, False, False, {}), r"shape \(3,\), but observation_space"),
        ("reset", lambda *_, **__: np.zeros(2), r"observation has the shape \(1,\)"),
        ("reset", lambda *_, seed=None: (np.zeros(2), {}), "TypeError: .*options"),
    ],
)
def test_steps_and_resets_of_another_form_are_refused(method, result, words, make_own, monkeypatch):
    monkeypatch.setattr(Own, method, result)
    with pytest.raises(UserError, match=words):
        play(make_own())


def test_a_partial_reset_of_a_batch_reaches_the_environment_without_options(make_own):
    env = make_own()
    env.reset(options={})  # what Gymnasium's batch sends once it has taken the mask out
    env.reset(options={"start": 3})
    env.reset()
    assert env.unwrapped.options == [None, {"start": 3}, None]


class UnluckyError(Exception):
    def __init__(self, left, right):  # so that it cannot be pickled
        super().__init__(f"{left}\n  {right}")


@pytest.mark.parametrize(
    "error", [lambda: ZeroDivisionError("of zero"), lambda: UnluckyError("of", "zero"), lambda: SystemExit("of zero")]
)
def test_an_exception_is_named_with_environment_step_and_line(error, make_own):
    with pytest.raises(UserError) as refusal:
        play(make_own(error=error))
    line = next(n for n, text in enumerate(Path(own.__file__).read_text().split("\n"), 1) if "raise self.told" in text)
    assert str(refusal.value) == (
        f"gym_Own0-v0 failed at step 2 of an episode: {type(error()).__name__}: of zero (own.py, "
        f"line {line}). Correct it there."
    )


def test_the_line_that_is_named_is_not_one_of_a_library(make_own):
    with pytest.raises(UserError, match=r"JSONDecodeError: .* \(test_guard\.py, line \d+\)\. Correct it there"):
        play(make_own(error=lambda: json.loads("no json")))
