"""Reads .npz archives that may be damaged: whole and unchanged, or not at all."""

import io
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

_END = struct.Struct("<4s4H2LH")  # the record at the end of an archive; its fifth entry counts the arrays
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive by name, in reading order.

    `np.load` waits at a named pipe, reserves whatever memory a header promises, and misses arrays that a damaged table
    of contents hides.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is anything but a whole archive of arrays.
    """
    if not os.path.isfile(path):
        raise ValueError("it is not a file" if os.path.exists(path) else "there is no such file")
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) != _count(file, len(archive.comment)):
                raise ValueError("its table of contents is damaged")
            return {_name(member): _read(archive, member) for member in members}
    except (MemoryError, OSError):
        raise
    except Exception as error:  # what zipfile and numpy raise for damaged bytes is documented nowhere
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _count(file: io.BufferedReader, comment: int) -> int:
    """How many arrays the archive says to have, -1 where the end is not where it should be."""
    file.seek(-_END.size - comment, os.SEEK_END)
    signature, *_, count, _, _, _ = _END.unpack(file.read(_END.size))
    return count if signature == b"PK\x05\x06" else -1


def _name(member: zipfile.ZipInfo) -> str:
    if not member.filename.endswith(".npy"):
        raise ValueError(f"{member.filename!r} is not an array")
    return member.filename.removesuffix(".npy")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. Reading to the end compares the checksum; no memory is reserved that the file does not fill."""
    stream = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{member.filename} has the unknown version {version}")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds objects, not numbers")
    if dtype.itemsize * math.prod(shape) != stream.getbuffer().nbytes - stream.tell():
        raise ValueError(f"{member.filename} has not the size that its header promises")
    stream.seek(0)
    return np.asarray(np.lib.format.read_array(stream, allow_pickle=False), order="C")
