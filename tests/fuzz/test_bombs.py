"""Small files that ask for gigabytes are refused by a process that has less than a gigabyte."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from isal import igzip, isal_zlib
from volumes.dicom_files import compressed_series, hounsfield, write_series

SPARE = 256 << 20
"""Bytes of address space that the process may take after its imports; a bomb here expands to at least twice as many."""
READER = f"""
import resource, sys, time
from pathlib import Path
import numpy as np
from datasets.sources import Digests
from keras_spatial.data.packing import Packed, PackedTensor
from keras_spatial.volumes import read_volume
from pipelines.bounded_yaml import read_yaml

packed = PackedTensor(shape=(16,), dtype=np.uint8, stored=np.uint8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {SPARE},) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        if path.suffix == ".yaml":
            read_yaml(path)
        elif path.suffix == ".zlib":
            packed.decode_stored(Packed.of([path.read_bytes()], (16,)).data)
        elif path.suffix == ".json":
            Digests(path)
        else:
            read_volume(path)
        outcome = "read"
    except Exception as error:
        outcome = type(error).__name__
    print(path.name, outcome, round(time.process_time() - started, 1), flush=True)
"""


def gzip_of(path, *parts):
    """A gzip file of the given bytes, or of this many zeros."""
    zeros = bytes(1 << 20)
    with igzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            if isinstance(part, int):
                for _ in range(part >> 20):
                    file.write(zeros)
            else:
                file.write(part)


def header(shape=(4, 4, 4), offset=352, flag=0, extension=b""):
    fields = nib.Nifti1Header()
    fields.set_data_shape(shape)
    fields.set_data_dtype(np.uint8)
    fields["pixdim"][1:4] = 1
    fields["vox_offset"], fields["scl_slope"], fields["scl_inter"], fields["magic"] = offset, 1, 0, b"n+1"
    return fields.binaryblock + bytes([flag, 0, 0, 0]) + extension


WANTED = {
    "behind-the-voxels.nii.gz": "LimitError",
    "many-extensions.nii.gz": "UnreadableVolumeError",
    "one-extension.nii.gz": "LimitError",
    "offset.nii.gz": "LimitError",
    "voxels-beyond-the-limit.nii.gz": "LimitError",
    "voxels-beyond-the-file.nii": "UnreadableVolumeError",
    "voxels-beyond-the-memory.nii.gz": "UnreadableVolumeError",
    "aliases.yaml": "YamlError",
    "depth.yaml": "YamlError",
    "length.yaml": "YamlError",
    "block.zlib": "ValueError",
    "digests.json": "read",
    "image.dicom": "UnreadableVolumeError",
    "fragment.dicom": "read",
    "element.dicom": "UnreadableVolumeError",
    "frames.dicom": "DimensionError",
    "pixels.dicom": "UnreadableVolumeError",
}


def changed(folder, change):
    """A series in which something is done to the bytes of each file."""
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))


def with_huge_image(data):
    """A compressed image that says it has 60000 x 60000 pixels."""
    place = data.index(b"\xff\x4f\xff\x51") + 8
    sizes = (60_000).to_bytes(4, "big") * 2
    return data[:place] + sizes + data[place + 8 : place + 16] + sizes + data[place + 24 :]


def with_huge_fragment(data):
    place = data.index(b"\xff\x4f\xff\x51")
    return data[: place - 4] + b"\xf0\xff\xff\xff" + data[place:]


def with_huge_element(data):
    """A private element of 4 GB before the pixels, after all fields of the header that are needed."""
    place = data.index(b"\xe0\x7f\x10\0O")
    return data[:place] + b"\xdf\x7f\x10\0OB\0\0\xfe\xff\xff\xff" + data[place:]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    half = 512 << 20
    gzip_of(folder / "behind-the-voxels.nii.gz", header(), bytes(64), half)
    small = np.array([16, 6], "<i4").tobytes() + bytes(8)
    gzip_of(folder / "many-extensions.nii.gz", header(offset=352 + (1 << 24), flag=1), small * (1 << 20), bytes(64))
    size = np.array([half, 6], "<i4").tobytes()
    gzip_of(folder / "one-extension.nii.gz", header(offset=352 + half, flag=1, extension=size), half)
    gzip_of(folder / "offset.nii.gz", header(offset=2**60), half)
    # Bytes that do not compress, so that the file is as large as so many voxels of one value would be.
    noise = np.random.default_rng(0).bytes(2 << 20)
    gzip_of(folder / "voxels-beyond-the-limit.nii.gz", header((1200, 1200, 800)), noise)
    gzip_of(folder / "voxels-beyond-the-memory.nii.gz", header((1024, 1024, 1024)), noise)
    (folder / "voxels-beyond-the-file.nii").write_bytes(header((1000, 1000, 1000)) + bytes(1000))
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (folder / "aliases.yaml").write_text("\n".join([*lines, "title: *i"]))
    (folder / "depth.yaml").write_text("[" * 100_000)
    with (folder / "length.yaml").open("wb") as file:
        file.truncate(1 << 30)
    (folder / "block.zlib").write_bytes(isal_zlib.compress(bytes(half)))
    (folder / "digests.json").write_text("[" * 1_000_000)
    changed(compressed_series(folder / "image.dicom", 2), with_huge_image)
    changed(compressed_series(folder / "fragment.dicom", 2), with_huge_fragment)
    changed(write_series(folder / "element.dicom", hounsfield((12, 10, 2))), with_huge_element)
    write_series(folder / "frames.dicom", hounsfield((12, 10, 2)), NumberOfFrames=2**31 - 1)
    write_series(folder / "pixels.dicom", hounsfield((12, 10, 2)), Rows=20_000, Columns=20_000)
    done = subprocess.run(
        [sys.executable, "-c", READER, folder],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.rsplit(" ", 2) for line in done.stdout.splitlines() if line.count(" ") >= 2]
    return {name: (outcome, float(seconds)) for name, outcome, seconds in lines}


@pytest.mark.parametrize("name", WANTED)
def test_a_bomb_is_named_within_little_memory_and_time(outcomes, name):
    outcome, seconds = outcomes[name]
    assert outcome == WANTED[name]
    assert seconds < 10
