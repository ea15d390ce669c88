"""Latent problems whose answer is known, and builders of every planner, for the tests of the planners."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from optimizers import LatentProblem, Planner
from planners.cem import CEM, RandomShooting
from planners.first_order_latco import FirstOrderLatCo
from planners.gaussian_latco import GaussianLatCo
from planners.gd import GD
from planners.gn import GN
from planners.grasp import GRASP
from planners.icem import ICEM
from planners.ilqr import ILQR
from planners.image_collocation import ImageCollocation
from planners.latco import LatCo

SEED = [3, 4]

# Linear-quadratic: state (x, last action), so that a reward of the state can charge for the action.
A = np.array([[0.9, 0.2, 0.0], [-0.1, 0.8, 0.0], [0.0, 0.0, 0.0]])
B = np.array([[0.3], [0.7], [1.0]])
WEIGHTS = np.array([1.0, 0.5, 0.3])
TARGET = np.array([0.4, -0.2, 0.0])


def with_images(problem: LatentProblem) -> LatentProblem:
    """The same problem whose states are its images too, seen without noise."""
    fields = {name: getattr(problem, name) for name in problem.__dataclass_fields__}
    identity = lambda z: z
    return LatentProblem(**fields | {"encode": identity, "filter": lambda z, a, image: image, "decode": identity})


def linear_quadratic() -> LatentProblem:
    """Linear dynamics with a little noise, quadratic reward."""

    def step(z, a):
        return tf.linalg.matvec(tf.constant(A, z.dtype), z) + tf.linalg.matvec(tf.constant(B, z.dtype), a)

    def reward(z):
        return -tf.reduce_sum(tf.constant(WEIGHTS, z.dtype) * tf.square(z - tf.constant(TARGET, z.dtype)), -1)

    sample = lambda z, a, noise: step(z, a) + 1e-3 * noise
    return with_images(LatentProblem(step, reward, 3, 1, sample_step=sample, noise_size=3, a_max=10.0))


# What comes after the horizon of `with_value`, and where it is best; not where the rewards are.
VALUE_WEIGHTS = np.array([1.5, 1.5, 0.0])
VALUE_TARGET = np.array([1.5, 1.5, 0.0])


def with_value(problem: LatentProblem) -> LatentProblem:
    """The linear-quadratic problem with a quadratic value of the last state."""

    def value(z):
        return -tf.reduce_sum(
            tf.constant(VALUE_WEIGHTS, z.dtype) * tf.square(z - tf.constant(VALUE_TARGET, z.dtype)), -1
        )

    return dataclasses.replace(problem, value=value)


def linear_quadratic_optimum(z0: np.ndarray, horizon: int, value: bool = False) -> tuple[np.ndarray, float]:
    """Actions [H] and return of the optimum, by the normal equations of the stacked problem."""
    powers = [np.linalg.matrix_power(A, k) for k in range(horizon + 1)]
    rows = [np.concatenate([powers[t - k] @ B if k <= t else 0 * B for k in range(horizon)], 1) for t in range(horizon)]
    targets, weights = [TARGET] * horizon, [WEIGHTS] * horizon
    if value:  # of the last state
        rows, targets, weights = [*rows, rows[-1]], [*targets, VALUE_TARGET], [*weights, VALUE_WEIGHTS]
    ends = [*range(1, horizon + 1), horizon]
    free = np.concatenate([powers[t] @ z0 - target for t, target in zip(ends, targets, strict=False)])
    scale = np.sqrt(np.concatenate(weights))
    M = scale[:, None] * np.concatenate(rows)
    actions = np.linalg.lstsq(M, -scale * free, rcond=None)[0]
    return actions, -np.sum((M @ actions + scale * free) ** 2)


def root_residual(reward: tf.Tensor) -> tf.Tensor:
    """sqrt(-r), exact where rewards are not positive: the sum of its squares is minus the return."""
    return tf.sqrt(1e-6 - reward)


def shifted_root(reward: tf.Tensor) -> tf.Tensor:
    """sum of squares = H c - sum of rewards: the same optimum as the sum of rewards (LatCo section 4, "shifting")."""
    return tf.sqrt(20.0 - reward)


def ridge() -> LatentProblem:
    """A point on a line with steps of at most 0.5 from 0 to the goal at 2, and a punishing ridge at 0.75 on the way.

    At full speed it is crossed in one leap: the best states are 0.5, 1, 1.5, 2, 2, ... with rewards -2.25, -1, -0.25
    and 0. A sequence of actions that changes a little at a time has to climb the ridge first.
    """

    def reward(z):
        x = z[..., 0]
        return -tf.square(x - 2.0) - 6.0 * tf.exp(-tf.square(x - 0.75) / (2 * 0.06**2))

    return LatentProblem(lambda z, a: z + 0.5 * a, reward, 1, 1)


def curved(linearize=None, linearize_moments=None) -> LatentProblem:
    """Smooth nonlinear dynamics with noise in two dimensions; both are seen as an image."""
    step = lambda z, a: 0.9 * z + 0.3 * tf.tanh(tf.concat([a, a * z[..., :1]], -1))
    reward = lambda z: -tf.reduce_sum(tf.square(z - 0.3), -1)
    sample = lambda z, a, noise: step(z, a) + 0.01 * noise
    own = {"linearize": linearize, "linearize_moments": linearize_moments}
    return with_images(LatentProblem(step, reward, 2, 1, sample_step=sample, noise_size=2, **own))


def curved_jacobians(z: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Next states of `curved` and their Jacobians (`LatentProblem.linearize`), by hand: traced sooner than by tape."""
    x, zero = z[..., 0], tf.zeros_like(z[..., 0])
    one = zero + 0.9
    slope = 0.3 * (1.0 - tf.square(tf.tanh(a[..., 0])))
    product = 0.3 * (1.0 - tf.square(tf.tanh(a[..., 0] * x)))
    by_state = tf.stack([one, zero, product * a[..., 0], one], -1)
    by_action = tf.stack([slope, product * x], -1)[..., None]
    return curved().step(z, a), tf.reshape(by_state, [*z.shape, 2]), by_action


def curved_moments(z: tf.Tensor, a: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """`LatentProblem.linearize_moments` of `curved`, by hand."""
    a = tf.repeat(a[:, None], z.shape[1], 1)
    samples, (_, by_state, by_action) = curved().sample_step(z, a, noise), curved_jacobians(z, a)
    mean, by_state, by_action = (tf.reduce_mean(x, 1) for x in (samples, by_state, by_action))
    return mean, tf.math.reduce_std(samples, 1), by_state, by_action


def explicit() -> LatentProblem:
    """`curved`, with its Jacobians by hand."""
    return curved(curved_jacobians, curved_moments)


def breakable() -> LatentProblem:
    """`explicit`, with a reward that is not a number beyond 50. States that start far beyond stay there."""
    problem = explicit()
    reward = lambda z: tf.where(tf.abs(z[..., 0]) > 50.0, tf.constant(np.nan, z.dtype), problem.reward(z))
    return dataclasses.replace(problem, reward=reward)


def line(reward: Callable, speed: float, spread: float, **fields) -> LatentProblem:
    """A point on a line with steps of at most `speed` and noise, with its Jacobians by hand."""
    step = lambda z, a: z + speed * a
    sample = lambda z, a, noise: step(z, a) + spread * noise
    ones = lambda z: tf.ones_like(z)[..., None]

    def moments(z, a, noise):
        samples = sample(z, a[:, None], noise)
        mean = tf.reduce_mean(samples, 1)
        return mean, tf.math.reduce_std(samples, 1), ones(mean), speed * ones(mean)

    fields |= {"linearize": lambda z, a: (step(z, a), ones(z), speed * ones(z)), "linearize_moments": moments}
    return LatentProblem(step, reward, 1, 1, sample_step=sample, noise_size=1, **fields)


def far() -> LatentProblem:
    """A point on a line far from its goal at 5: the optimum is full speed, 0.1 a step."""
    return line(lambda z: -tf.square(z[..., 0] - 5.0), 0.1, 0.01)


def edge() -> LatentProblem:
    """A point on a line that moves as far as it likes. The reward grows slowly up to 2 and is not a number beyond."""
    reward = lambda z: tf.where(z[..., 0] <= 2.0, 0.01 * z[..., 0] - 1.0, tf.constant(np.nan, z.dtype))
    return line(reward, 1.0, 1e-6, a_max=1e4)


# Steps of at most 0.3 on a line towards ever more reward, and a cliff at 1.
CLIFF_STEP = 0.3


def cliff() -> LatentProblem:
    """A reward of 1 + x at x. The cliff of `cliff_discount` at x = 1 is not part of this problem."""
    return with_images(line(lambda z: 1.0 + z[..., 0], CLIFF_STEP, 0.01))


def cliff_discount(z: tf.Tensor) -> tf.Tensor:
    """The chance [...] that an episode goes on after x = z [..., 1]: one half at x = 1."""
    return tf.sigmoid(20.0 * (1.0 - z[..., 0]))


def cliff_optimum(x0: float, horizon: int) -> float:
    """The largest discounted return from x0, by dynamic programming over a grid of states."""
    x = x0 + 0.01 * np.arange(-300, 301)
    reach = np.abs(x[:, None] - x) <= CLIFF_STEP + 1e-9
    alive = 1.0 / (1.0 + np.exp(-20.0 * (1.0 - x)))
    value = np.zeros_like(x)
    for _ in range(horizon):
        value = alive * np.max(np.where(reach, 1.0 + x + value, -np.inf), 1)
    return value[300]


# LatCo as in its paper: without a finish, which would mend what the tests look for in the search.
PAPER = {"damping": 1e-3, "finish": 0}
paper_latco = functools.partial(LatCo, **PAPER)
paper_gaussian_latco = functools.partial(GaussianLatCo, **PAPER)

# name -> (planner of a problem and a horizon with a few iterations, their number)
BUILDERS = {
    "random_shooting": (lambda p, H, **o: RandomShooting(p, H, 3, 40, False, **o), 3),
    "cem": (lambda p, H, **o: CEM(p, H, 3, 40, 8, False, **o), 3),
    "mppi": (lambda p, H, **o: CEM(p, H, 3, 40, 8, False, gamma=10.0, **o), 3),
    "icem": (lambda p, H, **o: ICEM(p, H, 2, 40, 8, False, **o), 2),
    "gd": (lambda p, H, **o: GD(p, H, 12, **o), 12),
    "gn": (lambda p, H, **o: GN(p, H, 6, **o), 6),
    "ilqr": (lambda p, H, **o: ILQR(p, H, 6, feedback=True, **o), 6),
    "latco": (lambda p, H, **o: paper_latco(p, H, 20, **o), 20),
    "latco_block_tridiagonal": (lambda p, H, **o: paper_latco(p, H, 20, "block_tridiagonal", **o), 20),
    "gaussian_latco": (lambda p, H, **o: paper_gaussian_latco(p, H, 10, samples=5, **o), 10),
    "latco_first_order": (lambda p, H, **o: FirstOrderLatCo(p, H, 12, **o), 12),
    "image_collocation": (lambda p, H, **o: ImageCollocation(p, H, 12, **o), 12),
    "grasp": (lambda p, H, **o: GRASP(p, H, 12, sync_every=5, sync_steps=3, **o), 12),
}

HORIZON = 4
EAGER = {"jit_compile": False}  # of XLA only: compiling takes longer than these problems


@functools.cache
def quick_planner(name: str) -> Planner:
    """A planner of `explicit` in few iterations, one for all tests of a process: what was traced once is not again."""
    return BUILDERS[name][0](explicit(), HORIZON, **EAGER)


STRICT = {"reward_residual": shifted_root, "eps_dyn": 1e-10}

# name -> (planner of a problem with enough iterations, error of the return that its iterations leave)
SOLVED = {
    "random_shooting": (lambda p: RandomShooting(p, HORIZON, 20, 2000, False, **EAGER), 2.0),
    "cem": (lambda p: CEM(p, HORIZON, 30, 500, 50, False, **EAGER), 1e-3),
    "mppi": (lambda p: CEM(p, HORIZON, 30, 500, 50, False, gamma=1.0, **EAGER), 1e-2),
    "icem": (lambda p: ICEM(p, HORIZON, 8, 1000, 30, False, beta=0.5, std=0.1, **EAGER), 2e-2),
    "gd": (lambda p: GD(p, HORIZON, 800, **EAGER), 1e-3),
    "gn": (lambda p: GN(p, HORIZON, 50, reward_residual=shifted_root, **EAGER), 1e-3),
    "ilqr": (lambda p: ILQR(p, HORIZON, 50, reward_residual=shifted_root, **EAGER), 1e-3),
    "latco": (lambda p: paper_latco(p, HORIZON, 150, "condensed", **STRICT, **EAGER), 1e-3),
    "latco_block_tridiagonal": (lambda p: paper_latco(p, HORIZON, 150, "block_tridiagonal", **STRICT, **EAGER), 1e-3),
    "gaussian_latco": (lambda p: paper_gaussian_latco(p, HORIZON, 150, **STRICT, **EAGER), 1e-2),
    "latco_first_order": (lambda p: FirstOrderLatCo(p, HORIZON, 3000, **EAGER), 5e-3),
    "image_collocation": (lambda p: ImageCollocation(p, HORIZON, 5000), 5e-3),
    "grasp": (lambda p: GRASP(p, HORIZON, 800, sync_steps=50, sync_lr=0.01, **EAGER), 2e-2),
}
