"""Where Minari keeps the data sets of tests."""

import pytest


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Where Minari keeps its data sets during a test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"
