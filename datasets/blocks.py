"""Data sets of volumes that are stored in blocks, but that TFDS reads as whole volumes.

An example is a case. Its record has the blocks of image and label after a table of their lengths, so a reader at one
mesh coordinate reads only its own blocks; see `keras_spatial.data.packing`. Examples are not shuffled: their keys are
their positions in `info.metadata["order"]`, by which a reader recognises that the files belong to the data set.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from datasets.locking import exclusive
from keras_spatial.data.boxes import divided
from keras_spatial.data.packing import PackedTensor

SPLITS = ("train", "validation", "test")
Index = tuple[int, int, int]


@dataclass(frozen=True)
class BlockGrid:
    """The numbers of blocks along x, y and z, from 1 to 64 each.

    If b blocks do not divide a size n, block i covers the voxels from floor(i n / b) to before floor((i + 1) n / b).
    """

    x: int = 1
    y: int = 1
    z: int = 1

    def __post_init__(self):
        if not all(isinstance(n, int) and 1 <= n <= 64 for n in self.counts):
            raise ValueError(f"blocks: expected three integers from 1 to 64. Received: {self.counts}")

    @property
    def counts(self) -> Index:
        return self.x, self.y, self.z

    @property
    def whole(self) -> bool:
        return self.counts == (1, 1, 1)

    def __str__(self) -> str:
        return f"{self.x}x{self.y}x{self.z}"

    def slices(self, shape: Sequence[int]) -> Iterator[tuple[slice, slice, slice]]:
        """The voxels of every block of a volume of this shape, z fastest."""
        yield from divided(shape, self.counts)  # pyright: ignore - Three slices for three counts.


def features(
    shape: tuple[int | None, ...], blocks: BlockGrid, channels: int, labels: Sequence[str]
) -> tfds.features.FeaturesDict:
    """The features of an example.

    The image is stored as float16, which takes half as many bytes, and read as float32. Its values are already rounded
    to float16 (see `keras_spatial.volumes`).

    Args:
        shape: the shape of the volume, with None for sizes that differ from case to case.
        blocks: the blocks in which it is stored.
        channels: the number of channels of the image.
        labels: the names of the classes by number, which become `features["label"].names`.
    """
    counts = blocks.counts
    return tfds.features.FeaturesDict(
        {
            "image": PackedTensor(shape=(*shape, channels), dtype=np.float32, stored=np.float16, blocks=counts),
            "label": PackedTensor(shape=shape, dtype=np.uint8, stored=np.uint8, blocks=counts, names=labels),
            "case": tfds.features.Text(),
            "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64),
            "spacing": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "original_shape": tfds.features.Tensor(shape=(3,), dtype=np.int64),
            "checksum": tfds.features.Text(),
            "shape": tfds.features.Tensor(shape=(3,), dtype=np.int64),
        }
    )


# TFDS reads the keyword in its own __init_subclass__, which type checkers do not see.
class BlockBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
    """A builder of volumes in blocks. One process at a time builds a data set in a folder."""

    @property
    def blocks(self) -> BlockGrid:
        return BlockGrid(*cast(Any, self.builder_config).blocks)

    home: Any = None
    """The folder for files that all configurations share, such as locks; None for the folder of the configurations."""
    owned = False
    """Whether the caller of `download_and_prepare` already holds `ownership`."""

    @property
    def shared(self) -> Any:
        """The folder for files that all configurations share."""
        return self.data_path.parents[1] if self.home is None else self.home

    @property
    def lock_names(self) -> tuple[str, ...]:
        """Builders that share a name in the same folder may not build at the same time."""
        return (cast(Any, self.builder_config).name,)

    @contextmanager
    def ownership(self) -> Iterator[None]:
        """Hold the locks that a process needs in order to build this data set.

        Raises:
            BuildInProgressError: if another process is building it.
        """
        with ExitStack() as locks:
            # All processes take the locks in the same order, so that two of them do not refuse each other.
            for name in sorted(set(self.lock_names)):
                locks.enter_context(exclusive(Path(self.shared) / f".lock-{name}"))
            self.owned = True
            try:
                yield
            finally:
                self.owned = False

    def download_and_prepare(self, **options: Any) -> None:
        """As in TFDS, but only one process at a time may build a data set in a folder.

        Raises:
            BuildInProgressError: if another process is building it.
        """
        # A complete data set is only read, perhaps from a read-only folder. Remote folders have no locks.
        if self.data_path.exists() or "://" in str(self.data_path):
            super().download_and_prepare(**options)
            return
        with nullcontext() if self.owned else self.ownership():
            super().download_and_prepare(**options)
