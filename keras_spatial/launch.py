"""Start a program in several processes of this machine: `python -m keras_spatial.launch --processes 4 train.py ...`.

Each process finds the others through `TF_CONFIG`, which `ks.initialize()` reads, as under a Kubernetes operator.
Its output comes with its number in front. When one fails, the others are ended, and the launcher exits with its status.
"""

import argparse
import json
import os
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
from typing import IO

_TERMINATE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LAST_LINES = 30


@dataclass
class Child:
    """One process and the last lines that it wrote."""

    rank: int
    process: subprocess.Popen
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    reader: threading.Thread | None = None


def launch(command: Sequence[str], processes: int, output: IO[str] | None = None) -> int:
    """Run a command in several processes that know of each other, until all have ended.

    Args:
        command: a program and its arguments.
        processes: how many.
        output: where their lines go, standard output by default.

    Returns:
        0 if all succeeded, else the exit status of the first that failed (128 + signal number for a signal).

    Raises:
        ValueError: if `processes` is not a positive integer or the command is empty.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1. Received: {processes!r}")
    if not command:
        raise ValueError(f"A program is missing. Received: {list(command)!r}")
    screen: IO[str] = sys.stdout if output is None else output
    lock = threading.Lock()
    addresses = [f"127.0.0.1:{port}" for port in free_ports(processes)]
    children: list[Child] = []
    try:
        for rank in range(processes):
            children.append(_start(command, rank, addresses, screen, lock))
        failed = _wait(children)
    except BaseException:
        _end(children)
        raise
    if failed is None:
        _finish_reading(children)
        return 0
    _end(children)
    status = failed.process.returncode
    reason = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    with lock:
        print(f"[launch] Process {failed.rank} {reason}; the others were ended. Its last lines:", file=screen)
        for line in failed.lines:
            print(f"[launch]   {line}", file=screen)
        screen.flush()
    return 128 - status if status < 0 else status


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


def _start(command: Sequence[str], rank: int, addresses: list[str], output: IO[str], lock: threading.Lock) -> Child:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ, "TF_CONFIG": json.dumps(config), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        list(command),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ended together with what it started itself.
    )
    child = Child(rank, process)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            child.lines.append(line.rstrip("\n"))
            with lock:
                print(f"[{rank}] {child.lines[-1]}", file=output, flush=True)

    child.reader = threading.Thread(target=read, daemon=True)
    child.reader.start()
    return child


def _wait(children: Sequence[Child]) -> Child | None:
    """Wait until all have succeeded, or one has failed: the one killed by a signal, where several fail at once."""
    while True:
        codes = [child.process.poll() for child in children]
        failed = [child for child, code in zip(children, codes, strict=True) if code not in (None, 0)]
        if failed:
            return min(failed, key=lambda child: child.process.returncode)
        if all(code == 0 for code in codes):
            return None
        time.sleep(_POLL_SECONDS)


def _end(children: Sequence[Child]) -> None:
    _signal(children, signal.SIGTERM)
    deadline = time.monotonic() + _TERMINATE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
    _signal(children, signal.SIGKILL)
    for child in children:
        child.process.wait()
    _finish_reading(children)


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        if child.process.poll() is None:
            try:
                os.killpg(child.process.pid, number)
            except ProcessLookupError:
                continue


def _finish_reading(children: Sequence[Child]) -> None:
    for child in children:
        if child.reader is not None:
            child.reader.join(timeout=5.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m keras_spatial.launch", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="how many processes to start")
    parser.add_argument("-m", "--module", action="store_true", help="the program is a module, as in python -m")
    parser.add_argument("program", help="a Python file, or a module with -m")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's arguments")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes must be at least 1. Received: {options.processes}")
    if not options.module and not Path(options.program).is_file():
        parser.error(f"There is no file {options.program!r}.")
    program = ["-m", options.program] if options.module else [options.program]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return launch([sys.executable, *program, *options.arguments], options.processes)


if __name__ == "__main__":
    sys.exit(main())
