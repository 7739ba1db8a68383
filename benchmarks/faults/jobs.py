"""The commands under attack, the processes that they leave behind, and the comparison of their results."""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ROUND_VARIABLE = "KERAS_SPATIAL_FAULT_ROUND"
SMALL = (
    *("resolution=16", "filters=2", "levels=2", "epochs=4", "phantoms=3", "phantom_size=16"),
    *("processes=2", "mesh=rows:2", "layout=x:rows"),
)

Result = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """A command that can be started again in the same folder.

    Attributes:
        name: the name of the job in the table.
        command: a function that returns the command's arguments for the folder of a round.
        result: a function that reads the result of the command from the folder of a round.
        folder: the folder for the state that the job keeps, inside the folder of the round.
        sign: a pattern of the files that the job writes first, relative to the folder of the round.
        lock: a pattern of the files that the job locks while it runs, relative to the folder of the round.
        whole: a function that reads the parts of the result that exist, which must be complete at any time.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    result: Callable[[Path], Result]
    folder: str
    sign: str
    lock: str = ""
    whole: Callable[[Path], Result] = lambda folder: {}


def _weights(path: Path) -> Result:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _model_weights(path: Path) -> Result:
    found: Result = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def training(*arguments: str, processes: int = 2) -> Job:
    """The launcher with a small training that backs up each of its steps."""

    def command(folder: Path) -> list[str]:
        start = [sys.executable, "-m", "keras_spatial.launch", "--processes", str(processes), str(HERE / "train.py")]
        return [*start, "--folder", str(folder), *arguments]

    return Job(
        "training",
        command,
        lambda folder: _weights(folder / "result.npz"),
        folder="backup",
        sign="backup/backup.npz",
        lock="backup/.backup.lock",
    )


def pipeline() -> Job:
    """The whole pipeline, from phantoms to a report, with a training of two processes."""

    def command(folder: Path) -> list[str]:
        options = [part for setting in SMALL for part in ("--set", setting)]
        start = [sys.executable, "-m", "pipelines", "run", "lits_segmentation"]
        return [*start, "--run-dir", str(folder / "run"), *options]

    def result(folder: Path) -> Result:
        metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
        dice = {f"dice {name}": np.array(value) for name, value in metrics["dice"].items()}
        return dice | _model_weights(folder / "run" / "model.keras")

    return Job("pipeline", command, result, folder="run", sign="run/scratch/**/backup.npz", lock="run/.lock")


@dataclass
class Running:
    """A started command and all processes that it has started, which are marked in their environment."""

    process: subprocess.Popen
    mark: str
    log: Path
    started: float = field(default_factory=time.monotonic)

    def pids(self) -> list[int]:
        """All processes of the command that are alive, including the first one."""
        return marked(self.mark)

    def workers(self) -> list[int]:
        """Those of `pids` that the launcher has started and that compute together."""
        return [pid for pid in self.pids() if b"TF_CONFIG=" in _read(pid, "environ")]

    def role(self, pid: int) -> str:
        if pid == self.process.pid:
            return "the command"
        if b"TF_CONFIG=" in _read(pid, "environ"):
            return "a worker"
        return "a shell" if _read(pid, "cmdline").startswith(b"sh\0") else "a step"

    def wait(self, seconds: float) -> int | None:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def left_over(self, seconds: float = 5.0) -> list[int]:
        """The processes that are still alive some seconds after the end of the command."""
        deadline = time.monotonic() + seconds
        while (found := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """End all processes that are left, so that a failed round does not disturb the next one."""
        end_marked(self.mark)
        self.process.wait()


def marked(mark: str) -> list[int]:
    """The processes with a mark in their environment that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            has_it = f"{ROUND_VARIABLE}={mark}".encode() in _read(int(entry.name), "environ").split(b"\0")
            if has_it and state(int(entry.name)) not in ("Z", "X", ""):
                found.append(int(entry.name))
    return sorted(found)


def end_marked(mark: str) -> None:
    """End the processes with a mark.

    A process does not end at once when a signal is sent, and processes that start meanwhile are not in the list, so
    killing is repeated until none is left.
    """
    while found := marked(mark):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def start(
    job: Job,
    folder: Path,
    mark: str,
    environment: Mapping[str, str] | None = None,
    file_bytes: int = resource.RLIM_INFINITY,
) -> Running:
    """Start a job's command in a folder, as a terminal would: with signals that have their usual effect.

    Args:
        job: the job.
        folder: the folder of the round.
        mark: the text that marks the processes of the round.
        environment: further variables of its environment.
        file_bytes: the largest size of a file that it can write.
    """

    def prepare() -> None:
        # The study itself may run under nohup, which would let the command ignore SIGHUP too.
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    values = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        ROUND_VARIABLE: mark,
        **(environment or {}),
    }
    log = folder / "log"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            job.command(folder), cwd=ROOT, env=values, stdout=output, stderr=subprocess.STDOUT, preexec_fn=prepare
        )
    return Running(process, mark, log)


def program(pid: int) -> str:
    """The program that a process runs, as it was called; empty if there is no such process."""
    return _read(pid, "cmdline").split(b"\0")[0].decode(errors="replace")


def state(pid: int) -> str:
    """The state of a process as in /proc; empty if there is no such process."""
    text = _read(pid, "stat").decode(errors="replace")
    return text.rpartition(")")[2].split()[0] if text else ""


def difference(found: Result, expected: Result) -> float:
    """The largest absolute difference; infinite if something is missing or of another shape."""
    if found.keys() != expected.keys() or any(found[name].shape != value.shape for name, value in expected.items()):
        return float("inf")
    return max(float(np.abs(found[name] - value).max()) for name, value in expected.items())


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
