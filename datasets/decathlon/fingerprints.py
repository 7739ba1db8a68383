"""The properties of a data set that determine its grid and its normalisation: spacing, sizes, intensities, labels.

This follows nnU-Net (Isensee et al., Nature Methods 18, 2021): all cases that can be read count, including the test
cases. The numbers of each case are kept on disk, and computed again only if one of its files has changed.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.cases import BadCase, Case, error_of, shown
from datasets.decathlon.reader import TaskReader
from datasets.origins import HERE, Origin
from keras_spatial.volumes import Limits, Task, VolumeError, as_labels, to_canonical

logger = logging.getLogger(__name__)

_SAMPLES = 10_000
"""How many labelled voxels of a case and channel are sampled, evenly spread over all of them."""
_THREADS = 2
# nnU-Net calls a data set anisotropic if the voxels are more than three times as long along one axis as along the
# others, and less than a third as many.
_ANISOTROPIC = 3.0
# If at least this share of a volume is exactly 0, its surroundings were removed. nnU-Net uses the same share, for what
# cropping to the box around all other voxels removes.
_CUT_AWAY = 0.25
# What `_look` finds.
_NUMBERS = {"spacing", "shape", "samples", "zeros", "labels"}


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The properties of all cases together.

    Attributes:
        spacing: the median spacing along x, y and z in mm; along a much coarser axis, the 10th percentile, as in
            nnU-Net.
        shape: the median number of voxels along each axis.
        intensities: for each channel, the 0.5th and 99.5th percentile, mean and standard deviation of the labelled
            voxels; NaN if no voxel is labelled.
        cut_away: for each channel, whether the voxels around the patient were set to 0 in most cases.
        labels: the class numbers that occur in any case, in increasing order.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    intensities: tuple[tuple[float, float, float, float], ...]
    cut_away: tuple[bool, ...]
    labels: tuple[int, ...]


def fingerprint(
    cases: Sequence[Case], task: Task, store: str | Path, limits: Limits | None = None, origin: Origin = HERE
) -> Fingerprint:
    """Read all cases and compute the fingerprint of the data set.

    Args:
        cases: the cases of the data set. Cases that cannot be read are left out here, and reported by the build.
        task: the task whose channels the cases have.
        store: the folder in which the numbers of each case are kept.
        limits: the limits that a case must keep.
        origin: where the files of the cases lie; on this machine by default.

    Raises:
        VolumeError: if no case can be read. It is the error of a single case, or an error that lists all cases.
    """
    limits = limits or Limits.current()
    folder = Path(store)

    def look(case: Case) -> dict[str, np.ndarray] | BadCase:
        try:
            return _kept(case, task, folder, limits, origin)
        except VolumeError as error:
            return BadCase.of(case, error)

    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(look, cases))
    found = [r for r in results if not isinstance(r, BadCase)]
    if not found:
        raise error_of([r for r in results if isinstance(r, BadCase)], others=False)
    spacings, shapes = (np.stack([r[name] for r in found]) for name in ("spacing", "shape"))
    x, y, z = np.median(shapes, 0).round().astype(int).tolist()
    samples = [np.concatenate([r["samples"][c] for r in found]) for c in range(len(task.channels))]
    return Fingerprint(
        spacing=_target_spacing(spacings, np.median(shapes, 0)),
        shape=(x, y, z),
        intensities=tuple(_statistics(values) for values in samples),
        cut_away=tuple(bool(b) for b in np.median(np.stack([r["zeros"] for r in found]), 0) >= _CUT_AWAY),
        labels=tuple(sorted({int(label) for r in found for label in r["labels"]})),
    )


def _target_spacing(spacings: np.ndarray, shape: np.ndarray) -> tuple[float, float, float]:
    target = np.median(spacings, 0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    if target[coarse] > _ANISOTROPIC * target[others].max() and shape[coarse] * _ANISOTROPIC < shape[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), target[others].max())
    x, y, z = (float(f"{s:.4g}") for s in target)
    return x, y, z


def _statistics(values: np.ndarray) -> tuple[float, float, float, float]:
    if not values.size:
        return np.nan, np.nan, np.nan, np.nan
    low, high = (float(p) for p in np.percentile(values, (0.5, 99.5)))
    return low, high, float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def _kept(case: Case, task: Task, folder: Path, limits: Limits, origin: Origin) -> dict[str, np.ndarray]:
    """The numbers of a case, read from disk if its files have not changed."""
    # Whether a case can be read depends on the limits, and on which channels have to be in Hounsfield units.
    asked = [[channel.is_ct for channel in task.channels], limits.as_dict()]
    known = json.dumps([[[os.fsdecode(origin.key(p)), origin.identity(p)] for p in case.files], *asked])
    path = folder / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"
    stored = _stored(path)
    if stored is not None:
        return stored
    with origin.near(case) as near:
        values = _look(near, task, limits)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".part-{uuid.uuid4().hex}.npz"
    try:
        np.savez(part, allow_pickle=False, **values)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return values


def _stored(path: Path) -> dict[str, np.ndarray] | None:
    """The numbers of a case that are on disk; None if there are none, or they are damaged."""
    try:
        with np.load(path) as stored:
            # Checksums come first, so that nothing is allocated because a damaged header asks for it.
            if stored.zip.testzip() is not None or set(stored.files) != _NUMBERS:
                return None
            return dict(stored)
    except Exception:
        # NumPy and zipfile raise a dozen kinds of errors for damaged files, and each case can be looked at again.
        return None


def _look(case: Case, task: Task, limits: Limits) -> dict[str, np.ndarray]:
    reader = TaskReader(task)
    reader.check_header(case, limits)
    volumes = reader.read_images(case.images, limits)
    labels = as_labels(reader.read_labels(case, volumes[0], limits).array, shown(case.label))
    places = np.flatnonzero(labels)
    places = places[:: max(1, -(-places.size // _SAMPLES))]
    canonical = to_canonical(volumes[0])
    return {
        "spacing": np.array(canonical.spacing),
        "shape": np.array(canonical.array.shape),
        "samples": np.stack([v.array.reshape(-1)[places].astype(np.float32) for v in volumes]),
        "zeros": np.array([1 - np.count_nonzero(v.array) / v.array.size for v in volumes]),
        "labels": np.flatnonzero(np.bincount(labels.reshape(-1), minlength=1)),
    }
