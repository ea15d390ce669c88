"""Settings that need more memory than there is: refused before a run starts, or named when it fails."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from tools.errors import UserError

# Of one entry, a picture of 64 x 64 colours, at least: six bytes a colour wait in prefetched batches, and the loss has
# the picture and its prediction as float32.
BYTES = 64 * 64 * 3 * (6 + 2 * 4)


def check_batch(config: Any) -> None:
    """Raises UserError if a batch of an update surely does not fit into the memory of this machine."""
    needed = config.batch_size * config.batch_length * BYTES
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"batch_size {config.batch_size} times batch_length {config.batch_length} needs {needed / 2**30:,.0f} GiB "
            f"of memory at least, and this machine has {there / 2**30:,.0f}: choose smaller ones."
        )


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Raises UserError where the block fails for want of memory."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"There is not enough memory ({first[:200]}): lower batch_size, batch_length, sizes of the model, "
            "candidates of the planner or envs."
        ) from error
