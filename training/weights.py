"""Weights in one small file, which a shipped model has instead of checkpoints.

`weights.npz` holds an array for each variable of an agent except its optimizers', named
`<part>/<number>/<variable>`. Weights are float16 there. Counters and statistics are whole.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from episodes.archive import read_arrays
from tools.errors import UserError
from tools.files import replaced
from training.logdir import WEIGHTS


def write_weights(parts: Mapping[str, Any], folder: Path) -> Path:
    """Writes the weights of parts of an agent, by name, and returns the file.

    Raises:
        UserError: a weight is not finite or too large for float16.
        OSError: the file cannot be written.
    """
    arrays = {name: variable.numpy() for name, variable in _variables(parts).items()}
    for name, array in arrays.items():
        if array.dtype == np.float32:
            with np.errstate(over="ignore"):
                arrays[name] = array.astype(np.float16)
        if not np.all(np.isfinite(arrays[name])):
            raise UserError(
                f"{name} has numbers that are not finite in float16, with which no model can be shipped: train it "
                "again, or choose another log directory."
            )
    with replaced(folder / WEIGHTS, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes it for allow_pickle
    return folder / WEIGHTS


def read_weights(parts: Mapping[str, Any], folder: Path) -> None:
    """Loads the weights of parts of an agent, by name. The file may hold more. Optimizers stay as they are.

    Raises:
        UserError: the file is damaged, or of a model of other sizes.
    """
    path, variables = folder / WEIGHTS, _variables(parts)
    try:
        arrays = {name: array for name, array in read_arrays(path).items() if name.split("/")[0] in parts}
        _check_numbers(arrays)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again, or choose another model.") from None
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    wrong = sorted(shapes.items() - {name: array.shape for name, array in arrays.items()}.items())
    if wrong:
        raise UserError(
            f"{path} does not fit this configuration (first at {wrong[0][0]}): use the config.yaml that came with it."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(tf.as_dtype(variable.dtype).as_numpy_dtype))


def fingerprint(parts: Mapping[str, Any]) -> str:
    """Twelve letters and digits for the weights, counters and statistics of parts of an agent, by name.

    They are the same wherever the weights come from, and others after every update.
    """
    digest = hashlib.sha256()
    for name, variable in sorted(_variables(parts).items()):
        array = variable.numpy()
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()[:12]


def _check_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless all arrays hold finite numbers, as `write_weights` saves them."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(f"{name} holds something else than finite numbers")


def saved_parts(folder: Path) -> set[str]:
    """The names of the parts of an agent in the file; none if it is damaged."""
    try:
        return {name.partition("/")[0] for name in read_arrays(folder / WEIGHTS)}
    except (OSError, ValueError):
        return set()


def _variables(parts: Mapping[str, Any]) -> dict[str, Any]:
    """All variables except optimizers', each with a name that depends only on the model."""
    found = {}
    for part, value in parts.items():
        if isinstance(value, keras.optimizers.Optimizer):
            continue
        own = [value] if isinstance(value, tf.Variable) else getattr(value, "weights", None)
        for number, variable in enumerate(value.variables if own is None else own):
            # Keras numbers the layers of a process: dense_7 is the eighth of all models in it.
            name = re.sub(r"_\d+(?=/|$)", "", getattr(variable, "path", variable.name.partition(":")[0]))
            found[f"{part}/{number}/{name}"] = variable
    return found
