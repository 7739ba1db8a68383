"""The volumes that a step segments, and the file of its model."""

import re
from collections.abc import Sequence
from pathlib import Path

from components.train.settings import MODEL
from keras_spatial.inference import NothingToSegment, Source, find_sources


def volumes_in(volumes: str | Path) -> list[Source]:
    """The volumes to segment: a file, those of a folder, and the DICOM series in it; see `find_sources`.

    Raises:
        NothingToSegment: if nothing is there, or no volume is in it.
        VolumesBelow: if there are volume files in folders below it.
        ResultsCollide: if two volumes, such as `3.nii` and `volume-3.nii.gz`, would get the same result file.
        VolumeError: if the folder's name cannot be used.
    """
    if not Path(volumes).exists():
        raise NothingToSegment(
            f"{volumes}: no such file or folder. Expected a volume (.nii, .nii.gz, .nrrd, .mha), or a folder with "
            "volumes or DICOM series."
        )
    return find_sources([volumes])


def shared(sources: Sequence[Source], share: str) -> list[Source]:
    """The volumes of one of several steps that share them: every Nth in the order of their names, from the Kth on.

    So each volume is in one share, and the steps need not know of each other.

    Args:
        sources: all volumes, from `find_sources`.
        share: "K-of-N", K from 0.

    Raises:
        ValueError: if there is no such share.
    """
    match = re.fullmatch(r"([0-9]{1,6})-of-([0-9]{1,6})", share)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"share: expected K-of-N with K from 0 to below N. Received: {share!r}")
    ordered = sorted(sources, key=lambda source: source.stem)
    return ordered[int(match[1]) :: int(match[2])]


def model_file(model: str | Path) -> Path:
    """The `.keras` file of a model: itself, or in the folder of a training."""
    return Path(model) / MODEL if Path(model).is_dir() else Path(model)
