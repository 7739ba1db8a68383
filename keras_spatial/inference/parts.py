"""Predictions to which every process of a job contributes its own blocks, and its own planes of the labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_spatial import processes
from keras_spatial.calls import predicted_blocks
from keras_spatial.data.boxes import block
from keras_spatial.inference.block_files import BlockFiles, Workspace, publish
from keras_spatial.inference.probabilities import as_probabilities
from keras_spatial.inference.sliding import Box, Windows
from keras_spatial.model import Model
from keras_spatial.runtimes.blocks import Block
from keras_spatial.volumes import labels_from_probabilities
from keras_spatial.volumes.labels import Probabilities


class Predictor:
    """Predicts one batch after another, with one trace for all batches of a shape.

    Args:
        model: a partitioned model with one output. Every process must make the same calls.
    """

    def __init__(self, model: Model):
        self._batch: Any = None
        self._predicted = predicted_blocks(model, self._batches())

    def _batches(self) -> Iterator[tuple[Any]]:
        while True:
            yield (self._batch,)

    def __call__(self, batch: Any) -> list[Block]:
        """The blocks of the output that this process's devices hold.

        Args:
            batch: an array, or `ks.LocalBlocks`.
        """
        self._batch = batch
        return next(self._predicted)


def write_probabilities(
    model: str, blocks: Sequence[Block], images: Sequence[BlockFiles], *, from_logits: bool
) -> None:
    """Write this process's blocks of the probabilities of a batch.

    Args:
        model: the name of the model, for messages.
        blocks: the blocks of a batch from `predict_blocks`.
        images: the files for the probabilities of each image. If there are fewer than images in the batch, the other
            images are dropped.
        from_logits: whether the scores are logits.

    Raises:
        ValueError: if the scores are not finite, or are not what `from_logits` says.
    """
    for found in blocks:
        first = found.index[0].start
        scores = as_probabilities(model, np.asarray(found.values, np.float32), from_logits=from_logits)
        for number, image in enumerate(images):
            if first <= number < found.index[0].stop:
                image.write(found.index[1:], scores[number - first])


@dataclass(frozen=True)
class Part:
    """A box of probabilities `[X, Y, Z, classes]`, such as that of an image which was padded.

    Attributes:
        whole: the file with all probabilities.
        box: the box along x, y and z.
    """

    whole: BlockFiles
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(s.stop - s.start for s in self.box), self.whole.shape[3])

    def __getitem__(self, planes: slice, /) -> np.ndarray:
        first = self.box[0].start
        start, stop, _ = planes.indices(self.shape[0])
        return self.whole[slice(first + start, first + stop), self.box[1], self.box[2]]


@dataclass(frozen=True, eq=False)
class Blended:
    """The probabilities of an image from those of its windows, computed for the planes that are asked for.

    A voxel's probabilities are summed in the order of the windows, as in `sliding_window`, so that the sums are equal.

    Attributes:
        windows: the positions of the windows.
        found: the probabilities of each window.
        weights: the weight of each voxel of a window.
    """

    windows: Windows
    found: Sequence[BlockFiles]
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.windows.shape, self.found[0].shape[3])

    def __getitem__(self, planes: slice, /) -> np.ndarray:
        x, y, z = self.windows.inside
        start, stop, _ = planes.indices(self.shape[0])
        start, stop = x.start + start, x.start + stop
        total = np.zeros((stop - start, *self.windows.padded[1:], self.shape[3]), np.float32)
        weight = np.zeros((*total.shape[:3], 1), np.float32)
        for box, found in zip(self.windows.boxes(), self.found, strict=True):
            first, last = max(start, box[0].start), min(stop, box[0].stop)
            if first >= last:
                continue
            own = slice(first - box[0].start, last - box[0].start)
            place, here = (slice(first - start, last - start), *box[1:]), self.weights[own, ..., None]
            total[place] += found[own] * here
            weight[place] += here
        total /= weight
        return total[:, y, z]


def label_together(
    what: str, workspace: Workspace, volumes: Sequence[tuple[Probabilities, Sequence[int]]]
) -> list[BlockFiles]:
    """Compute the labels of some volumes: each process computes its own planes of all of them.

    Every process must call it with the same arguments.

    Args:
        what: the name of the volumes, for the message if a process does not answer.
        workspace: where the processes give each other the labels.
        volumes: for each volume, its probabilities, which all processes can read, and the shape of the labels' grid.

    Returns:
        The labels of each volume, uint8 `[X, Y, Z]` on the canonical grid. Every process can read all of them.
    """
    job = processes.current()
    labels = [BlockFiles(workspace / f"labels-{number}", shape, np.uint8) for number, (_, shape) in enumerate(volumes)]
    for (probabilities, _), made in zip(volumes, labels, strict=True):
        own = block(job.rank, job.count, made.shape[0])
        if own.start < own.stop:
            found = labels_from_probabilities(probabilities, made.shape, own)
            made.write((own, *(slice(0, n) for n in made.shape[1:])), found)
    publish(job, f"labels of {what}", labels)
    return labels
