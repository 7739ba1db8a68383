"""Normalisation of a scanner's intensities to a network's input, by modality."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Window:
    """`clip((value - low) / (high - low), 0, 1)`: the same window for all scans, for CT in Hounsfield units.

    Attributes:
        low: the lower end of the window, in the unit of the intensities.
        high: the upper end of the window.

    Raises:
        ValueError: if `low` is not below `high`.

    Example:

    ```python
    image = ks.volumes.Window(-160, 240)(volume.array)
    ```
    """

    low: float = -512.0
    high: float = 512.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        if not self.low < self.high:
            raise ValueError(f"Window: expected low below high. Received: low={self.low}, high={self.high}")

    def __str__(self) -> str:
        return f"clip((value - {self.low:g}) / {self.high - self.low:g}, 0, 1)".replace("- -", "+ ")

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The normalised array, float32 from 0 to 1."""
        result = np.asarray(array, np.float32) * np.float32(1 / (self.high - self.low))
        result += np.float32(-self.low / (self.high - self.low))
        return np.clip(result, 0, 1, out=result)


@dataclass(frozen=True)
class Percentiles:
    """`(clip(value, low, high) - mean) / deviation`, nnU-Net's normalisation of CT.

    The four numbers are statistics of the labelled voxels of all training cases (Isensee et al., "nnU-Net", Nature
    Methods 18, 2021, supplementary note 2).

    Attributes:
        low: the 0.5th percentile.
        high: the 99.5th percentile.
        mean: the mean.
        deviation: the standard deviation.

    Raises:
        ValueError: if `low` is not below `high`, or `deviation` is not positive.

    Example:

    ```python
    image = ks.volumes.Percentiles(low=-17, high=201, mean=99, deviation=39)(volume.array)
    ```
    """

    low: float
    high: float
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        _check_numbers(self)
        if not (self.low < self.high and self.deviation > 0):
            raise ValueError(f"Percentiles: expected low below high and a positive deviation. Received: {self!r}")

    def __str__(self) -> str:
        text = f"(clip(value, {self.low:g}, {self.high:g}) - {self.mean:g}) / {self.deviation:g}"
        return text.replace("- -", "+ ")

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The normalised array, float32."""
        result = np.clip(np.asarray(array, np.float32), np.float32(self.low), np.float32(self.high))
        result -= np.float32(self.mean)
        result *= np.float32(1 / self.deviation)
        return result


@dataclass(frozen=True)
class ZScore:
    """`(value - mean) / deviation` with each volume's own statistics, for modalities without a scale, such as MR.

    Attributes:
        nonzero: whether to use only the voxels that are not 0 for mean and deviation, and leave the others at 0, for
            scans whose surroundings were removed, such as skull-stripped ones.

    Example:

    ```python
    image = ks.volumes.ZScore()(volume.array)
    ```
    """

    nonzero: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.nonzero, bool):
            raise ValueError(f"ZScore: nonzero: expected True or False. Received: {self.nonzero!r}")

    def __str__(self) -> str:
        of = "the voxels that are not 0" if self.nonzero else "all voxels"
        return f"(value - mean) / deviation, both of {of} of the volume" + (", 0 elsewhere" if self.nonzero else "")

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The normalised array, float32; a volume with a single value becomes 0."""
        result = np.asarray(array, np.float32)
        inside = result != 0 if self.nonzero else np.ones(result.shape, bool)
        known = result[inside].astype(np.float64)
        mean, deviation = (known.mean(), known.std()) if known.size else (0.0, 0.0)
        scaled = (result - np.float32(mean)) * np.float32(1 / deviation if deviation > 0 else 0)
        return np.where(inside, scaled, np.float32(0))


def _check_numbers(intensities: "Window | Percentiles") -> None:
    for name, number in vars(intensities).items():
        if isinstance(number, bool) or not isinstance(number, int | float | np.number) or not math.isfinite(number):
            kind = type(intensities).__name__
            raise ValueError(f"{kind}: {name}: expected a finite number. Received: {number!r}")


Intensities = Window | Percentiles | ZScore
KINDS: dict[str, type[Intensities]] = {"window": Window, "percentiles": Percentiles, "zscore": ZScore}


def to_json(intensities: Intensities) -> dict[str, Any]:
    """A dictionary with the kind of a normalisation and its numbers; `from_json` reads it."""
    kind = next(name for name, known in KINDS.items() if type(intensities) is known)
    return {"kind": kind, **asdict(intensities)}


def from_json(value: Any) -> Intensities:
    """The normalisation of a dictionary that `to_json` made.

    Raises:
        ValueError: if its kind is unknown, or its numbers are not those of the kind.
    """
    kind = KINDS.get(str(value.get("kind"))) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError(f"intensities: expected one of the kinds {list(KINDS)}. Received: {value!r:.200}")
    try:
        return kind(**{name: number for name, number in value.items() if name != "kind"})
    except TypeError as error:
        raise ValueError(f"intensities: expected the numbers of {kind.__name__}. Received: {value!r:.200}") from error
