"""Files that survive a crash: replaced as a whole, or grown by whole lines."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replaced(path: Path, mode: str = "w") -> Iterator[IO]:
    """Opens a new file that takes the place of `path` at the end of the block.

    A reader, a crash and a power failure find all of the old file or all of the new one. An exception in the block
    leaves the old one.

    Args:
        path: the file; its folder exists.
        mode: "w" for text, "wb" for bytes.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Brings the rename itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json(path: Path, line: Mapping[str, Any]) -> None:
    """Appends one line of JSON to a file. Numbers must be finite."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
