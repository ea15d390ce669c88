"""How much memory a part of a program takes. Linux only."""

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin_peak() -> float:
    """Lets `peak_gb` start anew. Returns the memory of this process now, in GB."""
    CLEAR.write_text("5")
    return _read("VmRSS")


def peak_gb() -> float:
    """The largest memory of this process in GB, since its start or since `begin_peak`."""
    return _read("VmHWM")


def _read(name: str) -> float:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return round(int(fields[name].split()[0]) * 1024 / 1e9, 2)  # Linux writes kB and means 1024 bytes
