"""Read a DICOM series as a volume: the headers are checked first, then GDCM decodes one slice after another."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial.volumes.dicom_images import TIMES, Slice
from keras_spatial.volumes.dicom_pixels import PLAIN, decoded
from keras_spatial.volumes.headers import check_affine, nifti_header, raise_it
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.series import Series
from keras_spatial.volumes.volume import (
    AffineError,
    DimensionError,
    GantryTiltError,
    LimitError,
    NonFiniteError,
    ScaleError,
    SeriesError,
    SliceError,
    UnreadableVolumeError,
    Volume,
)

# Positions have a precision of 0.001 mm at most, so two positions closer than that are the same.
_SAME_PLACE = 1e-3
# By how much distances between slices may differ, as a fraction and in mm: scanners round positions to 0.01 mm.
_UNEVEN, _ROUNDING = 0.02, 0.011


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of a series, ordered along the normal of the images.

    Attributes:
        slices: the slices, from the first to the last.
        affine: the matrix, float64 `[4, 4]`, from column, row and slice to mm, in NIfTI's axes.
        dtype: the dtype that can represent every value: int16, int32 or float32.
    """

    slices: tuple[Slice, ...]
    affine: np.ndarray
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices[0].columns, self.slices[0].rows, len(self.slices)


def read_series(series: Series, limits: Limits) -> Volume:
    """Read a series; see `read_volume`."""
    stack = stacked(series, limits)
    columns, rows, count = stack.shape
    try:
        # In NIfTI's order columns are contiguous in memory, then rows follow.
        voxels = np.empty((count, rows, columns), stack.dtype)
    except MemoryError as error:
        raise UnreadableVolumeError(f"{series}: the voxels do not fit into this machine's memory: {error}") from error
    for places in _by_file(stack.slices):
        images = [stack.slices[place] for place in places]
        for place, pixels in zip(places, decoded(series, images), strict=True):
            voxels[place] = _values(series, stack.slices[place], pixels, stack.dtype)
    array = voxels.transpose(2, 1, 0)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NonFiniteError(f"{series}: expected finite voxels. Received: NaN or infinite voxels")
    ordered = Series(series.folder, series.name, stack.slices)
    return Volume(array, stack.affine, nifti_header(array, stack.affine), series.folder, ordered)


def stacked(series: Series, limits: Limits) -> Stack:
    """Order the slices of a series, and check that they form one volume within the limits. No pixel is read.

    Raises:
        VolumeError: one of its subclasses, as for `read_volume`.
    """
    if series.fault is not None:
        raise type(series.fault)(f"{series}: {series.fault}")
    slices = series.slices
    _check_images(series)
    count = slices[0].rows * slices[0].columns * len(slices)
    if count > limits.voxels:
        raise LimitError(
            f"{series}: expected at most {limits.voxels} voxels. Received: {series.summary}. {raise_it('voxels')}"
        )
    _check_lengths(series)
    row, column = np.array(slices[0].orientation, np.float64).reshape(2, 3)
    if not (abs(row @ row - 1) < 1e-2 and abs(column @ column - 1) < 1e-2 and abs(row @ column) < 1e-2):
        raise AffineError(
            f"{series}: expected two perpendicular directions of length 1 in ImageOrientationPatient. "
            f"Received: {list(slices[0].orientation)}"
        )
    normal = np.cross(row, column)
    along = np.array([image.position for image in slices]) @ normal
    order = np.argsort(along, kind="stable")
    slices, along = tuple(slices[i] for i in order), along[order]
    places = np.array([image.position for image in slices])
    _check_repeated(series, slices, np.abs(np.diff(places, axis=0)).max(axis=1))
    _check_distances(series, slices, np.diff(along))
    _check_tilt(series, slices, places, along, normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * slices[0].spacing[1], column * slices[0].spacing[0]
    affine[:3, 2], affine[:3, 3] = (places[-1] - places[0]) / (len(slices) - 1), places[0]
    # DICOM's axes run to the left and to the back, NIfTI's to the right and to the front.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    check_affine(str(series), affine, (slices[0].columns, slices[0].rows, len(slices)), limits)
    return Stack(slices, affine, _dtype(series))


def _check_images(series: Series) -> None:
    slices = series.slices
    if not slices:
        raise SeriesError(f"{series}: expected images. Received: none")
    _alike(series, "patient", [image.patient for image in slices], lambda value: "a different one")
    _alike(series, "frame of reference", [image.frame for image in slices], lambda value: "a different one")
    _alike(series, "modality", [image.modality for image in slices])
    _alike(series, "size, rows x columns,", [f"{image.rows} x {image.columns}" for image in slices])
    _alike(series, "kind of pixels", [f"{image.samples} x {image.photometric}" for image in slices])
    first = slices[0]
    if first.samples != 1 or first.photometric != "MONOCHROME2":
        raise UnreadableVolumeError(
            f"{series}: expected one value per pixel that grows with brightness (MONOCHROME2). Received: "
            f"{first.samples} of {first.photometric or 'no kind'}"
        )
    if first.rows < 1 or first.columns < 1:
        raise DimensionError(f"{series}: expected rows and columns. Received: {first.rows} x {first.columns}")
    for name, field, length in (
        ("ImagePositionPatient", "position", 3),
        ("ImageOrientationPatient", "orientation", 6),
        ("PixelSpacing", "spacing", 2),
    ):
        for image in slices:
            value = getattr(image, field)
            if len(value) != length or not all(map(math.isfinite, value)):
                raise AffineError(
                    f"{series}: {image.called}: expected {length} finite numbers in {name}. Received: {list(value)}"
                )
    _alike(series, "orientation", [tuple(round(v, 3) + 0.0 for v in image.orientation) for image in slices])
    _alike(series, "pixel spacing in mm", [tuple(float(f"{v:.4g}") for v in image.spacing) for image in slices])
    if len(slices) < 2:
        raise DimensionError(
            f"{series}: expected at least two slices, whose distance is that of the voxels. Received: one; is it a "
            "localiser?"
        )


def _check_lengths(series: Series) -> None:
    """Check that files without compression can hold the pixels that their headers promise."""
    for image in series.slices:
        wanted, most = image.frames * image.rows * image.columns * math.ceil(image.bits / 8), image.path.stat().st_size
        if image.syntax in PLAIN and wanted > most:
            raise UnreadableVolumeError(
                f"{series}: {image.called}: the file is truncated or its header is damaged; copy or download it again. "
                f"Received: a file of {most} bytes for {wanted} bytes of pixels, {image.rows} x {image.columns}"
            )


def _alike(series: Series, what: str, values: Sequence[Any], shown: Callable[[Any], str] = str) -> None:
    counts = Counter(values).most_common()
    if len(counts) > 1:
        odd = next(image for image, value in zip(series.slices, values, strict=True) if value == counts[1][0])
        others = len(values) - counts[0][1]
        raise SeriesError(
            f"{series}: its images are mixed: expected one {what} in all {len(values)}. Received: {others} with "
            f"{shown(counts[1][0])} instead of {counts[0][0] if shown is str else 'that of the others'}; one of them "
            f"is {odd.called}. {_apart(series, 'images of each kind')}"
        )


def _apart(series: Series, which: str) -> str:
    """How a user separates images that do not belong together."""
    if series.enhanced:
        return f"Divide it into the {which}, for instance with dcm2niix, and use the NIfTI files"
    return f"Move the {which} to their own folder"


def _check_repeated(series: Series, slices: Sequence[Slice], steps: np.ndarray) -> None:
    repeated = np.flatnonzero(steps < _SAME_PLACE).tolist()
    if not repeated:
        return
    pairs = [(slices[i], slices[i + 1]) for i in repeated]
    if all(a.uid and (a.uid, a.index) == (b.uid, b.index) for a, b in pairs):
        a, b = pairs[0]
        raise SliceError(
            f"{series}: {len(pairs)} images are duplicated: {_place(a)} is {a.called} and {b.called}. Remove one"
        )
    differing = {
        name: sorted({image.times[k] for image in slices})
        for k, name in enumerate(TIMES)
        if any(a.times[k] != b.times[k] for a, b in pairs)
    }
    by = "; ".join(
        f"{name}: {', '.join(values[:8])}{' ...' if len(values) > 8 else ''}" for name, values in differing.items()
    )
    raise DimensionError(
        f"{series}: expected a three-dimensional series, one image at each position. Received: {len(slices)} images at "
        f"{len(slices) - len(pairs)} positions, as in a series over time (4D) or with several echoes. "
        f"{_apart(series, 'images of each volume')}. They differ in "
        f"{by or 'none of the fields that distinguish volumes'}"
    )


def _check_distances(series: Series, slices: Sequence[Slice], steps: np.ndarray) -> None:
    usual = float(np.median(steps))
    allowed = max(_UNEVEN * usual, _ROUNDING)
    uneven = np.flatnonzero(np.abs(steps - usual) > allowed).tolist()
    # Each step may be within the tolerance, and the sum of their errors still amount to a slice.
    drift = np.abs(np.cumsum(steps - usual)).max(initial=0)
    if not uneven and drift <= max(usual / 2, _ROUNDING):
        return
    gaps = [(i, round(steps[i] / usual)) for i in uneven if usual > _SAME_PLACE]
    if gaps and all(n >= 2 and abs(steps[i] - n * usual) <= n * allowed for i, n in gaps):
        missing = sum(n - 1 for _, n in gaps)
        i = gaps[0][0]
        raise SliceError(
            f"{series}: {missing} {'slice is' if missing == 1 else 'slices are'} missing: expected one every "
            f"{usual:g} mm. Received: {steps[i]:g} mm between {_place(slices[i])} and {_place(slices[i + 1])}. "
            "Copy the series from the archive again"
        )
    i = uneven[0] if uneven else int(np.argmax(np.abs(steps - usual)))
    raise SliceError(
        f"{series}: expected slices at equal distances. Received: mostly {usual:g} mm, and {steps[i]:g} mm between "
        f"{_place(slices[i])} and {_place(slices[i + 1])}; {len(uneven)} of {len(steps)} distances differ. Resample it "
        "to equal distances, for instance with dcm2niix"
    )


def _check_tilt(
    series: Series, slices: Sequence[Slice], places: np.ndarray, along: np.ndarray, normal: np.ndarray
) -> None:
    aside = places - places[0] - np.outer(along - along[0], normal)
    away = np.linalg.norm(aside, axis=1)
    pixel = min(slices[0].spacing)
    share = (along - along[0]) / (along[-1] - along[0])
    bent = np.linalg.norm(aside - np.outer(share, aside[-1]), axis=1)
    if bent.max() > pixel / 2:
        raise SeriesError(
            f"{series}: expected slices on a straight line. Received: {_place(slices[int(bent.argmax())])} is "
            f"{bent.max():.3g} mm off that line"
        )
    if away[-1] > pixel / 2:
        angle = math.degrees(math.atan2(away[-1], along[-1] - along[0]))
        raise GantryTiltError(
            f"{series}: expected slices perpendicular to the line through them. Received: a gantry tilt of "
            f"{angle:.1f} degrees, which shifts the last slice by {away[-1]:.3g} mm. Resample it to a rectangular "
            "grid, for instance with dcm2niix, and use the NIfTI file"
        )


def _place(image: Slice) -> str:
    at = f"at {image.position[2]:g} mm"
    if image.index is not None:
        return f"frame {image.index + 1} {at}"
    return f"the slice {at}" if image.number is None else f"slice {image.number} (InstanceNumber) {at}"


def _dtype(series: Series) -> np.dtype:
    """The smallest of int16, int32 and float32 that can represent all values that the headers allow."""
    low, high = 0.0, 0.0
    for image in series.slices:
        if not (math.isfinite(image.slope) and math.isfinite(image.intercept) and image.slope):
            raise ScaleError(
                f"{series}: {image.called}: expected a finite RescaleSlope other than 0 and a finite RescaleIntercept. "
                f"Received: {image.slope:g} and {image.intercept:g}"
            )
        if not 1 <= image.bits <= 32:
            raise UnreadableVolumeError(f"{series}: {image.called}: expected 1 to 32 bits. Received: {image.bits}")
        if image.slope != int(image.slope) or image.intercept != int(image.intercept):
            return np.dtype(np.float32)
        stored = (-(2.0 ** (image.bits - 1)), 2.0 ** (image.bits - 1) - 1) if image.signed else (0, 2.0**image.bits - 1)
        ends = [image.slope * end + image.intercept for end in stored]
        low, high = min(low, *ends), max(high, *ends)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def _by_file(slices: Sequence[Slice]) -> list[list[int]]:
    """The places of the slices in the stack, file by file, in the order in which the file has them."""
    files: dict[Path, list[int]] = {}
    for place, image in enumerate(slices):
        files.setdefault(image.path, []).append(place)
    return [sorted(places, key=lambda place: slices[place].index or 0) for places in files.values()]


def _values(series: Series, image: Slice, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values of one slice in a dtype, an array `[rows, columns]`; those of classic files are scaled already."""
    array = pixels
    if image.index is not None and dtype.kind == "i":
        array = pixels.astype(np.int64) * int(image.slope) + int(image.intercept)
    elif image.index is not None:
        # Values beyond float32 become infinite, which `read_series` refuses.
        with np.errstate(over="ignore"):
            return (pixels * np.float64(image.slope) + image.intercept).astype(dtype)
    if dtype.kind == "i":
        info = np.iinfo(dtype)
        if array.min() < info.min or array.max() > info.max:
            raise ScaleError(
                f"{series}: {image.called}: expected values from {info.min} to {info.max} by its header. Received: "
                f"{array.min():g} to {array.max():g}"
            )
    return array.astype(dtype)
