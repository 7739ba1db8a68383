"""Segment in this process, or in several on this machine. Only the processes that predict import TensorFlow."""

from collections.abc import Mapping
from typing import Any

from components.jobs.description import Description
from components.jobs.here import run_here
from components.segment.settings import ALL, LocalSegmentationSettings, SegmentationSettings


def segment_folder(
    volumes: str, model: str, predictions: str, *, task_file: str = "", share: str = ALL, **settings: Any
) -> Mapping[str, Mapping[str, Any]]:
    """Segment volumes with a partitioned model, by its task.

    A volume that cannot be used is listed in `failed.csv` and does not stop the others.

    Args:
        volumes: a volume, or a folder with volumes and DICOM series, by path or URL; see
            `components.segment.volumes.batches`.
        model: a `.keras` file, or a folder with `model.keras`.
        predictions: the folder to make, with a NIfTI label file for each volume, which has the volume's orientation and
            affine, `failed.csv` and, for one of several shares, `components.segment.settings.SEEN`.
        task_file: a task.json that replaces the task in the model's file.
        share: which of the volumes to segment, see `components.segment.volumes.shared`.
        settings: the settings of `LocalSegmentationSettings`.

    Returns:
        The metadata of the predictions: how many volumes were segmented, and how many could not be used.

    Raises:
        NothingToSegment: if no volume could be segmented. For one of several shares, the step gather checks that.
        ResultsCollide: if two volumes would get the same result file. Nothing has been segmented then.
        TaskError: if the model's file has no task, and none is given.
        JobError: if one of several processes fails.
    """
    given = LocalSegmentationSettings.model_validate(settings)
    job = described(volumes, model, predictions, task_file, share, given.part(SegmentationSettings))
    return run_here(job, given.processes)


def described(
    volumes: str, model: str, predictions: str, task_file: str, share: str, settings: SegmentationSettings
) -> Description:
    """The description of a segmentation for its processes; see `segment_folder`."""
    return Description(
        step="segment",
        inputs={"volumes": str(volumes), "model": str(model), "task_file": str(task_file)},
        outputs={"predictions": str(predictions)},
        settings=settings.model_dump(mode="json"),
        facts="",
        arguments={"share": share},
        remote=("volumes",),
    )
