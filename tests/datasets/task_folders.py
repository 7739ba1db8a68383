"""Folders of a task with two channels and four labels, in each of the layouts that are read."""

import json

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from keras_spatial.volumes import Channel, Grid, Task, ZScore

AFFINE = np.diag([-1.5, 1.5, 3.0, 1.0])
LABELS = ("background", "core", "rim", "tail")


def arrays(number):
    """A case of its own size: two channels on unlike scales, and labels 0 to 3."""
    shape = (10 + number, 12, 8 + number % 3)
    rng = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    label[2:8, 3:9, 1:4], label[3:6, 4:7, 4:6], label[4:5, 4:9, 6:7] = 1, 2, 3
    first = 100 * label + rng.normal(0, 5, shape)
    return np.stack([first, 1000 - 3 * first], -1).astype(np.float32), label


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nrrd", ".mha")):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        lps = np.diag([-1, -1, 1]) @ affine[:3, :3]
        spacing = np.linalg.norm(lps, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(array, affine), path)


def write_decathlon(folder, cases=4):
    training = []
    for number in range(cases):
        image, label = arrays(number)
        save(folder / f"imagesTr/case_{number}.nii.gz", image)
        save(folder / f"labelsTr/case_{number}.nii.gz", label)
        training.append({"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"})
    description = {
        "name": "Toy", "modality": {"0": "T1", "1": "T2"}, "labels": {str(i): n for i, n in enumerate(LABELS)},
        "training": training,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def write_nnunet(folder, cases=4, ending=".nii.gz"):
    write_files(folder / "imagesTr", folder / "labelsTr", cases, ending)
    description = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {n: i for i, n in enumerate(LABELS)}, "file_ending": ending,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def write_plain(folder, cases=4, ending=".nii.gz"):
    write_files(folder / "images", folder / "labels", cases, ending)


def write_files(images, labels, cases, ending):
    for number in range(cases):
        image, label = arrays(number)
        for channel in range(2):
            save(images / f"case_{number}_{channel:04}{ending}", image[..., channel])
        save(labels / f"case_{number}{ending}", label)


PLAIN = {"channels": ["T1", "T2"], "labels": LABELS}
LAYOUTS = {
    "decathlon": (write_decathlon, {}),
    "nnunet": (write_nnunet, {}),
    "plain": (write_plain, PLAIN),
    "nrrd": (lambda folder: write_plain(folder, ending=".nrrd"), PLAIN),
    "mha": (lambda folder: write_nnunet(folder, ending=".mha"), {}),
}


def task(layout, grid=None):
    channels = tuple(Channel(c, ZScore()) for c in layout.channels)
    return Task(layout.name, layout.labels, channels, grid or Grid())


def change(**fields):
    def edit(folder):
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def strange_label(folder):
    label = arrays(1)[1]
    label[0, 0, 0] = 7
    save(folder / "labels/case_1.nii.gz", label)
