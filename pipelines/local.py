"""Running a pipeline in the current environment with KFP's local runner, into one folder that can be resumed."""

import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kfp import local
from kfp.dsl.base_component import BaseComponent

from components import owner
from components.files import read_jsons, write_json, write_text
from components.resume import JOURNAL, SCRATCH_VARIABLE, STEPS_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
LOG = "log.txt"
LOCK = ".lock"
SETTINGS = "settings.yaml"
_LEAST_FREE = 1 << 30
_ERROR = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|UnsupportedLayer|Exhausted)): ")

_FAILED = re.compile(r"Task .*finished with status.*FAILURE")
_REMEMBERED = 2000

# What a user follows on the terminal: the begin and end of steps, and the steps' own progress. The rest is in the log.
_PROGRESS = re.compile(
    r"^\s*(?:[\d:.]+ - (?:INFO|WARNING|ERROR) - .*(?:Executing|finished with status)"
    r"|(?:\[\d+\] )?[a-z_]+: (?!\w+\( name=)\S)"
)


class RunFolderError(ValueError):
    """The folder of a run cannot be used."""


class StepFailed(RuntimeError):
    """A step of a pipeline failed; the message names the step, its error and how to resume."""


class Ended(BaseException):
    """A signal has ended the run. No `Exception`: nothing that a step's failure leads to may follow.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Step:
    """A finished step, as the journal of a run has it.

    Attributes:
        name: of the step.
        seconds: its own time, in the run in which it was computed.
        reused: whether its results come from an earlier run.
        outputs: by name: path and metadata.
    """

    name: str
    seconds: float
    reused: bool
    outputs: Mapping[str, Mapping[str, Any]]

    def path(self, output: str) -> Path:
        return Path(self.outputs[output]["path"])


def check_folder(run_dir: str | Path) -> Path:
    """Make the folder of a run and make sure that it can be written.

    Raises:
        RunFolderError: no rights, not a folder, or less than 1 GB free.
    """
    folder = Path(run_dir).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written ({error}). Choose another --run-dir.") from error
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        raise RunFolderError(
            f"{folder}: expected at least 1 GB free. Received: {free / 1e9:.2f} GB. Choose another --run-dir."
        )
    return folder


def run(pipeline: BaseComponent, run_dir: str | Path, settings: str = "") -> list[Step]:
    """Run a pipeline; steps that an earlier run in the same folder finished with the same inputs are not run again.

    A step does not outlive the run, however that ends.

    Args:
        pipeline: as `pipelines.lits_segmentation.lits_segmentation` makes it.
        run_dir: gets `artifacts/` (KFP's outputs), `steps/` (records of finished steps), `log.txt`, `seconds.json` and
            `settings.yaml`.
        settings: what `settings.yaml` says of this run.

    Returns:
        The steps in the order in which they finished.

    Raises:
        RunFolderError: if the folder cannot be used, or another run is using it; nothing in it has been changed then.
        StepFailed: if a step fails; results of the finished ones are kept.
        Ended: if SIGTERM, SIGHUP or SIGINT ends the run; its steps have ended then, and results are kept as well.
    """
    folder = check_folder(run_dir)
    steps = folder / "steps"
    with (
        _exclusive(folder) as end_steps,
        _ended_by_signals(end_steps),
        _environment(steps),
        _logged(folder / LOG) as log,
    ):
        steps.mkdir(exist_ok=True)
        if settings:
            write_text(folder / SETTINGS, settings)
        (steps / JOURNAL).unlink(missing_ok=True)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
        started = time.time()
        try:
            pipeline()
        except Exception as error:
            finished = ", ".join(step.name for step in read_journal(steps)) or "none"
            raise StepFailed(
                f"{error}\n{log.error()}\nFinished steps, kept: {finished}. The whole log: {folder / LOG}. "
                f"The same command resumes after them."
            ) from None
        done = read_journal(steps)
        seconds: dict[str, float] = {}
        for step in done:
            # A step inside a loop counts with all its turns.
            seconds[step.name] = round(seconds.get(step.name, 0.0) + step.seconds, 1)
        write_json(folder / "seconds.json", {**seconds, "this_run": round(time.time() - started, 1)})
    return done


def read_journal(steps: Path) -> list[Step]:
    """The steps of the latest run, in the order in which they finished."""
    return [Step(e["step"], e["seconds"], e["reused"], e["outputs"]) for e in read_jsons(steps / JOURNAL)]


@contextmanager
def _exclusive(folder: Path) -> Iterator[Callable[[], None]]:
    """Own a folder. Yields what ends the steps of this run."""
    with ExitStack() as stack:
        try:
            end_steps = stack.enter_context(owner.own(folder / LOCK))
        except owner.FolderInUse as error:
            raise RunFolderError(
                f"{folder}: another run is using this folder ({error}). Wait for its end, or choose another --run-dir."
            ) from None
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be locked ({error}).") from error
        yield end_steps


@contextmanager
def _ended_by_signals(end_steps: Callable[[], None]) -> Iterator[None]:
    """Take the steps along when a signal ends the run: KFP would wait for them."""

    def end(number: int, _: Any) -> None:
        end_steps()
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread gets signals.
        return
    handled = [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, end) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            # None stands for a handler that Python did not set, and cannot.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _environment(steps: Path) -> Iterator[None]:
    """What the steps' processes inherit."""
    values = {
        STEPS_VARIABLE: str(steps),
        SCRATCH_VARIABLE: str(steps.parent / "scratch"),
        "PYTHONPATH": os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p),
        "PYTHONUNBUFFERED": "1",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "TQDM_DISABLE": "1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        with warnings.catch_warnings():
            # KFP warns of each step's image, which local runs do not use, and of resource settings.
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Tee:
    """A standard output whose every line goes to a file, and progress to the terminal; remembers its last lines."""

    def __init__(self, stream: TextIO, file: TextIO):
        self._stream, self._file = stream, file
        self._lines: list[str] = [""]

    def write(self, text: str) -> int:
        self._file.write(text)
        self._file.flush()
        first, *rest = text.split("\n")
        self._lines[-1] += first
        self._lines += rest
        for line in self._lines[len(self._lines) - len(rest) - 1 : -1]:
            if _PROGRESS.match(line):
                self._stream.write(line.strip() + "\n")
        self._stream.flush()
        del self._lines[:-_REMEMBERED]
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def error(self) -> str:
        """The last error that the failed step printed, with its further lines; without one, the step's last lines."""
        lines = self._of_failed_step()
        starts = [i for i, line in enumerate(lines) if _ERROR.match(line)]
        if not starts:
            return "\n".join(line.strip() for line in lines[-15:] if line.strip())
        found = []
        for line in lines[starts[-1] : starts[-1] + 40]:
            if not line.strip():
                break
            found.append(line.strip())
        return "\n".join(found)

    def _of_failed_step(self) -> list[str]:
        """The lines of the first step that failed: after it only the exit handler runs."""
        ends = [i for i, line in enumerate(self._lines) if _FAILED.search(line)]
        end = ends[0] if ends else len(self._lines)
        begins = [i for i, line in enumerate(self._lines[:end]) if "Executing task" in line]
        return self._lines[begins[-1] + 1 if begins else 0 : end]


@contextmanager
def _logged(path: Path) -> Iterator[_Tee]:
    with path.open("a", encoding="utf-8") as file:
        stdout = sys.stdout
        tee = _Tee(stdout, file)
        sys.stdout = tee  # type: ignore[assignment]
        try:
            yield tee
        finally:
            sys.stdout = stdout
