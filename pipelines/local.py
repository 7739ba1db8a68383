"""Run a pipeline in the current environment with KFP's local runner, in one folder from which it can be resumed."""

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
    """A signal has ended the run.

    It is not an `Exception`, because what handles the failure of a step must not handle it.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Step:
    """A finished step in the journal of a run.

    Attributes:
        name: the name of the step.
        seconds: the time that the step took in the run in which it was computed.
        reused: whether its results come from an earlier run.
        outputs: the path and the metadata of each output, by the name of the output.
    """

    name: str
    seconds: float
    reused: bool
    outputs: Mapping[str, Mapping[str, Any]]

    def path(self, output: str) -> Path:
        """The path of an output."""
        return Path(self.outputs[output]["path"])


def check_folder(run_dir: str | Path) -> Path:
    """Make the folder of a run, and make sure that it can be written.

    Raises:
        RunFolderError: if this user may not write there, it is not a folder, or less than 1 GB is free.
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
    """Run a pipeline. Steps that an earlier run in the same folder has finished with the same inputs are not run again.

    However the run ends, its steps end with it.

    Args:
        pipeline: the pipeline, as `pipelines.lits_segmentation.lits_segmentation` makes it.
        run_dir: the folder of the run. It gets `artifacts/` (KFP's outputs), `steps/` (records of finished steps),
            `log.txt`, `seconds.json` and `settings.yaml`.
        settings: the text of `settings.yaml`.
        verbose: whether the standard output shows every line of `log.txt` instead of only the progress of the steps.

    Returns:
        The steps in the order in which they finished.

    Raises:
        RunFolderError: if the folder cannot be used, or another run is using it. Nothing in it is changed then.
        StepFailed: if a step fails. The results of finished steps are kept.
        Ended: if SIGTERM, SIGHUP or SIGINT ends the run. Its steps have ended by then, and the results of finished
            steps are kept.
    """
    # Both take seconds to import, and messages about an argument or a folder do not need them.
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
            # A step inside a loop has run several times, and counts with all of them.
            seconds[step.name] = round(seconds.get(step.name, 0.0) + step.seconds, 1)
        write_json(folder / "seconds.json", {**seconds, "this_run": round(time.monotonic() - started, 1)})
    return done


def read_journal(steps: Path) -> list[Step]:
    """The steps of the latest run, in the order in which they finished."""
    kinds = {"step": str, "seconds": (int, float), "reused": bool, "outputs": dict}
    return [
        Step(*(entry[name] for name in kinds))
        for entry in read_jsons(steps / JOURNAL)
        if all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
    ]


@contextmanager
def _exclusive(folder: Path) -> Iterator[Callable[[], None]]:
    """Own a folder inside a `with` block, which gets a function that ends the steps of this run.

    Raises:
        RunFolderError: if another run owns the folder, or it cannot be locked.
    """
    with ExitStack() as stack:
        try:
            end_steps = stack.enter_context(owner.own(folder / LOCK))
        except owner.FolderInUse as error:
            raise RunFolderError(
                f"{folder}: another run is using this folder ({error}). Wait until it ends, or choose another "
                "--run-dir."
            ) from None
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be locked ({error}).") from error
        yield end_steps


@contextmanager
def _ended_by_signals(end_steps: Callable[[], None]) -> Iterator[None]:
    """End the steps when a signal ends the run, because KFP would wait for them."""

    def end(number: int, _: Any) -> None:
        end_steps()
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can handle signals.
        yield
        return
    handled = [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, end) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            # None stands for a handler that was not set from Python, so Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _environment(steps: Path) -> Iterator[None]:
    """Set the environment variables that the processes of the steps inherit."""
    values = {
        STEPS_VARIABLE: str(steps),
        SCRATCH_VARIABLE: str(steps.parent / "scratch"),
        "PYTHONPATH": os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p),
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
        # TensorFlow's notices go into the log rather than to the terminal, so none is suppressed.
        **pure.load("_environment").for_children(os.environ, log_level="0"),
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        with warnings.catch_warnings():
            # KFP warns about images and resources of steps, which local runs do not use,
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            # and about files that it imports and leaves at their URL, from where the steps download them.
            warnings.filterwarnings("ignore", message="It looks like you're using the remote file")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
