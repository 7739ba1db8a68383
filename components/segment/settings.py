"""What a segmentation is told."""

from pydantic import Field

from components.settings import MeshSettings


class SegmentationSettings(MeshSettings):
    """Settings of a segmentation."""

    task: str = Field(
        "",
        description="Instead of the task in the model's file: the path of a task.json, or lits for CT in LiTS's window "
        "over the whole field of view.",
    )
