"""The settings of a run: one typed value, from a YAML file and `--set name=value`, checked before anything starts."""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_origin

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field


class SettingsError(ValueError):
    """A setting is unknown or out of its range; the message names it, its value and what was expected."""


class Settings(BaseModel):
    """Settings of the pipelines. Every field may stand in the YAML file and after `--set`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    data: str = Field("", description="Folder with volume-N.nii[.gz] and segmentation-N.nii[.gz]; empty: phantoms.")
    phantoms: int = Field(16, ge=1, le=10_000, description="Phantom cases to generate where data is empty.")
    phantom_size: int = Field(64, ge=16, le=2048, description="Voxels of a phantom along each axis.")
    difficulty: Literal["easy", "medium", "hard"] = Field("medium", description="Of the phantoms.")
    on_bad_case: Literal["raise", "skip"] = Field("raise", description="End the run at a bad case, or leave it out.")
    resolution: int = Field(64, ge=8, le=2048, description="Voxels along each axis of what the network sees.")
    split: str = Field("published", pattern=r"^(published|fold-\d+-of-\d+)$", description="Rule of the splits.")
    beam_options: tuple[str, ...] = Field((), description="Options of the Beam pipeline, which choose its runner.")
    mesh: str = Field("rows:2, columns:2", description="Axes of the device mesh and their sizes.")
    layout: str = Field("x:rows, y:columns", description="Which image axis is split over which mesh axis.")
    filters: int = Field(16, ge=1, le=1024, description="Filters of the first level of the U-Net.")
    levels: int = Field(4, ge=1, le=8, description="Levels of the U-Net.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate.")
    epochs: int = Field(60, ge=1, le=1_000_000, description="Epochs at most.")
    batch_size: int = Field(1, ge=1, le=4096, description="Volumes per training step.")
    learning_rate: float = Field(0.003, gt=0, le=10, description="Highest learning rate of the schedule.")
    minutes: float = Field(0.0, ge=0, description="Training ends after this time; 0 for no limit.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of phantoms, weights, shuffling and dropout.")
    processes: int = Field(1, ge=1, le=256, description="Processes of one machine that share the mesh in training.")
    backup_steps: int = Field(50, ge=1, description="Training steps between two backups of the whole state.")
    slices: int = Field(1, ge=0, le=64, description="Validation cases whose slices TensorBoard shows.")
    thresholds: bool = Field(False, description="Score the best intensity thresholds as well.")
    baseline: str = Field(
        "", description="metrics.json of the best earlier run; the model is exported if it is better."
    )
    tolerance: float = Field(0.01, ge=0, le=1, description="Dice by which the model may be worse than the baseline.")
    resolutions: tuple[int, ...] = Field((32, 64), min_length=1, description="Of the pipeline resolution_study.")
    model: str = Field("", description="Folder of a trained model, or a .keras file, for batch_inference.")
    title: str = Field("Liver and lesion segmentation", min_length=1, description="Heading of the report.")

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Mesh, layout, batch and sizes; raises ValueError."""
        sizes = _pairs(self.mesh, "mesh")
        for axis, size in sizes.items():
            if not size.isdigit() or int(size) < 1:
                raise ValueError(f"mesh: the size of axis {axis!r} must be a positive integer. Received: {self.mesh!r}")
        layout = _pairs(self.layout, "layout")
        for axis, mesh_axis in layout.items():
            if axis not in ("batch", "x", "y", "z"):
                raise ValueError(
                    f"layout: expected the image axes batch, x, y, z. Received: {axis!r} in {self.layout!r}"
                )
            if mesh_axis not in sizes:
                raise ValueError(f"layout: expected axes of the mesh {list(sizes)}. Received: {mesh_axis!r}")
        if len(set(layout.values())) != len(layout):
            raise ValueError(f"layout: every mesh axis may stand only once. Received: {self.layout!r}")
        cores = int(sizes[layout["batch"]]) if "batch" in layout else 1
        if self.batch_size % cores:
            raise ValueError(
                f"batch_size: expected a multiple of the {cores} parts of the batch. Received: {self.batch_size}"
            )
        devices = math.prod(int(size) for size in sizes.values())
        if devices % self.processes:
            raise ValueError(
                f"processes: expected a divisor of the mesh's {devices} devices. Received: {self.processes}. Change "
                "processes or mesh."
            )
        for resolution in (self.resolution, *self.resolutions):
            if resolution % 2 ** (self.levels - 1):
                raise ValueError(
                    f"resolution: a network of {self.levels} levels needs a multiple of {2 ** (self.levels - 1)}. "
                    f"Received: {resolution}"
                )
        return self


def _pairs(text: str, what: str) -> dict[str, str]:
    parts = [tuple(x.strip() for x in p.split(":")) for p in text.replace(";", ",").split(",") if p.strip()]
    if not parts or any(len(p) != 2 or not all(p) for p in parts) or len({p[0] for p in parts}) != len(parts):
        raise ValueError(f'{what}: expected "name:value, name:value", every name once. Received: {text!r}')
    return {p[0]: p[1] for p in parts}


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
            near = difflib.get_close_matches(str(name), Settings.model_fields, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(Settings.model_fields)}."
            raise SettingsError(f"{name}: no such setting. {hint}")
    try:
        return Settings(**values)
    except pydantic.ValidationError as error:
        lines = []
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            # Faults of the whole value name their setting in the message, and the value.
            text = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {text}. Received: {fault['input']!r}" if name else text)
        raise SettingsError("\n".join(lines)) from None


def _parse(name: str, value: str) -> Any:
    """A string as it is for text fields, otherwise as YAML."""
    field = Settings.model_fields.get(name)
    if field is None or field.annotation is str or get_origin(field.annotation) is Literal:
        return value
    if get_origin(field.annotation) is tuple and not value.startswith("["):
        value = f"[{value}]"
    return yaml.safe_load(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected settings as name: value. Received: {type(values).__name__}")
    return values


def dump(settings: Settings) -> str:
    """The YAML form, with each setting's description."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", yaml.safe_dump({name: settings.model_dump(mode="json")[name]}).strip()]
    return "\n".join(lines) + "\n"
