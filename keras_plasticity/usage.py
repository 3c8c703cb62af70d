"""What commands share: their error, and a quiet start of TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile


class UsageError(Exception):
    """What was asked for cannot be done as it was asked."""


@contextlib.contextmanager
def quiet():
    """Holds back what TensorFlow prints when it starts, unless it fails to."""
    if "tensorflow" in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
