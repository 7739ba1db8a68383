"""Encode cases for the viewer in the page, with voxels as compressed bytes in base64, and define what it draws."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from keras_spatial.volumes import Channel, ZScore, resample_image, resample_labels

VIEWER_SIZE = 160
"""The largest number of voxels along an axis in the page. A case takes up to about 2 MB for each channel."""
# Colours that can be seen on dark pictures. With more classes, they repeat.
COLOURS = ("#38bdf8", "#fb923c", "#a3e635", "#f472b6", "#facc15", "#c084fc", "#2dd4bf", "#f87171")
TRUTH, PREDICTION = COLOURS[:2]
Windows = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Look:
    """How the values of a channel become bytes, and the windows in which they are shown.

    Attributes:
        windows: the name, level and width of each window; the first one is shown at the beginning.
        low: the value at byte 0; None for the 0.5th percentile of each volume, which then counts as 0.
        high: the value at byte 255; None for the 99.5th percentile of each volume, which then counts as 1.
    """

    windows: Windows
    low: float | None = None
    high: float | None = None


LITS_LOOK = Look((("soft tissue", 40, 400), ("liver", 60, 160), ("as the network sees it", 0, 1024)), -512, 512)
_CT_LOOK = Look((("soft tissue", 40, 400), ("lung", -600, 1500), ("bone", 400, 1200), ("all", 0, 2048)), -1024, 1024)
_LOOK = Look((("all", 0.5, 1), ("dark parts", 0.25, 0.5), ("bright parts", 0.75, 0.5)))


def look_of(channel: str) -> Look:
    """The look of a channel by its name."""
    return _CT_LOOK if Channel(channel, ZScore()).is_ct else _LOOK


class Outline(TypedDict):
    """A line around voxels of some classes. `group` is the class whose box hides it, or None."""

    labels: str
    values: list[int]
    colour: str
    width: float
    dashed: bool
    group: int | None


def lits_outlines() -> list[Outline]:
    """Thin outlines of the liver with its lesions and thick ones of the lesions, in one colour for truth and another
    for prediction."""
    return [
        Outline(labels=labels, values=values, colour=colour, width=width, dashed=dashed, group=None)
        for labels, colour, dashed in (("truth", TRUTH, False), ("prediction", PREDICTION, True))
        for values, width in (([1, 2], 1.25), ([2], 2.5))
    ]


def class_outlines(classes: Sequence[tuple[int, str, str]]) -> list[Outline]:
    """Outlines of each class, given by number, name and colour, with a solid line for truth and a dashed one for
    prediction."""
    return [
        Outline(labels=labels, values=[number], colour=colour, width=1.75, dashed=dashed, group=number)
        for labels, dashed in (("truth", False), ("prediction", True))
        for number, _, colour in classes
    ]


class EncodedChannel(TypedDict):
    """`image` is one byte per voxel, x fastest, from `low` at 0 to `high` at 255."""

    name: str
    low: float
    high: float
    windows: Windows
    image: str


class EncodedCase(TypedDict):
    """What `viewer.js` reads. `truth` and `prediction` are one byte per voxel, x fastest."""

    case: str
    shape: list[int]
    original: list[int]
    spacing: list[float]
    channels: list[EncodedChannel]
    truth: str
    prediction: str


def encode(
    case: str,
    channels: Sequence[tuple[str, np.ndarray, Look]],
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, float, float],
) -> EncodedCase:
    """Prepare one case for the page.

    Args:
        case: the name of the case.
        channels: the name, the values `[X, Y, Z]` and the look of each channel.
        truth: the true class numbers `[X, Y, Z]`.
        prediction: the predicted class numbers `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.
    """
    shape = truth.shape
    size = tuple(min(n, VIEWER_SIZE) for n in shape)
    return {
        "case": case,
        "shape": list(size),
        "original": list(shape),
        "spacing": [float(s) * n / m for s, n, m in zip(spacing, shape, size, strict=True)],
        "channels": [_channel(name, image, look, size) for name, image, look in channels],
        "truth": _pack(resample_labels(truth, size)),
        "prediction": _pack(resample_labels(prediction, size)),
    }


def _channel(name: str, image: np.ndarray, look: Look, size: tuple[int, ...]) -> EncodedChannel:
    grey = resample_image(image, size).astype(np.float32)
    low, high = (0.0, 1.0) if look.low is None or look.high is None else (look.low, look.high)
    ends = (low, high)
    if look.low is None:
        ends = tuple(float(p) for p in np.percentile(image, (0.5, 99.5)))
    elif image.dtype.kind == "f" and float(image.min()) >= 0 and float(image.max()) <= 1:
        # These are the values that the network gets.
        ends = (0.0, 1.0)
    scaled = np.clip((grey - ends[0]) / max(ends[1] - ends[0], 1e-6), 0, 1)
    return {
        "name": name,
        "low": low,
        "high": high,
        "windows": look.windows,
        "image": _pack(np.rint(scaled * 255)),
    }


def _pack(array: np.ndarray) -> str:
    content = array.astype(np.uint8).tobytes(order="F")
    # mtime=0: equal reports are equal files.
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
