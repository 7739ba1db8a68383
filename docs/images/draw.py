"""Draw the pictures of the pages: `python docs/images/draw.py [FOLDER]` from the root of a checkout.

Without a folder, it draws the pictures of the README; with the folder of a finished run of `lits_segmentation`, the two
of the page `guides/reading_a_run.md`.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import keras_spatial as ks  # noqa: E402
from datasets.phantom import patient, render, spacing  # noqa: E402
from keras_spatial import plot  # noqa: E402

SIZE = (192, 192, 96)
SOFT_TISSUE = (40, 400)


def of_phantom() -> dict[str, Figure]:
    """Draw how a mesh shards a phantom, and slices of it."""
    person = patient(4, 0, "medium")
    hu, labels = render(person, SIZE)
    voxel = spacing(person, SIZE)
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    middle = int(labels.sum(axis=(0, 1)).argmax())
    return {
        "partition": plot.partition(hu, distribution, halo=6, position=middle, spacing=voxel, window=SOFT_TISSUE),
        "slices": plot.slices(hu, labels, spacing=voxel, window=SOFT_TISSUE),
    }


def of_run(folder: Path) -> dict[str, Figure]:
    """Draw the Dice by epoch and slices of the last held-out case of a finished run."""
    (training,) = folder.glob("artifacts/*/train/model/training.json")
    facts = json.loads(training.read_text(encoding="utf-8"))
    history, every = facts["history"], facts["validation_every"]
    curves = Figure((8.0, 3.2), layout="constrained")
    axes = curves.subplots()
    for part, colour in (("liver", "tab:blue"), ("lesion", "tab:orange")):
        trained, validated = history[f"dice_{part}"], history[f"val_dice_{part}"]
        axes.plot(range(1, len(trained) + 1), trained, color=colour, label=f"{part}, training")
        epochs = [every * (i + 1) for i in range(len(validated))]
        axes.plot(epochs, validated, "o--", color=colour, label=f"{part}, validation")
    axes.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1))
    curves.legend(loc="outside right", frameon=False)
    found = sorted(folder.glob("artifacts/*/evaluate/predictions/prediction-*.nii.gz"))[-1]
    (cases,) = folder.glob("artifacts/*/ingest/cases")
    number = found.name.removeprefix("prediction-")
    volume, truth, prediction = (
        ks.volumes.to_canonical(ks.volumes.read_volume(path))
        for path in (cases / f"volume-{number}", cases / f"segmentation-{number}", found)
    )
    labels = [ks.volumes.as_labels(v.array) for v in (truth, prediction)]
    slices = plot.slices(volume.array, *labels, spacing=volume.spacing, window=SOFT_TISSUE)
    return {"run_curves": curves, "run_slices": slices}


def main() -> None:
    pictures = of_run(Path(sys.argv[1])) if len(sys.argv) > 1 else of_phantom()
    for name, figure in pictures.items():
        figure.savefig(HERE / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
