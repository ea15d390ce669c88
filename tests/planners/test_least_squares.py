"""The solvers of a step against a dense solve of the full least-squares problem."""

import numpy as np
import pytest
import tensorflow as tf

from planners.least_squares import block_tridiagonal_step, condensed_step, shooting_step

ORDER = ("A", "B", "e", "v", "V", "rho", "g", "lam", "nu")


def random_problem(seed=0, P=3, H=5, n=4, m=2, k=2, lam=None):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 0.0, 1.0], (P, H, m))
    return {
        "A": rng.normal(size=(P, H, n, n)) * (0.6 if H < 10 else 0.3),  # long products must not grow
        "B": rng.normal(size=(P, H, n, m)),
        "e": rng.normal(size=(P, H, n)),
        "v": np.abs(signs) * rng.uniform(0.1, 1, (P, H, m)),
        "V": signs,
        "rho": rng.normal(size=(P, H, k)),
        "g": rng.normal(size=(P, H, k, n)),
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
    dynamics, bound, scalars = (np.zeros((H, k, H * (m + n))) for k in (n, m, g.shape[1]))
    action = lambda t: slice(t * m, (t + 1) * m)
    state = lambda t: slice(H * m + t * n, H * m + (t + 1) * n)
    for t in range(H):
        dynamics[t][:, state(t)] = np.eye(n)
        dynamics[t][:, action(t)] = -B[t]
        if t > 0:
            dynamics[t][:, state(t - 1)] = -A[t]
        bound[t][:, action(t)] = np.diag(V[t])
        scalars[t][:, state(t)] = g[t]
    J = np.concatenate([x.reshape(-1, x.shape[-1]) for x in (dynamics, bound, scalars)])
    values = np.concatenate([e.ravel(), v.ravel(), rho.ravel()])
    weights = np.concatenate([np.repeat(lam, n), np.repeat(nu, m), np.ones(rho.size)])
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
@pytest.mark.parametrize("k, H", [(1, 5), (3, 5), (2, 29), (1, 61)])  # one, two and four blocks of time steps
@pytest.mark.parametrize("solver, on_slacks", [(condensed_step, True), (block_tridiagonal_step, False)])
def test_step_equals_dense_solve(solver, on_slacks, k, H, damping):
    problem = random_problem(k=k, H=H)
    for found, expected in zip(solve(solver, problem, damping), dense_step(problem, damping, on_slacks), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("damping", [1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("H", [5, 29])
def test_shooting_step_equals_dense_solve_in_the_actions(H, damping):
    problem = random_problem(seed=7, H=H)
    P, H, n, m = problem["B"].shape
    args = (problem[name] for name in ("A", "B", "v", "V", "rho", "g", "nu"))
    found = shooting_step(*(tf.constant(x) for x in args), damping)
    for p in range(P):
        J, values, weights = dense_rows(problem | {"e": np.zeros([P, H, n])}, p)
        # The states follow: dz = S da, from the rows of the dynamics, 0 = dynamics (da, dz).
        dynamics, rest = J[: H * n], J[H * n :]
        S = -np.linalg.solve(dynamics[:, H * m :], dynamics[:, : H * m])
        J, values, weights = rest[:, : H * m] + rest[:, H * m :] @ S, values[H * n :], weights[H * n :]
        normal = J.T @ (weights[:, None] * J) + damping * np.eye(H * m)
        expected = -np.linalg.solve(normal, J.T @ (weights * values))
        np.testing.assert_allclose(found[p], expected.reshape(H, m), rtol=1e-6, atol=1e-8)


def test_solvers_agree_as_the_damping_vanishes():
    problem = random_problem(seed=1, k=1)
    differences = []
    for damping in (1e-2, 1e-4, 1e-6, 1e-8):
        condensed, reference = (
            np.concatenate(solve(f, problem, damping), -1) for f in (condensed_step, block_tridiagonal_step)
        )
        differences.append(np.linalg.norm(condensed - reference) / np.linalg.norm(reference))
    # Both steps are smooth in the damping, so that their difference is proportional to it.
    assert differences[0] > 1e-3  # they do measure it differently
    for larger, smaller in zip(differences, differences[1:], strict=False):
        assert smaller < 0.05 * larger
    assert differences[-1] < 1e-6


@pytest.mark.parametrize("solver", [condensed_step, block_tridiagonal_step])
def test_a_batch_of_plans_equals_single_plans(solver):
    problem, damping = random_problem(seed=2), np.array([1e-4, 1e-2, 0.3])
    together = solve(solver, problem, damping)
    for p in range(3):
        single = solve(solver, {name: value[p : p + 1] for name, value in problem.items()}, damping[p])
        for batched, one in zip(together, single, strict=True):
            np.testing.assert_allclose(batched[p], one[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [condensed_step, block_tridiagonal_step])
def test_the_first_state_is_fixed(solver):
    problem = random_problem(seed=3)
    changed = dict(problem, A=problem["A"].copy())
    changed["A"][:, 0] = 1e3
    for step, other in zip(solve(solver, problem, 1e-3), solve(solver, changed, 1e-3), strict=True):
        np.testing.assert_array_equal(step, other)


@pytest.mark.parametrize("solver", [condensed_step, block_tridiagonal_step])
def test_a_horizon_of_one(solver):
    problem = random_problem(seed=4, H=1)
    expected = dense_step(problem, 1e-9, on_slacks=False)
    for step, answer in zip(solve(solver, problem, 1e-9), expected, strict=True):
        np.testing.assert_allclose(step, answer, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lam", [1e-6, 1.0, 1e8])
def test_float32_is_enough_for_the_condensed_step(lam):
    # Contracting dynamics of a learned model's size in small; the block-tridiagonal normal equations need float64 here.
    problem = random_problem(seed=5, P=2, H=20, n=12, lam=lam)
    problem["A"] *= 0.3
    compiled = tf.function(condensed_step, jit_compile=True)
    for step, answer in zip(
        solve(compiled, problem, np.float32(1e-3), np.float32), solve(condensed_step, problem, 1e-3), strict=True
    ):
        assert np.linalg.norm(step - answer) < 2e-3 * np.linalg.norm(answer)


def test_an_indefinite_matrix_gives_a_step_that_is_not_finite():
    problem = random_problem(seed=6)
    problem["lam"][1, 2] = -50.0
    dz, _ = solve(block_tridiagonal_step, problem, 1e-3)
    assert np.all(np.isfinite(dz[0])) and not np.all(np.isfinite(dz[1]))


def test_the_graph_does_not_grow_with_the_horizon():
    def operations(H):
        shapes = (random_problem(P=1, H=H)[name] for name in ORDER)
        specs = [tf.TensorSpec(x.shape, tf.float32) for x in shapes] + [tf.TensorSpec([], tf.float32)]
        return len(tf.function(condensed_step).get_concrete_function(*specs).graph.as_graph_def().node)

    assert operations(200) == operations(50) < 2 * operations(5)  # the time steps are in four blocks at most
