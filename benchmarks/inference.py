"""Whole-volume inference on a 2x2 mesh compared with sliding windows of patches, with the same weights and volume.

    python -m benchmarks.inference --size 128 --patch 64

Windows overlap by half and are blended by a Gaussian, as in `ks.inference.segment(..., patches=...)` and in MONAI. Both
run on the same cores, in turns, after a first run that traces. The difference of the results is reported too: at the
edge of a window, the network sees padding although the image continues.
"""

import statistics
import time

import keras_spatial as ks

# isort: split
import keras
import numpy as np

from benchmarks.results import finish, parser_of, row
from benchmarks.step.network import cpu
from keras_spatial.inference import sliding_window
from keras_spatial.inference.probabilities import probabilities_of


def network(size: int, filters: int, levels: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)


def compare(size: int, patch: int, filters: int, levels: int, rounds: int) -> list[dict]:
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    whole = ks.partition(network(size, filters, levels), distribution)
    small = network(patch, filters, levels)
    small.set_weights(whole.get_weights())
    image = np.random.default_rng(0).normal(size=(size, size, size, 1)).astype("float32")
    predict_whole, predict_patch = probabilities_of(whole), probabilities_of(small)

    def by_windows() -> np.ndarray:
        return np.asarray(sliding_window(predict_patch, image, (patch,) * 3, overlap=0.5, blend="gaussian"))

    def at_once() -> np.ndarray:
        return np.asarray(predict_whole(image[None]))[0]

    variants = {"whole": at_once, "windows": by_windows}
    results = {name: run() for name, run in variants.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            before, started = cpu(), time.perf_counter()
            run()
            times[name].append((cpu() - before, time.perf_counter() - started))
    rows = []
    for i, what in enumerate(("CPU seconds", "seconds")):
        ours, peer = (statistics.median(t[i] for t in times[name]) for name in ("whole", "windows"))
        target = 1 / 3 if what == "seconds" else None
        rows.append(row(f"{what} per {size}³ volume: at once on 2x2, over windows of {patch}³", ours, peer, target))
    inner = slice(patch // 4, -(patch // 4))
    difference = np.abs(results["whole"] - results["windows"])[inner, inner, inner].mean()
    rows.append(row("mean difference of the probabilities, away from the volume's edge", float(difference)))
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", type=int, default=128, help="The number of voxels along each axis of the volume.")
    parser.add_argument("--patch", type=int, default=64, help="The number of voxels along each axis of a window.")
    parser.add_argument("--filters", type=int, default=8, help="The number of filters of the U-Net's first level.")
    parser.add_argument("--levels", type=int, default=3, help="The number of levels of the U-Net.")
    parser.add_argument("--rounds", type=int, default=5, help="The number of measurements of each variant.")
    settings = vars(parser.parse_args())
    save = settings.pop("save")
    finish("inference", compare(**settings), settings, "python -m benchmarks.inference", save=save)


if __name__ == "__main__":
    main()
