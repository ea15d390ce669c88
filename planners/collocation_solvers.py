"""Which linear solver a step of collocation has: their names, and the faster one for a problem's sizes."""

from planners.least_squares import block_tridiagonal_step, condensed_step

SOLVERS = {"condensed": condensed_step, "block_tridiagonal": block_tridiagonal_step}
XLA_SOLVERS = ("condensed",)  # XLA expands float64 Cholesky factorizations of 230 x 230 into slow loops on CPU

# The condensed step costs O(H^2 n^2 + H^3) in float32, the block-tridiagonal one O(H n^3) in float64: at n = 32 the
# curves cross at a horizon of about 190, at n = 230 well beyond 200 (results/performance.md).
CROSSOVER = 6.0


def faster_solver(horizon: int, state_size: int) -> str:
    """The name of the faster solver: condensed up to a horizon of `CROSSOVER` times the state size."""
    return "condensed" if horizon <= CROSSOVER * state_size else "block_tridiagonal"
