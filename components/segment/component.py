"""The component `segment`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.settings import MeshSettings


@component
def segment(
    volumes: str,
    model: str,
    predictions: dsl.Output[dsl.Dataset],
    settings: Annotated[dict, MeshSettings],
):
    """Segment CT volumes; every label file has its volume's affine and spacing.

    Args:
        volumes: A CT volume, or a folder with volumes or DICOM series, which is mounted where the step runs.
        model: A .keras file, or a folder with model.keras.
        predictions: The label files, and a table of the volumes that could not be used.
    """
    from components.resume import step

    step(
        "segment",
        "components.segment.segment:segment_folder",
        outputs={"predictions": predictions},
        settings=settings,
        folders={"volumes": volumes, "model": model},
        stored=("predictions",),
    )
