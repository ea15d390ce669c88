"""Models that work must fit what they have seen, and an agent reach a return that random actions do not."""

import numpy as np
import pytest
import tensorflow as tf

import envs
import models
import planning_agent
from base_agent import BaseAgent
from episodes.replay import Replay
from tools.config import load_config
from training.driver import Driver

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


# Predicting the means over these episodes leaves a squared image error of 161 (summed over the picture) and a squared
# reward error of 0.0114. Half and a quarter of that take knowing where the walker is.
EPISODES, UPDATES, IMAGE_BOUND, REWARD_BOUND = 5, 800, 80.0, 0.003
RECORDED = (
    "--configs defaults dmc small --task dmc_walker_walk --time_limit 60 --batch_size 5 --cnn_depth 8 --deter 50 "
    "--hidden 50 --free_nats 0 --model_lr 3e-3"
).split()
OVERFIT = {
    "rssm": [],
    "ssm": ["--dynamics", "ssm"],
    "deterministic": ["--dynamics", "deterministic"],
    "categorical": ["--latent", "categorical", "--stoch", "8", "--classes", "8", "--kl_balance", "0.8"],
    # Without the balance the posterior collapses to the prior and learns nothing in this time.
    "ssm_categorical": "--dynamics ssm --latent categorical --stoch 16 --classes 16 --kl_balance 0.8".split(),
    "overshooting": ["--overshooting", "5"],
    "normalized_rewards": ["--reward_normalization", "true"],
    "bfloat16": ["--precision", "bfloat16"],
    "image_bits": ["--image_bits", "5"],
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Five random episodes of the walker, 30 decisions each."""
    folder = tmp_path_factory.mktemp("recorded")
    config = load_config(RECORDED)
    driver = Driver(envs.make_vector_env(config, 1, seed=0))
    agent = BaseAgent(config, *envs.spaces(config))
    replay, episodes = Replay(folder, 5, 30, 1000, seed=0), []
    while len(episodes) < EPISODES:
        episodes += driver.step(agent.random_policy)
    driver.close()
    for episode in episodes:
        replay.add(episode.data)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("variant", OVERFIT)
def test_every_variant_overfits_a_handful_of_episodes(variant, recorded):
    config = load_config([*RECORDED, *OVERFIT[variant]])
    agent = BaseAgent(config, *envs.spaces(config))
    replay = Replay(recorded, config.batch_size, config.batch_length, 1000, seed=0)
    for episode in replay._memory:
        agent.rewards.add(episode["reward"][1:])
    batches = agent.batches(replay)
    for _ in range(UPDATES):
        agent.train_step(next(batches))
    batch = {key: tf.constant(value) for key, value in replay.sample().items()}
    image_error, reward_error = reconstruction_errors(agent, batch)
    print(f"{variant}: squared image error {image_error:.1f}, squared reward error {reward_error:.4f}")
    assert image_error < IMAGE_BOUND and reward_error < REWARD_BOUND


def reconstruction_errors(agent, batch):
    """Mean squared errors of the filtered states' images (summed over the picture) and raw rewards."""
    post, _ = agent.model.dynamics.observe(agent.model.embed(batch["image"]), batch["action"], batch["is_first"])
    feat = models.get_feat(post)
    images = models.preprocess(models.reduce_bits(batch["image"], agent.config.image_bits))
    image_error = tf.reduce_sum(tf.square(agent.model.decode(feat) - images), [2, 3, 4])
    scale = float(tf.reduce_mean(agent.rewards(tf.ones([1])) - agent.rewards(tf.zeros([1]))))
    reward_error = tf.square((agent.model.reward(feat) - agent.rewards(batch["reward"])) / scale)
    return float(tf.reduce_mean(image_error)), float(tf.reduce_mean(reward_error))
