"""Segmenting the volumes of a folder; results lie on each volume's own grid."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components.train.settings import MODEL
from keras_spatial.inference import segment
from keras_spatial.volumes import VolumeError


class NothingSegmented(ValueError):
    """No volume of the folder could be segmented."""


def volumes_in(folder: str | Path) -> list[Path]:
    """The volumes to segment: every `.nii` and `.nii.gz` file but segmentations and hidden files.

    Raises:
        NothingSegmented: no such folder, or no volume in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NothingSegmented(f"{folder}: no such folder. Expected a folder with CT volumes, .nii or .nii.gz.")
    found = sorted(p for p in folder.glob("*.nii*") if p.name.endswith((".nii", ".nii.gz")))
    found = [p for p in found if not p.name.startswith((".", "segmentation-"))]
    if not found:
        raise NothingSegmented(f"{folder}: no volume found. Expected .nii or .nii.gz files.")
    return found


def output_name(volume: Path) -> str:
    """`volume-3.nii.gz` gives `segmentation-3.nii.gz`, as in LiTS; other names get `segmentation-` before them."""
    stem = volume.name.removesuffix(".gz").removesuffix(".nii")
    return f"segmentation-{stem.removeprefix('volume-')}.nii.gz"


def segment_folder(
    volumes: str, model: str, predictions: str, *, mesh: str, layout: str
) -> Mapping[str, Mapping[str, Any]]:
    """Segment every volume of a folder with a partitioned model.

    A volume that cannot be used is listed in `failed.csv` and does not stop the others.

    Args:
        volumes: folder with `.nii` and `.nii.gz` files.
        model: a `.keras` file, or a folder with `model.keras`.
        predictions: folder to make: a label file per volume with its header and affine, `failed.csv`.
        mesh: such as "rows:2, columns:2"; layout: such as "x:rows, y:columns".

    Raises:
        NothingSegmented: if no volume could be segmented.
    """
    paths = volumes_in(volumes)
    distribution = ks.SpatialParallel(ks.device_mesh(mesh), layout)
    path = Path(model) / MODEL if Path(model).is_dir() else Path(model)
    network = ks.load_model(path, distribution=distribution, compile=False)
    folder = Path(predictions)
    folder.mkdir(parents=True, exist_ok=True)
    failed: list[tuple[str, str]] = []
    for number, volume in enumerate(paths, start=1):
        outcome = "done"
        try:
            segment(network, volume, folder / output_name(volume))
        except VolumeError as error:
            failed.append((volume.name, f"{type(error).__name__}: {error}"))
            outcome = f"left out: {error}"
        print(f"segment: {number}/{len(paths)} {volume.name} {outcome}", flush=True)
    with (folder / "failed.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("volume", "reason"), *failed])
    if len(failed) == len(paths):
        raise NothingSegmented(f"{volumes}: none of {len(paths)} volumes can be used; the first: {failed[0][1]}")
    return {"predictions": {"segmented": len(paths) - len(failed), "failed": len(failed)}}
