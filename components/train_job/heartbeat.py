"""A sign of life of the step that launched a job. Without it a job would run on, and its accelerators with it, when the
step's pod is lost or the run is ended in a way that does not let the step delete its job."""

import os
import sys
import threading
import time
from pathlib import Path

LIMIT_SECONDS = 1800.0
"""Longer than a retried step takes to start anew, pulling its image included; it then takes its job over."""


def beat(path: Path) -> None:
    """Say that the launching step lives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(repr(time.time()), encoding="utf-8")


def end_without(path: Path, limit: float = LIMIT_SECONDS, look_every: float = 30.0) -> threading.Thread:
    """End this process (status 75) when nothing has beaten for `limit` seconds.

    The file's content is watched for changes, not its time: clocks of machines differ.
    """

    def watch() -> None:
        last, since = _read(path), time.monotonic()
        while True:
            time.sleep(look_every)
            now = _read(path)
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                print(
                    f"The step that launched this job has not been heard of for {limit:.0f} s ({path}): ending. The "
                    "training goes on at its last backup when the run is started again.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(75)

    thread = threading.Thread(target=watch, daemon=True, name="heartbeat")
    thread.start()
    return thread


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        # A file being replaced on a shared file system; it counts as no change if it stays away.
        return ""
