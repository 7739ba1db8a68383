"""Segmenting volumes; results lie on each volume's own grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components import console, devices
from components.settings import MeshSettings
from components.train.settings import MODEL
from keras_spatial.inference import NothingToSegment, Outcome, Source, find_sources, segment_each, write_failed
from keras_spatial.volumes import TASK, read_task


def volumes_in(volumes: str | Path) -> list[Source]:
    """The volumes to segment: a file, those of a folder, and the DICOM series in it; see `find_sources`.

    Raises:
        NothingToSegment: nothing is there, or no volume in it.
        ResultsCollide: two volumes whose results would have the same name, as of `3.nii` and `volume-3.nii.gz`.
        VolumeError: the folder's name cannot be used.
    """
    if not Path(volumes).exists():
        raise NothingToSegment(
            f"{volumes}: no such file or folder. Expected a CT volume (.nii, .nii.gz, .nrrd, .mha), or a folder with "
            "volumes or DICOM series."
        )
    return find_sources([volumes])


def segment_folder(volumes: str, model: str, predictions: str, **settings: Any) -> Mapping[str, Mapping[str, Any]]:
    """Segment volumes with a partitioned model.

    A volume that cannot be used is listed in `failed.csv` and does not stop the others.

    Args:
        volumes: a volume, or a folder with volumes and DICOM series.
        model: a `.keras` file, or a folder with `model.keras`.
        predictions: folder to make: a NIfTI label file per volume with its orientation and affine, `failed.csv`.
        settings: those of `MeshSettings`.

    Raises:
        NothingToSegment: if no volume could be segmented.
        ResultsCollide: if two volumes would get the same result file; nothing has been segmented then.
    """
    sources = volumes_in(volumes)
    distribution = devices.distribution(MeshSettings.model_validate(settings))
    path = Path(model) / MODEL if Path(model).is_dir() else Path(model)
    network = ks.load_model(path, distribution=distribution, compile=False)
    # A model without a description of its task is one of LiTS's, as all were before there were others.
    task = read_task(path.parent) if (path.parent / TASK).is_file() else None
    task = None if task is None or task.scores == "lits" else task
    outcomes: list[Outcome] = []
    for outcome in segment_each(network, sources, predictions, task=task):
        outcomes.append(outcome)
        name = _printable(outcome.source.name)
        if outcome.reason is not None:
            console.note("segment", f"{name} is left out: {_printable(outcome.reason)}")
        console.progress("segment", len(outcomes), len(sources), f"volumes segmented, {name} the last")
    write_failed(predictions, outcomes)
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if len(failed) == len(sources):
        raise NothingToSegment(
            f"{volumes}: none of {len(sources)} volumes can be used; the first: {_printable(str(failed[0].reason))}"
        )
    left_out = f"; {console.count(len(failed), 'volume')} left out, see failed.csv" if failed else ""
    console.result("segment", f"segmented {console.count(len(sources) - len(failed), 'volume')}{left_out}")
    return {"predictions": {"segmented": len(sources) - len(failed), "failed": len(failed)}}


def _printable(text: str) -> str:
    """A text with a file's name, which may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
