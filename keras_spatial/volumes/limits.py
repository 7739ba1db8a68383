"""The limits that a reader of volumes checks before it allocates memory, and how to raise them."""

import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

VARIABLE = "KERAS_SPATIAL_LIMITS"
_UPPER = ("voxels", "grid_voxels", "extent", "extension_bytes", "trailing_bytes")


@dataclass(frozen=True)
class Limits:
    """Limits that a volume must keep. They are checked before memory is allocated for the volume.

    The defaults admit every scan of a human body with any scanner. They refuse files that ask for terabytes because a
    header is damaged or its lengths are in micrometres, and compressed files that are made to fill a machine's memory.
    Readers take the limits as an argument; without it they use `Limits.current()`.

    Attributes:
        voxels: the largest number of voxels of a file; by default that of 1024 x 1024 x 1024.
        grid_voxels: the largest number of voxels of a grid to which a volume is resampled because of its spacing.
        spacing: the smallest and the largest edge of a voxel, in mm.
        extent: the largest length of a volume along an axis, in mm.
        extension_bytes: the largest number of bytes between a NIfTI header and the voxels.
        trailing_bytes: the largest number of bytes after the voxels.
        hounsfield: whether to refuse a CT whose values are not recognisably Hounsfield units; see `check_hounsfield`.

    Raises:
        ValueError: if a limit is not a number of its kind.

    Example:

    ```python
    microscopy = ks.volumes.Limits(spacing=(1e-4, 1.0), hounsfield=False)
    volume = ks.volumes.read_volume("slide.nii.gz", microscopy)
    ```
    """

    voxels: int = 1 << 30
    grid_voxels: int = 1 << 30
    spacing: tuple[float, float] = (0.01, 100.0)
    extent: float = 4000.0
    extension_bytes: int = 1 << 24
    trailing_bytes: int = 1 << 20
    hounsfield: bool = True

    def __post_init__(self) -> None:
        for name in ("voxels", "grid_voxels", "extension_bytes", "trailing_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"limits: {name}: expected a non-negative integer. Received: {value!r}")
        if len(self.spacing) != 2 or not 0 < self.spacing[0] <= self.spacing[1]:
            raise ValueError(
                f"limits: spacing: expected a smallest and a largest edge in mm. Received: {self.spacing!r}"
            )
        if not self.extent > 0:
            raise ValueError(f"limits: extent: expected a length in mm. Received: {self.extent!r}")

    def as_dict(self) -> dict[str, Any]:
        """The limits as a plain dictionary, for JSON; `of` reads it."""
        return {**asdict(self), "spacing": list(self.spacing)}

    def covers(self, other: "Limits") -> bool:
        """Whether everything that `other` accepts is accepted."""
        least, largest = self.spacing
        return (
            all(getattr(self, name) >= getattr(other, name) for name in _UPPER)
            and least <= other.spacing[0]
            and largest >= other.spacing[1]
            and self.hounsfield <= other.hounsfield
        )

    @classmethod
    def of(cls, value: Any) -> Self:
        """The limits of a dictionary that `as_dict` made.

        Raises:
            TypeError, ValueError, KeyError: if it is not such a dictionary.
        """
        return cls(**{**value, "spacing": tuple(value["spacing"])})

    @classmethod
    def current(cls) -> Self:
        """The limits that the environment variable `KERAS_SPATIAL_LIMITS` sets, or the defaults.

        The variable has `name=value` pairs separated by semicolons, such as `voxels=4e9; spacing=0.0001:1;
        hounsfield=no`. It applies to every process of a run, and to every step of a pipeline on one machine.

        Raises:
            ValueError: if a name is not that of a limit, or a value is not a number.
        """
        return cls.parse(os.environ.get(VARIABLE, ""))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse limits from text such as `name=value; name=value`. Limits that are not named keep their defaults.

        Raises:
            ValueError: if a name is not that of a limit, or a value is not a number.
        """
        known = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(";"))):
            name, _, value = (p.strip() for p in part.partition("="))
            if name not in known:
                raise ValueError(f"{VARIABLE}: expected name=value with a name of {list(known)}. Received: {part!r}")
            try:
                values[name] = _value(value, known[name])
            except (ValueError, KeyError, OverflowError) as error:
                raise ValueError(
                    f"{VARIABLE}: {name}: expected a value such as {_example(known[name])}. Received: {value!r}"
                ) from error
        return replace(cls(), **values)


def _value(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
    if isinstance(like, tuple):
        smallest, largest = (float(part) for part in text.split(":"))
        return smallest, largest
    return int(float(text)) if isinstance(like, int) else float(text)


def _example(like: Any) -> str:
    if isinstance(like, bool):
        return "yes or no"
    return ":".join(f"{v:g}" for v in like) if isinstance(like, tuple) else f"{like:g}"
