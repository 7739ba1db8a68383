"""The component `segment`."""

from kfp import dsl

from components.base import component


@component
def segment(
    volumes: str,
    model: str,
    predictions: dsl.Output[dsl.Dataset],
    mesh: str = "rows:2, columns:2",
    layout: str = "x:rows, y:columns",
):
    """Segment the CT volumes of a folder; every label file has its volume's affine and spacing.

    Args:
        volumes: Folder with .nii and .nii.gz files, mounted where the step runs.
        model: A .keras file, or a folder with model.keras.
        predictions: Label files, and a table of the volumes that could not be used.
        mesh: Device mesh to predict on.
        layout: Which image axis is split over which mesh axis.
    """
    from components.resume import step

    step(
        "segment",
        "components.segment.segment:segment_folder",
        outputs={"predictions": predictions},
        settings={"mesh": mesh, "layout": layout},
        folders={"volumes": volumes, "model": model},
    )
