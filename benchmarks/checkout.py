"""Import this first: `python benchmarks/x.py` has only this folder on its path, and needs the project."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tools.tensorflow_setup  # noqa: E402
