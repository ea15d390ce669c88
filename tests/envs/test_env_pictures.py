"""Pictures in the forms that people's environments give them."""

import gymnasium as gym
import numpy as np
import pytest

from envs.guard import BadValueError
from envs.pictures import to_picture
from tests.envs.own import BLUE, BOX, RED, Own, play
from tools.errors import UserError

PICTURE = BOX(0, 255, (64, 64, 3), np.uint8)
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
def test_pictures_are_converted(picture, expected, make_own):
    obs, _ = make_own(picture=picture).reset()
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
def test_what_is_no_picture_is_refused(picture, words, make_own):
    with pytest.raises(UserError, match=rf"gym_Own0-v0 failed at a reset: what render.*{words}.*Correct") as error:
        make_own(picture=picture).reset()
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
        (BOX(0, 255, (4, 64, 64), np.uint8), np.stack([GRAY * 0] * 3 + [GRAY]), GRAY[..., None].repeat(3, -1)),
        (BOX(0, 255, (2, 64, 64), np.uint8), np.stack([GRAY * 0, GRAY]), GRAY[..., None].repeat(3, -1)),
        (BOX(0, 255, (64, 64, 9), np.uint8), np.concatenate([RED, BLUE, HALF], -1), HALF),
    ],
)
def test_an_observation_can_be_the_picture(space, observation, expected, make_own, monkeypatch):
    monkeypatch.setattr(Own, "metadata", {"render_modes": []})
    env = make_own(observation_space=space, observation=observation, picture=None)
    assert list(env.observation_space) == ["image"], "a picture is not part of the state"
    for obs, *_ in play(env):
        np.testing.assert_array_equal(obs["image"], expected)


ROBOT = gym.spaces.Dict(
    hand=PICTURE, joints=BOX(-np.inf, np.inf, (3,)), more=gym.spaces.Tuple([gym.spaces.Discrete(2), PICTURE])
)
SEEN = {"hand": RED, "joints": np.arange(3, dtype=np.float32), "more": (np.int64(1), BLUE)}


@pytest.mark.parametrize(("camera", "expected"), [("", HALF), ("hand", RED), ("more.1", BLUE)])
def test_a_picture_among_others_is_chosen_by_name_and_none_is_state(camera, expected, make_own):
    env = make_own({"camera": camera}, observation_space=ROBOT, observation=SEEN, picture=HALF)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["image"], expected)
    np.testing.assert_array_equal(obs["state"], [0.0, 1.0, 2.0, 0.0, 1.0])
    assert env.observation_space["state"].shape == (5,)


def test_pictures_that_nobody_can_choose_are_refused_by_name(make_own, monkeypatch):
    with pytest.raises(UserError, match=r"no cameras to choose from.*hand, more\.1"):
        make_own({"camera": "foot"}, observation_space=ROBOT, observation=SEEN)
    monkeypatch.setattr(Own, "metadata", {"render_modes": []})
    with pytest.raises(UserError, match=r"several pictures.*--camera \(hand, more\.1\)"):
        make_own(observation_space=ROBOT, observation=SEEN)
    with pytest.raises(UserError, match="cannot render pictures"):
        make_own()


def test_an_environment_that_knows_no_render_mode_can_observe_its_picture(make_own, monkeypatch):
    plain = lambda self: original(self, observation_space=PICTURE, observation=HALF)
    original = Own.__init__
    monkeypatch.setattr(Own, "__init__", plain)
    np.testing.assert_array_equal(make_own().reset()[0]["image"], HALF)


def test_what_has_no_fixed_length_is_no_state(make_own):
    space = gym.spaces.Dict(words=gym.spaces.Sequence(gym.spaces.Discrete(3)), place=BOX(-1.0, 1.0, (1,)))
    obs, _ = make_own(observation_space=space, observation={"words": (1, 2), "place": np.ones(1)}).reset()
    np.testing.assert_array_equal(obs["state"], [1.0])


def test_bad_pictures_of_a_data_set_are_refused_by_the_same_rules():
    with pytest.raises(BadValueError, match="the picture has numbers that are not finite"):
        to_picture(np.full((64, 64, 3), np.nan))
