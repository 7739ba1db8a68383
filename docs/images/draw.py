"""Draw the pictures of the README: `python docs/images/draw.py` from the root of a checkout."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import keras_spatial as ks  # noqa: E402
from datasets.phantom import patient, render, spacing  # noqa: E402
from keras_spatial import plot  # noqa: E402

SIZE = (192, 192, 96)
SOFT_TISSUE = (40, 400)


def main() -> None:
    person = patient(4, 0, "medium")
    hu, labels = render(person, SIZE)
    voxel = spacing(person, SIZE)
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    middle = int(labels.sum(axis=(0, 1)).argmax())
    pictures = {
        "partition": plot.partition(hu, distribution, halo=6, position=middle, spacing=voxel, window=SOFT_TISSUE),
        "slices": plot.slices(hu, labels, spacing=voxel, window=SOFT_TISSUE),
    }
    for name, figure in pictures.items():
        figure.savefig(HERE / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
