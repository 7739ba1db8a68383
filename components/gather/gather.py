"""Combine the segmentations of several steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components import console
from components.faults import shortened
from components.files import read_json
from components.resume import link_or_copy
from components.segment.settings import SEEN
from datasets.object_store import StorageError
from keras_spatial._paths import RESULTS, stem_of
from keras_spatial.inference import NothingToSegment, ResultsCollide
from keras_spatial.inference.batches import FAILED, read_failed, write_rows

# The beginning of a series' name in messages and tables; see `keras_spatial.volumes.Series`.
_SERIES = "DICOM series "
_IN_NO_SHARE = (
    "in no share, because volumes were added or removed while the shares listed the folder: segment it by itself"
)


def gather_segmentations(parts: Sequence[str], predictions: str) -> Mapping[str, Mapping[str, Any]]:
    """Put the results of all shares into one folder, with one table of the volumes without a result.

    The step of each share has listed the volumes by itself. If volumes were added or removed in the meantime, a volume
    may be in two shares, and then the first result counts, or in none, and is then in the table. Two results of one
    name on different grids belong to different volumes, or to parts of one DICOM series in the folders of two shares.
    The same is true of the result of a series that another share could not use.

    Args:
        parts: the folders of the step segment, one for each share of the volumes.
        predictions: the folder to make, with the same content as that of a single step.

    Returns:
        The metadata of the predictions: the numbers of segmented and failed volumes.

    Raises:
        ResultsCollide: if two shares have a result of the same name although they saw the same volumes, or on different
            grids, or if one of them could not use a DICOM series for which another has a result.
        NothingToSegment: if no share has a result.
        StorageError: if what a share has seen is missing or damaged.
    """
    target = Path(predictions)
    target.mkdir(parents=True, exist_ok=True)
    seen = [_seen(part) for part in parts]
    written: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for part in parts:
        reasons |= read_failed(part)
        for file in sorted(Path(part).iterdir()):
            if file.name in (FAILED, SEEN) or file.name.startswith("."):
                continue
            if file.name not in written:
                written[file.name] = part
                link_or_copy(file, target / file.name)
            elif all(volumes == seen[0] for volumes in seen) or not _same_grid(file, target / file.name):
                raise ResultsCollide(
                    f"{file}: expected shares without common volumes. Received: {file.name} also in "
                    f"{written[file.name]}. Put the files of each DICOM series into one folder."
                )
    volumes = {stem: name for share in seen for stem, name in share.items()}
    for name, part in written.items():
        volume = volumes.pop(stem_of(name, RESULTS), "")
        # A file that one share could not use may have been complete when another share looked; a series must have been
        # torn apart.
        if volume in reasons and volume.startswith(_SERIES):
            raise ResultsCollide(
                f"{Path(part) / name}: expected shares without common volumes. Received: {volume}, which another share "
                f"could not use: {reasons[volume]}. Put the files of each DICOM series into one folder."
            )
    rows = [(name, reasons.get(name, _IN_NO_SHARE)) for name in sorted(volumes.values())]
    write_rows(target, rows)
    if not written:
        first = f"; the first: {rows[0][0]}: {rows[0][1]}" if rows else ""
        raise NothingToSegment(f"none of {len(rows)} volumes can be used{first}")
    left_out = f"; {console.count(len(rows), 'volume')} left out, see {FAILED}" if rows else ""
    shares = console.count(len(parts), "share")
    console.result("gather", f"{console.count(len(written), 'segmentation')} of {shares}{left_out}")
    return {"predictions": {"segmented": len(written), "failed": len(rows)}}


def _seen(part: str) -> dict[str, str]:
    """The names of the volumes that a share has seen, by the stems of their results."""
    path = Path(part) / SEEN
    try:
        seen = read_json(path)
    except (OSError, ValueError) as error:
        seen, fault = None, str(error)
    else:
        fault = shortened(seen)
    if isinstance(seen, dict) and all(isinstance(name, str) for name in seen.values()):
        return seen
    raise StorageError(
        f"{path}: expected the names of the volumes that the step segment has seen. Received: {fault}. The file is "
        "damaged: run that step again."
    )


def _same_grid(one: Path, other: Path) -> bool:
    """Whether two label files may belong to the same volume."""
    if one.read_bytes() == other.read_bytes():
        return True
    first, second = nib.load(one), nib.load(other)
    return first.shape == second.shape and np.array_equal(first.affine, second.affine)
