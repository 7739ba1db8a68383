"""`load`: a `tf.data` pipeline from a block-wise data set for `model.fit`, in step across processes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_spatial.data.boxes import Box, Index, Part
from keras_spatial.data.hashing import hashed
from keras_spatial.data.opening import StoreError
from keras_spatial.data.oversampling import Example, Oversampling
from keras_spatial.data.store import Store
from keras_spatial.data.transforms import Augmentation, Transform
from keras_spatial.distribution import SpatialParallel
from keras_spatial.runtimes.blocks import LocalBlocks


def part_of(distribution: SpatialParallel, coordinates: Mapping[str, int]) -> Part:
    """The part of each image and batch that the device at a mesh coordinate holds.

    Args:
        distribution: the mesh and layout.
        coordinates: the index along each mesh axis, such as `{"rows": 1, "columns": 0}`.

    Raises:
        ValueError: if a mesh axis of the layout is missing.

    Example:

    ```python
    part = ks.data.part_of(distribution, {"rows": 1, "columns": 0})
    dataset = ks.data.load("data/lits/64-blocks-2x2x1/2.0.0", "train", part=part)
    ```
    """
    layout = distribution.layout
    missing = sorted(set(layout.values()) - set(coordinates))
    if missing:
        raise ValueError(f"coordinates: expected an index for every mesh axis of {layout}. Received: no {missing}")

    def of(axis: str) -> tuple[int, int]:
        return (coordinates[layout[axis]] if axis in layout else 0), distribution.shards(axis)

    (x, nx), (y, ny), (z, nz), (batch, batches) = of("x"), of("y"), of("z"), of("batch")
    return Part((x, y, z), (nx, ny, nz), batch, batches)


def order(cases: int, epoch: int, seed: int | None) -> np.ndarray:
    """The order of the cases in an epoch. It depends only on the arguments and is the same on every machine.

    Args:
        cases: the number of cases.
        epoch: the number of the epoch, from 0.
        seed: the seed of the order; None for the order in which cases are stored.

    Returns:
        A permutation, int64 `[cases]`.

    Example:

    ```python
    first = [ks.data.order(100, epoch, seed=1)[0] for epoch in range(3)]
    ```
    """
    if seed is None:
        return np.arange(cases)
    return np.argsort(hashed(np.arange(cases, dtype=np.uint64) + np.uint64(epoch << 32), seed), kind="stable")


def load(
    builder: Any,
    split: str,
    batch_size: int = 1,
    part: Part = Part(),  # noqa: B008 - a frozen value.
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = 1,
    first_step: int = 0,
    augmentation: Augmentation | None = None,
    drop_remainder: bool = False,
    parallel: int = 2,
    distribution: SpatialParallel | None = None,
    size: Sequence[int] | None = None,
    oversampling: Oversampling | None = None,
) -> tf.data.Dataset:
    """Load batches of (image, label) of one part of a data set.

    In every process, step s has the same cases, whatever the process's part, because the order depends only on `seed`
    and the epoch. A run that resumes at step s passes `first_step=s` and continues exactly as it would have, without
    reading the earlier batches.

    Args:
        builder: a TFDS builder, or the folder of a built data set; see `Store`.
        split: "train", "validation" or "test".
        batch_size: the number of cases in a global batch. If the batch axis is split into n parts, a part reads 1/n of
            them.
        part: the part of each image and batch to read; by default whole images and batches. See `part_of`.
        shuffle: whether each epoch has a new order.
        seed: the seed of the order and of the augmentation.
        epochs: the number of epochs; None for an endless data set.
        first_step: the number of batches to skip.
        augmentation: the augmentation, which draws a new transform for each case in each epoch.
        drop_remainder: whether to drop the last batch of an epoch if it has fewer cases.
        parallel: the number of batches that are read at the same time.
        distribution: the distribution of the model that is fed. Each process then reads only the blocks of its own
            devices.
        size: the number of voxels along x, y and z that every image gets, for images of different sizes. A smaller
            image is put into the middle of zeros. From a larger image, each example is a box of this size: if the order
            is shuffled, at a position that is drawn again in each epoch, otherwise in the middle. Batches then have a
            third element, the weights of the voxels: 1 inside the image and 0 beyond it, so that losses and metrics
            ignore the padding. Any partition of this size can be read; stored blocks that its box touches are read
            whole.
        oversampling: which cases, and which boxes of them, replace some of the examples of a shuffled order.

    Returns:
        A data set of images, float32 `[batch, x, y, z, channels]`, and labels, uint8 `[batch, x, y, z]`; with `size`
        also of weights, float32 `[batch, x, y, z]`. With a distribution, all of them are `ks.LocalBlocks` of these
        shapes.

    Raises:
        StoreError: if the part is not a union of stored blocks, or the images differ in size and so cannot form a
            batch.
        ValueError: if the batch size is not a multiple of the parts of the batch axis, or an argument is out of range.

    Example:

    ```python
    folder = "data/lits/64-blocks-2x2x1/2.0.0"
    dataset = ks.data.load(
        folder, "train", batch_size=2, shuffle=True, distribution=distribution
    )
    model.fit(dataset)
    ```
    """
    store = builder if isinstance(builder, Store) else Store(builder, split)
    if distribution is not None:
        if part != Part():
            raise ValueError(f"The distribution determines which part is read: do not pass part. Received: part={part}")
        load_part = functools.partial(
            load, store, split, batch_size, shuffle=shuffle, seed=seed, epochs=epochs, first_step=first_step
        )
        load_part = functools.partial(
            load_part, augmentation=augmentation, drop_remainder=drop_remainder, parallel=parallel, size=size
        )
        load_part = functools.partial(load_part, oversampling=oversampling)
        return _blocks(distribution, load_part)
    if size is None:
        store.check(part)
    elif len(size) != 3 or min(size) < 1:
        raise ValueError(f"size: expected three positive voxel counts. Received: {size}")
    if batch_size < 1 or batch_size % part.batch_of:
        raise ValueError(f"batch_size: expected a multiple of {part.batch_of}. Received: {batch_size}")
    if (epochs is not None and epochs < 1) or first_step < 0:
        raise ValueError(
            "expected epochs to be at least 1 or None, and first_step at least 0. "
            f"Received: epochs={epochs}, first_step={first_step}"
        )
    if oversampling is not None and (not shuffle or len(oversampling.found) != store.cases):
        raise ValueError(
            f"oversampling: expected shuffle=True, and the classes of the {store.cases} cases of {split!r}. Received: "
            f"shuffle={shuffle}, the classes of {len(oversampling.found)} cases"
        )
    static = store.static_shape if size is None else tuple(int(n) for n in size)
    if None in static and batch_size > 1:
        raise StoreError(
            f"batch_size: expected 1, because the images differ in size; or pass size=, such as that of the largest "
            f"image. Received: {batch_size}, {static}"
        )
    short = store.cases % batch_size
    if short and not drop_remainder and short % part.batch_of:
        raise ValueError(
            f"{store.cases} cases leave a last batch of {short}, which {part.batch_of} parts cannot share; "
            "pass drop_remainder=True or another batch_size."
        )
    steps = store.cases // batch_size + (1 if short and not drop_remainder else 0)
    if steps == 0:
        raise ValueError(f"batch_size: expected at most the number of cases, {store.cases}. Received: {batch_size}")

    def batch_examples(step: int) -> list[Example]:
        epoch, position = divmod(step, steps)
        cases = order(store.cases, epoch, seed if shuffle else None)[
            position * batch_size : (position + 1) * batch_size
        ]
        share = len(cases) // part.batch_of
        mine = range(part.batch_index * share, (part.batch_index + 1) * share)
        # The number of an example determines its transform, so that it is the same in every process.
        numbered = [(int(cases[i]), epoch * store.cases + position * batch_size + i) for i in mine]
        if oversampling is None:
            return [Example(case, number) for case, number in numbered]
        return [oversampling.draw(case, number, seed) for case, number in numbered]

    draw = seed if shuffle else None

    def batch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        drawn = batch_examples(int(step))
        if size is None:
            read = [_example(store, example, part, augmentation, seed) for example in drawn]
        else:
            read = [_sized(store, example, part, size, augmentation, seed, draw) for example in drawn]
        return tuple(np.stack(parts) for parts in zip(*read, strict=True))

    fixed = [n for n in static if n is not None]
    sizes = list(part.box(fixed).shape) if len(fixed) == 3 else [None] * 3

    def element(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        kinds = (tf.float32, tf.uint8) if size is None else (tf.float32, tf.uint8, tf.float32)
        image, *rest = tf.numpy_function(batch, [step], kinds)
        image.set_shape([None, *sizes, store.channels])
        for tensor in rest:
            tensor.set_shape([None, *sizes])
        return image, *rest

    last = np.iinfo(np.int64).max if epochs is None else epochs * steps
    dataset = tf.data.Dataset.range(first_step, last).map(element, num_parallel_calls=parallel, deterministic=True)
    if epochs is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(max(0, last - first_step)))
    return dataset.prefetch(parallel)


def _blocks(distribution: SpatialParallel, load_part: Callable[..., tf.data.Dataset]) -> tf.data.Dataset:
    """Images and labels as the blocks of this process's devices; a part that several of them hold is read once."""
    held = [part_of(distribution, place) for place in distribution.runtime.local_coordinates()]
    parts = list(dict.fromkeys(held))
    places = [parts.index(part) for part in held]
    counts = tuple(distribution.shards(axis) for axis in ("batch", "x", "y", "z"))

    def join(*held: tuple[tf.Tensor, ...]) -> tuple[LocalBlocks, ...]:
        images, *rest = (tuple(held[place][i] for place in places) for i in range(len(held[0])))
        return LocalBlocks(images, (*counts, 1)), *(LocalBlocks(blocks, counts) for blocks in rest)

    return tf.data.Dataset.zip(tuple(load_part(part=part) for part in parts)).map(join)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a box of another size.

    Attributes:
        shape: the shape of the image, in voxels.
        start: the position of the image's first voxel in the box; negative if the image begins before the box.
    """

    shape: Index
    start: Index

    @classmethod
    def of(
        cls, shape: Index, size: Sequence[int], seed: int | None, number: int, holding: Index | None = None
    ) -> "Placement":
        """Pad an image evenly on both sides, or crop it. The crop's position is drawn for the example `number`, from
        those at which the crop contains the voxel `holding`, if one is given; without a seed, the crop is in the
        middle.
        """
        bits = hashed(np.arange(3, dtype=np.uint64) + np.uint64(3 * number), (seed or 0) + 2)
        start = []
        for axis, (n, m, draw) in enumerate(zip(shape, size, bits, strict=True)):
            if m >= n or seed is None:
                start.append((m - n) // 2)
                continue
            first, last = 0, n - m
            if holding is not None:
                first, last = max(first, holding[axis] - m + 1), min(last, holding[axis])
            start.append(-(first + int(draw % np.uint64(last - first + 1))))
        return cls(shape, (start[0], start[1], start[2]))

    def inside(self, box: Box) -> Box | None:
        """The voxels of the image that lie in `box`, counted from the image's first voxel; None if there are none."""
        pairs = [
            (max(a - s, 0), min(b - s, n))
            for a, b, s, n in zip(box.start, box.stop, self.start, self.shape, strict=True)
        ]
        if any(a >= b for a, b in pairs):
            return None
        (x0, x1), (y0, y1), (z0, z1) = pairs
        return Box((x0, y0, z0), (x1, y1, z1))


def _sized(
    store: Store,
    example: Example,
    part: Part,
    size: Sequence[int],
    augmentation: Augmentation | None,
    seed: int,
    draw: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, the label and the weights of a part of an example, after it is padded or cropped to `size`."""
    shape, box = store.shape(example.case), part.box(size)
    transform = _transform(augmentation, seed, example.number)
    place = example.place
    if place is not None and transform is not None:
        place = transform.moved(place, shape)
    placement = Placement.of(shape, size, draw, example.number, place)
    image = np.zeros((*box.shape, store.channels), np.float32)
    label, weight = np.zeros(box.shape, np.uint8), np.zeros(box.shape, np.float32)
    inside = placement.inside(box)
    if inside is not None:
        into = tuple(
            slice(a + s - first, b + s - first)
            for a, b, s, first in zip(inside.start, inside.stop, placement.start, box.start, strict=True)
        )
        image[into], label[into] = _box(store, example.case, inside, transform)
        weight[into] = 1
    return image, label, weight


def _example(
    store: Store, example: Example, part: Part, augmentation: Augmentation | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    box = part.box(store.shape(example.case))
    return _box(store, example.case, box, _transform(augmentation, seed, example.number))


def _transform(augmentation: Augmentation | None, seed: int, number: int) -> Transform | None:
    if augmentation is None:
        return None
    return augmentation.draw(int(hashed(np.array([number], np.uint64), seed + 1)[0]))


def _box(store: Store, case: int, box: Box, transform: Transform | None) -> tuple[np.ndarray, np.ndarray]:
    if transform is None:
        return store.read(case, box)
    return transform.apply(lambda wanted: store.read(case, wanted), box, store.shape(case))
