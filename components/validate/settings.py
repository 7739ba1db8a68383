"""The settings of a run: one typed value, which is checked when a pipeline is built and again when it runs."""

import difflib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from components.evaluate.settings import LocalEvaluationSettings
from components.faults import faults, shortened
from components.preprocess.settings import PreprocessSettings
from components.segment.settings import LocalSegmentationSettings
from components.settings import binding
from components.train.settings import LocalTrainingSettings


class SettingsError(ValueError):
    """A setting is unknown or out of its range; the message names it, its value and what was expected."""


class Settings(LocalTrainingSettings, LocalEvaluationSettings, PreprocessSettings, LocalSegmentationSettings):
    """The settings of the pipelines. Every field may be given in the YAML file and with `--set`.

    The settings of a step are in the group of its component; the fields here belong to whole pipelines.
    """

    # No pipeline reads all of the settings.
    whole: ClassVar[bool] = False
    looped: ClassVar[tuple[str, ...]] = ("resolutions", "learning_rates")

    data: str = Field(
        "",
        description="The folder of cases, with volume-N.nii[.gz] and segmentation-N.nii[.gz], or with dataset.json, "
        "or with images and labels, which may be DICOM; empty for phantoms.",
    )
    phantoms: int = Field(
        16, ge=1, le=10_000, description="The number of phantom cases that are made if data is empty."
    )
    phantom_size: int = Field(64, ge=16, le=2048, description="The number of voxels of a phantom along each axis.")
    difficulty: Literal["easy", "medium", "hard"] = Field(
        "medium", description="How hard the lesions of the phantoms are to find."
    )
    on_bad_case: Literal["raise", "skip"] = Field(
        "raise", description="Whether a bad case ends the run (raise) or is left out (skip)."
    )
    baseline: str = Field(
        "", description="The metrics.json of the best earlier run; the model is exported if it is better."
    )
    tolerance: float = Field(
        0.01, ge=0, le=1, description="How much lower the Dice of the model may be than that of the baseline."
    )
    resolutions: tuple[Annotated[int, Field(ge=8, le=2048)], ...] = Field(
        (32, 64), min_length=1, description="The resolutions that the pipeline resolution_study compares."
    )
    folds: int = Field(5, ge=3, le=100, description="The number of folds of the pipeline cross_validation.")
    learning_rates: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01), min_length=1, description="The learning rates that the pipeline sweep compares."
    )
    model: str = Field(
        "", description="The trained model of batch_inference: a folder, or a .keras file, by path or URL."
    )
    shares: int = Field(
        1, ge=1, le=1000, description="The number of steps, on a cluster of pods, that share the volumes to segment."
    )
    title: str = Field(
        "", max_length=200, description="The heading of the report; without one it names what is segmented."
    )

    @binding("task", "phantoms")
    def _phantoms_have_a_task(self) -> None:
        if not self.data and self.task not in ("", "lits"):
            raise ValueError(
                "task: phantoms have their own channels and labels: expected no file that names those of a folder, or "
                f"that folder as data. Received: {self.task!r}"
            )

    @binding("network", "levels", "resolution")
    def _levels_divide_the_resolution(self) -> None:
        self._check_levels("resolution", self.resolution)

    @binding("network", "levels", "resolutions")
    def _levels_divide_the_resolutions(self) -> None:
        for resolution in self.resolutions:
            self._check_levels("resolutions", resolution)

    def _check_levels(self, name: str, resolution: int) -> None:
        if self.network_source == "name" and resolution % 2 ** (self.levels - 1):
            raise ValueError(
                f"{name}: a network of {self.levels} levels needs a multiple of {2 ** (self.levels - 1)}. "
                f"Received: {resolution}"
            )

    def check_read(self, read: Collection[str]) -> None:
        """Check the settings that a pipeline reads against each other.

        Args:
            read: the names of the settings that the pipeline reads.

        Raises:
            SettingsError: if settings do not fit together; the message names the setting, its value and what was
                expected.
        """
        try:
            self.check_bound(read)
        except ValueError as error:
            raise SettingsError(str(error)) from None


def check(values: Mapping[str, Any]) -> Settings:
    """Make settings of values by name.

    Raises:
        SettingsError: if a name is unknown or a value is wrong; the message names the setting and what was expected.
    """
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(str(name)[:100], Settings.model_fields, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(Settings.model_fields)}."
            raise SettingsError(f"{shortened(name)}: no such setting. {hint}")
    try:
        return Settings(**values)
    except pydantic.ValidationError as error:
        raise SettingsError("\n".join(faults(error.errors()))) from None
