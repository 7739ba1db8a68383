"""The component `gather`."""

from kfp import dsl

from components.base import component


@component
def gather(parts: dsl.Input[list[dsl.Dataset]], predictions: dsl.Output[dsl.Dataset]):
    """Put the segmentations of several steps, which shared the volumes of a folder, into one folder.

    Args:
        parts: The segmentations of each step.
        predictions: All label files, and a table of the volumes that could not be used.
    """
    from components.resume import step

    step(
        "gather",
        "components.gather.gather:gather_segmentations",
        inputs={"parts": parts},
        outputs={"predictions": predictions},
        stored=("predictions",),
    )
