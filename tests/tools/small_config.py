"""A file of settings whose every value is known, and how it is read or refused."""

from pathlib import Path

import pytest

from tools.config import Config, load_config
from tools.errors import UserError
from tools.schema import CONFIG_FILE

SMALL_FILE = """\
# What every run starts from.
defaults:

  # Numbers
  steps: 100        # how far to go
  rate: 1e-3        # how fast
  flag: false       # whether at all

  # Texts
  name: 'a # b'     # what it is called
  mode: slow        # how it is done [slow | fast | 10]
  path: runs/{name}/{steps}  # where it goes

# Fast runs,
# short ones.
quick:
  steps: 1e1
  mode: fast

long:
  steps: 1000
  rate: 1
"""


def load(argv: str, path: Path = CONFIG_FILE) -> Config:
    """The settings that a command line asks for."""
    return load_config(argv.split(), path)


def refusal(argv: str, path: Path = CONFIG_FILE) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(UserError) as caught:
        load(argv, path)
    return str(caught.value)


def refused_file(tmp_path: Path, text: str) -> str:
    """The sentence with which a file is refused."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    return refusal("", path)
