"""The settings with which the data set is built."""

import math

from pydantic import Field, field_validator

from components.settings import LayoutSettings


class PreprocessSettings(LayoutSettings):
    """The settings of the data set."""

    resolution: int = Field(
        64,
        ge=0,
        le=2048,
        description="The number of voxels along each axis of what the network sees; 0 for the scans' own grid with "
        "LiTS and for the median spacing with other data.",
    )
    window: tuple[float, float] = Field(
        (-512, 512),
        description="The Hounsfield units that become 0 and 1 in LiTS's CTs; other data are normalised as their "
        "description says.",
    )
    split: str = Field(
        "published",
        pattern=r"^(published|fold-[0-9]{1,6}-of-[0-9]{1,6})$",
        description="How cases are split: published, or fold-K-of-N for cross-validation.",
    )
    beam_options: tuple[str, ...] = Field(
        (), description="The options of the Beam pipeline on this machine, such as [--direct_num_workers=0]."
    )

    @property
    def blocks(self) -> tuple[int, int, int]:
        """The numbers of blocks along x, y and z in which a volume is stored.

        They are the numbers of shards, so that each process of a training on this mesh reads only its own blocks; along
        an axis that the shards do not divide, there is one block.
        """
        if not self.resolution:
            # The volumes differ in size.
            return 1, 1, 1
        x, y, z = (n if self.resolution % n == 0 else 1 for n in map(self.shards, ("x", "y", "z")))
        return x, y, z

    @field_validator("resolution", mode="after")
    @classmethod
    def _volumes_have_some_voxels(cls, value: int) -> int:
        if 0 < value < 8:
            raise ValueError("expected 0, or at least 8 voxels")
        return value

    @field_validator("window", mode="after")
    @classmethod
    def _window_is_open(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not (math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]):
            raise ValueError("expected two numbers, the lower one first")
        return value

    @field_validator("split", mode="after")
    @classmethod
    def _fold_is_one_of_its_folds(cls, value: str) -> str:
        _, *numbers = value.replace("-of", "").split("-")
        if numbers and not (int(numbers[0]) < int(numbers[1]) and int(numbers[1]) >= 3):
            raise ValueError("expected published, or fold-K-of-N with K from 0 to below N, and N from 3")
        return value
