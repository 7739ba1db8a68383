"""A heartbeat of the step that launches a job; without it the job ends itself.

Otherwise the job would keep running, and keep its accelerators, if the step's pod is lost, or if the run is ended in a
way that does not let the step delete its job.
"""

import os
import sys
import threading
import time
from typing import Any

from components import console, storage

LIMIT_SECONDS = 1800.0
"""A step that is tried again starts within this time, including the pull of its image, and then takes over its job."""


def beat(location: str) -> None:
    """Write the time into a file, by path or URL, to show that the launching step still runs.

    If that fails, because a shared file system restarts or is full, the error is printed, and the next heartbeat tries
    again. The job ends itself after `LIMIT_SECONDS` without one.
    """
    try:
        storage.write_json(location, time.time())
    except OSError as error:
        console.say(f"heartbeat: cannot be written: {error}; trying again")


def end_without(location: str, limit: float = LIMIT_SECONDS, look_every: float = 30.0) -> threading.Thread:
    """Start a thread that ends this process with status 75 after `limit` seconds without a heartbeat.

    It watches the file's content rather than its time, because the clocks of machines differ.
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
                    f"The step that launched this job has given no heartbeat for {limit:.0f} s ({location}), so the "
                    "job ends. A training resumes at its last backup when the run is started again.",
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
        # A shared file system or a store does not answer. If that lasts, the heartbeat counts as missing.
        return None
