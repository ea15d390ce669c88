"""Small dynamics of every kind with random weights, and random inputs for them."""

import numpy as np
import tensorflow as tf
from documentation import ROOT, code_blocks

from world_model import dynamics, latents
from world_model.ssm import dense

STOCH, DETER, HIDDEN, ACTIONS, EMBED = 5, 7, 6, 3, 9


LATENTS = {
    "gaussian": lambda: latents.Gaussian(STOCH, 0.1),
    "categorical": lambda: latents.Categorical(3, 4, 0.0),
    "unimix": lambda: latents.Categorical(3, 4, 0.1),
    "point": lambda: latents.Point(STOCH),
}
GUIDE: dict = {"SSM": dynamics.SSM, "dense": dense, "keras": tf.keras, "tf": tf}
exec(next(code for code in code_blocks(ROOT / "CONTRIBUTING.md", "python") if "(SSM)" in code), GUIDE)
DYNAMICS = dynamics.DYNAMICS | {"guide": GUIDE["DeepSSM"]}
VARIANTS = ["rssm-gaussian", "rssm-categorical", "rssm-unimix", "rssm-point", "ssm-gaussian", "ssm-categorical"]
VARIANTS += ["guide-gaussian"]  # the example for contributors


def make(variant, act="relu", seed=0):
    tf.keras.utils.set_random_seed(seed)
    kind, latent = variant.split("-")
    model = DYNAMICS[kind](LATENTS[latent](), ACTIONS, EMBED, deter=DETER, hidden=HIDDEN, act=act)
    rng = np.random.default_rng(seed)
    # Keras starts biases at zero, which would hide a bias that is left out.
    for variable in model.variables:
        variable.assign(rng.normal(0.0, 0.5, variable.shape).astype(np.float32))
    return model


def make_rssm(act="relu", seed=0):
    return make("rssm-gaussian", act, seed)


def feature(model, *lead, seed=0):
    """A random feature of the model, its stoch a sample."""
    raw, noise = normal(*lead, model.latent.raw_size, seed=seed), normal(*lead, model.noise_size, seed=seed + 1)
    stoch = model.latent.sample(model.latent.stats(tf.constant(raw)), tf.constant(noise))
    return tf.concat([stoch, normal(*lead, model.deter, seed=seed + 2)], -1)


def img_step(model, state, action, noise=None):
    """One step of the prior, [N, ...] to [N, ...]."""
    return model._predict(state, model.action_in(action), noise)


def split(model, z):
    return {"stoch": z[..., : model.latent.size], "deter": z[..., model.latent.size :]}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
