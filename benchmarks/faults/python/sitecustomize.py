"""Simulate a jumping clock and a slow disk, as environment variables say. Python imports this module when it starts."""

import os
import random
import time


def _jump(after: float, by: float) -> None:
    real, started = time.time, time.monotonic()

    def jumping() -> float:
        return real() + (by if time.monotonic() - started > after else 0.0)

    time.time = jumping


def _slow(seconds: float) -> None:
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(random.uniform(0, seconds))
        real(descriptor)

    os.fsync = slow


if "FAULT_CLOCK" in os.environ:
    _jump(*map(float, os.environ["FAULT_CLOCK"].split(",")))
if "FAULT_SLOW" in os.environ:
    _slow(float(os.environ["FAULT_SLOW"]))
