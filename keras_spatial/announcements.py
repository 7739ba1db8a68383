"""Say that a step is being traced, because on a large mesh that takes minutes in which nothing else is shown."""

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from keras_spatial import processes

_PATIENCE_SECONDS = 10.0


def announced(step: Callable[[Any], Any], what: str, devices: int) -> Callable[[Any], Any]:
    """Wrap a step so that it announces its tracing if that takes longer than ten seconds.

    TensorFlow calls a step only to trace it, once for each shape of a batch. Only the first process announces it, on
    the standard error.

    Args:
        step: the step of a model.
        what: what the step is for, such as "fit".
        devices: the number of the mesh's devices.
    """

    @functools.wraps(step)
    def traced(data: Any) -> Any:
        started, told = time.monotonic(), threading.Event()

        def tell() -> None:
            told.set()
            mesh = f"{devices} device{'s' if devices > 1 else ''}"
            _say(f"tracing a step of {what} for {mesh}, which happens once for each shape of a batch ...")

        timer = threading.Timer(_PATIENCE_SECONDS, tell)
        timer.daemon = True
        if processes.current().is_first:
            timer.start()
        try:
            return step(data)
        finally:
            timer.cancel()
            if told.is_set():
                _say(f"traced in {time.monotonic() - started:.0f} s")

    return traced


def _say(text: str) -> None:
    print(f"keras_spatial: {text}", file=sys.stderr, flush=True)
