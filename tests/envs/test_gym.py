"""Gymnasium environments: actions, time limits, costs, and names and modules that are wrong."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction

import envs
from envs.wrappers import LAST_STEP
from tests.envs.own import BOX, Own
from tests.envs.rollouts import make_config, rollout
from tools.errors import UserError


class CameraRoll(gym.Env):
    """Observes a picture and no state; the left half of the picture is white. Reports a cost at steps only."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = gym.spaces.Box(np.array([0.0, 10.0], np.float32), np.array([1.0, 30.0], np.float32))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((96, 96, 3), np.uint8), {}

    def step(self, action):
        self.actions.append(action)
        return np.zeros((96, 96, 3), np.uint8), 1.0, False, False, {"cost": len(self.actions), "noise": 1}

    def render(self):
        picture = np.zeros((128, 192, 3), np.uint8)
        picture[:, :96] = 255
        return picture


def play_camera_roll() -> tuple[dict, list[np.ndarray], gym.Space, list[dict], bool]:
    """First observation, actions, space, every info, and whether the task is said to report a cost."""
    gym.register("CameraRoll-v0", CameraRoll)
    config = make_config("gym_CameraRoll-v0", time_limit=3)
    env = envs.make_env(config, 0)
    obs, info = env.reset()
    infos = [info]
    for action in ([-1.0, -1.0], [0.0, 0.0], [5.0, 1.0]):
        *_, truncated, info = env.step(np.array(action))
        infos.append(info)
    assert truncated
    # What envs.reports_cost asks, in this process, where the environment is registered.
    return obs, env.unwrapped.actions, env.observation_space, infos, envs._play_for_cost(config)


def test_gym_environments_are_rescaled_and_shrunk(in_worker):
    obs, actions, space, *_ = in_worker(play_camera_roll)
    assert list(space) == ["image"], "a picture is not part of the state"
    np.testing.assert_allclose(actions, [[0, 10], [0.5, 20], [1, 30]])
    # 192 columns become 64, of which 32 are white; each is an average of three.
    assert (obs["image"][:, :32] == 255).all() and (obs["image"][:, 32:] == 0).all()


def test_gym_environments_that_report_a_cost_at_steps_only_pass_it_on(in_worker):
    *_, infos, reported = in_worker(play_camera_roll)
    assert infos == [{}, {"cost": 1.0}, {"cost": 2.0}, {"cost": 3.0}] and reported
    assert all(type(info["cost"]) is float for info in infos[1:])


def test_terminal_states_terminate(in_worker):
    falling = in_worker(rollout, make_config("gym_InvertedPendulum-v5"), 0, np.ones((40, 1)))
    end = int(np.argmax(falling["terminated"]))
    assert 0 < end < 40 and not falling["truncated"][end] and np.isnan(falling["success"]).all()


@pytest.mark.parametrize(
    ("length", "limit", "setting", "end"),
    [(None, None, 0, LAST_STEP), (None, 7, 0, 7), (None, None, 5, 5), (None, 7, 9, 9), (3, None, 0, 3), (3, 7, 5, 3)],
)
def test_an_environment_that_never_ends_is_ended(length, limit, setting, end, make_own):
    env = make_own({"time_limit": setting}, limit, length=length)
    env.reset()
    ends = [env.step(np.zeros(2))[2:4] for _ in range(end)]
    assert ends[:-1] == [(False, False)] * (end - 1)
    assert ends[-1] == ((True, False) if end == length else (False, True)), "a time limit truncates"


LARGEST = float(np.finfo(np.float32).max)


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
def test_actions_of_any_shape_are_rescaled(space, action, expected, make_own):
    env = make_own(action_space=space)
    assert env.action_space == BOX(-1.0, 1.0, (len(action),), np.float32)
    env.reset()
    env.step(np.array(action, np.float32))
    given = env.unwrapped.actions[0]
    assert space.contains(given) and given.dtype == space.dtype
    np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_actions_are_those_of_gymnasium_s_own_wrapper_bit_by_bit_and_never_out_of_bounds(make_own):
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 0, 50).astype(np.float32)
    space = BOX(low, low + rng.uniform(0.1, 5, 50).astype(np.float32))
    env = make_own(action_space=space)
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
def test_other_actions_are_refused(space, words, make_own):
    with pytest.raises(UserError, match=rf"gym_Own0-v0 has .*{words}") as error:
        make_own(action_space=space)
    assert len(str(error.value)) < 500


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
    "unchecked": (
        "register('Other-v0', A, disable_env_checker=True)",
        r"cannot be used: AttributeError: .*no attribute 'action_space'",
    ),
    "property": (
        "register('Other-v0', D, disable_env_checker=True)",
        r"cannot be used: RuntimeError: not connected \(bad_property\.py, line",
    ),
    "nothing_seen": ("register('Other-v0', E, disable_env_checker=True)", "cannot be used: AttributeError: .*None"),
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
class D(gym.Env):
    @property
    def action_space(self): raise RuntimeError("not connected")
class E(gym.Env):
    action_space, observation_space = gym.spaces.Box(-1.0, 1.0, (2,)), None
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
