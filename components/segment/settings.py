"""The settings of a segmentation."""

from pydantic import Field

from components.settings import LocalSettings, MeshSettings

ALL = "0-of-1"
"""The share of a single step, which takes all volumes."""
SEEN = "volumes.json"
"""The file beside the results of a share with the names of all volumes that its step has seen, by the stems of their
results."""


class SegmentationSettings(MeshSettings):
    """The settings of a segmentation."""

    task: str = Field(
        "",
        description="The path of a task.json, or lits. For batch_inference it replaces the task in the model's file "
        "(lits: CT in LiTS's window over the whole field of view). For trainings it names the channels and labels of "
        "a folder data without dataset.json; a file in the form of a dataset.json will do, too.",
    )


class LocalSegmentationSettings(SegmentationSettings, LocalSettings):
    """The settings of a segmentation on one machine."""
