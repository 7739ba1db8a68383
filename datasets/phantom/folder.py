"""Phantoms as NIfTI files with the names of LiTS, which the LiTS builder reads as it would the originals."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from datasets.phantom.anatomy import Patient, patient
from datasets.phantom.render import Shape, render, spacing


def write_lits_folder(
    folder: str | Path, cases: int, seed: int = 0, size: Shape | int = 64, difficulty: str = "medium"
) -> list[Path]:
    """Write `volume-N.nii.gz` (HU, int16) and `segmentation-N.nii.gz` (uint8: 0 background, 1 liver, 2 lesion).

    Spacing, field of view and orientation vary from case to case. Case N of a seed does not depend on `cases`. A file
    appears under its name only when it is complete; existing files are written again.

    Args:
        folder: the folder, which is made if it does not exist.
        cases: the number of cases, at least 1.
        seed: the seed of the series, from 0.
        size: the numbers of voxels along x (right), y (front) and z (up), at least 16 each; a single integer means a
            cube.
        difficulty: "easy", "medium" or "hard".

    Returns:
        The paths of the files, volume and segmentation in turn.

    Raises:
        ValueError: if a count, a size, a seed or the difficulty is out of range.
    """
    sizes = (size,) * 3 if isinstance(size, int) else tuple(size)
    if cases < 1:
        raise ValueError(f"cases: expected at least 1. Received: {cases}")
    if len(sizes) != 3 or min(sizes) < 16 or max(sizes) > 2048:
        raise ValueError(f"size: expected one or three integers from 16 to 2048. Received: {size}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(cases):
        person = patient(number, seed, difficulty)
        hu, labels = render(person, sizes)
        for name, array in (("volume", hu), ("segmentation", labels)):
            image = _stored(array, affine(person, sizes), person.orientation)
            path = folder / f"{name}-{number}.nii.gz"
            part = path.with_name(f".part-{path.name}")
            nib.save(image, part)
            part.replace(path)
            paths.append(path)
    return paths


def affine(person: Patient, size: Shape) -> np.ndarray:
    """The matrix, float64 `[4, 4]`, from voxel index to millimetres for an array in RAS order."""
    step = spacing(person, size)
    result = np.diag([*step, 1.0])
    corner = (-person.field[0] / 2, -person.field[1] / 2, person.bottom)
    result[:3, 3] = [low + 0.5 * s for low, s in zip(corner, step, strict=True)]
    return result


def _stored(array: np.ndarray, matrix: np.ndarray, codes: str) -> nib.Nifti1Image:
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes))
    image = nib.Nifti1Image(
        orientations.apply_orientation(array, change), matrix @ orientations.inv_ornt_aff(change, array.shape)
    )
    image.header.set_xyzt_units("mm")
    return image
