"""Nested values as arrays for an .npz file, without pickles."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from episodes.archive import read_arrays

TREE = "tree"  # the array that says how the others belong together


def pack(value: Any) -> dict[str, np.ndarray]:
    """Arrays from which `unpack` makes the value again.

    Args:
        value: numbers, texts, None, arrays and tensors, within dictionaries, lists and named tuples.
    """
    arrays: dict[str, np.ndarray] = {}

    def tree(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            return {"dict": {key: tree(item) for key, item in value.items()}}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"tuple": type(value).__name__, "items": [tree(item) for item in value]}
        if isinstance(value, list | tuple):
            return [tree(item) for item in value]
        name = f"array_{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"tensor" if tf.is_tensor(value) else "array": name}

    text = json.dumps(tree(value))
    return arrays | {TREE: np.array(text)}


def unpack(arrays: Mapping[str, np.ndarray], classes: Sequence[type] = ()) -> Any:
    """The value that was packed. Tuples without names become lists.

    Args:
        arrays: what `pack` returned.
        classes: those of the named tuples.

    Raises:
        KeyError, ValueError: the arrays are of another kind.
    """
    by_name = {cls.__name__: cls for cls in classes}

    def value(tree: Any) -> Any:
        if isinstance(tree, list):
            return [value(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if "dict" in tree:
            return {key: value(item) for key, item in tree["dict"].items()}
        if "tuple" in tree:
            return by_name[tree["tuple"]](*map(value, tree["items"]))
        return tf.constant(arrays[tree["tensor"]]) if "tensor" in tree else arrays[tree["array"]]

    return value(json.loads(str(arrays[TREE])))


def read_packed(path: Path, classes: Sequence[type] = ()) -> Any:
    """The value that was packed into an .npz file; see `unpack`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or of another kind.
    """
    arrays = read_arrays(path)
    try:
        return unpack(arrays, classes)
    except (KeyError, RecursionError, TypeError) as error:
        raise ValueError("it is of another kind") from error
