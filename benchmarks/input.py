"""The data path in numbers: converting a case, reading one block, size on disk. `python -m benchmarks.input --help`.

Ratios are taken within one run, alternating the two sides, as medians: times of a shared machine are not comparable
from run to run. Writes one JSON object.
"""

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 300), help="voxels of the scan to convert")
    parser.add_argument("--resolutions", type=int, nargs="+", default=(256, 128))
    parser.add_argument("--stored", type=int, default=256, help="voxels an axis of the data set in 4x4x1 blocks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "size": list(options.size),
            "convert": conversion(Path(folder), tuple(options.size), options.resolutions, options.repeats),
            "lesions kept at 128": lesions(Path(folder)),
            "blocks": blocks(Path(folder), options.stored, options.repeats),
        }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def conversion(folder: Path, size: tuple[int, int, int], resolutions: list[int], repeats: int) -> dict:
    """Seconds to bring HU and labels onto a grid, against SimpleITK's linear and nearest-neighbour resampler alone."""
    import SimpleITK as sitk

    from datasets import phantom
    from keras_spatial.volumes import read_volume, resample_image, resample_labels

    phantom.write_lits_folder(folder / "scan", 1, size=size)
    hu = read_volume(folder / "scan/volume-0.nii.gz").array
    labels = read_volume(folder / "scan/segmentation-0.nii.gz").array
    result = {}
    for resolution in resolutions:
        ours, theirs = [], []
        for _ in range(repeats):
            start = time.process_time(), time.perf_counter()
            resample_image(hu, (resolution,) * 3)
            resample_labels(labels, (resolution,) * 3)
            ours.append((time.process_time() - start[0], time.perf_counter() - start[1]))
            images = [sitk.GetImageFromArray(a) for a in (hu, labels)]
            start = time.process_time(), time.perf_counter()
            for image, kind in zip(images, (sitk.sitkLinear, sitk.sitkNearestNeighbor), strict=True):
                step = [n / resolution for n in image.GetSize()]
                sitk.Resample(image, [resolution] * 3, sitk.Transform(), kind, (0.0,) * 3, step)
            theirs.append((time.process_time() - start[0], time.perf_counter() - start[1]))
        (cpu, wall), (itk_cpu, itk_wall) = (
            [statistics.median(values) for values in zip(*side, strict=True)] for side in (ours, theirs)
        )
        peak = _peak_of_conversion(folder / "scan", resolution)
        result[str(resolution)] = {
            "seconds": wall, "cpu seconds": cpu, "SimpleITK seconds": itk_wall, "SimpleITK cpu seconds": itk_cpu,
            "cpu ratio": cpu / itk_cpu, "ratio": wall / itk_wall, "peak memory / raw volume": peak / hu.nbytes,
        }  # fmt: skip
    return result


def _peak_of_conversion(folder: Path, resolution: int) -> int:
    """Bytes of peak resident memory that converting a case needs above the imports, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.input_memory", str(folder), str(resolution)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def lesions(folder: Path) -> dict:
    """Lesions of hard phantoms at 256 that are there at 128: by our rule, and by nearest neighbour."""
    from datasets.phantom import patient, render
    from keras_spatial.volumes import components, resample_labels

    total, ours, nearest = 0, 0, 0
    for number in range(4):
        labels = render(patient(number, 0, "hard"), (256, 256, 256))[1]
        numbered, count = components(labels == 2)
        coarse = resample_labels(labels, (128, 128, 128))
        fine = np.repeat(np.repeat(np.repeat(coarse, 2, 0), 2, 1), 2, 2)
        total += count
        ours += len(np.unique(numbered[fine == 2])) - (0 in numbered[fine == 2])
        nearest += len(set(np.unique(numbered[::2, ::2, ::2])) - {0})
    return {"lesions": total, "kept": ours, "kept by nearest neighbour": nearest}


def blocks(folder: Path, resolution: int, repeats: int) -> dict:
    """Bytes and seconds to read one block of sixteen, and the size on disk against gzip."""
    from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
    from keras_spatial.data import Box, Part, Store

    config = PhantomConfig(resolution=resolution, cases=(2, 1, 1), blocks=(4, 4, 1))
    builder = Builder(config=config, data_dir=str(folder / "data"))
    start = time.perf_counter()
    builder.download_and_prepare()
    build = time.perf_counter() - start
    store = Store(builder, "train")
    image, label = store.read(0, Box((0, 0, 0), (resolution,) * 3))
    everything, part = store.bytes_read, Part((1, 1, 0), (4, 4, 1)).box((resolution,) * 3)
    shares, seconds, raw = [], [], []
    path = folder / "raw"
    path.write_bytes(np.ascontiguousarray(image[: part.shape[0], : part.shape[1]]).tobytes())
    for _ in range(repeats):
        store.bytes_read = 0
        start = time.perf_counter()
        store.read(0, part)
        seconds.append(time.perf_counter() - start)
        shares.append(store.bytes_read / everything)
        start = time.perf_counter()
        np.frombuffer(path.read_bytes(), np.float32)
        raw.append(time.perf_counter() - start)
    zipped = len(gzip.compress(image.tobytes(), 6)) + len(gzip.compress(label.tobytes(), 6))
    return {
        "resolution": resolution,
        "build seconds": build,
        "bytes read / all": statistics.mean(shares),
        "seconds": statistics.median(seconds),
        "raw seconds": statistics.median(raw),
        "store / gzip": everything / zipped,
        "peak memory of this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
