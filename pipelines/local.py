"""Running a pipeline in the current environment with KFP's local runner, into one folder that can be resumed."""

import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components import owner, pure
from components.files import read_jsons, write_json, write_text
from components.resume import JOURNAL, SCRATCH_VARIABLE, STEPS_VARIABLE

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

ROOT = Path(__file__).resolve().parent.parent
LOG = "log.txt"
LOCK = ".lock"
SETTINGS = "settings.yaml"
_LEAST_FREE = 1 << 30


class RunFolderError(ValueError):
    """The folder of a run cannot be used."""


class StepFailed(RuntimeError):
    """A step of a pipeline failed; the message names the step, its error and how to resume."""


class Ended(BaseException):
    """A signal has ended the run. No `Exception`: nothing that a step's failure leads to may follow.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Step:
    """A finished step, as the journal of a run has it.

    Attributes:
        name: the name of the step.
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


def run(pipeline: "BaseComponent", run_dir: str | Path, settings: str = "", *, verbose: bool = False) -> list[Step]:
    """Run a pipeline; steps that an earlier run in the same folder finished with the same inputs are not run again.

    A step does not outlive the run, however that ends.

    Args:
        pipeline: the pipeline, as `pipelines.lits_segmentation.lits_segmentation` makes it.
        run_dir: the folder of the run. It gets `artifacts/` (KFP's outputs), `steps/` (records of finished steps),
            `log.txt`, `seconds.json` and `settings.yaml`.
        settings: the text of `settings.yaml`.
        verbose: whether the standard output gets every line of `log.txt`, and not only what a person follows.

    Returns:
        The steps in the order in which they finished.

    Raises:
        RunFolderError: if the folder cannot be used, or another run is using it; nothing in it has been changed then.
        StepFailed: if a step fails; results of the finished ones are kept.
        Ended: if SIGTERM, SIGHUP or SIGINT ends the run; its steps have ended then, and results are kept as well.
    """
    # Both take long to import, which a message about an argument or a folder does without.
    from kfp import local

    from pipelines.console import logged

    folder = check_folder(run_dir)
    steps = folder / "steps"
    with (
        _exclusive(folder) as end_steps,
        _ended_by_signals(end_steps),
        _environment(steps),
        logged(folder / LOG, verbose=verbose) as log,
    ):
        steps.mkdir(exist_ok=True)
        if settings:
            write_text(folder / SETTINGS, settings)
        (steps / JOURNAL).unlink(missing_ok=True)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
        started = time.monotonic()
        try:
            pipeline()
        except Exception as error:
            finished = ", ".join(step.name for step in read_journal(steps)) or "none"
            raise StepFailed(
                f"{click.unstyle(str(error))}\n{log.error()}\nThe results of the finished steps are kept: {finished}. "
                f"The whole log is {folder / LOG}. The same command resumes after these steps."
            ) from None
        done = read_journal(steps)
        seconds: dict[str, float] = {}
        for step in done:
            # A step inside a loop counts with all its turns.
            seconds[step.name] = round(seconds.get(step.name, 0.0) + step.seconds, 1)
        write_json(folder / "seconds.json", {**seconds, "this_run": round(time.monotonic() - started, 1)})
    return done


def read_journal(steps: Path) -> list[Step]:
    """The steps of the latest run, in the order in which they finished."""
    names = ("step", "seconds", "reused", "outputs")
    entries = [entry for entry in read_jsons(steps / JOURNAL) if all(name in entry for name in names)]
    return [Step(*(entry[name] for name in names)) for entry in entries]


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
        "TQDM_DISABLE": "1",
        **pure.load("_environment").for_children(os.environ, log_level="0"),  # For the log.
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        with warnings.catch_warnings():
            # KFP warns of each step's image, which local runs do not use, and of resource settings.
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            # And that it leaves what it imports at its URL, from where our steps bring it.
            warnings.filterwarnings("ignore", message="It looks like you're using the remote file")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
