"""The program that draws figures and tables."""

import subprocess
import sys
from pathlib import Path

from tests.analysis.logdirs import write_matrix

ROOT = Path(__file__).parents[2]


def test_program_needs_neither_tensorflow_nor_simulators(tmp_path):
    write_matrix(tmp_path, [[0.5], [0.6]])
    code = (
        "import sys, plot\n"
        f"assert plot.main(['aggregate', {str(tmp_path)!r}, '--repetitions', '5', '--out', {str(tmp_path)!r}]) == 0\n"
        "print(sorted({'tensorflow', 'keras', 'mujoco', 'metaworld', 'dm_control', 'gymnasium'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "sample_efficiency.pdf").exists()
