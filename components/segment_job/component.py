"""The component `segment_job`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.segment.settings import SegmentationSettings


@component
def segment_job(
    volumes: str,
    model: str,
    predictions: dsl.Output[dsl.Dataset],
    job: str,
    settings: Annotated[dict, SegmentationSettings],
    share: str = "0-of-1",
    imported_model: dsl.Input[dsl.Model] = None,
):
    """Segment volumes in a job of several pods, whose devices are one mesh, by the task of a model.

    Args:
        volumes: A volume, or a folder with volumes or DICOM series, which is mounted where the pods run, or a URL, from
            which each pod downloads the volumes, or only those of the share, one after another.
        model: A .keras file, or a folder with model.keras.
        predictions: The label files, and a table of the volumes that could not be used.
        job: The JSON of the job (kind, pods, image, resources, volumes); the compiler writes it from the cluster file.
        share: Which of the volumes to segment, K-of-N, if several steps share them.
        imported_model: The file or folder that model names, where KFP has imported it.
    """
    from components.resume import step

    task = settings.pop("task")
    step(
        "segment_job",
        "components.segment_job.segment_job:segment_in_job",
        outputs={"predictions": predictions},
        settings={**settings, "job": job, "share": share, "task": "lits" if task == "lits" else ""},
        folders={"volumes": volumes, "model": model, "task_file": "" if task == "lits" else task},
        imported={"model": imported_model},
        scratch=True,
        scratch_url=True,
        stored=("predictions",),
        remote=("volumes",),
    )
