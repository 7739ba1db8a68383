"""The settings of a segmentation."""

from pydantic import Field

from components.settings import LocalSettings, MeshSettings


class SegmentationSettings(MeshSettings):
    """Settings of a segmentation."""

    task: str = Field(
        "",
        description="The path of a task.json, or lits: for batch_inference in place of the task in the model's file "
        "(lits: CT in LiTS's window over the whole field of view); for trainings what names channels and labels of a "
        "folder data without dataset.json, which may be a file of that form, too.",
    )


class LocalSegmentationSettings(SegmentationSettings, LocalSettings):
    """Settings of a segmentation on one machine."""
