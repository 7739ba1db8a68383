"""Simulate a slow disk, as an environment variable says. Python imports this module when it starts."""

import os
import random
import time


def _slow(seconds: float) -> None:
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(random.uniform(0, seconds))
        real(descriptor)

    os.fsync = slow


if "FAULT_SLOW" in os.environ:
    _slow(float(os.environ["FAULT_SLOW"]))
