"""TensorFlow's options, the same for all programs. Import this before anything that imports TensorFlow.

TF_CPP_MIN_LOG_LEVEL=0 shows all start-up notices again, and TF_ENABLE_ONEDNN_OPTS=0 turns oneDNN off.
COMPILE_CACHE_DIR names a folder for what XLA compiles (compile_cache.py).
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from tools.compile_cache import VARIABLE, cache_flags

# TensorFlow reads both at import. Its notices would hide the progress line.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Faster convolutions and products, which TensorFlow leaves off on processors without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
if VARIABLE in os.environ:
    os.environ["TF_XLA_FLAGS"] = cache_flags(os.environ[VARIABLE], os.environ.get("TF_XLA_FLAGS", ""))

# The log level holds only once the logger runs. Before, TensorFlow says this; warnings (W), errors (E) and what is not
# TensorFlow's looks different.
NOTICE = re.compile(rb"I\d{4} |WARNING: All log messages before absl::InitializeLog\(\) is called")


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Keeps TensorFlow's notices, which are written by C++, off the standard error output; other lines come late."""
    if sys.stderr is None:  # closed
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        screen = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            held.seek(0)
            for line in held:
                if not NOTICE.match(line):
                    os.write(screen, line)
            os.close(screen)


with without_notices() if os.environ["TF_CPP_MIN_LOG_LEVEL"] != "0" else contextlib.nullcontext():
    import tensorflow as tf

# TensorFlow 2.21's remapper breaks on an activation inside a while loop and then skips all optimization of that
# function.
tf.config.optimizer.set_experimental_options({"remapping": False})
# `precision` says what layers compute in. GPUs would otherwise round the inputs of float32 products to 10 bits
# (TensorFloat-32), planners' too.
tf.config.experimental.enable_tensor_float_32_execution(False)
