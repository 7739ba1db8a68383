"""Find mistakes in the settings of a run before its first step, rather than hours later in the step that reads them.

`check_run` may import TensorFlow into the calling process; `check_apart` does not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from components import pure, storage
from components.files import write_text
from components.train.settings import LOSSES, TrainingSettings
from components.validate.settings import Settings, SettingsError

_MINUTES = 10
# How many characters of the output of a crashed check are shown.
_TAIL = 2000
# The files of the process that rehearses: its input, the fault that it has found, and its output.
_GIVEN, _FAULT, _PRINTED = "given.json", "fault", "printed"
_PHANTOM_LABELS = ("background", "liver", "lesion")


@dataclass(frozen=True)
class Facts:
    """What is known about the cases of a run before they are read.

    Attributes:
        labels: the names of the classes by number.
        channels: the number of channels of an image.
        cases: the number of cases.
    """

    labels: Sequence[str]
    channels: int
    cases: int


@dataclass(frozen=True)
class Rehearsal:
    """A training whose settings can only be checked by running the code that they name: the user's own code, or that of
    a network, loss or optimizer with options.

    Attributes:
        settings: the settings of the training.
        resolutions: the resolutions, in voxels along each axis, at which it trains; 0 if it depends on the cases.
        facts: what is known about the cases; None if nothing is.
    """

    settings: TrainingSettings
    resolutions: Sequence[int]
    facts: Facts | None


def check_run(pipeline: str, settings: Settings) -> None:
    """Check the settings of a run against its cases, make the network, loss and optimizer that they name, and plan a
    step on the mesh.

    Args:
        pipeline: the name of the pipeline, which decides which settings are read.
        settings: the settings of the run. If `data` is a URL, only the names of its files and `dataset.json` are read.

    Raises:
        SettingsError: if a setting is wrong; the message names it, its value and what was expected.
        VolumeError: if there are no cases in the folder.
        StorageError: if an object store refuses or cannot be reached.
    """
    needed = _needed(pipeline, settings)
    if needed is not None:
        _rehearse(needed)


def check_apart(pipeline: str, settings: Settings) -> None:
    """Do the same as `check_run`, but make network, loss and optimizer in a separate process.

    TensorFlow keeps a GPU's memory until its process ends, and the steps need that memory.

    Raises:
        SettingsError: as for `check_run`, or if that process crashes or does not end.
    """
    needed = _needed(pipeline, settings)
    if needed is None:
        return
    given = {
        "settings": needed.settings.model_dump(mode="json"),
        "resolutions": list(needed.resolutions),
        "facts": None if needed.facts is None else asdict(needed.facts),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / _GIVEN).write_text(json.dumps(given), encoding="utf-8")
        try:
            status = _rehearse_apart(folder)
        except subprocess.TimeoutExpired:
            raise SettingsError(
                f"network: expected {needed.settings.network} to be made and planned within {_MINUTES} minutes. "
                "Received: it had not ended by then"
            ) from None
        # The user's code may print anything, and end the process with any status.
        if status or not (folder / _FAULT).exists():
            raise SettingsError(
                f"network: expected {needed.settings.network} to be made without a crash. Received: status {status}, "
                f"after\n{_last(folder / _PRINTED)}"
            )
        fault = (folder / _FAULT).read_text(encoding="utf-8")
    if fault:
        raise SettingsError(fault)


def _rehearse_apart(folder: Path) -> int:
    """Run this module on a folder in another process, which ends with this one, and return its exit status."""
    ownership = pure.load("ownership")
    found = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, found)),
    }
    tied = [sys.executable, "-I", "-S", ownership.__file__, "run"]
    lifeline, held = ownership.lifeline()
    try:
        with (folder / _PRINTED).open("wb") as output:
            return subprocess.run(
                [*tied, str(lifeline), "", sys.executable, "-m", "components.checking", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lifeline,),
                start_new_session=True,
                timeout=60 * _MINUTES,
                check=False,
            ).returncode
    finally:
        os.close(lifeline)
        # Linux also ends the processes that the user's code has started.
        ownership.cut(held)


def _last(path: Path) -> str:
    """The end of a file of any length."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().decode("utf-8", "replace")


def _needed(pipeline: str, settings: Settings) -> Rehearsal | None:
    """Check everything that does not need TensorFlow. Returns what remains to be rehearsed, or None."""
    if pipeline == "batch_inference":
        return None
    facts = _facts(settings)
    training = settings.part(TrainingSettings)
    if facts is not None:
        _check_folds(pipeline, settings, facts)
        _check_class_weights(training, facts)
        _check_rare_classes(training, facts)
    by_name = training.network_options or training.loss_options or training.optimizer_options
    own_code = training.network_source != "name" or training.loss not in LOSSES
    if not (by_name or own_code or training.device_memory):
        return None
    resolutions = settings.resolutions if pipeline == "resolution_study" else (settings.resolution,)
    return Rehearsal(training, resolutions, facts)


def _facts(settings: Settings) -> Facts | None:
    if not settings.data:
        return Facts(_PHANTOM_LABELS, 1, settings.phantoms)
    if storage.is_url(settings.task):
        return None
    from components.cases import open_folder
    from components.preprocess.preprocess import WindowError, check_window
    from keras_spatial.volumes import LITS

    with open_folder(settings.data, settings.task) as folder:
        try:
            check_window(folder, settings)
        except WindowError as error:
            raise SettingsError(str(error)) from None
        task = LITS if folder.reader is None else folder.reader.task
        return Facts(task.labels, len(task.channels), len(folder.cases))


def _check_folds(pipeline: str, settings: Settings, facts: Facts) -> None:
    from datasets.splits import assign

    crossed = pipeline == "cross_validation"
    name, given = ("folds", settings.folds) if crossed else ("split", settings.split)
    try:
        assign(range(facts.cases), f"fold-0-of-{given}" if crossed else settings.split)
    except ValueError:
        raise SettingsError(
            f"{name}: expected at most as many folds as there are cases, {facts.cases}. Received: {given!r}"
        ) from None


def _check_class_weights(settings: TrainingSettings, facts: Facts) -> None:
    given = settings.class_weights
    if given and len(given) != len(facts.labels):
        raise SettingsError(
            f"class_weights: expected {len(facts.labels)} numbers, one for each of {', '.join(facts.labels)}. "
            f"Received: {list(given)}"
        )


def _check_rare_classes(settings: TrainingSettings, facts: Facts) -> None:
    unknown = [name for name in settings.rare_classes if name not in facts.labels[1:]]
    if unknown:
        raise SettingsError(f"rare_classes: expected some of {list(facts.labels[1:])}. Received: {unknown}")


def _rehearse(needed: Rehearsal) -> None:
    from components.train.rehearsal import rehearse
    from components.train.settings import TrainingError

    facts = needed.facts
    labels, channels = (None, None) if facts is None else (facts.labels, facts.channels)
    for resolution in needed.resolutions:
        try:
            rehearse(needed.settings, resolution, labels, channels)
        except TrainingError as error:
            raise SettingsError(str(error)) from error


def _main(folder: Path) -> None:
    given = json.loads((folder / _GIVEN).read_text(encoding="utf-8"))
    facts = None if given["facts"] is None else Facts(**given["facts"])
    fault = ""
    try:
        _rehearse(Rehearsal(TrainingSettings(**given["settings"]), given["resolutions"], facts))
    except SettingsError as error:
        fault = str(error)
    write_text(folder / _FAULT, fault)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
