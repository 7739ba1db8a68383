"""The settings of a run: one typed value, from a YAML file and `--set name=value`, checked before anything starts."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

import pydantic
import yaml
from pydantic import Field

from components.evaluate.settings import EvaluationSettings
from components.preprocess.settings import PreprocessSettings
from components.segment.settings import SegmentationSettings
from components.settings import is_structured, is_text
from components.train.settings import LocalTrainingSettings
from pipelines.bounded_yaml import YamlError, faults, mapping, parse_yaml, read_yaml, shortened


class SettingsError(ValueError):
    """A setting is unknown or out of its range; the message names it, its value and what was expected."""


class Settings(LocalTrainingSettings, EvaluationSettings, PreprocessSettings, SegmentationSettings):
    """Settings of the pipelines. Every field may stand in the YAML file and after `--set`.

    What a step is told stands in the group of settings of its component; here is what decides a pipeline.
    """

    data: str = Field(
        "", description="The folder with volume-N.nii[.gz] and segmentation-N.nii[.gz]; empty for phantoms."
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
        0.01, ge=0, le=1, description="The Dice by which the model may be worse than the baseline."
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
    title: str = Field(
        "Liver and lesion segmentation", min_length=1, max_length=200, description="The heading of the report."
    )

    @pydantic.model_validator(mode="after")
    def _levels_divide_the_resolution(self) -> Self:
        self._check_levels("resolution", self.resolution)
        return self

    def check_resolutions(self) -> None:
        """Check the resolutions of a study, which no other pipeline reads.

        Raises:
            SettingsError: if one is out of range, or the network's levels do not divide it.
        """
        for resolution in self.resolutions:
            try:
                self._check_levels("resolutions", resolution)
            except ValueError as error:
                raise SettingsError(str(error)) from None

    def _check_levels(self, name: str, resolution: int) -> None:
        if self.network_source == "name" and resolution % 2 ** (self.levels - 1):
            raise ValueError(
                f"{name}: a network of {self.levels} levels needs a multiple of {2 ** (self.levels - 1)}. "
                f"Received: {resolution}"
            )


def refuse_unread(settings: Settings, pipeline: str, read: Collection[str]) -> None:
    """Refuse settings that a pipeline would ignore.

    Args:
        settings: The settings of the run.
        pipeline: its name, for the message.
        read: names of the settings that it reads.

    Raises:
        SettingsError: naming each setting that has another value than its default and is not read.
    """
    unread = [
        name
        for name, field in Settings.model_fields.items()
        if name not in read and getattr(settings, name) != field.default
    ]
    if unread:
        lines = [
            f"{name}: the pipeline {pipeline} does not read this setting ({Settings.model_fields[name].description}) "
            f"Received: {shortened(getattr(settings, name))}. Leave it out."
            for name in unread
        ]
        raise SettingsError("\n".join(lines))


def load(file: str | Path | None = None, assignments: Iterable[str] = (), **defaults: Any) -> Settings:
    """Settings from defaults, then a YAML file, then `name=value` strings; the later one counts.

    Raises:
        SettingsError: unknown name (with the nearest known one), wrong type or range, or unreadable file.
    """
    values: dict[str, Any] = dict(defaults)
    if file is not None:
        values |= _read(Path(file))
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set: expected name=value. Received: {text!r}")
        values[name.strip()] = _parse(name.strip(), value)
    return check(values)


def check(values: Mapping[str, Any]) -> Settings:
    """Validate values by name.

    Raises:
        SettingsError: as `load`.
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


def _parse(name: str, value: str) -> Any:
    """A string as it is for text fields, otherwise as YAML."""
    field = Settings.model_fields.get(name)
    if field is None or is_text(field.annotation):
        return value
    if is_structured(field.annotation) and not value.lstrip().startswith(("[", "{")):
        value = f"[{value}]" if get_origin(field.annotation) is tuple else f"{{{value}}}"
    try:
        documents = parse_yaml(value, f"--set {name}")
    except YamlError as error:
        raise SettingsError(str(error)) from error
    if len(documents) > 1:
        raise SettingsError(f"--set {name}: expected one value. Received: {shortened(value)}")
    return documents[0] if documents else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return mapping(read_yaml(path), str(path))
    except YamlError as error:
        raise SettingsError(str(error)) from error


def dump(settings: Settings) -> str:
    """The YAML form, with each setting's description."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", yaml.safe_dump({name: settings.model_dump(mode="json")[name]}).strip()]
    return "\n".join(lines) + "\n"
