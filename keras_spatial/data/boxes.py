"""Boxes of voxels, and how an image is divided into blocks: integers only."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """The voxels from `start` to before `stop`, along x, y and z.

    Example:

    ```python
    box = ks.data.Box((0, 0, 16), (32, 32, 32))
    assert box.shape == (32, 32, 16)
    ```
    """

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

    Example:

    ```python
    right = ks.data.Part(index=(1, 0, 0), of=(2, 1, 1))
    assert right.box((64, 64, 64)) == ks.data.Box((32, 0, 0), (64, 64, 64))
    ```
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
        """The voxels of this part of an image of `shape` voxels."""
        slices = [block(i, n, s) for i, n, s in zip(self.index, self.of, shape, strict=True)]
        return Box(as_index(s.start for s in slices), as_index(s.stop for s in slices))


def as_index(values: Any) -> Index:
    """Convert three integers of any kind to a tuple of Python integers."""
    x, y, z = values
    return int(x), int(y), int(z)


def block(index: int, count: int, size: int) -> slice:
    """Block `index` of `count` along an axis: voxels floor(index size / count) to floor((index + 1) size / count)."""
    return slice(index * size // count, (index + 1) * size // count)


def divided(shape: Sequence[int], blocks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The slices of every block of an array in the order in which blocks are stored, the last axis fastest.

    Args:
        shape: the shape of the array.
        blocks: the number of blocks along its first axes.
    """
    return itertools.product(
        *([block(i, n, s) for i in range(n)] for n, s in zip(blocks, shape[: len(blocks)], strict=True))
    )
