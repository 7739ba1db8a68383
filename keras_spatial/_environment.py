"""Process-wide settings that must be in place before TensorFlow starts, and the notices that it prints when it does.

TensorFlow leaves oneDNN off on CPUs without AVX-512, although it makes 3D convolutions more than ten times faster
there, and TensorFlow reads the switch only once, when it is loaded. A value that the user has set is not changed.

This module needs only the standard library: what only starts other processes loads it without the package.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping

RESTARTS_VARIABLE = "KERAS_SPATIAL_RESTARTS"
"""The environment variable by which the launcher tells a program how often its processes were started again: "0" the
first time."""
LAUNCHER_VARIABLE = "KERAS_SPATIAL_LAUNCHER"
"""The environment variable that holds the number of the launcher's process."""
ONEDNN, LOG_LEVEL = "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL"
_DEFAULTS = {ONEDNN: "1", LOG_LEVEL: "2"}

# What TensorFlow 2.21 prints while it is loaded, whatever the log level is
# (https://github.com/tensorflow/tensorflow/issues/100442), and when it first looks for devices. A failed cuInit is a
# notice only where there is no driver at all, which is CUDA's error 303.
_NOTICE = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\)"
    r"|I\d{4} [\d:. ]+(port|cudart_stub|cpu_feature_guard)\.cc:\d+\]"
    r"|E\d{4} [\d:. ]+cuda_platform\.cc:\d+\] failed call to cuInit: .*\(303\)"
    r"|To enable the following instructions: .* in other operations, rebuild TensorFlow"
)


def for_children(environment: Mapping[str, str], log_level: str = _DEFAULTS[LOG_LEVEL]) -> dict[str, str]:
    """The variables to add to the environment of a process that runs TensorFlow. Values that the user has set are kept.

    Args:
        environment: the environment of the process that starts the other one.
        log_level: the lowest level that TensorFlow logs: "0" logs everything, "2" only errors.
    """
    return {name: environment.get(name, value) for name, value in {**_DEFAULTS, LOG_LEVEL: log_level}.items()}


def prepare() -> None:
    """Choose Keras's TensorFlow backend, turn oneDNN on and import TensorFlow without its notices.

    Raises:
        RuntimeError: if Keras is set to another backend, by `KERAS_BACKEND` or by an earlier import.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            "keras_spatial runs on Keras's TensorFlow backend: set KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: KERAS_BACKEND={backend!r}"
        )
    late = "tensorflow" in sys.modules
    if late and ONEDNN not in os.environ and not _onednn_is_on():
        warnings.warn(
            "oneDNN is off in this process, so 3D convolutions are many times slower: set TF_ENABLE_ONEDNN_OPTS=1 in "
            "the environment once, or import keras_spatial before keras and tensorflow.",
            stacklevel=3,
        )
    os.environ.update(for_children(os.environ))
    if not late:
        with quiet():
            import tensorflow  # noqa: F401  # pyright: ignore[reportUnusedImport]


def is_launched() -> bool:
    """Whether the launcher has started this very process, which it then watches.

    What that process starts inherits the variable, but it has another parent, and the launcher does not know it.
    """
    return os.environ.get(LAUNCHER_VARIABLE) == str(os.getppid())


def is_notice(line: str) -> bool:
    """Whether a line only reports that TensorFlow starts and contains nothing that a user could act on."""
    return _NOTICE.match(line) is not None


def wants_notices(environment: Mapping[str, str]) -> bool:
    """Whether the user has asked for everything that TensorFlow logs."""
    return environment.get(LOG_LEVEL) == "0"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop TensorFlow's notices from the standard error inside a `with` block.

    All other lines are passed on when the block ends. If `TF_CPP_MIN_LOG_LEVEL` is 0, nothing is held back.
    """
    with contextlib.ExitStack() as stack:
        if not wants_notices(os.environ):
            with contextlib.suppress(OSError, AttributeError):  # No standard error, or not Linux.
                stack.enter_context(_filtered())
        yield


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    error = os.dup(2)
    held = os.memfd_create("notices")
    os.dup2(held, 2)
    try:
        yield
    finally:
        os.dup2(error, 2)
        os.close(error)
        with os.fdopen(held, "r+b") as file:
            file.seek(0)
            lines = [line for line in file if not is_notice(line.decode("utf-8", "replace"))]
        with contextlib.suppress(OSError):
            os.write(2, b"".join(lines))


def _onednn_is_on() -> bool:
    """Whether the loaded TensorFlow uses oneDNN, as it does by default on CPUs with AVX-512 VNNI."""
    try:
        # TensorFlow has no public name for it.
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return False
    return bool(_pywrap_util_port.IsMklEnabled())
