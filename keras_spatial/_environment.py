"""Process-wide settings that must be in place before TensorFlow starts.

TensorFlow leaves oneDNN off on CPUs without AVX-512, although it makes 3D convolutions more than ten times faster
there, and TensorFlow reads the switch only once, when it is loaded. A value that the user has set is not changed.
"""

import os
import sys
import warnings


def prepare() -> None:
    """Choose Keras's TensorFlow backend and turn oneDNN on, before either is imported.

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
    if "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
        if "tensorflow" in sys.modules:
            warnings.warn(
                "TensorFlow was imported before keras_spatial, without TF_ENABLE_ONEDNN_OPTS: on CPUs without AVX-512 "
                "3D convolutions then run many times slower. Import keras_spatial first, or set "
                "TF_ENABLE_ONEDNN_OPTS=1 in the environment.",
                stacklevel=3,
            )
        else:
            os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
