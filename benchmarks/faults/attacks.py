"""Attacks on a command. Each attack returns what it did, and what was wrong with the way the command ended."""

import contextlib
import importlib.util
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from benchmarks.faults.disks import Disk
from benchmarks.faults.jobs import ROOT, Job, Running, start, state
from keras_spatial import ownership
from keras_spatial.launch import FROZEN_SECONDS

PYTHON = Path(__file__).with_name("python")
# An attacked command must end within this many seconds, or within a multiple of its undisturbed time.
LIMIT_SECONDS, LIMIT_RATIO = 240.0, 4
# The limit for a command with frozen processes: the launcher's own, ten seconds for SIGTERM, and slack for a busy
# machine.
FROZEN_LIMIT_SECONDS = FROZEN_SECONDS + 10 + 20
STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
SIGNALS = tuple(number for number in signal.Signals if number < 32)
# The most signals that are sent in one round. Many signals end nothing, so there is time for another one.
_STRIKES = 4
_T = TypeVar("_T")


class Decks:
    """Deals cards at random, but every card of a deck once before any of them comes again.

    Args:
        generator: the random number generator.
    """

    def __init__(self, generator: random.Random):
        self._generator, self._left = generator, {}

    def deal(self, name: str, cards: Sequence[_T]) -> _T:
        """Deal the next card of the deck of this name, which consists of these cards."""
        left = self._left.setdefault(name, [])
        if not left:
            left += self._generator.sample(cards, len(cards))
        return left.pop()

    def take(self, name: str, cards: Sequence[_T], card: _T) -> None:
        """Remove a card that an earlier study has dealt from the deck of this name, which consists of these cards."""
        left = self._left.setdefault(name, self._generator.sample(cards, len(cards)))
        if card in left:
            left.remove(card)


@dataclass(frozen=True)
class Round:
    """The circumstances of an attack.

    Attributes:
        job: the command.
        folder: the folder of the round.
        mark: a text that marks the processes of the round.
        seconds: how long an undisturbed run of the command takes.
        generator: the random number generator of the round.
        decks: what is dealt evenly over all rounds of the study.
    """

    job: Job
    folder: Path
    mark: str
    seconds: float
    generator: random.Random
    decks: Decks = field(default_factory=lambda: Decks(random.Random(0)))

    @property
    def limit(self) -> float:
        """Within how many seconds the attacked command must end."""
        return max(LIMIT_SECONDS, LIMIT_RATIO * self.seconds)

    @property
    def state(self) -> Path:
        """The folder in which the job keeps its state."""
        return self.folder / self.job.folder


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attack.

    Attributes:
        what: what the attack did.
        seconds: the time from the attack to the end of the command.
        wrong: what was wrong; empty if nothing was.
        status: the exit status of the command; None if it has not ended.
        signals: the signals that were sent, each with the process that received it.
        missed: whether the command had ended before the attack.
    """

    what: str
    seconds: float
    wrong: str = ""
    status: int | None = None
    signals: tuple[str, ...] = ()
    missed: bool = False


Attack = Callable[[Round], Outcome]


def any_signal(round_: Round) -> Outcome:
    """Send any signal to any process of the command at any moment; if that ends nothing, send further ones."""
    running = start(round_.job, round_.folder, round_.mark)
    told, sent, struck = [], [], running.started
    for _ in range(_STRIKES):
        _wait_for_moment(running, round_)
        pids = running.pids()
        if not pids:
            break
        pid = round_.generator.choice(pids)
        role, at = running.role(pid), time.monotonic() - running.started
        receiver = f"{round_.job.name}: {role}"
        number = round_.decks.deal(receiver, SIGNALS)
        struck = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        told.append(f"{number.name} to {role} after {at:.1f} s")
        sent.append(f"{receiver}: {number.name}")
        if number in STOPS and role != "a worker":
            # Someone who stops the command itself also continues it; only frozen peers must be detected.
            time.sleep(3)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    outcome = ended(running, round_, ", ".join(told) or "after its end", struck)
    return replace(outcome, signals=tuple(sent), missed=not sent)


def frozen_peers(round_: Round) -> Outcome:
    """Stop one worker, or all of them, forever."""
    running = start(round_.job, round_.folder, round_.mark)
    while not (workers := running.workers()) and running.process.poll() is None:
        time.sleep(0.1)
    # Soon, because a command that resumes near its end needs less time than an undisturbed run.
    time.sleep(round_.generator.uniform(0, round_.seconds / 3))
    workers = running.workers()
    stopped = workers if round_.decks.deal("frozen", ("one", "all")) == "all" else workers[:1]
    struck = time.monotonic()
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    limit = FROZEN_LIMIT_SECONDS if stopped and round_.job.name == "training" else round_.limit
    outcome = ended(running, round_, f"SIGSTOP to {len(stopped)} of {len(workers)} workers", struck, limit)
    return replace(outcome, missed=not stopped)


def limited_files(round_: Round) -> Outcome:
    """Limit the size of files to a random number: every write beyond it fails, and the process gets SIGXFSZ."""
    size = round_.generator.randrange(0, 200_000)
    # Every later process of Python would take a truncated file of bytecode for a complete one.
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    running = start(round_.job, round_.folder, round_.mark, environment, file_bytes=size)
    return ended(running, round_, f"no file larger than {size} bytes", running.started)


def full_disk(round_: Round) -> Outcome:
    """Fill the disk, except for a few bytes, at any moment; it has space again after the command has ended."""
    spare = round_.generator.randrange(0, 40_000)
    with Disk(round_.state).limited() as disk:
        running = start(round_.job, round_.folder, round_.mark)
        _wait_for_moment(running, round_)
        struck, missed = time.monotonic(), running.process.poll() is not None
        disk.fill(spare)
        at = struck - running.started
        outcome = ended(running, round_, f"a full disk after {at:.1f} s, with {spare} bytes to spare", struck)
        disk.free()
    return replace(outcome, missed=missed)


def read_only_disk(round_: Round) -> Outcome:
    """Let the disk become read-only at any moment."""
    running = start(round_.job, round_.folder, round_.mark)
    _wait_for_moment(running, round_)
    struck, missed = time.monotonic(), running.process.poll() is not None
    with Disk(round_.state).read_only():
        outcome = ended(running, round_, f"a read-only disk after {struck - running.started:.1f} s", struck)
    return replace(outcome, missed=missed)


def clock_jumps(round_: Round) -> Outcome:
    """Let the time of day jump by up to a day, forwards or backwards, for all libraries, while the command runs."""
    jump = round_.generator.uniform(-86_400, 86_400)
    clock = round_.folder / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(clock_library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # As in reality, the clocks that measure intervals never jump, and the times of files do not change.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    running = start(round_.job, round_.folder, round_.mark, environment)
    _wait_for_moment(running, round_)
    struck, missed = time.monotonic(), running.process.poll() is not None
    # Renamed, so that no process reads half of it.
    (round_.folder / "clock.part").write_text(f"{jump:+.0f}")
    (round_.folder / "clock.part").replace(clock)
    what = f"the clock jumps by {jump:.0f} s after {struck - running.started:.1f} s"
    return replace(ended(running, round_, what, struck), missed=missed)


def clock_library() -> Path | None:
    """The path of the library libfaketime, or None if the package of this name is not installed."""
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.rglob("libfaketime.so.1"), None)


def slow_disk(round_: Round) -> Outcome:
    """Use a disk that takes up to two seconds to write a file, and kill one process meanwhile."""
    delay = round_.generator.uniform(0.2, 2)
    path = os.pathsep.join([str(PYTHON), str(ROOT)])
    environment = {"PYTHONPATH": path, "FAULT_SLOW": f"{delay:.2f}"}
    running = start(round_.job, round_.folder, round_.mark, environment)
    _wait_for_moment(running, round_)
    struck = time.monotonic()
    killed = running.workers()[:1] or running.pids()[:1]
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    outcome = ended(running, round_, f"a disk that takes {delay:.1f} s, and SIGKILL", struck)
    return replace(outcome, missed=not killed)


def _wait_for_moment(running: Running, round_: Round) -> None:
    """Wait for a random moment of the run or, every second time, of its part after the first state that the job has
    written.

    A short run consists mostly of the start of its processes, in which there is little to lose.
    """
    began, share = time.monotonic(), round_.generator.uniform(0, 1)
    writes = round_.generator.random() < 0.5
    if writes:
        while not any(round_.folder.glob(round_.job.sign)) and time.monotonic() < began + round_.seconds:
            if running.process.poll() is not None:
                return
            time.sleep(0.02)
    moment = time.monotonic() + share * round_.seconds * (0.3 if writes else 1.0)
    while time.monotonic() < moment and running.process.poll() is None:
        time.sleep(0.02)


def ended(running: Running, round_: Round, what: str, struck: float, limit: float | None = None) -> Outcome:
    """Wait for the end of the command, after which none of its processes may be left."""
    limit = round_.limit if limit is None else limit
    status = running.wait(limit)
    seconds = time.monotonic() - struck
    wrong = ""
    if status is None:
        states = ", ".join(f"{running.role(pid)} {state(pid)}" for pid in running.pids())
        wrong = f"has not ended within {limit:.0f} s ({states})"
    elif left := running.left_over():
        wrong = f"left behind {', '.join(running.role(pid) for pid in left)}"
    running.end()
    return Outcome(f"{what}: status {status}", seconds, wrong, status)


def is_free(round_: Round, seconds: float = 5.0) -> bool:
    """Whether the lock on the folder of a job is released within a few seconds.

    When a process is killed, Linux frees its memory first, and only then closes its files, the lock among them.
    """
    deadline = time.monotonic() + seconds
    for path in round_.folder.glob(round_.job.lock) if round_.job.lock else ():
        while True:
            try:
                os.close(ownership.lock(path))
                break
            except ownership.Busy:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.1)
    return True
