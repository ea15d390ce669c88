"""Compiled planners and updates, kept on disk between programs, where COMPILE_CACHE_DIR names a folder.

TensorFlow keeps what XLA compiled, with the program it was compiled from as the key. A file that it cannot read or
write ends a run, and the key knows neither the processor nor TensorFlow's version. So this module gives it a folder of
their own for those, without damaged files, or none.
"""

import contextlib
import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from tools.errors import UserError
from tools.files import expanded

VARIABLE = "COMPILE_CACHE_DIR"
LARGEST = 2**30  # bytes in a folder; the oldest files go first
FREE = 2**28  # bytes on its disk, without which nothing more is kept


def cache_flags(directory: str, flags: str) -> str:
    """TF_XLA_FLAGS with which TensorFlow keeps what it compiles below the directory.

    If that cannot work, this says so on standard error and returns the flags as they are.
    """
    if not directory or "--tf_xla_persistent_cache_directory" in flags:
        return flags
    try:
        folder = expanded(directory).absolute() / machine()
        if any(character.isspace() for character in str(folder)):
            raise OSError("its name has white space in it")
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
        probe = folder / f"probe-{os.getpid()}"
        probe.write_bytes(b"1")
        probe.unlink()
        space = os.statvfs(folder)
        if space.f_bavail * space.f_frsize < FREE:
            raise OSError("its disk is nearly full")
    except (OSError, ValueError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"Nothing compiled is kept: {VARIABLE} {directory!r} cannot be used ({reason}).", file=sys.stderr)
        return flags
    return f"{flags} --tf_xla_persistent_cache_directory={folder}".strip()


def machine() -> str:
    """A name for what compiled programs depend on: TensorFlow, the processor and the GPUs."""
    parts = [metadata.version("tensorflow"), platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += [next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags")]
    except OSError:  # not Linux
        parts.append(platform.processor())
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        parts += [line for line in path.read_text().splitlines() if line.startswith("Model")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def clean(folder: Path) -> None:
    """Removes damaged files, then the oldest ones beyond `LARGEST` bytes. Other programs may do so at the same time."""
    files = []
    for path in folder.glob("*.pb"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        with contextlib.suppress(FileNotFoundError):
            if total > LARGEST or not is_whole(path.read_bytes()):
                path.unlink()


def is_whole(data: bytes) -> bool:
    """Whether the data can be one of TensorFlow's entries: fields 1 to 3 of a protocol buffer, to the last byte."""
    position, fields = 0, []
    while position < len(data):
        tag, position = data[position], position + 1
        length, shift, byte = 0, 0, 128
        while byte >= 128 and position < len(data):
            byte, position = data[position], position + 1
            length |= (byte & 127) << shift
            shift += 7
        if tag & 7 != 2 or byte >= 128:
            return False
        fields.append(tag >> 3)
        position += length
    return position == len(data) and fields == [1, 2, 3]
