"""Import this first: `python benchmarks/x.py` has only this folder on its path, and needs the project."""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

if os.path.dirname(os.path.realpath(sys.argv[0])) == str(FOLDER):  # not where a test imports a benchmark
    import tools.startup

import tools.tensorflow_setup  # noqa: E402
