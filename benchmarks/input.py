"""Figures of the data path: preparing a CT, reading one stored block, the size on disk, the lesions kept, and the time
waiting for input.

    python -m benchmarks.input

Both sides of a ratio take turns in one run, and medians are compared, because times on a shared machine are not
comparable between runs. `--quick` tries the benchmark itself on tiny volumes.
"""

import gzip
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import zstandard

from benchmarks.results import finish, parser_of, row
from datasets import phantom
from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
from keras_spatial.data import PAPER, Box, Part, Store, load
from keras_spatial.volumes import components, read_volume, resample_image, resample_labels

Row = dict
CASES = 6


def main() -> None:
    """Measure and print the figures."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(512, 512, 300), help="The number of voxels along each axis of the scan."
    )
    parser.add_argument("--resolutions", type=int, nargs="+", default=(256, 128), help="The resolutions of the grid.")
    parser.add_argument(
        "--stored", type=int, default=256, help="The number of voxels along each axis of the data set in 4x4x1 blocks."
    )
    parser.add_argument("--repeats", type=int, default=7, help="The number of measurements of each side.")
    parser.add_argument("--steps", type=int, default=20, help="The number of training steps for the waiting time.")
    parser.add_argument("--quick", action="store_true", help="Use tiny sizes.")
    options = parser.parse_args()
    if options.quick and options.save:
        parser.error("--save keeps the results of real sizes: leave --quick out.")
    if options.quick:
        options.size, options.resolutions, options.stored, options.repeats, options.steps = (
            (64, 64, 40),
            (32,),
            32,
            2,
            3,
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom.write_lits_folder(folder / "scan", 1, size=tuple(options.size))
        rows = [r for n in options.resolutions for r in conversion(folder / "scan", n, options.repeats)]
        rows += lesions(2 * min(options.resolutions), min(options.resolutions))
        rows += blocks(folder, options.stored, options.repeats)
        rows += [waiting(folder, min(64, options.stored), options.steps), generated(2 * options.stored)]
    finish("input", rows, vars(options), "python -m benchmarks.input", save=options.save)


def conversion(folder: Path, resolution: int, repeats: int) -> list[Row]:
    """Compare time and memory of resampling HU and labels with SimpleITK's resampler (linear, nearest neighbour)."""
    hu = read_volume(folder / "volume-0.nii.gz").array
    labels = read_volume(folder / "segmentation-0.nii.gz").array
    # The axes are reversed, because SimpleITK's x is the last axis of the array and contiguous in memory.
    images = [sitk.GetImageFromArray(array.T) for array in (hu, labels)]
    target = (resolution,) * 3

    def ours() -> None:
        resample_image(hu, target)
        resample_labels(labels, target)

    def theirs() -> None:
        for image, kind in zip(images, (sitk.sitkLinear, sitk.sitkNearestNeighbor), strict=True):
            _itk(image, resolution, kind)

    def smoothed() -> None:
        sigma = [max(n / resolution / 2, 0.5) for n in images[0].GetSize()]
        smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(images[0], sitk.sitkFloat32), sigma)
        _itk(smooth, resolution, sitk.sitkLinear)
        _itk(images[1], resolution, sitk.sitkNearestNeighbor)

    cpu, wall = _rivals(repeats, ours, theirs, smoothed)
    grid = f"{'x'.join(map(str, hu.shape))} to {resolution}³"
    peak = _peak("convert", folder, resolution) / hu.nbytes
    whole, read = _rivals(repeats, lambda: _convert(folder, resolution), lambda: _itk_files(folder, resolution))[1]
    alias = "SimpleITK takes 8 voxels for each new one and leaves out the rest, we average all"
    return [
        row(f"{grid}: resampling, CPU seconds, SimpleITK's resampler", cpu[0], cpu[1], 1.3, note=alias),
        row(f"{grid}: resampling, seconds, SimpleITK's resampler", wall[0], wall[1], 1.3),
        row(f"{grid}: resampling, CPU seconds, SimpleITK with a Gaussian against aliasing", cpu[0], cpu[2], 1.3),
        row(f"{grid}: .nii.gz to packed blocks, seconds, SimpleITK reading and resampling", whole, read),
        row(f"{grid}: peak memory above the imports / raw volume", peak, None, 4.0),
    ]


def _itk(image: sitk.Image, resolution: int, kind: int) -> sitk.Image:
    step = [n * s / resolution for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    return sitk.Resample(image, [resolution] * 3, sitk.Transform(), kind, image.GetOrigin(), step, image.GetDirection())


def _itk_files(folder: Path, resolution: int) -> None:
    for part, kind in (("volume", sitk.sitkLinear), ("segmentation", sitk.sitkNearestNeighbor)):
        _itk(sitk.ReadImage(str(folder / f"{part}-0.nii.gz")), resolution, kind)


def _convert(folder: Path, resolution: int) -> None:
    from benchmarks.input_memory import convert_first

    with tempfile.TemporaryDirectory() as store:
        convert_first(folder, resolution, store)


def _rivals(repeats: int, *sides: Callable[[], object]) -> tuple[list[float], list[float]]:
    """The median CPU and wall seconds of each side; the sides take turns."""
    cpu: list[list[float]] = [[] for _ in sides]
    wall: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for i, side in enumerate(sides):
            start = time.process_time(), time.perf_counter()
            side()
            cpu[i].append(time.process_time() - start[0])
            wall[i].append(time.perf_counter() - start[1])
    return [statistics.median(c) for c in cpu], [statistics.median(w) for w in wall]


def _peak(what: str, *arguments: object) -> int:
    """The peak resident memory above that of the imports, in bytes, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.input_memory", what, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def lesions(fine: int, coarse: int) -> list[Row]:
    """The fraction of the lesions of phantoms, with LiTS's numbers and sizes, that survive at half the resolution."""
    total = ours = nearest = 0
    for number in range(CASES):
        labels = phantom.render(phantom.patient(number, 0, "hard"), (fine,) * 3)[1]
        numbered, count = components(labels == 2)
        kept = resample_labels(labels, (coarse,) * 3).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        total += count
        ours += len(set(np.unique(numbered[kept == 2])) - {0})
        nearest += len(set(np.unique(numbered[::2, ::2, ::2])) - {0})
    figure = f"share of {total} lesions of {CASES} phantoms of {fine}³ that are there at {coarse}³"
    return [
        row(figure, ours / total, None, 1.0, smallest=True),
        row(f"{figure}, by nearest neighbour", nearest / total),
    ]


def blocks(folder: Path, resolution: int, repeats: int) -> list[Row]:
    """Bytes and seconds to read one of sixteen blocks, and the size on disk compared with general compressors."""
    builder = Builder(
        config=PhantomConfig(resolution=resolution, cases=(2, 1, 1), blocks=(4, 4, 1)), data_dir=str(folder / "data")
    )
    builder.download_and_prepare()
    shape = (resolution,) * 3
    store = Store(builder, "train")
    image, label = store.read(0, Box((0, 0, 0), shape))
    raw, read = image.nbytes + label.nbytes, []
    for index in itertools.product(range(4), range(4), range(1)):
        store.bytes_read = 0
        store.read(0, Part(index, (4, 4, 1)).box(shape))
        read.append(store.bytes_read)
    stored = sum(read)
    part, files = Part((1, 1, 0), (4, 4, 1)).box(shape), builder.info.splits["train"].filepaths
    path = folder / "raw"
    block = np.ascontiguousarray(image[: part.shape[0], : part.shape[1]])
    path.write_bytes(block.tobytes() + bytes(block.size))

    def ours() -> None:
        store.read(0, part)

    def theirs() -> None:
        np.frombuffer(path.read_bytes(), np.uint8)

    _, warm = _rivals(repeats, ours, theirs)
    cold = [
        statistics.median(_seconds(action, [*map(str, files), str(path)]) for _ in range(repeats))
        for action in (ours, theirs)
    ]
    half = image.astype(np.float16).tobytes(), label.tobytes()
    gzipped = sum(len(gzip.compress(data, 6)) for data in half)
    squeezed = sum(len(zstandard.compress(data, 3)) for data in half)
    grid = f"one block of 16 of {resolution}³"
    return [
        row(f"{grid}: bytes read / bytes of the raw arrays, worst block", max(read) / raw, None, 1.05 / 16),
        row(f"{grid}: bytes read / bytes of the store, mean", statistics.mean(read) / stored, None, 1.05 / 16),
        row(f"{grid}: bytes read / bytes of the store, worst block", max(read) / stored, None, 1.05 / 16,
            note="air around the body compresses to nothing, so the blocks in the middle hold more than their share"),
        row(f"{grid}: seconds from disk, the raw bytes from disk", cold[0], cold[1], 2.0),
        row(f"{grid}: seconds from the page cache, the raw bytes from there", warm[0], warm[1], 2.0,
            note="the raw bytes are then a copy in memory; decompression takes its time"),
        row("store, bytes; float16 image and label with gzip -6", stored, gzipped, 1.1),
        row("store, bytes; float16 image and label with zstd -3", stored, squeezed, 1.1),
        row("store, bytes; the float32 image and label uncompressed", stored, raw),
    ]  # fmt: skip


def _seconds(action: Callable[[], None], files: list[str]) -> float:
    """The seconds that an action takes if its files are not in the operating system's cache."""
    for name in files:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def waiting(folder: Path, resolution: int, steps: int) -> Row:
    """The fraction of the training time that the demo's network waits for its next batch."""
    import keras

    import keras_spatial as ks

    config = PhantomConfig(resolution=resolution, cases=(4, 1, 1), blocks=(2, 2, 1))
    builder = Builder(config=config, data_dir=str(folder / "data"))
    builder.download_and_prepare()
    network = ks.models.UNet3D((resolution,) * 3 + (1,), classes=3, filters=8, levels=4)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=ks.losses.DiceCrossentropy())
    batches = iter(load(builder, "train", shuffle=True, epochs=None, augmentation=PAPER))
    network.train_on_batch(*next(batches))
    waited, start = 0.0, time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        image, label = next(batches)
        waited += time.perf_counter() - before
        network.train_on_batch(image, label)
    share = waited / (time.perf_counter() - start)
    return row(f"share of {steps} training steps at {resolution}³ (8 filters, 4 levels) spent waiting for input", share,
               None, 0.01)  # fmt: skip


def generated(size: int) -> Row:
    """The memory that it takes to generate a phantom block by block."""
    peak = _peak("phantom", size) / 2**20
    return row(f"phantom of {size}³ in 16x16 blocks: peak memory above the imports, MiB", peak, None, 512,
               note=f"the whole HU and labels would be {3 * size**3 / 2**20:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
