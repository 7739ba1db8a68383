"""Cases as text for the viewer in the page: voxels as bytes, compressed, base64."""

import base64
import gzip
from typing import TypedDict

import numpy as np

from keras_spatial.volumes import hu_window, resample_image, resample_labels

VIEWER_SIZE = 160
"""Most voxels along an axis that the page carries: about 2 MB a case when reached."""


class EncodedCase(TypedDict):
    """What `viewer.js` reads. `image` is one byte per voxel, x fastest, 0 at -512 HU and 255 at 512 HU; `labels` is
    truth + 4 x prediction."""

    case: str
    shape: list[int]
    original: list[int]
    spacing: list[float]
    image: str
    labels: str


def encode(
    case: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]
) -> EncodedCase:
    """Prepare one case for the page.

    Args:
        case: name.
        image: HU `[X, Y, Z]`, or float values 0 to 1 as the network gets them.
        truth: labels 0, 1, 2.
        prediction: the same.
        spacing: mm.
    """
    size = tuple(min(n, VIEWER_SIZE) for n in image.shape)
    grey = resample_image(image, size)
    normalised = image.dtype.kind == "f" and float(image.min()) >= 0 and float(image.max()) <= 1
    scaled = grey if normalised else hu_window(grey)
    labels = resample_labels(truth, size) + 4 * resample_labels(prediction, size)
    return {
        "case": case,
        "shape": list(size),
        "original": list(image.shape),
        "spacing": [float(s) * n / m for s, n, m in zip(spacing, image.shape, size, strict=True)],
        "image": _pack(np.rint(scaled * 255).astype(np.uint8)),
        "labels": _pack(labels.astype(np.uint8)),
    }


def _pack(array: np.ndarray) -> str:
    # mtime=0: equal reports are equal files.
    return base64.b64encode(gzip.compress(array.tobytes(order="F"), 6, mtime=0)).decode("ascii")
