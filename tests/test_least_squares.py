"""The two solvers of the collocation step against a dense solve of the full least-squares problem."""

import numpy as np
import pytest
import tensorflow as tf

from least_squares import block_tridiagonal_step, condensed_step

ORDER = ("A", "B", "e", "v", "V", "rho", "g", "lam", "nu")


def random_problem(seed=0, P=3, H=5, n=4, m=2, lam=None):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 0.0, 1.0], (P, H, m))
    return {
        "A": rng.normal(size=(P, H, n, n)) * 0.6,
        "B": rng.normal(size=(P, H, n, m)),
        "e": rng.normal(size=(P, H, n)),
        "v": np.abs(signs) * rng.uniform(0.1, 1, (P, H, m)),
        "V": signs,
        "rho": rng.normal(size=(P, H)),
        "g": rng.normal(size=(P, H, n)),
        "lam": np.full((P, H), lam) if lam else rng.uniform(0.5, 5, (P, H)),
        "nu": rng.uniform(0.5, 5, (P, H)),
    }


def solve(solver, problem, damping, dtype=np.float64):
    dz, da = solver(*(tf.constant(problem[name], dtype) for name in ORDER), damping)
    return dz.numpy(), da.numpy()


def dense_rows(problem, p):
    """Rows of the residuals' Jacobian over the unknowns (da, dz), their values and their weights, for plan p."""
    A, B, e, v, V, rho, g, lam, nu = (problem[name][p] for name in ORDER)
    H, n, m = B.shape
    dynamics, bound, reward = (np.zeros((H, k, H * (m + n))) for k in (n, m, 1))
    action = lambda t: slice(t * m, (t + 1) * m)  # noqa: E731
    state = lambda t: slice(H * m + t * n, H * m + (t + 1) * n)  # noqa: E731
    for t in range(H):
        dynamics[t][:, state(t)] = np.eye(n)
        dynamics[t][:, action(t)] = -B[t]
        if t > 0:
            dynamics[t][:, state(t - 1)] = -A[t]
        bound[t][:, action(t)] = np.diag(V[t])
        reward[t][:, state(t)] = g[t]
    J = np.concatenate([x.reshape(-1, x.shape[-1]) for x in (dynamics, bound, reward)])
    values = np.concatenate([e.ravel(), v.ravel(), rho])
    weights = np.concatenate([np.repeat(lam, n), np.repeat(nu, m), np.ones(H)])
    return J, values, weights


def dense_step(problem, damping, on_slacks):
    """Minimize the weighted squares plus damping on (da, dz), or on (da, slacks), by dense normal equations."""
    P, H, n, m = problem["B"].shape
    steps = []
    for p in range(P):
        J, values, weights = dense_rows(problem, p)
        normal, gradient = J.T @ (weights[:, None] * J), J.T @ (weights * values)
        if on_slacks:
            damped = np.concatenate([J[: H * n], np.eye(H * m, J.shape[1])])
            offset = np.concatenate([values[: H * n], np.zeros(H * m)])
        else:
            damped, offset = np.eye(J.shape[1]), np.zeros(J.shape[1])
        normal += damping * damped.T @ damped
        gradient += damping * damped.T @ offset
        steps.append(-np.linalg.solve(normal, gradient))
    steps = np.array(steps)
    return steps[:, H * m :].reshape(P, H, n), steps[:, : H * m].reshape(P, H, m)


@pytest.mark.parametrize("damping", [1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("solver, on_slacks", [(condensed_step, True), (block_tridiagonal_step, False)])
def test_step_equals_dense_solve(solver, on_slacks, damping):
    problem = random_problem()
    for found, expected in zip(solve(solver, problem, damping), dense_step(problem, damping, on_slacks), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
