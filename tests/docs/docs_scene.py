"""What the examples in docstrings take for granted: objects under their customary names, and files in the folder.

A name means one kind of thing in every example. What is odder than these, an example makes itself.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks

# isort: split
import keras
import nibabel as nib
import numpy as np
from docs_pages import ROOT

# The voxels of one case. Networks take cubes with the shortest of its edges.
_SHAPE, _EDGE = (96, 80, 64), 64


@functools.cache
def distribution() -> ks.SpatialParallel:
    """A mesh of 2x2 devices."""
    return ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")


def network(shape: Sequence[int] = (_EDGE, _EDGE, _EDGE, 1)) -> keras.Model:
    """A small network of three classes; of the mesh, inside its scope."""
    return ks.models.UNet3D(shape, classes=3, filters=2, levels=2)


def model() -> ks.Model:
    """A partitioned network, new in every example, ready for `fit`."""
    with distribution().scope():
        made = network()
    made.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy())
    return made


def dataset() -> Any:
    """Batches of images and labels, as `fit` takes them."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images(), labels())).batch(1)


@functools.cache
def segmentation() -> np.ndarray:
    """The classes of one case, uint8 `[X, Y, Z]`: a liver with one lesion, and a false one beside it."""
    array = np.zeros(_SHAPE, np.uint8)
    array[8:40, 8:40, 8:40], array[16:24, 16:24, 16:24], array[56:60, 56:60, 56:60] = 1, 2, 1
    return array


@functools.cache
def truth() -> np.ndarray:
    """Its reference, of the same shape."""
    return np.roll(segmentation(), 1, axis=0)


@functools.cache
def image() -> np.ndarray:
    """The image of one case as a network takes it, float32 `[X, Y, Z, 1]` from 0 to 1."""
    noise = np.random.default_rng(0).random(_SHAPE, np.float32)
    return ((segmentation() + noise) / 3)[..., None]


def images() -> np.ndarray:
    """A batch of images, float32 `[batch, X, Y, Z, 1]`."""
    return image()[None, :_EDGE, :_EDGE, :_EDGE]


def labels() -> np.ndarray:
    """The classes of a batch, uint8 `[batch, X, Y, Z]`."""
    return truth()[None, :_EDGE, :_EDGE, :_EDGE]


def probabilities() -> np.ndarray:
    """The class probabilities of one case, float32 `[X, Y, Z, classes]`."""
    return np.eye(3, dtype=np.float32)[segmentation()]


def logits() -> np.ndarray:
    """Scores of a batch, float32 `[batch, X, Y, Z, classes]`."""
    return probabilities()[None, :_EDGE, :_EDGE, :_EDGE]


def hounsfield(shape: Sequence[int] = _SHAPE) -> np.ndarray:
    """The HU of a CT, int16 `[X, Y, Z]`, with air, a body, two organs and a bone."""
    hu = np.full(shape, -1000, np.int16)
    hu[2:-2, 2:-2], hu[6:10, 6:10], hu[16:24, 16:24] = 40, 100, 700
    return hu


def volume() -> ks.volumes.Volume:
    """A CT that has been read from a file."""
    stored = _nifti(hounsfield())
    return ks.volumes.Volume(hounsfield(), stored.affine, stored.header, Path("case.nii.gz"))


def task() -> ks.volumes.Task:
    """A task of three classes and two channels."""
    channels = tuple(ks.volumes.Channel(name, ks.volumes.ZScore()) for name in ("T2", "ADC"))
    zones = ("background", "peripheral", "transition")
    return ks.volumes.Task("prostate", zones, channels, ks.volumes.Grid(spacing=(0.6, 0.6, 3.6)))


def cases() -> Sequence[ks.evaluation.CaseMetrics]:
    """The metrics of two cases of LiTS."""
    pairs = {"volume-0": segmentation(), "volume-1": truth()}
    return [ks.evaluation.evaluate_case(p, truth(), (0.8, 0.8, 2.5), case=name) for name, p in pairs.items()]


NAMES: dict[str, Callable[[], Any]] = {
    "cases": cases,
    "dataset": dataset,
    "distribution": distribution,
    "image": image,
    "images": images,
    "labels": labels,
    "logits": logits,
    "model": model,
    # Several networks for the same images.
    "models": lambda: [network(), network()],
    "prediction": segmentation,
    "probabilities": probabilities,
    "segmentation": segmentation,
    "task": task,
    "truth": truth,
    "volume": volume,
    # A batch of volumes for Keras's layers, float32 `[batch, X, Y, Z, channels]`.
    "volumes": lambda: np.random.default_rng(0).random((1, 72, 72, 40, 1), np.float32),
}


def write_files(folder: str) -> None:
    """Write the files that examples read into a folder, each under the name by which they call it."""
    sys.path.append(str(ROOT / "tests" / "volumes"))
    import dicom_files

    from datasets import lits
    from datasets.phantom.folder import write_lits_folder

    root = Path(folder)
    _save(root / "case.nii.gz", hounsfield())
    for scan in ("volume-0", "volume-1"):
        _save(root / "scans" / f"{scan}.nii.gz", hounsfield((32, 32, 32)))
    _save(root / "slide.nii.gz", hounsfield((32, 32, 8)), spacing=(0.001, 0.001, 0.01))
    # On the task's grid they have 32 x 32 x 8 voxels, as many as the network takes.
    channels, spacing = (
        np.random.default_rng(0).normal(300.0, 50.0, (24, 24, 12, 2)).astype(np.float32),
        (0.8, 0.8, 2.4),
    )
    _save(root / "prostate_00.nii.gz", channels, spacing)
    for number in range(2):
        _save(root / f"case_000{number}.nii.gz", channels[..., number], spacing)
    for series in ("series", "study/1"):
        dicom_files.write_series(root / series)
    bright = ks.volumes.read_volume(root / "series")
    classes = ("background", "bright")
    ks.volumes.write_dicom_segmentation(root / "segmentation.dcm", bright.array > 40, bright, classes=classes)
    network().save(root / "liver.keras")
    network((32, 32, 8, 2)).save(root / "prostate.keras")
    ks.volumes.write_task(root / "prostate.keras", task())
    write_lits_folder(root / "LiTS", cases=6, size=32)
    for blocks in ((1, 1, 1), (2, 2, 1)):
        builder = lits.prepare(root / "LiTS", root / "data", resolution=_EDGE, blocks=blocks)
        ks.data.write_classes(builder)
    _decathlon(root / "Task04_Hippocampus")
    _plain(root / "prostate")
    (root / "train.py").write_text("")


def _decathlon(root: Path) -> None:
    """A folder of the Medical Segmentation Decathlon with five small cases."""
    random, training = np.random.default_rng(0), []
    for number in range(5):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:9, 4:9, 4:9], label[9:12, 4:9, 4:9] = 1, 2
        name = f"hippocampus_{number:03}.nii.gz"
        _save(root / "imagesTr" / name, random.normal(100.0, 20.0, label.shape).astype(np.float32) + 60 * label)
        _save(root / "labelsTr" / name, label)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    classes = {"0": "background", "1": "Anterior", "2": "Posterior"}
    about = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": classes, "training": training}
    (root / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def _plain(root: Path) -> None:
    """A folder of images and labels with five small cases of two channels."""
    random = np.random.default_rng(0)
    label = np.zeros((16, 16, 16), np.uint8)
    label[4:9, 4:9, 4:9], label[9:12, 4:9, 4:9] = 1, 2
    for number in range(5):
        for channel in range(2):
            array = random.normal(100.0, 20.0, label.shape).astype(np.float32)
            _save(root / "images" / f"prostate_{number:02}_{channel:04}.nii.gz", array)
        _save(root / "labels" / f"prostate_{number:02}.nii.gz", label)


def _save(path: Path, array: np.ndarray, spacing: Sequence[float] = (0.8, 0.8, 2.5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(_nifti(array, spacing), path)


def _nifti(array: np.ndarray, spacing: Sequence[float] = (0.8, 0.8, 2.5)) -> nib.Nifti1Image:
    """An image whose voxels are stored from the right to the left."""
    made = nib.Nifti1Image(array, np.diag([-1.0, 1.0, 1.0, 1.0]) @ np.diag([*spacing, 1.0]))
    made.header.set_xyzt_units("mm")
    return made
