"""The peak of a process's memory."""

import numpy as np

from benchmarks import memory
from benchmarks.memory import begin_peak, peak_gb


def test_the_peak_counts_what_was_freed_until_it_begins_anew():
    before = begin_peak()
    large = np.ones(50_000_000)  # 0.4 GB
    del large
    assert peak_gb() - before > 0.35
    assert begin_peak() - before < 0.1
    assert peak_gb() - before < 0.1


def test_a_gigabyte_has_a_thousand_million_bytes(tmp_path, monkeypatch):
    """Linux writes kB and means 1024 bytes."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    memory.STATUS.write_text("Name:\tpython\nVmHWM:\t 9765625 kB\n")
    assert peak_gb() == 10.0
