"""How the data sets store a volume as a grid of blocks, and put it together again. How a block is
compressed: `keras_spatial.data.packing`.

A data set with 2x2x1 blocks has the TFDS splits `train_0_0_0`, `train_0_1_0`, ..., each with its own files, so that a
reader of one mesh coordinate opens only its own. Every one holds the same cases under the same integer keys, and
shuffling is off, because TFDS salts its shuffle with the split's name: so all blocks have the same order.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from datasets.locking import exclusive
from keras_spatial.data.packing import PackedTensor

SPLITS = ("train", "validation", "test")
Index = tuple[int, int, int]


@dataclass(frozen=True)
class BlockGrid:
    """Blocks along x, y and z, from 1 to 64 each.

    Where a size does not divide, block i of b covers voxels floor(i n / b) to floor((i + 1) n / b).
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

    def indices(self) -> Iterator[Index]:
        """Every block, z fastest."""
        yield from itertools.product(range(self.x), range(self.y), range(self.z))

    def slices(self, index: Index, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The voxels of one block of a volume of this shape."""
        x, y, z = (slice(i * n // b, (i + 1) * n // b) for i, b, n in zip(index, self.counts, shape, strict=True))
        return x, y, z

    def split(self, split: str, index: Index) -> str:
        """The TFDS split that stores block `index` of `split`: "train" itself for whole volumes, else "train_0_1_0"."""
        return split if self.whole else f"{split}_{index[0]}_{index[1]}_{index[2]}"


def features(
    shape: tuple[int | None, ...], blocks: BlockGrid, channels: int, labels: Sequence[str]
) -> tfds.features.FeaturesDict:
    """The features of an example; image and label have the shape of a block.

    The image is stored as float16, in half as many bytes, and read as float32: its values are chosen so that float16 is
    exact (see `keras_spatial.volumes`).

    Args:
        shape: The shape of the whole volume, None where it differs from case to case.
        blocks: None sizes stay None in blocks.
        channels: The number of channels of the image.
        labels: the names of the classes by number; `features["label"].names`.
    """
    part = tuple(None if n is None or n % b else n // b for n, b in zip(shape, blocks.counts, strict=True))
    return tfds.features.FeaturesDict(
        {
            "image": PackedTensor(shape=(*part, channels), dtype=np.float32, stored=np.float16),
            "label": PackedTensor(shape=part, dtype=np.uint8, stored=np.uint8, names=labels),
            "case": tfds.features.Text(),
            "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64),
            "spacing": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "original_shape": tfds.features.Tensor(shape=(3,), dtype=np.int64),
            "checksum": tfds.features.Text(),
            "shape": tfds.features.Tensor(shape=(3,), dtype=np.int64),
            "block": tfds.features.Tensor(shape=(3,), dtype=np.int64),
        }
    )


# TFDS reads the keyword in its own __init_subclass__, behind typing's back.
class BlockBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
    """A builder whose `as_dataset("train")` gives whole volumes, whatever the blocks they are stored in."""

    @property
    def blocks(self) -> BlockGrid:
        return BlockGrid(*cast(Any, self.builder_config).blocks)

    home: Any = None
    """Folder of what all configurations share, such as locks; None for the one that they lie in."""
    owned = False
    """Whether who calls `download_and_prepare` holds `ownership` already."""

    @property
    def shared(self) -> Any:
        """Folder of what all configurations share."""
        return self.data_path.parents[1] if self.home is None else self.home

    @property
    def lock_names(self) -> tuple[str, ...]:
        """Builders that share a name in the same folder may not build at the same time."""
        return (cast(Any, self.builder_config).name,)

    @contextmanager
    def ownership(self) -> Iterator[None]:
        """Be the one that builds this data set.

        Raises:
            BuildInProgressError: if another one is at work there.
        """
        with ExitStack() as locks:
            # In one order, and each once: two that wait for each other's lock would both be refused.
            for name in sorted(set(self.lock_names)):
                locks.enter_context(exclusive(Path(self.shared) / f".lock-{name}"))
            self.owned = True
            try:
                yield
            finally:
                self.owned = False

    def download_and_prepare(self, **options: Any) -> None:
        """As in TFDS; one process at a time builds a data set in a folder.

        Raises:
            BuildInProgressError: if another one is at work there.
        """
        # What is there is only read, perhaps from a folder that cannot be written; remote folders have no locks.
        if self.data_path.exists() or "://" in str(self.data_path):
            super().download_and_prepare(**options)
            return
        with nullcontext() if self.owned else self.ownership():
            super().download_and_prepare(**options)

    def as_dataset(  # pyright: ignore - TFDS wraps it in a decorator without a signature.
        self, split: Any = None, *, shuffle_files: bool = False, **options: Any
    ) -> Any:
        """As in TFDS. "train", "validation" and "test", also with a slice ("train[:10%]"), as a sum
        ("train+validation") or as a `tfds.core.ReadInstruction`, give whole volumes; the stored splits, such as
        "train_0_1_0", give blocks.

        Raises:
            ValueError: for `shuffle_files` on whole volumes stored in blocks, whose files have to stay in step.
        """
        if split is None and not self.blocks.whole:
            stored = set(self.info.splits)
            split = {name: name for name in SPLITS if self.blocks.split(name, (0, 0, 0)) in stored}
        if isinstance(split, (dict, list, tuple)):
            return tf.nest.map_structure(lambda s: self.as_dataset(s, shuffle_files=shuffle_files, **options), split)
        terms = [] if self.blocks.whole else self._terms(split)
        if not terms:
            return super().as_dataset(split, shuffle_files=shuffle_files, **options)
        if shuffle_files:
            raise ValueError(
                "shuffle_files: the files of a volume's blocks are read in step, so they keep their order; use "
                f"dataset.shuffle(...) instead. Received: shuffle_files=True for a data set in {self.blocks} blocks"
            )
        supervised, batch = options.pop("as_supervised", False), options.pop("batch_size", None)
        wholes = []
        for term in terms:
            parts = [
                super(BlockBuilder, self).as_dataset(  # pyright: ignore
                    f"{self.blocks.split(term.splitname, i)}[{term.from_}:{term.to}]", **options
                )
                for i in self.blocks.indices()
            ]
            wholes.append(
                tf.data.Dataset.zip(tuple(parts)).map(
                    lambda *examples: self._join(examples, supervised), num_parallel_calls=tf.data.AUTOTUNE
                )
            )
        joined = functools.reduce(tf.data.Dataset.concatenate, wholes)
        return joined if batch is None else joined.batch(batch)

    def _terms(self, split: Any) -> list[Any]:
        """The cases that TFDS would read of a split of whole volumes: `splitname`, `from_` and `to` of each term of its
        sum; none where stored blocks are meant."""
        if not isinstance(split, tfds.core.splits.AbstractSplit):
            split = tfds.core.splits.AbstractSplit.from_spec(str(split))
        stored = self.info.splits
        whole = {name: stored[self.blocks.split(name, (0, 0, 0))] for name in SPLITS
                 if self.blocks.split(name, (0, 0, 0)) in stored}  # fmt: skip
        names = [part.splitname for part in split.to_absolute({**stored, **whole})]
        if not set(names) <= set(whole):
            return []
        terms = split.to_absolute(whole)
        return [
            dataclasses.replace(t, from_=t.from_ or 0, to=whole[t.splitname].num_examples if t.to is None else t.to)
            for t in terms
        ]

    def _join(self, examples: Sequence[dict[str, tf.Tensor]], supervised: bool) -> Any:
        checks = [tf.debugging.assert_equal(e["case"], examples[0]["case"], "blocks out of step") for e in examples[1:]]
        checks += [
            tf.debugging.assert_equal(e["block"], tf.constant(index, tf.int64), f"files of block {index} swapped")
            for e, index in zip(examples, self.blocks.indices(), strict=True)
        ]
        whole = dict(examples[0])
        with tf.control_dependencies(checks):
            for key in ("image", "label"):
                whole[key] = join([e[key] for e in examples], self.blocks)
        del whole["block"]
        return (whole["image"], whole["label"]) if supervised else whole


def join(parts: Sequence[tf.Tensor], blocks: BlockGrid) -> tf.Tensor:
    """Concatenate blocks, in the order of `BlockGrid.indices`, along the first three axes."""
    for axis in (2, 1, 0):
        n = blocks.counts[axis]
        parts = [parts[i] if n == 1 else tf.concat(parts[i : i + n], axis) for i in range(0, len(parts), n)]
    return parts[0]
