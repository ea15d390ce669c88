"""Linear solvers for one Levenberg-Marquardt step: two for collocation, one for shooting.

Index convention, for one plan of horizon H from a fixed first state z_0 (batched over plans P):

    states   z_1 ... z_H      [P, H, n]   entry t is z_{t+1}, the state that action t leads to
    actions  a_0 ... a_{H-1}  [P, H, m]

Residuals and their weights (LatCo, ICML 2021, sections 3.3 and 4), linearized at the present plan, t = 0 ... H-1:

    lambda_t   e_t + dz_{t+1} - A_t dz_t - B_t da_t    dynamics, e_t = z_{t+1} - mu(z_t, a_t), A = dmu/dz, B = dmu/da
    nu_t       v_t + V_t da_t                          action bound, V the diagonal of dv/da
    1          rho_t + g_t dz_{t+1}                    k scalars of single states, g = drho/dz

with dz_0 = 0, so that A_0 never enters. The k scalars are the reward and the state constraints, the latter with the
square roots of their multipliers already multiplied in. Both solvers of collocation take the same arguments and return
the step (dz, da) that minimizes the weighted sum of the squares of these plus a damping term:

    A [P, H, n, n], B [P, H, n, m], e [P, H, n], v [P, H, m], V [P, H, m], rho [P, H, k], g [P, H, k, n], lam [P, H],
    nu [P, H], damping (scalar or [P])  ->  dz [P, H, n], da [P, H, m]

The weights are the multipliers as they are. Dividing the whole objective by the multipliers' mean, as one may do for
numerical range, would only multiply the damping by that mean; neither solver does it.
"""

import tensorflow as tf


def condensed_step(A, B, e, v, V, rho, g, lam, nu, damping) -> tuple[tf.Tensor, tf.Tensor]:
    """Solve for the step by eliminating the states; damping on dynamics slacks and actions.

    Instead of dz, the unknown is the slack s_t = e_t + dz_{t+1} - A_t dz_t - B_t da_t, so that dz follows from
    (s, da) by a linear recursion and the step minimizes, with P_t = nu_t V_t^2 + d and abar_t = -nu_t V_t v_t / P_t,

        sum_t (lambda_t + d) |s_t|^2 + (da_t - abar_t)^T P_t (da_t - abar_t) + |rho_t + g_t dz_{t+1}|^2.

    Only the H k scalar residuals couple the steps. In the whitened unknowns x_t = (sqrt(lambda_t + d) s_t,
    sqrt(P_t) (da_t - abar_t)) the problem is min |x|^2 + |c + X x|^2, whose solution x = -X^T (X X^T + I)^-1 c needs
    an H k x H k Cholesky factorization only. Row i of X holds the adjoints psi_i(t) of scalar residual i.

    X X^T + I has no eigenvalue below one however large the multipliers grow, so float32 is enough. The cost is
    O(H^2 n^2 + H^3); loops over time are not unrolled, and everything compiles with XLA.
    Shapes and conventions: the module's docstring.
    """
    n = B.shape[-2]
    damping = tf.reshape(tf.cast(damping, e.dtype), [-1, 1, 1])
    slack_scale = tf.math.rsqrt(lam[..., None] + damping)  # [P, H, 1]
    action_scale, target = _action_terms(v, V, nu, damping)
    psi = _adjoints(A, g)
    by_slack = [x * scale for x, scale in zip(psi, _blocks_of(slack_scale, psi), strict=True)]
    by_action = _action_rows(psi, B, action_scale)
    rows = [tf.concat(pair, -1) for pair in zip(by_slack, by_action, strict=True)]
    # c is the scalar residual where x = 0: along s = 0, da = abar, the linear trajectory driven by B abar - e.
    x = _least_norm(rows, rho, tf.concat([-e / slack_scale, target / action_scale], -1))
    da = target + action_scale * x[..., n:]
    slack = slack_scale * x[..., :n]
    return _linear_rollout(A, slack - e + tf.linalg.matvec(B, da)), da


def shooting_step(A, B, v, V, rho, g, nu, damping) -> tf.Tensor:
    """Solve for the step da [P, H, m] of Gauss-Newton on the actions alone; damping on the actions.

    The condensed problem without slacks: the states follow the dynamics, e = s = 0, and the rows of the rollout's
    Jacobian by the actions are B^T times the same adjoints, so that it is never formed by differentiating the rollout.
    Shapes and conventions: the module's docstring.
    """
    damping = tf.reshape(tf.cast(damping, v.dtype), [-1, 1, 1])
    action_scale, target = _action_terms(v, V, nu, damping)
    rows = _action_rows(_adjoints(A, g), B, action_scale)
    return target + action_scale * _least_norm(rows, rho, target / action_scale)


def projected_shooting_step(A, B, rho, g, side, damping) -> tf.Tensor:
    """Solve for the step da [P, H, m] of Gauss-Newton on actions within their bounds; damping on the actions.

    Actions at a bound that the gradient pushes outwards are held there, which leaves a smaller problem for the others
    (projected Newton, Bertsekas 1982); the caller clips what the step moves over a bound.

    Args:
        side: [P, H, m], the sign of an action that is at its bound, 0 for the others.

    The other shapes and conventions: the module's docstring.
    """
    scale = tf.math.rsqrt(tf.cast(damping, rho.dtype))[:, None, None] * tf.ones_like(side)
    rows = _action_rows(_adjoints(A, g), B, scale)
    gradient = _transposed_product(rows, tf.reshape(rho, [rho.shape[0], -1]))
    free = tf.cast(side * gradient >= 0.0, rho.dtype)  # descent, against the gradient, leads inwards
    rows = [x * entries for x, entries in zip(rows, _blocks_of(free, rows), strict=True)]
    return scale * free * _least_norm(rows, rho, tf.zeros_like(side))


def _action_terms(v, V, nu, damping):
    """P_t^(-1/2) [P, H, m] and abar [P, H, m] of the action bound and the damping."""
    bound = nu[..., None]
    precision = bound * tf.square(V) + damping
    return tf.math.rsqrt(precision), -bound * V * v / precision


# The rows of X are kept in blocks of consecutive time steps, a list of [T, P, R, ...] for the T steps t of a block and
# its R last rows: those of earlier scalars are zero there. With four blocks, a quarter of the steps each has a quarter,
# a half, ... of the rows, which saves 3/8 of the adjoints and half of the Gram matrix. More would save little more.
BLOCK = 12  # steps of a block, at least
MOST_BLOCKS = 4


def _block_starts(H):
    """The first step of each block."""
    count = max(1, min(MOST_BLOCKS, H // BLOCK))
    return [H * block // count for block in range(count)]


def _blocks_of(x, rows):
    """x [P, H, q] in blocks that can be multiplied with those of rows, [T, P, 1, q] each."""
    return tf.split(_time_first(x)[:, :, None], [block.shape[0] for block in rows])


def _action_rows(psi, B, action_scale):
    """The rows of X that belong to the actions, [T, P, R, m] each, from psi [T, P, R, n] each."""
    by_action = tf.split(_time_first(B * action_scale[:, :, None]), [block.shape[0] for block in psi])
    return [block @ x for block, x in zip(psi, by_action, strict=True)]


def _transposed_product(rows, alpha):
    """X^T alpha [P, H, q] for the blocks of X and alpha [P, H k]."""
    parts = [tf.einsum("tpim,pi->ptm", x, alpha[:, alpha.shape[1] - x.shape[2] :]) for x in rows]
    return tf.concat(parts, 1)


def _least_norm(rows, rho, drive):
    """The x [P, H, q] that minimizes |x|^2 + |c + X x|^2, c = rho + X drive, for the blocks of X."""
    P, R = rho.shape[0], rho.shape[1] * rho.shape[2]
    c, gram = tf.reshape(rho, [P, R, 1]), tf.eye(R, dtype=rho.dtype)
    for x, part in zip(rows, tf.split(drive, [block.shape[0] for block in rows], 1), strict=True):
        X = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [P, x.shape[2], -1])
        above = R - x.shape[2]
        c += tf.pad(X @ tf.reshape(part, [P, -1, 1]), [[0, 0], [above, 0], [0, 0]])
        gram += tf.pad(tf.matmul(X, X, transpose_b=True), [[0, 0], [above, 0], [above, 0]])
    alpha = tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), -c)
    return _transposed_product(rows, alpha[..., 0])


# The time loops below carry indices into the Jacobians instead of scanning over them: with XLA on a CPU, handing
# [H, P, n, n] to tf.scan copies it first, which cost as much as the products (4.6 against 2.5 ms per step at n = 230).


def _adjoints(A, g):
    """Return the blocks of psi: row (i, j) is d(g_ij dz_{i+1})/d(dz_{t+1}), g_ij at t = i and zero for t > i."""
    P, H, k, n = g.shape
    blocks, psi, end = [], None, H
    for start in reversed(_block_starts(H)):
        count, steps = (H - start) * k, end - start
        eye = tf.eye(H - start, dtype=g.dtype)

        def begin(t, eye=eye, start=start, count=count):  # rows i = t of psi(t), [P, R, n]
            return tf.reshape(eye[t - start][:, None, None] * tf.gather(g, t, axis=1)[:, None], [P, count, n])

        def body(t, psi, history, begin=begin, start=start):
            psi = psi @ tf.gather(A, t + 1, axis=1) + begin(t)
            return t - 1, psi, history.write(t - start, psi)

        history, last = tf.TensorArray(g.dtype, steps, element_shape=[P, count, n]), end - 1
        if psi is None:
            psi, last = begin(end - 1), end - 2
            history = history.write(steps - 1, psi)
        else:  # rows that begin in this block
            psi = tf.pad(psi, [[0, 0], [steps * k, 0], [0, 0]])
        loop = tf.while_loop(
            lambda t, *_, start=start: t >= start, body, (last, psi, history), maximum_iterations=last - start + 1
        )
        psi, end = loop[1], start
        blocks.append(loop[2].stack())
    return blocks[::-1]


def _linear_rollout(A, drive):
    """Return dz [P, H, n] of dz_{t+1} = A_t dz_t + drive_t, dz_0 = 0."""
    H = drive.shape[1]

    def body(t, dz, history):
        dz = tf.linalg.matvec(tf.gather(A, t, axis=1), dz) + tf.gather(drive, t, axis=1)
        return t + 1, dz, history.write(t, dz)

    start = tf.zeros_like(drive[:, 0])
    start = (0, start, tf.TensorArray(drive.dtype, H, element_shape=start.shape))
    loop = tf.while_loop(lambda t, *_: t < H, body, start, maximum_iterations=H)
    return tf.transpose(loop[-1].stack(), [1, 0, 2])


def _time_first(x):
    """[P, H, ...] to [H, P, ...]."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def block_tridiagonal_step(A, B, e, v, V, rho, g, lam, nu, damping) -> tuple[tf.Tensor, tf.Tensor]:
    """Solve for the step of the papers, (J^T J + damping I)^-1 J^T residuals; damping on states and actions.

    The solver of LatCo (ICML 2021, equation 9 and section 4): with the unknowns of a time step grouped as
    u_t = (da_t, dz_{t+1}), J^T J is block-tridiagonal and a block Cholesky factorization along time solves it in
    O(H (n + m)^3). It works in float64, which the squared condition number of J needs once multipliers are large,
    and returns the type it was given. An indefinite matrix gives a non-finite step, not an exception.
    Shapes and conventions: the module's docstring.
    """
    dtype, m = e.dtype, B.shape[-1]
    A, B, e, v, V, rho, g, lam, nu = (tf.cast(x, tf.float64) for x in (A, B, e, v, V, rho, g, lam, nu))
    damping = tf.reshape(tf.cast(damping, tf.float64), [-1, 1, 1, 1])
    diagonal, lower = _normal_matrix(A, B, V, g, lam, nu)
    diagonal += damping * tf.eye(diagonal.shape[-1], dtype=tf.float64)
    gradient = _gradient(A, B, e, v, V, rho, g, lam, nu)
    step = tf.cast(_block_cholesky_solve(diagonal, lower, -gradient), dtype)
    return step[..., m:], step[..., :m]


def _normal_matrix(A, B, V, g, lam, nu):
    """Return J^T J as its blocks: diagonal [P, H, m + n, m + n] and lower [P, H, ...], rows u_t and columns u_{t-1}."""
    n, m = B.shape[-2:]
    lam = lam[..., None, None]
    eye = tf.eye(n, batch_shape=tf.shape(B)[:2], dtype=B.dtype)
    here = tf.concat([-B, eye], -1)  # d(dynamics residual t)/d u_t
    before = tf.pad(-A, [[0, 0], [0, 0], [0, 0], [m, 0]])  # d(dynamics residual t)/d u_{t-1}
    scalars = tf.pad(g, [[0, 0], [0, 0], [0, 0], [m, 0]])
    diagonal = tf.matmul(here, here, transpose_a=True) * lam
    diagonal += tf.linalg.diag(tf.pad(nu[..., None] * tf.square(V), [[0, 0], [0, 0], [0, n]]))
    diagonal += tf.matmul(scalars, scalars, transpose_a=True)
    after = (tf.matmul(before, before, transpose_a=True) * lam)[:, 1:]
    diagonal += tf.pad(after, [[0, 0], [0, 1], [0, 0], [0, 0]])
    return diagonal, tf.matmul(here, before, transpose_a=True) * lam


def _gradient(A, B, e, v, V, rho, g, lam, nu):
    """Return J^T residuals, [P, H, m + n]."""
    weighted = lam[..., None] * e
    actions = nu[..., None] * V * v - tf.linalg.matvec(B, weighted, transpose_a=True)
    after = tf.linalg.matvec(A, weighted, transpose_a=True)[:, 1:]
    states = weighted + tf.linalg.matvec(g, rho, transpose_a=True) - tf.pad(after, [[0, 0], [0, 1], [0, 0]])
    return tf.concat([actions, states], -1)


def _block_cholesky_solve(diagonal, lower, right):
    """Solve the symmetric block-tridiagonal system with blocks [P, H, q, q] for the right-hand side [P, H, q]."""
    diagonal, lower, right = _time_first(diagonal), _time_first(lower), _time_first(right)
    right = right[..., None]

    def forward(carry, x):
        factor, _, y = carry
        below = tf.linalg.matrix_transpose(tf.linalg.triangular_solve(factor, tf.linalg.matrix_transpose(x[1])))
        factor = tf.linalg.cholesky(x[0] - tf.matmul(below, below, transpose_b=True))
        return factor, below, tf.linalg.triangular_solve(factor, x[2] - below @ y)

    # The lower block of the first step multiplies y = 0 and A_0, which must not enter.
    lower = tf.concat([tf.zeros_like(lower[:1]), lower[1:]], 0)
    start = tf.eye(diagonal.shape[-1], batch_shape=tf.shape(right)[1:2], dtype=right.dtype)
    start = (start, tf.zeros_like(start), tf.zeros_like(right[0]))
    factors, belows, ys = tf.scan(forward, (diagonal, lower, right), start)

    def backward(x, terms):
        factor, below, y = terms
        return tf.linalg.triangular_solve(factor, y - tf.matmul(below, x, transpose_a=True), adjoint=True)

    belows = tf.concat([belows[1:], tf.zeros_like(belows[:1])], 0)
    solution = tf.scan(backward, (factors, belows, ys), tf.zeros_like(right[0]), reverse=True)
    return tf.transpose(solution[..., 0], [1, 0, 2])
