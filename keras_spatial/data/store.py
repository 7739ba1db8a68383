"""Reading boxes of voxels from a block-wise TFDS data set, without reading other blocks than those that they touch.

Each stored split, such as `train_0_1_0`, has the stored block (0, 1, 0) of every case, in the same order. TFRecord
files have no index, but each record begins with its length, so that all records can be found from header to header
without reading their data.
"""

import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from keras_spatial._paths import regular
from keras_spatial.data.opening import StoreError, named, open_builder

Index = tuple[int, int, int]

# A TFRecord consists of a uint64 length, a uint32 checksum of the length, the data, and a uint32 checksum of the data.
_HEADER, _FOOTER = 12, 4


@dataclass(frozen=True)
class Box:
    """The voxels from `start` to before `stop`, along x, y and z."""

    start: Index
    stop: Index

    @property
    def shape(self) -> Index:
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Part:
    """What one reader reads: a block of a partition of each image, and a share of each batch.

    Every block of the partition must be a union of stored blocks, so the counts `of` must divide those of the data set.

    Attributes:
        index: which block to read, along x, y and z.
        of: the number of blocks along x, y and z.
        batch_index: which share of the batch to read.
        batch_of: the number of shares of the batch.

    Raises:
        ValueError: if an index is not below its count.
    """

    index: Index = (0, 0, 0)
    of: Index = (1, 1, 1)
    batch_index: int = 0
    batch_of: int = 1

    def __post_init__(self) -> None:
        inside = all(0 <= i < n for i, n in zip(self.index, self.of, strict=True))
        if not inside or not 0 <= self.batch_index < self.batch_of:
            raise ValueError(
                "Part: expected indices from 0 to below the counts. "
                f"Received: block {self.index} of {self.of}, batch {self.batch_index} of {self.batch_of}"
            )

    def box(self, shape: Sequence[int]) -> Box:
        """The voxels of this part of an image of `shape` voxels.

        Block i of n covers the voxels floor(i s / n) to before floor((i + 1) s / n) of an axis of size s.
        """
        pairs = list(zip(self.index, self.of, shape, strict=True))
        return Box(_index(i * s // n for i, n, s in pairs), _index((i + 1) * s // n for i, n, s in pairs))


def _index(values: Any) -> Index:
    x, y, z = values
    return int(x), int(y), int(z)


class Store:
    """The cases of one split, of which any box can be read in any order.

    Args:
        builder: a TFDS builder, or the folder of a built data set. Its examples have "image" `[X, Y, Z, channels]`,
            "label" `[X, Y, Z]`, "case", "checksum", "shape" and "block". Its metadata have "blocks" and "order" (the
            names of the cases of each split). `datasets/lits` stores both so.
        split: "train", "validation" or "test".

    Raises:
        StoreError: if the data set or the split does not exist, its files are damaged, or they are not TFRecords of
            stored blocks.

    Example:

    ```python
    store = ks.data.Store("data/lits/64/1.1.0", "test")
    image, label = store.read(0, ks.data.Box((0, 0, 0), (32, 32, 32)))
    ```
    """

    def __init__(self, builder: Any, split: str):
        if isinstance(builder, (str, os.PathLike)):
            builder = open_builder(builder)
        self.builder, self.split = builder, split
        self._where = f"{builder.info.full_name} in {builder.data_dir}"
        with named(builder.data_dir):
            metadata = dict(builder.info.metadata or {})
            splits = dict(builder.info.splits)
        if "blocks" not in metadata:
            raise StoreError(
                f"{self._where}: stored without block counts, or its metadata.json is missing; build it with "
                f"datasets/lits. Received: metadata {sorted(metadata)}"
            )
        self.blocks = _counts(self._where, metadata["blocks"])
        if self._name((0, 0, 0)) not in splits:
            raise StoreError(
                f"{self._where}: no split {split!r} on disk; build the data set. Received: {sorted(splits)}"
            )
        self.cases = int(splits[self._name((0, 0, 0))].num_examples)
        self._names = _order(self._where, metadata.get("order"), split, self.cases)
        self._offsets: dict[Index, list[tuple[str, int, int]]] = {}
        self._seen: dict[int, _Record] = {}
        self._lock = threading.Lock()
        self.bytes_read = 0

    @property
    def static_shape(self) -> tuple[int | None, int | None, int | None]:
        """The number of voxels of an image along each axis; None if it differs from case to case."""
        x, y, z = self.builder.info.features["label"].shape
        bx, by, bz = self.blocks
        return (x and x * bx), (y and y * by), (z and z * bz)

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return int(self.builder.info.features["image"].shape[-1])

    def check(self, part: Part) -> None:
        """Raise a `StoreError` unless every block of the partition is a union of stored blocks."""
        if any(stored % wanted for stored, wanted in zip(self.blocks, part.of, strict=True)):
            raise StoreError(
                f"{self._where}: stored in {self.blocks} blocks, which cannot be joined to {part.of}. "
                f"Build it with block counts that are multiples of {part.of}."
            )

    def shape(self, case: int) -> Index:
        """The shape of the image of a case, in voxels."""
        static = self.static_shape
        if None not in static:
            return _index(static)
        if case not in self._seen:
            self._example(case, (0, 0, 0))
        return self._seen[case].shape

    def read(self, case: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Read the voxels of a box, which must lie inside the image.

        Args:
            case: the position of the case in the split, from 0.
            box: the box, in voxels of the image.

        Returns:
            The image, float32 `[x, y, z, channels]`, and the label, uint8 `[x, y, z]`. They may be read-only.

        Raises:
            StoreError: if the stored bytes are damaged, or a record is not the one that belongs at its place.
        """
        shape = self.shape(case)
        touched = [
            [i for i in range(b) if i * n // b < stop and (i + 1) * n // b > start]
            for b, n, start, stop in zip(self.blocks, shape, box.start, box.stop, strict=True)
        ]
        blocks = [_index(block) for block in itertools.product(*touched)]
        if len(blocks) == 1 and Part(blocks[0], self.blocks).box(shape) == box:
            example = self._example(case, blocks[0])
            return example["image"], example["label"]
        image, label = np.empty((*box.shape, self.channels), np.float32), np.empty(box.shape, np.uint8)
        for index in blocks:
            example = self._example(case, index)
            block = Part(index, self.blocks).box(shape)
            here = [
                (max(a, c) - a, min(b, d) - a, max(a, c) - c, min(b, d) - c)
                for a, b, c, d in zip(box.start, box.stop, block.start, block.stop, strict=True)
            ]
            into = tuple(slice(a, b) for a, b, _, _ in here)
            of = tuple(slice(c, d) for _, _, c, d in here)
            image[into], label[into] = example["image"][of], example["label"][of]
        return image, label

    def _name(self, block: Index) -> str:
        if self.blocks == (1, 1, 1):
            return self.split
        return f"{self.split}_{block[0]}_{block[1]}_{block[2]}"

    def _example(self, case: int, block: Index) -> dict[str, Any]:
        path, offset, length = self._records(block)[case]
        try:
            with _open(path) as file:
                file.seek(offset)
                record = file.read(length)
        except (OSError, tf.errors.OpError) as error:
            raise _missing(path, error) from error
        if len(record) != length:
            raise StoreError(f"{path}: truncated; build the data set again. Received: {len(record)} of {length} bytes")
        with self._lock:
            self.bytes_read += length
        where = f"{path}: damaged at byte {offset}, case {case} of block {block}; build the data set again. Received: "
        try:
            example = self.builder.info.features.deserialize_example_np(record)
            found = _Record(
                _text(example["case"]), _index(example["block"]), _index(example["shape"]), _text(example["checksum"])
            )
            stored = example["label"].shape, example["image"].shape
        except Exception as error:  # For damaged bytes, protobuf, zlib and NumPy raise errors of many kinds.
            raise StoreError(f"{where}{type(error).__name__}: {error}") from error
        self._check(path, case, block, found)
        expected = Part(block, self.blocks).box(found.shape).shape
        if stored != (expected, (*expected, self.channels)):
            raise StoreError(
                f"{where}label and image of shapes {stored[0]} and {stored[1]} for a block of {expected} voxels"
            )
        return example

    def _check(self, path: str, case: int, block: Index, found: "_Record") -> None:
        """Raise a `StoreError` unless a record belongs at its place: files may be swapped, and records moved."""
        first = self._seen.get(case, found)
        expected = _Record(self._names.get(case, first.case), block, first.shape, first.checksum)
        if found != expected:
            raise StoreError(
                f"{path}: its records do not belong there: files were swapped, mixed with those of another data set, "
                f"or written in another order; build the data set again. Record {case} of split "
                f"{self._name(block)!r}: expected {expected}. Received: {found}"
            )
        with self._lock:
            self._seen.setdefault(case, found)

    def _records(self, block: Index) -> list[tuple[str, int, int]]:
        with self._lock:
            if block not in self._offsets:
                name = self._name(block)
                with named(self.builder.data_dir):
                    files = [str(path) for path in self.builder.info.splits[name].filepaths]
                found = [record for path in files for record in _scan(path, self.cases)]
                if len(found) != self.cases:
                    raise StoreError(
                        f"{self._where}: split {name!r} holds {len(found)} cases, others {self.cases}; build the data "
                        "set again."
                    )
                self._offsets[block] = found
            return self._offsets[block]


@dataclass(frozen=True)
class _Record:
    """What a record says about itself."""

    case: str
    block: Index
    shape: Index
    checksum: str

    def __str__(self) -> str:
        return f"{self.case!r}, block {self.block}, of {self.shape} voxels, source {self.checksum[:16]!r}"


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _counts(where: str, value: Any) -> Index:
    whole = isinstance(value, list | tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    if not whole or len(value) != 3 or not all(1 <= n <= 64 for n in value):
        raise StoreError(
            f"{where}: metadata.json is damaged; build the data set again. Expected three block counts. Received: "
            f"{value!r:.100}"
        )
    return _index(value)


def _order(where: str, orders: Any, split: str, cases: int) -> dict[int, str]:
    """The names of the cases of a split by their positions; empty for older data sets, which do not have them."""
    if not orders:
        return {}
    names = orders.get(split) if isinstance(orders, dict) else None
    if not isinstance(names, list) or len(names) != cases or not all(isinstance(name, str) for name in names):
        raise StoreError(
            f"{where}: metadata.json and dataset_info.json do not fit together; build the data set again. Expected the "
            f"names of {cases} cases of {split!r}. Received: {names!r:.100}"
        )
    return dict(enumerate(names))


def _open(path: str) -> BinaryIO:
    # TensorFlow's files read ahead by hundreds of kilobytes at each seek, so local files are opened by Python itself.
    if "://" in path:
        return tf.io.gfile.GFile(path, "rb")
    return regular(path).open("rb")


def _missing(path: str, error: Exception) -> StoreError:
    return StoreError(f"{path}: cannot be read; build the data set again. Received: {type(error).__name__}: {error}")


def _scan(path: str, most: int) -> list[tuple[str, int, int]]:
    """The place and length of each record, up to `most` records and one more."""
    records, position = [], 0
    try:
        size = tf.io.gfile.stat(path).length
        with _open(path) as file:
            while position < size and len(records) <= most:
                file.seek(position)
                length = int.from_bytes(file.read(8), "little")
                if position + _HEADER + length + _FOOTER > size:
                    raise StoreError(f"{path}: truncated, or not a TFRecord file; build the data set again.")
                records.append((path, position + _HEADER, length))
                position += _HEADER + length + _FOOTER
    except (OSError, tf.errors.OpError) as error:
        raise _missing(path, error) from error
    return records
