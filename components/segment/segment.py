"""Segmenting volumes; results lie on each volume's own grid."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components import console, devices
from components.files import write_json
from components.segment.settings import SegmentationSettings
from components.train.settings import MODEL
from keras_spatial._paths import printable
from keras_spatial.inference import NothingToSegment, Source, find_sources, segment_all
from keras_spatial.inference.tasks import chosen_task

ALL = "0-of-1"
"""The share that all volumes make up."""
SEEN = "volumes.json"
"""Beside the results of a share: the names of all volumes that were in the folder, by what their results are called."""


def volumes_in(volumes: str | Path) -> list[Source]:
    """The volumes to segment: a file, those of a folder, and the DICOM series in it; see `find_sources`.

    Raises:
        NothingToSegment: if nothing is there, or no volume is in it.
        VolumesBelow: if there are volume files in folders below it.
        ResultsCollide: if two volumes, such as `3.nii` and `volume-3.nii.gz`, would get the same result file.
        VolumeError: if the folder's name cannot be used.
    """
    if not Path(volumes).exists():
        raise NothingToSegment(
            f"{volumes}: no such file or folder. Expected a volume (.nii, .nii.gz, .nrrd, .mha), or a folder with "
            "volumes or DICOM series."
        )
    return find_sources([volumes])


def shared(sources: Sequence[Source], share: str) -> list[Source]:
    """The volumes of one of several steps that share them: every Nth in the order of their names, from the Kth on.

    So each volume is in one share, and the steps need not know of each other.

    Args:
        sources: all volumes, from `find_sources`.
        share: "K-of-N", K from 0.

    Raises:
        ValueError: if there is no such share.
    """
    match = re.fullmatch(r"([0-9]{1,6})-of-([0-9]{1,6})", share)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"share: expected K-of-N with K from 0 to below N. Received: {share!r}")
    ordered = sorted(sources, key=lambda source: source.stem)
    return ordered[int(match[1]) :: int(match[2])]


def segment_folder(
    volumes: str, model: str, predictions: str, *, task_file: str = "", share: str = ALL, **settings: Any
) -> Mapping[str, Mapping[str, Any]]:
    """Segment volumes with a partitioned model, by its task.

    A volume that cannot be used is listed in `failed.csv` and does not stop the others.

    Args:
        volumes: a volume, or a folder with volumes and DICOM series.
        model: a `.keras` file, or a folder with `model.keras`.
        predictions: folder to make: a NIfTI label file per volume with its orientation and affine, `failed.csv`, and
            for one of several shares `SEEN`.
        task_file: a task.json in place of the task in the model's file.
        share: which of the volumes, see `shared`.
        settings: those of `SegmentationSettings`.

    Raises:
        NothingToSegment: if no volume could be segmented; of a share that is left to the step gather, which sees all.
        ResultsCollide: if two volumes would get the same result file; nothing has been segmented then.
        TaskError: if the model's file holds no task, and none is given.
    """
    found = volumes_in(volumes)
    sources = shared(found, share)
    if share != ALL:
        # Every step looks into the folder by itself, and what is there may have changed since another one did.
        write_json(Path(predictions) / SEEN, {source.stem: source.name for source in found})
    if not sources:
        console.result("segment", f"no volume is left for the share {share}")
        return {"predictions": {"segmented": 0, "failed": 0}}
    given = SegmentationSettings.model_validate(settings)
    path = model_file(model)
    task = chosen_task(path, task_file or given.task, "--set task=")
    network = ks.load_model(path, distribution=devices.distribution(given), compile=False)
    outcomes = segment_all(network, sources, predictions, lambda line: print(f"segment: {line}", flush=True), task=task)
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if len(failed) == len(sources) and share == ALL:
        raise NothingToSegment(f"{volumes}: none of {len(sources)} volumes can be used; the first: {failed[0].reason}")
    for outcome in failed:
        console.note("segment", f"{printable(outcome.source.name)} is left out: {printable(str(outcome.reason))}")
    left_out = f"; {console.count(len(failed), 'volume')} left out, see failed.csv" if failed else ""
    console.result("segment", f"segmented {console.count(len(sources) - len(failed), 'volume')}{left_out}")
    return {"predictions": {"segmented": len(sources) - len(failed), "failed": len(failed)}}


def model_file(model: str | Path) -> Path:
    """The `.keras` file of a model: itself, or in the folder of a training."""
    return Path(model) / MODEL if Path(model).is_dir() else Path(model)
