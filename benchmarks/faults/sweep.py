"""Every signal to every process of a job of the launcher, each once, at a random moment.

The processes need no TensorFlow, so that all pairs take minutes: how they end together does not depend on what they
compute. Each of them has started a process of its own, which must end with it.
"""

import contextlib
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.attacks import SIGNALS, STOPS, Round, ended
from benchmarks.faults.jobs import ROOT, Job, Running, program, start

_SECONDS, _FROZEN_SECONDS, _LIMIT_SECONDS = 1.5, 2.0, 40.0
_PROGRAM = f"import subprocess, time; subprocess.Popen(['sleep', '300']); time.sleep({_SECONDS})"
RECEIVERS = ("the launcher", "a worker", "a process of a worker")


def _job() -> Job:
    def command(folder: Path) -> list[str]:
        (folder / "program.py").write_text(_PROGRAM)
        options = ["--processes", "2", "--frozen-seconds", str(_FROZEN_SECONDS)]
        return [sys.executable, str(ROOT / "tests" / "light.py"), *options, str(folder / "program.py")]

    return Job("launcher", command, lambda folder: {}, folder="state", sign="")


def sweep(folder: Path, generator: random.Random, signals: Sequence[signal.Signals] = SIGNALS) -> dict[str, str]:
    """Send each signal to each kind of process.

    Args:
        folder: the folder for logs.
        generator: the random number generator of the moments.
        signals: the signals.

    Returns:
        For each pair, such as "SIGHUP to a worker", what was wrong with the way in which the job ended; empty if
        nothing was.
    """
    return {
        f"{number.name} to {receiver}": _struck(folder, generator, receiver, number)
        for receiver in RECEIVERS
        for number in signals
    }


def _struck(folder: Path, generator: random.Random, receiver: str, number: signal.Signals) -> str:
    round_ = Round(_job(), folder, uuid.uuid4().hex, _SECONDS, generator)
    running = start(round_.job, folder, round_.mark)
    while not (found := _processes(running, receiver)) and running.process.poll() is None:
        time.sleep(0.01)
    time.sleep(generator.uniform(0, _SECONDS / 2))
    for pid in found[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if number in STOPS and receiver == "the launcher":
                time.sleep(_SECONDS / 3)
                os.kill(pid, signal.SIGCONT)
    outcome = ended(running, round_, "", time.monotonic(), _LIMIT_SECONDS)
    return outcome.wrong if found else f"{outcome.what}: there was no such process"


def _processes(running: Running, receiver: str) -> list[int]:
    if receiver == "the launcher":
        return [running.process.pid]
    name = "sleep" if receiver == "a process of a worker" else Path(sys.executable).name
    return [pid for pid in running.workers() if Path(program(pid)).name == name]
