"""Read boxes of voxels from a block-wise TFDS data set, and only the blocks that they touch.

Each record of a split is a case. Its image and its label are values that begin with a table of their blocks, so each
block can be read by itself: see `packing` for the values and `records` for how they are found.
"""

import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_spatial.data.boxes import Box, Index, Part, as_index
from keras_spatial.data.opening import StoreError, named, open_builder
from keras_spatial.data.records import DamagedError, File, Span, look, records

_ARRAYS = ("image", "label")
_TFRECORD = "tfrecord"


class Store:
    """The cases of one split; any box of them can be read in any order.

    Args:
        builder: a TFDS builder, or the folder of a built data set. Its examples have "image" `[X, Y, Z, channels]` and
            "label" `[X, Y, Z]` (each a `packing.PackedTensor`), "case", "checksum" and "shape". Its metadata have
            "blocks", as the features have them, and "order", the names of the cases of each split. `datasets/lits`
            stores data sets in this form.
        split: "train", "validation" or "test".

    Raises:
        StoreError: if the data set or the split does not exist, its files are damaged, or they are not TFRecords of
            stored blocks.

    Example:

    ```python
    store = ks.data.Store("data/lits/64/2.0.0", "test")
    image, label = store.read(0, ks.data.Box((0, 0, 0), (32, 32, 32)))
    ```
    """

    def __init__(self, builder: Any, split: str):
        if isinstance(builder, (str, os.PathLike)):
            builder = open_builder(builder)
        self.builder, self.split = builder, split
        self._where = f"{builder.info.full_name} in {builder.data_dir}"
        # Only what opens a data set needs TFDS, whose import takes seconds.
        from keras_spatial.data.packing import PackedTensor

        with named(builder.data_dir):
            metadata = dict(builder.info.metadata or {})
            splits = dict(builder.info.splits)
            self._features = {name: builder.info.features[name] for name in _ARRAYS}
            kind = builder.info.file_format.value
        if not all(isinstance(feature, PackedTensor) for feature in self._features.values()):
            raise StoreError(
                f"{self._where}: not stored in blocks; build it with datasets/lits or datasets/decathlon. Received: "
                f"{self._features}"
            )
        if kind != _TFRECORD:
            raise StoreError(
                f"{self._where}: expected TFRecord files, from which blocks can be read one by one. Received: {kind}, "
                "whose records can only be read whole. Build it without file_format, in another data_dir if you need "
                "both"
            )
        image, label = self._features.values()
        said = [list(image.blocks), list(label.blocks), metadata.get("blocks")]
        ranks = len(image.shape), len(label.shape)
        if len(label.blocks) != 3 or said[0] != said[1] or said[1] != said[2] or ranks != (4, 3):
            raise StoreError(
                f"{self._where}: features.json or metadata.json is missing or damaged; build the data set again. "
                f"Expected images and labels of one shape in the same blocks. Received: {self._features}, blocks {said}"
            )
        self.blocks = as_index(label.blocks)
        if split not in splits:
            raise StoreError(
                f"{self._where}: no split {split!r} on disk; build the data set. Received: {sorted(splits)}"
            )
        self.cases = int(splits[split].num_examples)
        self._names = _order(self._where, metadata.get("order"), split, self.cases)
        self._found: list[tuple[str, Span]] | None = None
        self._seen: dict[int, _Case] = {}
        self._lock = threading.Lock()
        self.bytes_read = 0

    @property
    def static_shape(self) -> tuple[int | None, int | None, int | None]:
        """The number of voxels of an image along each axis; None if it differs from case to case."""
        x, y, z = self._features["label"].shape
        return x, y, z

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return int(self._features["image"].shape[-1])

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
        return self._case(case).shape if None in static else as_index(static)

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
        found = self._case(case)
        touched = [
            [i for i in range(b) if i * n // b < stop and (i + 1) * n // b > start]
            for b, n, start, stop in zip(self.blocks, found.shape, box.start, box.stop, strict=True)
        ]
        indices = [as_index(index) for index in itertools.product(*touched)]
        if len(indices) == 1 and Part(indices[0], self.blocks).box(found.shape) == box:
            return self._block(found, indices[0])
        image, label = np.empty((*box.shape, self.channels), np.float32), np.empty(box.shape, np.uint8)
        for index in indices:
            block = Part(index, self.blocks).box(found.shape)
            here = [
                (max(a, c) - a, min(b, d) - a, max(a, c) - c, min(b, d) - c)
                for a, b, c, d in zip(box.start, box.stop, block.start, block.stop, strict=True)
            ]
            into = tuple(slice(a, b) for a, b, _, _ in here)
            of = tuple(slice(c, d) for _, _, c, d in here)
            stored = self._block(found, index)
            image[into], label[into] = stored[0][of], stored[1][of]
        return image, label

    def _block(self, case: "_Case", index: Index) -> tuple[np.ndarray, np.ndarray]:
        """Read the image and the label of one stored block."""
        shape = Part(index, self.blocks).box(case.shape).shape
        try:
            with File(case.path) as file:
                image, label = (
                    feature.read_block(_within(file, case.places[name]), case.places[name].length, index, sizes)
                    for (name, feature), sizes in zip(
                        self._features.items(), ((*shape, self.channels), shape), strict=True
                    )
                )
        except StoreError:
            raise
        except Exception as error:  # For damaged bytes, zlib and NumPy raise errors of several kinds.
            raise self._damaged(case.path, case.record, case.number, f", block {index}", error) from error
        self._count(file)
        return image, label

    def _case(self, number: int) -> "_Case":
        """Read what the record of a case says about itself and where its arrays are, once for each case."""
        known = self._seen.get(number)
        if known is not None:
            return known
        path, record = self._records()[number]
        try:
            with File(path) as file:
                found = self._read_case(file, record, number)
        except StoreError:
            raise
        except Exception as error:  # As above; protobuf raises more.
            raise self._damaged(path, record, number, "", error) from error
        self._count(file)
        if found.name != self._names[number]:
            raise StoreError(
                f"{path}: its records do not belong there: files were swapped, mixed with those of another data set, "
                f"or written in another order; build the data set again. Record {number} of split {self.split!r}: "
                f"expected {self._names[number]!r}. Received: {found.name!r}"
            )
        with self._lock:
            return self._seen.setdefault(number, found)

    def _read_case(self, file: File, record: Span, number: int) -> "_Case":
        dynamic = {name: None in feature.shape for name, feature in self._features.items()}
        names = {name: f"{name}/value" if several else name for name, several in dynamic.items()}
        sizes = [f"{name}/shape" for name, several in dynamic.items() if several]
        example, places = look(file, record, ("case", "shape", *sizes), tuple(names.values()))
        values = example.features.feature
        shape = as_index(values["shape"].int64_list.value)
        for name, feature in self._features.items():
            wanted = (*shape, self.channels) if name == "image" else shape
            stored = tuple(values[f"{name}/shape"].int64_list.value) if dynamic[name] else tuple(feature.shape)
            if stored != wanted:
                raise DamagedError(f"{name} of shape {stored} for a volume of {shape}")
            feature.check_size(places[names[name]].length, wanted)
        (name,) = values["case"].bytes_list.value
        return _Case(
            number,
            name.decode("utf-8", "backslashreplace"),
            shape,
            file.path,
            record,
            {name: places[key] for name, key in names.items()},
        )

    def _damaged(self, path: str, record: Span, case: int, block: str, error: Exception) -> StoreError:
        return StoreError(
            f"{path}: damaged at byte {record.offset}, case {case}{block}; build the data set again. Received: "
            f"{type(error).__name__}: {error}"
        )

    def _count(self, file: File) -> None:
        with self._lock:
            self.bytes_read += file.bytes_read

    def _records(self) -> list[tuple[str, Span]]:
        with self._lock:
            if self._found is None:
                with named(self.builder.data_dir):
                    files = [str(path) for path in self.builder.info.splits[self.split].filepaths]
                found = [(path, record) for path in files for record in records(path, self.cases)]
                if len(found) != self.cases:
                    raise StoreError(
                        f"{self._where}: split {self.split!r} holds {len(found)} cases; build the data set again. "
                        f"Expected {self.cases}, by dataset_info.json"
                    )
                self._found = found
            return self._found


@dataclass(frozen=True)
class _Case:
    """What the record of a case says about itself, and where its arrays are."""

    number: int
    name: str
    shape: Index
    path: str
    record: Span
    places: dict[str, Span]


def _within(file: File, value: Span) -> Callable[[int, int], bytes]:
    """A function that reads bytes of a value, counted from its first byte."""
    return lambda offset, length: file.read(Span(value.offset + offset, length))


def _order(where: str, orders: Any, split: str, cases: int) -> list[str]:
    """The names of the cases of a split by their positions."""
    names = orders.get(split) if isinstance(orders, dict) else None
    if not isinstance(names, list) or len(names) != cases or not all(isinstance(name, str) for name in names):
        raise StoreError(
            f"{where}: metadata.json is missing or damaged, or does not match dataset_info.json; build the data set "
            f"again. Expected the names of {cases} cases of {split!r}. Received: {names!r:.100}"
        )
    return names
