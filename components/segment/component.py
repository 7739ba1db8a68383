"""The component `segment`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.segment.settings import LocalSegmentationSettings


@component
def segment(
    volumes: str,
    model: str,
    predictions: dsl.Output[dsl.Dataset],
    settings: Annotated[dict, LocalSegmentationSettings],
    share: str = "0-of-1",
    imported_model: dsl.Input[dsl.Model] = None,
):
    """Segment volumes by the task of a model; every label file has its volume's affine and spacing.

    Args:
        volumes: A volume, or a folder with volumes or DICOM series, which is mounted where the step runs, or a URL,
            from which the volumes, or only those of the share, are downloaded one after another.
        model: A .keras file, or a folder with model.keras.
        predictions: The label files, and a table of the volumes that could not be used.
        share: Which of the volumes to segment, K-of-N, if several steps share them.
        imported_model: The file or folder that model names, where KFP has imported it.
    """
    from components.resume import step

    task = settings.pop("task")
    step(
        "segment",
        "components.segment.segment:segment_folder",
        outputs={"predictions": predictions},
        settings={**settings, "share": share, "task": "lits" if task == "lits" else ""},
        folders={"volumes": volumes, "model": model, "task_file": "" if task == "lits" else task},
        imported={"model": imported_model},
        stored=("predictions",),
        remote=("volumes",),
    )
