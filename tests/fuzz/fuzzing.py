"""Running a property on examples that Hypothesis draws: the same few in CI, others for hours on demand."""

import itertools
import os
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("KERAS_SPATIAL_FUZZ_MINUTES", "0"))
"""Minutes that each property is tried; 0 for the fixed number of examples of CI."""


def explore(check: Callable[..., None], *, examples: int, **drawn: SearchStrategy) -> None:
    """Call `check` with drawn values.

    Args:
        check: raises where its property does not hold.
        examples: how many in CI, the same ones every time. With `KERAS_SPATIAL_FUZZ_MINUTES` set, rounds of as many
            follow with other seeds until the time is over.
        drawn: the strategy of each argument.
    """
    end = time.monotonic() + 60 * MINUTES
    for number in itertools.count():
        options = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # Explaining a failure takes long, and shrinking it shows what it is.
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(options(given(**drawn)(check)))()
        if time.monotonic() >= end:
            return


@contextmanager
def at_most(megabytes: int):
    """Fail if the body allocates more at a time than this; memory that C libraries take for themselves is not seen."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= megabytes << 20, f"{peak / 1e6:.0f} MB"
