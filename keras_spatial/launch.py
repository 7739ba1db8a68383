"""Start a program in several processes of this machine: `python -m keras_spatial.launch --processes 4 train.py ...`.

Each process finds the others through `TF_CONFIG`, which `ks.initialize()` reads, as under a Kubernetes operator. Every
line of its output is prefixed with its number, and comes without TensorFlow's notices unless TF_CPP_MIN_LOG_LEVEL=0.
When a process fails, the others are ended, and all are started again,
up to `--max-restarts` times; then the launcher exits with the status of the process that failed. No process outlives
the launcher, however the launcher ends. The processes have a network of their own, which is cut off from all other
machines; `--network shared` gives them the network of this machine.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from keras_spatial import _environment, isolation, ownership

FROZEN_SECONDS = 15.0
"""How long, in seconds, a process may stay stopped, as by SIGSTOP."""

_TERMINATE_SECONDS = 10.0
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LAST_LINES = 30
# What programs write to colour a terminal or to rewrite a line, which makes no sense behind a process's number.
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x08")


class UnkillableError(RuntimeError):
    """A process does not end even after SIGKILL: it is waiting inside the kernel for a disk or a device."""


class _Ended(BaseException):
    """A signal has ended the launcher. It is no `Exception`, so that it is not handled as the failure of a process."""

    def __init__(self, number: int):
        super().__init__(f"Ended by {signal.Signals(number).name}; the processes were ended, too.")
        self.status = 128 + number


class OutputError(RuntimeError):
    """The output of the processes cannot be written: the disk is full, or a pipe is closed."""


@dataclass
class Child:
    """One process and the last lines that it wrote."""

    rank: int
    process: subprocess.Popen
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    reader: threading.Thread | None = None
    unwritable: Exception | None = None
    stopped_seconds: float = 0.0

    def has_ended(self) -> bool:
        """Whether the process has ended. If so, the processes that it started in its session are ended too."""
        if self.process.returncode is None:
            # Until the process is reaped, no other process group can get its number.
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self.signal_group(signal.SIGKILL)
            self.process.wait()
        return True

    def signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def is_stopped(self) -> bool:
        """Whether the process is stopped, as by SIGSTOP, and not by a debugger."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return text.rpartition(")")[2].split()[0] == "T"


@dataclass(frozen=True)
class _Failure:
    child: Child
    status: int
    reason: str


class _Screen:
    """The output stream of the launcher, to which one thread at a time writes whole lines."""

    def __init__(self, stream: IO[str]):
        self._stream, self._lock = stream, threading.Lock()

    def write(self, *lines: str) -> None:
        with self._lock:
            for line in lines:
                # A terminal may not be able to show every character; a process must not block because of that.
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                print(line.encode(encoding, "backslashreplace").decode(encoding), file=self._stream)
            self._stream.flush()

    def say(self, *lines: str) -> None:
        """Write the launcher's own lines."""
        try:
            self.write(*(f"[launch] {line}" for line in lines))
        except (OSError, ValueError) as error:
            raise _unwritable(error) from error


@dataclass(frozen=True)
class _Job:
    """What stays the same when the processes are started again."""

    command: Sequence[str]
    processes: int
    network: str
    namespaces: tuple[int, ...]
    pass_fds: tuple[int, ...]
    frozen_seconds: float
    screen: _Screen


def launch(
    command: Sequence[str],
    processes: int,
    output: IO[str] | None = None,
    *,
    max_restarts: int = 0,
    frozen_seconds: float = FROZEN_SECONDS,
    network: str | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Run a command in several processes that know each other, until all have ended.

    When one process fails, or when this process ends in any way, all of them are ended.

    Args:
        command: a program and its arguments.
        processes: the number of processes.
        output: the stream that gets their lines, standard output by default.
        max_restarts: how often all processes are started again after one has failed. A training with `ks.Backup` then
            resumes from its last backup.
        frozen_seconds: a process that has been stopped (by SIGSTOP) for this many seconds counts as failed; 0 means
            that it never does. Then only the timeout of `ks.initialize` ends the job, if other processes are waiting
            for a message of the stopped one; TensorFlow's heartbeats do not.
        network: "isolated" for a network of their own, which no other machine can reach, or "shared" for the network of
            this machine, on which everybody who can reach their ports can do whatever this user can. The default is the
            environment variable `KERAS_SPATIAL_NETWORK`, or else "isolated". A single process needs no ports and
            always gets the network of the machine.
        pass_fds: file descriptors that the processes inherit, such as a lock that must last as long as they do.

    Returns:
        0 if all succeeded; otherwise the exit status of the first process that failed in the last attempt (128 + signal
        number if a signal ended it; 128 + SIGSTOP if it stayed stopped).

    Raises:
        ValueError: if `processes` is not a positive integer, `max_restarts` is negative or the command is empty.
        IsolationError: if this machine does not let this user make a network.
        OutputError: if the output cannot be written; all processes have been ended.
        UnkillableError: if a process does not end even after SIGKILL; none is started again.

    Example:

    ```python
    import sys

    from keras_spatial.launch import launch

    launch([sys.executable, "train.py"], processes=4, max_restarts=3)
    ```
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1. Received: {processes!r}")
    if max_restarts < 0:
        raise ValueError(f"max_restarts must be at least 0. Received: {max_restarts!r}")
    if not command:
        raise ValueError(f"Expected a program to start. Received: {list(command)!r}")
    screen = _Screen(sys.stdout if output is None else output)
    with contextlib.ExitStack() as stack:
        namespaces: tuple[int, ...] = ()
        network = isolation.choice(network)
        if processes > 1 and network == isolation.ISOLATED:
            namespaces = stack.enter_context(isolation.own_network())
        elif processes > 1:
            screen.say(f"Warning: TensorFlow's server in each process {isolation.OPEN_PORT}")
        job = _Job(command, processes, network, namespaces, tuple(pass_fds), frozen_seconds, screen)
        restart = 0
        while (failure := _run(job, restart)) is not None:
            child = failure.child
            screen.say(f"Process {child.rank} {failure.reason}; the others were ended. Its last lines of output:")
            screen.say(*(f"  {line}" for line in child.lines))
            if restart == max_restarts:
                return failure.status
            restart += 1
            screen.say(f"Starting all {processes} processes again: restart {restart} of {max_restarts}.")
    return 0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on at the moment."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _run(job: _Job, restart: int) -> _Failure | None:
    """Start all processes once and wait for them. None is left when this returns or raises."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(job.processes)]
    children: list[Child] = []
    owned: list[int] = []
    try:
        for rank in range(job.processes):
            lifeline, held = ownership.lifeline()
            owned.append(held)
            try:
                children.append(_start(job, rank, _for_process(job, rank, addresses, restart), lifeline))
            finally:
                os.close(lifeline)
        return _wait(children, job.frozen_seconds)
    finally:
        try:
            _end(children)
        finally:
            for held in owned:  # Whatever has happened, Linux now ends the rest of their sessions.
                ownership.cut(held)


def _for_process(job: _Job, rank: int, addresses: Sequence[str], restart: int) -> dict[str, str]:
    config = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}}
    return {
        **os.environ,
        **_environment.for_children(os.environ),
        "TF_CONFIG": json.dumps(config),
        "PYTHONUNBUFFERED": "1",
        isolation.NETWORK_VARIABLE: job.network,
        _environment.RESTARTS_VARIABLE: str(restart),
        _environment.LAUNCHER_VARIABLE: str(os.getpid()),
    }


def _start(job: _Job, rank: int, environment: dict[str, str], lifeline: int) -> Child:
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", str(isolation.OWNERSHIP), "run"),
            *(str(lifeline), ",".join(map(str, job.namespaces))),
            *job.command,
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lifeline, *job.namespaces, *job.pass_fds),
        start_new_session=True,  # A session, so that it ends with the processes that it starts.
    )
    child = Child(rank, process)

    shows_notices = _environment.wants_notices(environment)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not shows_notices and _environment.is_notice(line):
                continue
            child.lines.append(_CODES.sub("", line.rstrip("\n")))
            if child.unwritable is not None:
                continue  # Keep reading: a process must not block because nobody reads its output.
            try:
                job.screen.write(f"[{rank}] {child.lines[-1]}")
            except (OSError, ValueError) as error:  # A closed stream raises ValueError.
                child.unwritable = error

    child.reader = threading.Thread(target=read, daemon=True)
    child.reader.start()
    return child


def _wait(children: Sequence[Child], frozen_seconds: float) -> _Failure | None:
    """Wait until all have succeeded or one has failed. If several fail at once, one killed by a signal is reported."""
    while True:
        ended = [child for child in children if child.has_ended()]
        failed = [child for child in ended if child.process.returncode]
        if failed:
            return _ended(min(failed, key=lambda child: child.process.returncode))
        if len(ended) == len(children):
            _finish_reading(children)
        for child in children:
            if child.unwritable is not None:
                raise _unwritable(child.unwritable) from child.unwritable
        if len(ended) == len(children):
            return None
        for child in children:
            # Polls are counted, not time: if this process was stopped too, the others still get their full time.
            child.stopped_seconds = child.stopped_seconds + _POLL_SECONDS if child.is_stopped() else 0.0
            if 0 < frozen_seconds <= child.stopped_seconds:
                reason = f"was stopped (as by SIGSTOP) and did not continue for {frozen_seconds:g} s"
                return _Failure(child, 128 + signal.SIGSTOP, reason)
        time.sleep(_POLL_SECONDS)


def _unwritable(error: Exception) -> OutputError:
    return OutputError(f"The output of the processes cannot be written ({error}), so all of them were ended.")


def _ended(child: Child) -> _Failure:
    status = child.process.returncode
    if status < 0:
        return _Failure(child, 128 - status, f"was ended by {signal.Signals(-status).name}")
    return _Failure(child, status, f"ended with status {status}")


def _end(children: Sequence[Child]) -> None:
    running = [child for child in children if not child.has_ended()]
    for child in running:
        # A stopped process would receive SIGTERM only after it continues.
        child.signal_group(signal.SIGKILL if child.is_stopped() else signal.SIGTERM)
    deadline = time.monotonic() + _TERMINATE_SECONDS
    while not all(child.has_ended() for child in running) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for child in running:
        if not child.has_ended():
            child.signal_group(signal.SIGKILL)
    deadline = time.monotonic() + _KILL_SECONDS
    while stuck := [child for child in running if not child.has_ended()]:
        if time.monotonic() > deadline:
            numbers = ", ".join(f"{child.rank} (number {child.process.pid})" for child in stuck)
            raise UnkillableError(
                f"Expected every process to end within {_KILL_SECONDS:.0f} s of SIGKILL. Received: process {numbers}, "
                "which waits inside the kernel for a disk or a device that does not answer. Check that device, and "
                "dmesg; until it answers, the process keeps its memory and its device."
            )
        time.sleep(_POLL_SECONDS)
    _finish_reading(children)


def _finish_reading(children: Sequence[Child]) -> None:
    for child in children:
        if child.reader is not None:
            child.reader.join(timeout=5.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_spatial.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, required=True, help="The number of processes to start.")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        help="How often all processes are started again after one has failed. The default is 0.",
    )
    parser.add_argument(
        "--frozen-seconds",
        type=float,
        default=FROZEN_SECONDS,
        help="A process that is stopped for this many seconds counts as failed; 0 means that it never does: the "
        "others end the job only when they have waited for its messages for the timeout of ks.initialize. "
        f"The default is {FROZEN_SECONDS:g}.",
    )
    parser.add_argument(
        "--network",
        choices=(isolation.ISOLATED, isolation.SHARED),
        help="Whether the processes get a network of their own, or use that of this machine, with open ports. "
        f"The default is {isolation.ISOLATED}.",
    )
    parser.add_argument("-m", "--module", action="store_true", help="The program is a module, as in python -m.")
    parser.add_argument("program", help="A Python file, or a module with -m.")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="The arguments of the program.")
    options = parser.parse_args(arguments)
    for name, minimum in (("processes", 1), ("max_restarts", 0), ("frozen_seconds", 0)):
        if not getattr(options, name) >= minimum:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag} must be at least {minimum}. Received: {getattr(options, name)}")
    if not options.module and not Path(options.program).is_file():
        parser.error(f"There is no file {options.program!r}.")
    if not options.module and not os.access(options.program, os.R_OK):
        parser.error(f"The file {options.program!r} cannot be read by this user.")
    program = ["-m", options.program] if options.module else [options.program]
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup sets SIG_IGN, which must stay.
            signal.signal(number, _end_by)
    try:
        return launch(
            [sys.executable, *program, *options.arguments],
            options.processes,
            max_restarts=options.max_restarts,
            frozen_seconds=options.frozen_seconds,
            network=options.network,
        )
    except (isolation.IsolationError, ValueError) as error:
        print(f"[launch] {error}", file=sys.stderr)
        return 2
    except _Ended as ended:
        with contextlib.suppress(OSError):  # After SIGHUP the terminal is gone.
            print(f"[launch] {ended}", file=sys.stderr, flush=True)
        return ended.status
    except (OutputError, UnkillableError) as error:
        with contextlib.suppress(OSError):
            print(f"[launch] {error}", file=sys.stderr, flush=True)
        # At a normal exit Python would flush the output again, and fail again.
        os._exit(1)


def _end_by(number: int, _: FrameType | None) -> None:
    raise _Ended(number)


if __name__ == "__main__":
    sys.exit(main())
