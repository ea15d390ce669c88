"""Environments of other people: each small one here has a property that once ended a run or spoiled it in silence."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction

import collect
import envs
import planning_agent
from envs.guard import BadValueError
from envs.pictures import to_picture
from envs.wrappers import LAST_STEP
from tools.errors import UserError

ROOT = Path(__file__).parents[2]
RED = np.full((64, 64, 3), (255, 0, 0), np.uint8)
BLUE = np.full((64, 64, 3), (0, 0, 255), np.uint8)
BOX = gym.spaces.Box
LARGEST = float(np.finfo(np.float32).max)
PICTURE = BOX(0, 255, (64, 64, 3), np.uint8)


class Own(gym.Env):
    """An environment that does what it is told."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        render_mode: str | None = None,
        action_space: gym.Space = BOX(-1.0, 1.0, (2,), np.float32),  # noqa: B008
        observation_space: gym.Space = BOX(-np.inf, np.inf, (2,), np.float64),  # noqa: B008
        observation: Any = np.zeros(2),  # noqa: B008
        picture: Any = RED,
        rewards: Any = 1.0,
        infos: tuple = ({},),
        length: int | None = 3,
        error: Callable[[], BaseException] | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.action_space, self.observation_space = action_space, observation_space
        self.told = types.SimpleNamespace(
            observation=observation, picture=picture, rewards=rewards, infos=infos, length=length, error=error
        )
        self.actions: list[Any] = []
        self.options: list[Any] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.options.append(options)
        return self.told.observation, self.told.infos[0]

    def step(self, action):
        self.time += 1
        self.actions.append(action)
        if self.told.error and self.time == 2:
            raise self.told.error()
        info = self.told.infos[self.time] if self.time < len(self.told.infos) else {}
        return self.told.observation, self.told.rewards, self.time == self.told.length, False, info

    def render(self):
        return self.told.picture


@pytest.fixture
def make(monkeypatch):
    """Makes an environment of this file as the programs do, in this process: nothing here draws with a simulator."""
    made = []

    def make(changes: dict[str, Any] | None = None, limit: int | None = None, **told: Any) -> gym.Env:
        name = f"Own{len(made)}-v0"
        made.append(name)
        gym.register(name, Own, kwargs=told, max_episode_steps=limit, disable_env_checker=True)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "tensorflow", raising=False)
            return envs.make_env(make_config(f"gym_{name}", **(changes or {})), 0)

    yield make
    for name in made:
        del gym.registry[name]


def make_config(task: str, **changes: Any) -> types.SimpleNamespace:
    settings = {
        "task": task, "action_repeat": 0, "time_limit": 0, "render_quality": "fast", "camera": "", "reward": "sparse",
        "randomize": True, "starts": "near",
    }  # fmt: skip
    return types.SimpleNamespace(**settings | changes)


def play(env: gym.Env, steps: int = 3) -> list[tuple]:
    """Everything that a reset and some steps return."""
    return [env.reset(), *(env.step(env.action_space.sample()) for _ in range(steps))]


# Success and cost -----------------------------------------------------------------------------------------------------


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
def test_success_is_found_under_the_names_that_people_give_it(info, kept, make):
    env = make(infos=({}, info))
    _, first, second, _ = play(env)
    assert first[-1] == kept and second[-1] == {}


@pytest.mark.parametrize(("name", "value"), [("success", "yes"), ("cost", np.nan), ("is_success", [1, 0])])
def test_an_outcome_that_is_no_number_is_refused_with_its_step(name, value, make):
    with pytest.raises(UserError, match=rf"gym_Own0-v0 failed at step 2 .*{name.removeprefix('is_')} in info is .*{value}".replace("[", r"\[")):  # fmt: skip  # noqa: E501
        play(make(infos=({}, {}, {name: value})))


@pytest.mark.parametrize(("infos", "found"), [(({}, {}, {}, {"cost": 0.5}), True), (({}, {"success": 1}), False)])
def test_a_cost_at_some_steps_only_is_a_cost_to_learn(infos, found, make, monkeypatch):
    env = make(infos=infos)
    monkeypatch.setattr(envs, "make_env", lambda config, seed: env)
    assert envs._play_for_cost(make_config("gym_Own0-v0")) is found


# Time limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "limit", "setting", "end"),
    [(None, None, 0, LAST_STEP), (None, 7, 0, 7), (None, None, 5, 5), (None, 7, 9, 9), (3, None, 0, 3), (3, 7, 5, 3)],
)
def test_an_environment_that_never_ends_is_ended(length, limit, setting, end, make):
    env = make({"time_limit": setting}, limit, length=length)
    env.reset()
    ends = [env.step(np.zeros(2))[2:4] for _ in range(end)]
    assert ends[:-1] == [(False, False)] * (end - 1)
    assert ends[-1] == ((True, False) if end == length else (False, True)), "a time limit truncates"


# Actions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (BOX(0.0, 10.0, (2, 3)), [-1, -0.5, 0, 0.5, 1, 9], [[0.0, 2.5, 5.0], [7.5, 10.0, 10.0]]),
        (BOX(np.float64(2.0), np.float64(4.0), (), np.float64), [0.5], 3.5),
        (BOX(np.array([0.0, 3.0, -2.0]), np.array([1.0, 3.0, 2.0])), [1.0, -0.7, -1.0], [1.0, 3.0, -2.0]),
        (BOX(3.0, 3.0, (2,)), [1.0, -1.0], [3.0, 3.0]),
        (BOX(-1e38, 1e38, (1,)), [0.5], [5e37]),
        (BOX(-LARGEST, LARGEST, (2,)), [1.0, -1.0], [LARGEST, -LARGEST]),
    ],
)
def test_actions_of_any_shape_are_rescaled(space, action, expected, make):
    env = make(action_space=space)
    assert env.action_space == BOX(-1.0, 1.0, (len(action),), np.float32)
    env.reset()
    env.step(np.array(action, np.float32))
    given = env.unwrapped.actions[0]
    assert space.contains(given) and given.dtype == space.dtype
    np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_actions_are_those_of_gymnasium_s_own_wrapper_bit_by_bit_and_never_out_of_bounds(make):
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 0, 50).astype(np.float32)
    space = BOX(low, low + rng.uniform(0.1, 5, 50).astype(np.float32))
    env = make(action_space=space)
    ones = np.ones(50, np.float32)
    theirs = RescaleAction(Own(action_space=space), -ones, ones)
    env.reset(), theirs.reset()
    for action in [*rng.uniform(-1, 1, (20, 50)).astype(np.float32), ones, -ones]:
        env.step(action)
        theirs.step(action)
        expected = np.clip(theirs.unwrapped.actions[-1], space.low, space.high)
        np.testing.assert_array_equal(env.unwrapped.actions[-1], expected)
        assert space.contains(env.unwrapped.actions[-1])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gym.spaces.Discrete(3), "Discrete.*bounded continuous"),
        (BOX(0, 5, (2,), np.int64), "bounded continuous"),
        (BOX(-1.0, np.inf, (2,)), "bounded continuous"),
        (BOX(-np.arange(1.0, 300.0), np.full(299, np.inf)), "bounded continuous"),
        (BOX(-1.0, 1.0, (0,)), "no actions"),
        (gym.spaces.Dict(a=BOX(-1.0, 1.0, (2,))), "bounded continuous"),
    ],
)
def test_other_actions_are_refused(space, words, make):
    with pytest.raises(UserError, match=rf"gym_Own0-v0 has .*{words}") as error:
        make(action_space=space)
    assert len(str(error.value)) < 500


# Pictures -------------------------------------------------------------------------------------------------------------

HALF = np.zeros((64, 64, 3), np.uint8)
HALF[:32] = (255, 102, 0)
GRAY = HALF[..., 1]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (HALF, HALF),
        (HALF / 255.0, HALF),
        ((HALF / 255.0).astype(np.float32) * np.float32(1.0005), HALF),
        (HALF.astype(np.int64), HALF),
        (HALF > 200, np.where(HALF > 200, 255, 0)),
        (HALF.tolist(), HALF),
        ([RED, HALF], HALF),
        (np.stack([RED, HALF]), HALF),
        (GRAY, GRAY[..., None].repeat(3, -1)),
        (GRAY[..., None], GRAY[..., None].repeat(3, -1)),
        (GRAY[None] / 255.0, GRAY[..., None].repeat(3, -1)),
        ([GRAY * 0, GRAY], GRAY[..., None].repeat(3, -1)),
        (GRAY.tolist(), GRAY[..., None].repeat(3, -1)),
        (np.concatenate([HALF, RED[..., :1]], -1), HALF),
        (np.moveaxis(np.concatenate([HALF, RED[..., :1]], -1), -1, 0), HALF),
        (np.moveaxis(HALF, -1, 0), HALF),
        (HALF.repeat(3, 0).repeat(2, 1), HALF),
    ],
)
def test_pictures_are_converted(picture, expected, make):
    obs, _ = make(picture=picture).reset()
    assert obs["image"].dtype == np.uint8
    np.testing.assert_array_equal(obs["image"], expected)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (None, "returns is None instead"),
        ([], "shape .0,."),
        (HALF.astype(np.float32), r"from 0 to 255 instead of integers from 0 to 255 or floats from 0 to 1"),
        (HALF.astype(np.int32) * 257, "from 0 to 65535"),
        (HALF / -255.0, "from -1 to"),
        (np.full((64, 64, 3), np.nan), "not finite"),
        (np.where(HALF > 200, np.inf, 0.5), "not finite"),
        (np.zeros((0, 64, 3), np.uint8), "shape .0, 64, 3."),
        (np.zeros((64, 64, 2), np.uint8), "2 channels"),
        (np.zeros(5, np.uint8), "shape .5,."),
        ("a picture", "instead of uint8"),
        (HALF.astype(object), "array object"),
    ],
)
def test_what_is_no_picture_is_refused(picture, words, make):
    with pytest.raises(UserError, match=rf"gym_Own0-v0 failed at a reset: what render.*{words}.*Correct") as error:
        make(picture=picture).reset()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (PICTURE, HALF, HALF),
        (BOX(0.0, 1.0, (64, 64, 3)), HALF / 255.0, HALF),
        (BOX(0.0, 255.0, (64, 64, 3)), HALF.astype(np.float32), HALF),
        (BOX(0, 255, (3, 64, 64), np.uint8), np.moveaxis(HALF, -1, 0), HALF),
        (BOX(0, 255, (64, 64), np.uint8), GRAY, GRAY[..., None].repeat(3, -1)),
        (BOX(0, 255, (4, 64, 64, 3), np.uint8), np.stack([RED, RED, BLUE, HALF]), HALF),
        (BOX(0, 255, (4, 64, 64), np.uint8), np.stack([GRAY * 0, GRAY * 0, GRAY * 0, GRAY]), GRAY[..., None].repeat(3, -1)),  # noqa: E501
        (BOX(0, 255, (2, 64, 64), np.uint8), np.stack([GRAY * 0, GRAY]), GRAY[..., None].repeat(3, -1)),
        (BOX(0, 255, (64, 64, 9), np.uint8), np.concatenate([RED, BLUE, HALF], -1), HALF),
    ],
)  # fmt: skip
def test_an_observation_can_be_the_picture(space, observation, expected, make, monkeypatch):
    monkeypatch.setattr(Own, "metadata", {"render_modes": []})
    env = make(observation_space=space, observation=observation, picture=None)
    assert list(env.observation_space) == ["image"], "a picture is no state"
    for obs, *_ in play(env):
        np.testing.assert_array_equal(obs["image"], expected)


ROBOT = gym.spaces.Dict(
    hand=PICTURE, joints=BOX(-np.inf, np.inf, (3,)), more=gym.spaces.Tuple([gym.spaces.Discrete(2), PICTURE])
)
SEEN = {"hand": RED, "joints": np.arange(3, dtype=np.float32), "more": (np.int64(1), BLUE)}


@pytest.mark.parametrize(("camera", "expected"), [("", HALF), ("hand", RED), ("more.1", BLUE)])
def test_a_picture_among_others_is_chosen_by_name_and_none_is_state(camera, expected, make):
    env = make({"camera": camera}, observation_space=ROBOT, observation=SEEN, picture=HALF)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["image"], expected)
    np.testing.assert_array_equal(obs["state"], [0.0, 1.0, 2.0, 0.0, 1.0])
    assert env.observation_space["state"].shape == (5,)


def test_pictures_that_nobody_can_choose_are_refused_by_name(make, monkeypatch):
    with pytest.raises(UserError, match=r"no cameras to choose from.*hand, more\.1"):
        make({"camera": "foot"}, observation_space=ROBOT, observation=SEEN)
    monkeypatch.setattr(Own, "metadata", {"render_modes": []})
    with pytest.raises(UserError, match=r"several pictures.*--camera \(hand, more\.1\)"):
        make(observation_space=ROBOT, observation=SEEN)
    with pytest.raises(UserError, match="cannot render pictures"):
        make()


def test_an_environment_that_knows_no_render_mode_can_observe_its_picture(make, monkeypatch):
    plain = lambda self: original(self, observation_space=PICTURE, observation=HALF)
    original = Own.__init__
    monkeypatch.setattr(Own, "__init__", plain)
    np.testing.assert_array_equal(make().reset()[0]["image"], HALF)


def test_what_has_no_fixed_length_is_no_state(make):
    space = gym.spaces.Dict(words=gym.spaces.Sequence(gym.spaces.Discrete(3)), place=BOX(-1.0, 1.0, (1,)))
    obs, _ = make(observation_space=space, observation={"words": (1, 2), "place": np.ones(1)}).reset()
    np.testing.assert_array_equal(obs["state"], [1.0])


def test_bad_pictures_of_a_data_set_are_refused_by_the_same_rules():
    with pytest.raises(BadValueError, match="the picture has numbers that are not finite"):
        to_picture(np.full((64, 64, 3), np.nan))


# States, rewards and what else a step returns -------------------------------------------------------------------------


def test_a_state_may_be_unknown_or_huge(make):
    env = make(observation=np.array([np.nan, 1e300]))
    for obs, *_ in play(env):
        assert np.isnan(obs["state"][0]) and obs["state"][1] == np.finfo(np.float32).max


@pytest.mark.parametrize("reward", [None, np.zeros(2), -np.inf, np.nan, 1e300, "1"])
def test_rewards_that_are_no_numbers_are_refused_with_environment_and_step(reward, make):
    with pytest.raises(UserError, match=r"gym_Own0-v0 failed at step 1 of an episode: the reward is .* finite number"):
        play(make(rewards=reward))


@pytest.mark.parametrize("reward", [1, True, np.float32(1.0), np.ones(1), np.ones((), np.int64)])
def test_rewards_of_any_kind_of_number_are_taken(reward, make):
    assert [row[1] for row in play(make(rewards=reward))[1:]] == [1.0, 1.0, 1.0]


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
def test_steps_and_resets_of_another_form_are_refused(method, result, words, make, monkeypatch):
    monkeypatch.setattr(Own, method, result)
    with pytest.raises(UserError, match=words):
        play(make())


# Resets ---------------------------------------------------------------------------------------------------------------


def test_a_partial_reset_of_a_batch_reaches_the_environment_without_options(make):
    env = make()
    env.reset(options={})  # what Gymnasium's batch sends once it has taken the mask out
    env.reset(options={"start": 3})
    env.reset()
    assert env.unwrapped.options == [None, {"start": 3}, None]


# Errors ---------------------------------------------------------------------------------------------------------------


class UnluckyError(Exception):
    def __init__(self, left, right):  # so that it cannot be pickled
        super().__init__(f"{left}\n  {right}")


@pytest.mark.parametrize("error", [
        lambda: ZeroDivisionError("of zero"), lambda: UnluckyError("of", "zero"), lambda: SystemExit("of zero")
    ],
)  # fmt: skip
def test_an_exception_is_named_with_environment_step_and_line(error, make):
    with pytest.raises(UserError) as refusal:
        play(make(error=error))
    line = next(n for n, text in enumerate(Path(__file__).read_text().split("\n"), 1) if "raise self.told" in text)
    assert str(refusal.value) == (
        f"gym_Own0-v0 failed at step 2 of an episode: {type(error()).__name__}: of zero (test_own_environments.py, "
        f"line {line}). Correct it there."
    )


MODULES = {
    "absent_package": ("import no_such_package", r"a package is missing .*no_such_package"),
    "syntax": ("def (:", r"cannot be imported: SyntaxError: .*bad_syntax\.py, line 1"),
    "fails": ("raise ValueError('no such file')", r"cannot be imported: ValueError: no such file .*py, line 1"),
    "leaves": ("import sys; sys.exit(0)", "cannot be imported: SystemExit: 0"),
    "silent": ("", r"registers no environment"),
    "other_id": ("register('Othr-v0', A)", r"unknown task.*did you mean 'gym_bad_other_id:Othr-v0'"),
    "constructor": ("register('Other-v0', B)", r"cannot be made: RuntimeError: no licence \(bad_constructor\.py, line"),
    "needs": ("register('Other-v0', C)", r"cannot be made: a package is missing .*no_such_package"),
    "entry": ("register('Other-v0', 'bad_entry:Nothing')", "cannot be made: AttributeError.*Nothing"),
    "abstract": ("register('Other-v0', A)", r"cannot be made: AttributeError: .*must specify an action space"),
    "no_env": ("register('Other-v0', lambda render_mode: 3)", r"cannot be made: TypeError: .*gymnasium.Env"),
    "inner": ("register('Other-v0', lambda render_mode: gym.make('No-v0'))", r"cannot be made: NameNotFound"),
}
HEAD = """
from gymnasium import register
import gymnasium as gym
class A(gym.Env): pass
class B(gym.Env):
    def __init__(self, render_mode): raise RuntimeError("no licence")
class C(gym.Env):
    def __init__(self, render_mode): import no_such_package
"""


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_s_own_error_is_the_one_that_is_named(kind, tmp_path, monkeypatch):
    code, words = MODULES[kind]
    (tmp_path / f"bad_{kind}.py").write_text(HEAD + code if "register(" in code else code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(UserError, match=words) as error:
        envs.make_env(make_config(f"gym_bad_{kind}:Other-v0"), 0)
    assert f"gym_bad_{kind}:Other-v0" in str(error.value) and len(str(error.value)) < 500
    assert ("did you mean" in str(error.value)) == (kind == "other_id")
    for name in [name for name in gym.registry if name in ("Other-v0", "Othr-v0")]:
        del gym.registry[name]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("gym_no_such_module:Own-v0", "unknown task .*there is no module 'no_such_module'; put the folder"),
        ("gym_os.no_such_part:Own-v0", "there is no module 'os.no_such_part'"),
        ("gym_:HalfCheeta-v5", "did you mean 'gym_HalfCheetah-v5'"),
        ("gym_HalfCheetah-v99", "did you mean 'gym_HalfCheetah-v5'"),
        ("gym_a:b:Own-v0", "there is no module 'a:b'"),
        ("gym_.hidden:Own-v0", "the module .hidden .*cannot be imported"),
    ],
)
def test_a_wrong_name_is_what_is_named(task, words, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(UserError, match=words):
        envs.make_env(make_config(task), 0)


# Through the worker processes -----------------------------------------------------------------------------------------

CHATTY = """
import os
import gymnasium as gym
import numpy as np

print("imported")

class Chatty(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2, 3))

    def __init__(self, render_mode):
        self.render_mode = render_mode
        print("made")
        os.write(1, b"made, as C code says it")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert options is None
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert action.shape == (2, 3)
        print("step")
        self.time += 1
        return np.zeros(2, np.float32), (1.0 if self.time < 3 else -np.inf), False, False, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

gym.register("Chatty-v0", Chatty)
"""
PROGRAM = """
import os
import subprocess
import sys
import numpy as np
import envs
from tools.config import load_config
from tools.errors import UserError

config = load_config(["--configs", "gym", "--task", "gym_chatty:Chatty-v0"])
observations, actions = envs.spaces(config)
batch = envs.make_vector_env(config, 2, 0)
batch.reset()
batch.step(np.zeros((2, 6), np.float32))
batch.reset(options={"reset_mask": np.array([True, False])})
print(actions.shape, batch.step(np.zeros((2, 6), np.float32))[1])
try:
    batch.step(np.zeros((2, 6), np.float32))
except UserError as error:
    print(error)
finally:
    batch.close(terminate=True)
"""


def test_a_batch_of_one_s_own_prints_nothing_and_resets_in_part(tmp_path):
    (tmp_path / "chatty.py").write_text(CHATTY)
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines() == [
        "(6,) [1. 1.]",
        "gym_chatty:Chatty-v0 failed at step 3 of an episode: the reward is -inf instead of a finite number. "
        "Correct the environment.",
    ], done.stderr
    assert all(text in done.stderr for text in ("imported", "made, as C code says it", "step"))
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: gym_chatty:Chatty-v0 has no time limit: its episodes end after {LAST_STEP} steps, or at --time_limit"
    ]


def test_what_is_wrong_shows_before_anything_is_collected_or_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "blind.py").write_text(CHATTY.replace("return np.zeros((64, 64, 3), np.uint8)", "return None"))
    monkeypatch.syspath_prepend(tmp_path)
    folder = str(tmp_path / "new")
    words = ["--configs", "gym", "debug", "--task", "gym_blind:Chatty-v0"]
    for main, options in (
        (planning_agent.main, ["--logdir", folder]),
        (collect.main, ["episodes", "--out", folder, "--success_rate", "0"]),
    ):
        assert main([*options, *words]) == 2
        assert capsys.readouterr().err == (
            "error: gym_blind:Chatty-v0 failed at a reset: what render() returns is None instead of uint8 [height, "
            "width, 3]. Correct the environment.\n"
        )
        assert not list((tmp_path / "new").glob("*"))
