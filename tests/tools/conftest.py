"""The file of settings that tests read."""

from pathlib import Path

import pytest

from tests.tools.small_config import SMALL_FILE


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_FILE)
    return path
