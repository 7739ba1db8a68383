"""A sign of life of the step that launched a job. Without it a job would run on, and its accelerators with it, when the
step's pod is lost or the run is ended in a way that does not let the step delete its job."""

import os
import sys
import threading
import time
from typing import Any

from components import storage

LIMIT_SECONDS = 1800.0
"""Longer than a retried step takes to start again, pulling its image included; it then takes its job over."""


def beat(location: str) -> None:
    """Say that the launching step lives, in a file by path or URL.

    A write that fails (a shared file system that restarts, a full one) is printed and tried again at the next look: the
    job ends by itself if it hears nothing for `LIMIT_SECONDS`.
    """
    try:
        storage.write_json(location, time.time())
    except OSError as error:
        print(f"heartbeat: the sign of life cannot be written: {error}; trying again", flush=True)


def end_without(location: str, limit: float = LIMIT_SECONDS, look_every: float = 30.0) -> threading.Thread:
    """End this process (status 75) when nothing has beaten for `limit` seconds.

    The file's content is watched for changes, not its time: clocks of machines differ.
    """

    def watch() -> None:
        last, since = _read(location), time.monotonic()
        while True:
            time.sleep(look_every)
            now = _read(location)
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                print(
                    f"The step that launched this job has not been heard of for {limit:.0f} s ({location}): ending. "
                    "A training resumes at its last backup when the run is started again.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(75)

    thread = threading.Thread(target=watch, daemon=True, name="heartbeat")
    thread.start()
    return thread


def _read(location: str) -> Any:
    try:
        return storage.read_json(location)
    except OSError:
        # A shared file system or a store that does not answer; it counts as no change if it stays away.
        return None
