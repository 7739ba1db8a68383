"""Write predictions block by block, so that no process holds a whole prediction."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tensorflow as tf
import zarr

from keras_spatial import processes
from keras_spatial._paths import ending_of, fault_of_name, partial, printable
from keras_spatial.model import Model
from keras_spatial.runtimes.blocks import Block, LocalBlocks

_ENDINGS = (".nii", ".zarr")
# The size of a NIfTI-1 file before its voxels: the header, and four bytes that say that there is no extension.
_OFFSET = 352


def predict_to_files(
    model: Model,
    x: Any,
    path: str | os.PathLike,
    *,
    scores: bool = False,
    affine: np.ndarray | None = None,
) -> list[Path]:
    """Predict volumes, and write each to a file to which every process writes the blocks of its own devices.

    No process holds a whole prediction. Every process must call it with the same arguments and have access to the same
    folder. A file appears under its name only when it is complete.

    Args:
        model: a partitioned model with one output of shape `[batch, x, y, z, classes]`.
        x: arrays or `ks.LocalBlocks` of one batch, or a `tf.data.Dataset` of batches, as for `predict`.
        path: the path of the results. It ends in `.nii`, or in `.zarr` for a Zarr array whose chunks are the mesh's
            blocks. `{case}` in the name is replaced by the number of the image, from 0; without it there may be only
            one image.
        scores: whether to write the model's outputs, float32 `[x, y, z, classes]`, instead of the number of the class
            with the highest one, uint8 `[x, y, z]`.
        affine: a float matrix `[4, 4]` from voxel index to millimetres, in the NIfTI convention; the identity by
            default.

    Returns:
        The paths of the files, one for each image.

    Raises:
        ValueError: if an argument does not fit. It is raised before anything is computed if that is possible.
        RuntimeError: in all processes, if one of them has no access to the folder of the others.

    Example:

    ```python
    folder = "data/lits/64-blocks-2x2x1/2.0.0"
    images = ks.data.load(folder, "test", distribution=model.distribution)
    ks.inference.predict_to_files(model, images, "out/segmentation-{case}.nii")
    ```
    """
    path = Path(path)
    if not ending_of(path, _ENDINGS):
        raise ValueError(
            f"path: expected a name that ends in .nii or .zarr; several processes cannot write a compressed file. "
            f"Received: {path.name!r}"
        )
    # `{case}` has as many characters as the number of the last of a million images.
    fault = fault_of_name(path)
    if fault:
        raise ValueError(f"path: choose another name. Received: {printable(path)!r}: {fault}")
    matrix = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix[:3, :3]):
        raise ValueError(f"affine: expected an invertible [4, 4] matrix. Received: {affine}")
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 5:
        raise ValueError(
            f"model {model.name}: expected one output [batch, x, y, z, classes]. "
            f"Received: {[tuple(o.shape) for o in model.outputs]}"
        )
    shape = tuple(model.outputs[0].shape[1:])
    if not scores and (shape[-1] or 0) > 256:
        raise ValueError(f"model {model.name}: expected at most 256 classes. Received: {shape[-1]}; pass scores=True")
    several = "{case}" in path.name
    count = _count(x)
    if not several and count is not None and count > 1:
        raise ValueError(
            f"path: expected {{case}} in the name, because there are {count} images. Received: {path.name!r}"
        )
    written: list[Path] = []
    # One image at a time, so that open files and memory do not grow with the batch.
    for blocks in _single_cases(model.predict_blocks(x, batch_size=1)):
        if written and not several:
            raise ValueError(
                f"path: expected {{case}} in the name, because there are several images. Received: {path.name!r}"
            )
        target = path.with_name(path.name.replace("{case}", str(len(written))))
        if not scores:
            blocks = [Block(b.index[:-1], np.argmax(b.values, -1).astype(np.uint8)) for b in blocks]
        whole = shape if scores else shape[:-1]
        _write(target, [int(n) for n in whole], np.dtype(np.float32 if scores else np.uint8), blocks, matrix)
        written.append(target)
    return written


def _count(x: Any) -> int | None:
    """The number of images, or a lower bound of it; None if only reading the data can tell."""
    if isinstance(x, LocalBlocks):
        return x.shape[0]
    if not isinstance(x, tf.data.Dataset):
        return len(tf.nest.flatten(x)[0])
    batches = int(x.cardinality())
    return batches if batches >= 0 else None


def _single_cases(batches: Iterator[list[Block]]) -> Iterator[list[Block]]:
    """The blocks of each image of each batch, without the batch axis."""
    job = processes.current()
    for blocks in batches:
        last = max((b.index[0].stop for b in blocks), default=0)
        for case in range(max(int(text) for text in job.exchange("images of a batch", str(last)))):
            yield [
                Block(b.index[1:], b.values[case - b.index[0].start])
                for b in blocks
                if b.index[0].start <= case < b.index[0].stop
            ]


def _write(path: Path, shape: Sequence[int], dtype: np.dtype, blocks: Sequence[Block], affine: np.ndarray) -> None:
    job = processes.current()
    part = partial(path)
    create, fill = (_create_nifti, _fill_nifti) if ending_of(path, _ENDINGS) == ".nii" else (_create_zarr, _fill_zarr)
    largest = [max((b.values.shape[axis] for b in blocks), default=1) for axis in range(len(shape))]
    chunks = np.max([json.loads(text) for text in job.exchange(f"blocks of {path}", json.dumps(largest))], 0)
    if job.is_first:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        create(part, shape, dtype, chunks, affine)
    job.exchange(f"making of {path}", "made")
    job.agree(f"folder of {path}", {"the file is there": part.exists()})
    fill(part, shape, dtype, blocks)
    job.exchange(f"end of {path}", "written")
    if job.is_first:
        _remove(path)
        part.rename(path)
    job.exchange(f"name of {path}", "named")


def _create_nifti(path: Path, shape: Sequence[int], dtype: np.dtype, chunks: Sequence[int], affine: np.ndarray) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_qform(affine, 1, strip_shears=True)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = _OFFSET
    with path.open("wb") as file:
        header.write_to(file)
        file.write(bytes(4))
        # A full disk raises an error here; later, a process that writes into mapped memory would be killed.
        os.posix_fallocate(file.fileno(), 0, _OFFSET + int(np.prod(shape)) * dtype.itemsize)


def _fill_nifti(path: Path, shape: Sequence[int], dtype: np.dtype, blocks: Sequence[Block]) -> None:
    voxels = np.memmap(path, dtype, "r+", _OFFSET, tuple(shape), "F")
    for block in blocks:
        voxels[block.index] = block.values
    voxels.flush()


def _create_zarr(path: Path, shape: Sequence[int], dtype: np.dtype, chunks: Sequence[int], affine: np.ndarray) -> None:
    array = zarr.create_array(path, shape=tuple(shape), dtype=dtype, chunks=tuple(int(n) for n in chunks))
    array.attrs["affine"] = affine.tolist()


def _fill_zarr(path: Path, shape: Sequence[int], dtype: np.dtype, blocks: Sequence[Block]) -> None:
    array = zarr.open_array(path, mode="r+")
    for block in blocks:
        array[block.index] = block.values


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
