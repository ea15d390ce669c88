from tools.tensorflow_setup import without_notices

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[2]
PROGRAM = "import tools.tensorflow_setup; import tensorflow as tf; print(float(tf.reduce_sum(tf.ones([2, 2]))))"


def test_only_notices_are_held_back(capfd: pytest.CaptureFixture):
    text = (
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        b"I0000 00:00:1700000000.000000       1 port.cc:153] oneDNN custom operations are on.\n"
        b"W0000 00:00:1700000000.000000       1 gpu.cc:1] Cannot use the GPU\n"
        b"E0000 00:00:1700000000.000000       1 gpu.cc:2] There is none\n"
        b"ImportWarning: something\n"
    )
    with pytest.raises(ImportError, match="no TensorFlow"), without_notices():
        os.write(2, text)
        raise ImportError("no TensorFlow")
    shown = capfd.readouterr().err.splitlines()
    assert [line.split()[0] for line in shown] == ["W0000", "E0000", "ImportWarning:"]
    os.write(2, b"I0000 later\n")
    assert capfd.readouterr().err == "I0000 later\n"


def test_tensorflow_starts_without_a_word():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4.0\n", "")


def test_nothing_is_held_back_where_there_is_no_standard_error_output(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)  # as Python has it where it was closed
    with without_notices():
        os.write(2, b"I0000 a notice\n")
    assert capfd.readouterr().err == "I0000 a notice\n"


def test_every_program_has_the_same_tensorflow():
    assert tf.config.optimizer.get_experimental_options()["remapping"] is False
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    for path in [*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import)]
        names = [alias.name for node in imports for alias in node.names]
        program = '__name__ == "__main__"' in text
        if program and path.parent.name == "benchmarks":
            assert names[0] == "checkout", path
        elif program and "tensorflow" in names:
            assert names[0] == "tools.tensorflow_setup", path
