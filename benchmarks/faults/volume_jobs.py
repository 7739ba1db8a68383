"""The commands under attack that read volumes: the segmentation of many, and the building of a data set."""

import shutil
import sys
from pathlib import Path

import keras
import numpy as np

import keras_spatial as ks
from benchmarks.faults.jobs import HERE, Job, Result
from datasets.phantom import write_lits_folder
from keras_spatial.data import Box, Store
from keras_spatial.volumes import read_volume

VOLUMES = 8


def segmentation(inputs: Path) -> Job:
    """`keras-spatial segment`, which writes a label file for each of several volumes.

    Args:
        inputs: the folder that `make_inputs` has filled.
    """

    def command(folder: Path) -> list[str]:
        start = [sys.executable, "-m", "keras_spatial_command", "segment", str(inputs / "model.keras")]
        return [*start, str(inputs / "volumes"), "-o", str(folder / "out"), "--overwrite", "--task", "lits"]

    def labels(folder: Path) -> Result:
        return {path.name: read_volume(path).array for path in sorted((folder / "out").glob("*.nii.gz"))}

    def result(folder: Path) -> Result:
        found = labels(folder)
        # `glob` also finds hidden files, which are those that are not complete.
        left = {path.name for path in (folder / "out").iterdir()} - found.keys()
        return found | {f"left over: {name}": np.zeros(()) for name in left}

    def whole(folder: Path) -> Result:
        return {name: array for name, array in labels(folder).items() if not name.startswith(".")}

    return Job("segmentation", command, result, folder="out", sign="out/segmentation-*", whole=whole)


def building(inputs: Path) -> Job:
    """The building of a data set of the same volumes with their labels.

    Args:
        inputs: the folder that `make_inputs` has filled.
    """

    def command(folder: Path) -> list[str]:
        return [sys.executable, str(HERE / "build.py"), str(inputs / "lits"), str(folder / "data")]

    def result(folder: Path) -> Result:
        [path] = (folder / "data").glob("lits/*/*/features.json")
        found: Result = {}
        for split in ("train", "validation", "test"):
            store = Store(path.parent, split)
            for case in range(store.cases):
                image, label = store.read(case, Box((0, 0, 0), store.shape(case)))
                found |= {f"image {split} {case}": image, f"label {split} {case}": label}
        return found

    def whole(folder: Path) -> Result:
        complete = list((folder / "data").glob("lits/[!.c]*/[0-9].[0-9].[0-9]"))
        return result(folder) if complete else {}

    return Job(
        "building",
        command,
        result,
        folder="data",
        sign="data/lits/converted/**/*",
        lock="data/lits/.lock-*",
        whole=whole,
    )


def make_inputs(folder: Path) -> None:
    """Make what `segmentation` and `building` read: a model, volumes alone, and volumes with labels."""
    write_lits_folder(folder / "lits", VOLUMES, size=24)
    (folder / "volumes").mkdir()
    for path in (folder / "lits").glob("volume-*"):
        shutil.copy(path, folder / "volumes")
    keras.utils.set_random_seed(1)
    ks.models.UNet3D((16, 16, 16, 1), classes=3, filters=2, levels=2).save(folder / "model.keras")
