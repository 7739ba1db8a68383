"""Attacks on a command. Each attack returns what it did, and what was wrong with the way the command ended."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.jobs import Job, Running, start, state
from keras_spatial import ownership
from keras_spatial.backup import LOCK
from keras_spatial.launch import FROZEN_SECONDS

PYTHON = Path(__file__).with_name("python")
# An attacked command must end within this time.
LIMIT_SECONDS = 240.0
# A command with frozen processes: the launcher's limit, ten seconds for SIGTERM, and slack for a busy machine.
FROZEN_LIMIT_SECONDS = FROZEN_SECONDS + 10 + 20
STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
SIGNALS = tuple(number for number in signal.Signals if number < 32 and number != signal.SIGCONT)


@dataclass(frozen=True)
class Round:
    """The circumstances of an attack.

    Attributes:
        job: the command.
        folder: the folder of the round.
        mark: a text that marks the processes of the round.
        seconds: how long an undisturbed run of the command takes.
        generator: the random number generator of the round.
    """

    job: Job
    folder: Path
    mark: str
    seconds: float
    generator: random.Random


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attack.

    Attributes:
        what: what the attack did.
        seconds: the time from the attack to the end of the command.
        wrong: what was wrong; empty if nothing was.
    """

    what: str
    seconds: float
    wrong: str = ""


Attack = Callable[[Round], Outcome]


def any_signal(round_: Round) -> Outcome:
    """Send any signal to any process of the command at any moment."""
    running = start(round_.job, round_.folder, round_.mark)
    _wait_for_moment(running, round_)
    pids = running.pids()
    if not pids:
        return _ended(running, "after its end", time.monotonic())
    pid, number = round_.generator.choice(pids), round_.generator.choice(SIGNALS)
    role, at = running.role(pid), time.monotonic() - running.started
    struck = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    if number in STOPS and role != "a worker":
        # Whoever stops the command itself also continues it; only frozen peers must be detected.
        time.sleep(3)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return _ended(running, f"{number.name} to {role} after {at:.1f} s", struck)


def frozen_peers(round_: Round) -> Outcome:
    """Stop one worker, or all of them, forever."""
    running = start(round_.job, round_.folder, round_.mark)
    while not (workers := running.workers()) and running.process.poll() is None:
        time.sleep(0.1)
    time.sleep(round_.generator.uniform(0, round_.seconds / 2))
    workers = running.workers()
    stopped = workers if round_.generator.random() < 0.5 else workers[:1]
    struck = time.monotonic()
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    limit = FROZEN_LIMIT_SECONDS if round_.job.name == "training" else LIMIT_SECONDS
    return _ended(running, f"SIGSTOP to {len(stopped)} of {len(workers)} workers", struck, limit)


def limited_files(round_: Round) -> Outcome:
    """Limit the size of files at random: every write beyond it fails, as on a full disk."""
    size = round_.generator.randrange(0, 200_000)
    running = start(
        round_.job,
        round_.folder,
        round_.mark,
        # Python takes a file of bytecode that was cut off for a whole one, in every later process.
        {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    return _ended(running, f"no file larger than {size} bytes", time.monotonic())


def full_disk(round_: Round) -> Outcome:
    """Use a file system of random size, which the command fills; its content is then moved to one with more space."""
    size = round_.generator.randrange(20_000, 400_000) // 4096 * 4096
    with _file_system(round_, f"size={size}") as mounted:
        running = start(round_.job, round_.folder, round_.mark)
        outcome = _ended(running, f"a file system of {size} bytes" if mounted else "no right to mount", running.started)
    return outcome


def read_only_disk(round_: Round) -> Outcome:
    """Use a read-only file system."""
    with _file_system(round_, "ro") as mounted:
        running = start(round_.job, round_.folder, round_.mark)
        return _ended(running, "a read-only file system" if mounted else "no right to mount", running.started)


def clock_jumps(round_: Round) -> Outcome:
    """Let the time of day jump by up to a day, forwards or backwards, while the command runs."""
    jump = round_.generator.uniform(-86_400, 86_400)
    after = round_.generator.uniform(0, round_.seconds)
    running = _with_python(round_, {"FAULT_CLOCK": f"{after:.1f},{jump:.0f}"})
    return _ended(running, f"the clock jumps by {jump:.0f} s after {after:.1f} s", running.started)


def slow_disk(round_: Round) -> Outcome:
    """Use a disk that takes up to two seconds to write a file, and kill one worker meanwhile."""
    delay = round_.generator.uniform(0.2, 2)
    running = _with_python(round_, {"FAULT_SLOW": f"{delay:.2f}"})
    _wait_for_moment(running, round_)
    struck = time.monotonic()
    for pid in running.workers()[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return _ended(running, f"a disk that takes {delay:.1f} s, and SIGKILL to a worker", struck)


def _with_python(round_: Round, environment: dict[str, str]) -> Running:
    from benchmarks.faults.jobs import ROOT

    path = os.pathsep.join([str(PYTHON), str(ROOT)])
    return start(round_.job, round_.folder, round_.mark, {"PYTHONPATH": path, **environment})


def _wait_for_moment(running: Running, round_: Round) -> None:
    moment = running.started + round_.generator.uniform(0, round_.seconds)
    while time.monotonic() < moment and running.process.poll() is None:
        time.sleep(0.02)


def _ended(running: Running, what: str, struck: float, limit: float = LIMIT_SECONDS) -> Outcome:
    """Wait for the end of the command. None of its processes may be left then."""
    status = running.wait(limit)
    seconds = time.monotonic() - struck
    wrong = ""
    if status is None:
        states = ", ".join(f"{running.role(pid)} {state(pid)}" for pid in running.pids())
        wrong = f"has not ended within {limit:.0f} s ({states})"
    elif left := running.left_over():
        wrong = f"left behind {', '.join(running.role(pid) for pid in left)}"
    running.end()
    return Outcome(f"{what}: status {status}", seconds, wrong)


@contextlib.contextmanager
def _file_system(round_: Round, options: str) -> Iterator[bool]:
    """Mount a small file system at the folder that the job writes to.

    Yields:
        Whether this user may mount file systems.
    """
    folder = round_.folder / round_.job.folder
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    try:
        yield mounted.returncode == 0
        if mounted.returncode == 0:
            kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)
    if mounted.returncode == 0:
        for name, content in kept.items():
            (folder / name).write_bytes(content)


def is_free(round_: Round) -> bool:
    """Whether the folder of a job is not locked any more."""
    name = LOCK if round_.job.name == "training" else ".lock"
    folder = round_.folder / round_.job.folder
    if not folder.is_dir():
        return True
    try:
        os.close(ownership.lock(folder / name))
    except ownership.Busy:
        return False
    return True
