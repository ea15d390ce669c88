"""Planners that follow gradients with Adam: shooting GD, first-order LatCo, image collocation and GRASP.

They differ in what they optimize (actions; states and actions; images and actions) and in their objective, which is one
method each. Conventions and shapes: optimizers.py.
"""

import abc
from typing import NamedTuple

import tensorflow as tf

from optimizers import (
    LatentProblem,
    Plan,
    Planner,
    action_violation,
    all_finite,
    before,
    best_finite,
    fold_in,
    payoffs,
    per_plan,
    random_actions,
    rollout,
    scale_multipliers,
    warm_actions,
    where_all,
    where_rows,
)
from tools.errors import UserError

BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
MULTIPLIER_MAX = 1e10  # of multipliers that grow by addition


class Terms(NamedTuple):
    """What a planner says of its variables."""

    loss: tf.Tensor  # [B], whose gradient is followed
    rewards: tf.Tensor  # [B, H], the terminal value added to the last one
    states: tf.Tensor  # [B, H, n]
    violations: dict[str, tf.Tensor]  # multiplier's name -> squared violation [B, H]


class Search(NamedTuple):
    """What a first-order search carries from one iteration to the next."""

    variables: tuple[tf.Tensor, ...]  # [B, ...] each, the actions last
    kept: tuple[tf.Tensor, ...]  # the last ones known to be finite in all that was computed from them
    first: tuple[tf.Tensor, ...]  # Adam's moments of the gradient
    second: tuple[tf.Tensor, ...]
    duals: dict[str, tf.Tensor]  # multiplier's name -> [B, H]
    scale: tf.Tensor  # [B], of the learning rate
    record: tf.Tensor  # [B, len(CURVES)]
    rejected: tf.Tensor  # int32 [B]


class FirstOrderPlanner(Planner):
    """Adam on the variables, dual ascent on the multipliers every `dual_every` steps.

    A step that leads to non-finite numbers is taken back and repeated at half the learning rate, with Adam's moments
    reset: the same step would fail again.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        dual_every: steps between updates of the multipliers.
        **options: those of `Planner`.
    """

    DUALS: tuple[str, ...] = ()

    def __init__(
        self, problem: LatentProblem, horizon: int, iterations: int, lr: float = 0.05, dual_every: int = 5, **options
    ):
        super().__init__(problem, horizon, iterations, **options)
        if lr <= 0:
            raise UserError(f"The learning rate of {type(self).__name__} must be positive, not {lr}.")
        if dual_every < 1:
            raise UserError(f"The steps between updates of the multipliers must be at least 1, not {dual_every}.")
        self.lr, self.dual_every = lr, dual_every

    @abc.abstractmethod
    def _variables(self, z0: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The variables to start from, the actions last."""

    @abc.abstractmethod
    def _terms(self, z0: tf.Tensor, variables: tuple[tf.Tensor, ...], duals: dict[str, tf.Tensor]) -> Terms:
        """Loss, rewards, states and violations."""

    def _new_duals(self, duals, violations):
        return duals

    def _first_duals(self, shape, dtype):
        return {name: tf.ones(shape, dtype) for name in self.DUALS}

    def _project(self, k, z0, seeds, variables):
        """What is done to the variables after a step."""
        del k, z0, seeds
        return variables

    def _optimize(self, z0, seeds, warm, limit):
        actions = warm_actions(random_actions(self.problem, self.horizon, seeds, z0.dtype), warm)
        start = self._variables(z0, actions)
        B, zeros = z0.shape[0], tuple(tf.zeros_like(x) for x in start)
        search = Search(
            variables=start,
            kept=start,
            first=zeros,
            second=zeros,
            duals=self._first_duals([B, self.horizon], z0.dtype),
            scale=tf.ones([B], z0.dtype),
            record=tf.zeros([B, len(self.CURVES)], z0.dtype),
            rejected=tf.zeros([B], tf.int32),
        )
        body = lambda k, search: self._iterate(k, z0, seeds, search)  # noqa: E731
        search, records, count = self._loop(body, search, limit)
        terms = self._terms(z0, search.variables, search.duals)
        finite = all_finite(terms.rewards, terms.states)
        final = where_rows(finite, self._record(terms, search.duals), search.record)
        old = self._terms(z0, search.kept, search.duals)
        candidates = [
            (where_rows(finite, terms.states, old.states), where_rows(finite, search.variables[-1], search.kept[-1])),
            (old.states, search.kept[-1]),
            (rollout(self.problem.step, z0, actions), actions),
        ]
        actions, states, rewards = best_finite(self.problem, z0, candidates)
        curves = self._lagged_curves(records, count, final)
        rejected = search.rejected + tf.cast(~finite, tf.int32)
        return Plan(actions, states, rewards, curves, count, rejected, actions[:, None])

    def _iterate(self, k, z0, seeds, search):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(search.variables)
            terms = self._terms(z0, search.variables, search.duals)
            loss = tf.reduce_sum(terms.loss)  # plans share no term, so each gets its own gradient
        gradients = tape.gradient(loss, search.variables)
        finite = all_finite(terms.loss, *gradients)
        first = self._moments(search.first, gradients, BETAS[0])
        second = self._moments(search.second, [tf.square(x) for x in gradients], BETAS[1])
        moved = self._adam(k, search, first, second)
        due = (k > 0) & (k % self.dual_every == 0)
        duals = where_all(finite & due, self._new_duals(search.duals, terms.violations), search.duals)
        zeros = tuple(tf.zeros_like(x) for x in first)
        return Search(
            variables=where_all(finite, self._project(k, z0, seeds, moved), search.kept),
            kept=where_all(finite, search.variables, search.kept),
            first=where_all(finite, first, zeros),
            second=where_all(finite, second, zeros),
            duals=duals,
            scale=tf.where(finite, search.scale, search.scale / 2),
            record=where_rows(finite, self._record(terms, duals), search.record),
            rejected=search.rejected + tf.cast(~finite, tf.int32),
        )

    @staticmethod
    def _moments(old, new, beta):
        return tuple(beta * a + (1 - beta) * b for a, b in zip(old, new, strict=True))

    def _adam(self, k, search, first, second):
        """Adam's step (Kingma & Ba, algorithm 1) with a learning rate a plan."""
        step = tf.cast(k + 1, search.scale.dtype)
        correction = tf.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
        lr = self.lr * correction * search.scale
        rows = lambda x: tf.reshape(lr, [-1] + [1] * (x.shape.rank - 1))  # noqa: E731
        return tuple(
            x - rows(x) * a / (tf.sqrt(b) + ADAM_EPS) for x, a, b in zip(search.variables, first, second, strict=True)
        )

    def _record(self, terms, duals):
        sums = [tf.reduce_sum(terms.rewards, 1)] + [tf.reduce_sum(terms.violations[name], 1) for name in self.DUALS]
        return tf.stack(sums + [tf.reduce_mean(duals[name], 1) for name in self.DUALS], -1)


class GD(FirstOrderPlanner):
    """Shooting by gradient descent: Adam on the actions through the rollout (LatCo ICML appendices B and D).

    The action bound is a squared penalty with a multiplier a step, updated as LatCo's (equation 10).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        eps_act: squared action violation of a step that counts as satisfied.
        dual_lr: alpha of the dual update.
        eta: keeps its logarithm finite.
        **options: those of `FirstOrderPlanner`.
    """

    DUALS = ("nu",)
    CURVES = ("reward", "action_violation", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 500,
        lr: float = 0.05,
        eps_act: float = 1e-4,
        dual_lr: float = 0.1,
        eta: float = 0.01,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        self.eps_act, self.dual_lr, self.eta = eps_act, dual_lr, eta

    def _variables(self, z0, actions):
        return (actions,)

    def _terms(self, z0, variables, duals):
        states = rollout(self.problem.step, z0, variables[0])
        rewards = payoffs(self.problem, states)
        violation = tf.reduce_sum(tf.square(action_violation(variables[0], self.problem.a_max)), -1)
        loss = tf.reduce_sum(duals["nu"] * violation - rewards, 1)
        return Terms(loss, rewards, states, {"nu": violation})

    def _new_duals(self, duals, violations):
        return {"nu": scale_multipliers(duals["nu"], violations["nu"], self.eps_act, self.dual_lr, self.eta)}


class FirstOrderLatCo(FirstOrderPlanner):
    """LatCo without second-order optimization (ICML 5.4 and appendix B): Adam on states and actions.

    The Lagrangian is equation 8 as it stands; the multipliers follow its gradient, lambda += dual_lr (violation - eps).

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate.
        eps_dyn: threshold on the squared dynamics violation of a time step.
        eps_act: threshold on the squared action violation of a time step.
        dual_lr: learning rate of the multipliers.
        **options: those of `FirstOrderPlanner`.
    """

    DUALS = ("lam", "nu")
    CURVES = ("reward", "dynamics_violation", "action_violation", "lam", "nu")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 5000,
        lr: float = 0.05,
        eps_dyn: float = 1e-4,
        eps_act: float = 1e-4,
        dual_lr: float = 1.5,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        self.eps = {"lam": eps_dyn, "nu": eps_act}
        self.dual_lr = dual_lr

    def _variables(self, z0, actions):
        return rollout(self.problem.step, z0, actions), actions

    def _terms(self, z0, variables, duals):
        states, actions = variables
        dynamics = tf.reduce_sum(tf.square(states - self.problem.step(before(z0, states), actions)), -1)
        return self._lagrangian(states, actions, dynamics, duals)

    def _lagrangian(self, states, actions, dynamics, duals):
        rewards = payoffs(self.problem, states)
        bound = tf.reduce_sum(tf.square(action_violation(actions, self.problem.a_max)), -1)
        loss = tf.reduce_sum(duals["lam"] * dynamics + duals["nu"] * bound - rewards, 1)
        return Terms(loss, rewards, states, {"lam": dynamics, "nu": bound})

    def _new_duals(self, duals, violations):
        return {
            name: tf.clip_by_value(
                duals[name] + self.dual_lr * (violations[name] - self.eps[name]), 0.0, MULTIPLIER_MAX
            )
            for name in self.DUALS
        }

    def _settled(self, record):
        return (record[:, 1] <= self.horizon * self.eps["lam"]) & (record[:, 2] <= self.horizon * self.eps["nu"])


class ImageCollocation(FirstOrderLatCo):
    """Collocation of images instead of latent states (LatCo ICML appendix D): Adam on images and actions.

    An image sequence is not Markov, so it is evaluated recurrently: the states are the filter's means along the planned
    images and actions, and pay the reward. The dynamics constraint of image t + 1 is its difference from the decoded
    one-step prediction, pairwise: gradients reach images t and t + 1 and stop at those before.

    Arguments: those of `FirstOrderLatCo`; the problem needs `encode`, `filter` and `decode`. XLA is off by default: it
    makes convolutions on a CPU several times slower.
    """

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 5000,
        lr: float = 0.02,
        jit_compile: bool = False,
        **options,
    ):
        if None in (problem.encode, problem.filter, problem.decode):
            raise UserError("Image collocation needs a latent problem with encode, filter and decode.")
        super().__init__(problem, horizon, iterations, lr, jit_compile=jit_compile, **options)

    def _variables(self, z0, actions):
        return self._decode(rollout(self.problem.step, z0, actions)), actions

    def _decode(self, states):
        images = self.problem.decode(tf.reshape(states, [-1, states.shape[-1]]))
        return tf.reshape(images, [*states.shape[:2], *images.shape[1:]])

    def _terms(self, z0, variables, duals):
        images, actions = variables
        embedding = self.problem.encode(tf.reshape(images, [-1, *images.shape[2:]]))
        embedding = tf.reshape(embedding, [*images.shape[:2], embedding.shape[-1]])
        inputs = [tf.transpose(x, [1, 0, 2]) for x in (actions, embedding)]
        states = tf.scan(lambda z, x: self.problem.filter(z, *x), inputs, z0)
        states = tf.transpose(states, [1, 0, 2])
        pairwise = self.problem.filter(tf.stop_gradient(before(z0, states)), actions, embedding)
        predicted = self._decode(self.problem.step(before(z0, pairwise), actions))
        dynamics = tf.reduce_sum(tf.square(images - predicted), list(range(2, images.shape.rank)))
        return self._lagrangian(states, actions, dynamics, duals)


class GRASP(FirstOrderPlanner):
    """Gradient relaxed stochastic planner (Psenka et al. 2026, arXiv 2602.00475), for rewards instead of goals.

    The nearest relative of collocation: lifted states under a soft dynamics penalty, in which the dynamics pass
    gradients to the actions only,

        sum_t lam |mu(sg(z_t), a_t) - z_{t+1}|^2 - r(z_{t+1}) - r(mu(sg(z_t), a_t)),

    Gaussian noise on the states after every step, decaying linearly to zero, and, every `sync_every` steps and at the
    end, a refinement: `sync_steps` gradient steps on the actions through the full rollout, which then replaces the
    states. The paper reaches goals: there the last state is fixed to the goal and every prediction is pulled to it;
    here the lifted states are paid their reward and so is every prediction. Actions are clipped to their bounds.

    Args:
        problem: the latent problem.
        horizon: H.
        iterations: Adam steps.
        lr: their learning rate, for states and actions.
        lam: weight of the dynamics penalty.
        noise: first standard deviation of the noise on the states.
        sync_every: steps between refinements.
        sync_steps: gradient steps of a refinement, each of length sync_lr along the normalized gradient.
        sync_lr: that length, in units of a_max per action on average.
        **options: those of `Planner`.
    """

    CURVES = ("reward", "dynamics_violation")

    def __init__(
        self,
        problem: LatentProblem,
        horizon: int,
        iterations: int = 500,
        lr: float = 0.05,
        lam: float = 8.0,
        noise: float = 0.1,
        sync_every: int = 100,
        sync_steps: int = 20,
        sync_lr: float = 0.05,
        **options,
    ):
        super().__init__(problem, horizon, iterations, lr, **options)
        if sync_every < 1 or sync_steps < 0 or noise < 0:
            raise UserError(
                "GRASP needs sync_every >= 1, sync_steps >= 0 and noise >= 0, not "
                f"sync_every={sync_every}, sync_steps={sync_steps}, noise={noise}."
            )
        self.lam, self.noise = lam, noise
        self.sync_every, self.sync_steps, self.sync_lr = sync_every, sync_steps, sync_lr

    def _variables(self, z0, actions):
        return rollout(self.problem.step, z0, actions), actions

    def _terms(self, z0, variables, duals):
        states, actions = variables
        predicted = self.problem.step(tf.stop_gradient(before(z0, states)), actions)
        violation = tf.reduce_sum(tf.square(predicted - states), -1)
        rewards = payoffs(self.problem, states)
        loss = tf.reduce_sum(self.lam * violation - rewards - payoffs(self.problem, predicted), 1)
        return Terms(loss, rewards, states, {"dynamics": violation})

    def _record(self, terms, duals):
        return tf.stack([tf.reduce_sum(terms.rewards, 1), tf.reduce_sum(terms.violations["dynamics"], 1)], -1)

    def _project(self, k, z0, seeds, variables):
        states, actions = variables
        last = k + 1 == self.iterations
        std = tf.cast(self.noise * (1 - (k + 1) / self.iterations), states.dtype)
        draw = lambda seed: tf.random.stateless_normal(states.shape[1:], seed, dtype=states.dtype)  # noqa: E731
        states += std * per_plan(draw, fold_in(seeds, k), states.dtype)
        actions = tf.clip_by_value(actions, -self.problem.a_max, self.problem.a_max)
        due = last | ((k + 1) % self.sync_every == 0)
        return tf.cond(due, lambda: self._sync(z0, actions), lambda: (states, actions))

    def _sync(self, z0, actions):
        """Gradient ascent on the actions through the full rollout; the best iterate and its rollout are kept."""
        bound, B = self.problem.a_max, z0.shape[0]

        def body(i, actions, best, score):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(actions)
                returns = tf.reduce_sum(payoffs(self.problem, rollout(self.problem.step, z0, actions)), 1)
            gradient = tape.gradient(returns, actions)
            better = returns > score  # false where the return is no number
            best, score = where_rows(better, actions, best), tf.where(better, returns, score)
            size = tf.sqrt(tf.reduce_mean(tf.square(gradient), [1, 2], keepdims=True))
            step = self.sync_lr * bound * tf.math.divide_no_nan(gradient, size)
            step = where_rows(all_finite(step), step, tf.zeros_like(step))
            return i + 1, tf.clip_by_value(actions + step, -bound, bound), best, score

        start = (0, actions, actions, tf.fill([B], actions.dtype.min))
        turns = self.sync_steps + 1  # the last one only judges the last step
        best = tf.while_loop(lambda i, *_: i < turns, body, start, maximum_iterations=turns)[2]
        return rollout(self.problem.step, z0, best), best
