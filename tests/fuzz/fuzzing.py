"""Check a property on examples that Hypothesis draws: always the same few in CI, and new ones for hours on demand."""

import itertools
import os
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("KERAS_SPATIAL_FUZZ_MINUTES", "0"))
"""For how many minutes each property is tried; 0 for the fixed number of examples in CI."""


def explore(check: Callable[..., None], *, examples: int, **drawn: SearchStrategy) -> None:
    """Call `check` with drawn values.

    Args:
        check: a function that raises if the property does not hold.
        examples: the number of examples in CI, which are the same every time. If `KERAS_SPATIAL_FUZZ_MINUTES` is set,
            rounds with as many examples and other seeds follow until the time is over.
        drawn: the strategy of each argument.
    """
    end = time.monotonic() + 60 * MINUTES
    for number in itertools.count():
        options = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # Explaining a failure takes long, and shrinking it is enough to understand it.
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(options(given(**drawn)(check)))()
        if time.monotonic() >= end:
            return


@contextmanager
def at_most(megabytes: int):
    """Fail if the body allocates more than this at once; memory that C libraries allocate themselves is not counted."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= megabytes << 20, f"{peak / 1e6:.0f} MB"


FAULTS = ("byte", "bytes", "cut", "longer")
"""What `damaged` can do to any file."""


def damaged(data: bytes, fault: str, place: float, noise: bytes) -> bytearray:
    """The bytes of a file after one of `FAULTS`; for any other fault, which the caller has to apply, unchanged.

    Args:
        data: the bytes of the file.
        fault: "byte" changes one byte, "bytes" overwrites some, "cut" ends the file early, and "longer" inserts some.
        place: where, as a fraction of the file from 0 to below 1.
        noise: the bytes that are written, at least one.
    """
    changed = bytearray(data)
    at = int(place * len(changed))
    if fault == "byte" and changed:
        changed[at] ^= noise[0] or 1
    elif fault == "bytes":
        changed[at : at + len(noise)] = noise
    elif fault == "cut":
        del changed[at:]
    elif fault == "longer":
        changed[at:at] = noise
    return changed
