"""Latent dynamics: the three designs of PlaNet's figure 2, behind one interface.

A latent *state* is a dict of tensors: 'stoch' (a sample), 'deter' and the statistics of the latent (`latents.py`). The
*feature* is the concatenation (stoch, deter), written `z` where a planner optimizes it.

    rssm            stochastic and deterministic paths (figure 2c), rssm.py
    ssm             the stochastic path alone (figure 2b), ssm.py: there is no deter
    deterministic   the RSSM without noise (figure 2a): a GRU whose stoch is a point

New dynamics are one class, one line in `DYNAMICS` and the name in config.yaml; `SSM` is what they share.
"""

from collections.abc import Callable

from tools.errors import UserError
from world_model.latents import make_latent
from world_model.rssm import RSSM
from world_model.ssm import SSM

DYNAMICS: dict[str, Callable[..., SSM]] = {
    "rssm": RSSM,
    "ssm": lambda *args, deter, **sizes: SSM(*args, **sizes),  # without the deterministic path of that size
    "deterministic": RSSM,  # of a point
}


def make_dynamics(
    kind: str,
    latent: str,
    action_size: int,
    embed_size: int,
    *,
    stoch: int,
    deter: int,
    hidden: int,
    act: str,
    min_std: float,
    classes: int = 32,
    unimix: float = 0.0,
) -> SSM:
    """The dynamics of a name (top of this file).

    Raises:
        UserError: a latent that the dynamics cannot have, or sizes that make no sense.
    """
    if kind == "deterministic" and latent != "gaussian":
        raise UserError(f"Deterministic dynamics have no {latent} latent: leave latent at gaussian, or choose rssm.")
    name = "point" if kind == "deterministic" else latent
    distribution = make_latent(name, stoch, min_std=min_std, classes=classes, unimix=unimix)
    return DYNAMICS[kind](distribution, action_size, embed_size, deter=deter, hidden=hidden, act=act)
