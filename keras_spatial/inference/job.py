"""Segment many volumes in a job of several processes, each of which does its part of every volume."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_spatial import processes
from keras_spatial.data.loading import part_of
from keras_spatial.inference.block_files import BlockFiles, Workspace, publish, shared_workspace
from keras_spatial.inference.outcomes import Outcome, reason_of
from keras_spatial.inference.parts import Blended, Predictor, label_together, write_probabilities
from keras_spatial.inference.segmentation import Patches, Prepared, fill_of, on_grid, prepare
from keras_spatial.inference.sliding import Box, Windows, importance
from keras_spatial.inference.sources import Source
from keras_spatial.inference.tasks import check_fits, common_task
from keras_spatial.model import Model
from keras_spatial.runtimes.blocks import LocalBlocks
from keras_spatial.volumes import Limits, Shape, Task, write_labels
from keras_spatial.volumes.labels import Probabilities


@dataclass
class Traffic:
    """How many bytes this process has read and written of the files that the processes of a job share.

    Attributes:
        images_read: the bytes of the networks' inputs that were read.
        scores_written: the bytes of the class probabilities that were written.
        labels_written: the bytes of the labels that were written.
    """

    images_read: int = 0
    scores_written: int = 0
    labels_written: int = 0


def segment_jointly(
    models: Sequence[keras.Model],
    sources: Sequence[Source],
    folder: Path,
    ending: str,
    *,
    task: Task | Literal["lits"] | None = None,
    patches: Patches | None = None,
    largest_liver: bool = False,
    from_logits: bool = True,
    intensities: Callable[[np.ndarray], np.ndarray] | None = None,
    classes: Sequence[str] = (),
    limits: Limits | None = None,
    traffic: Traffic | None = None,
    workspace: Workspace | None = None,
    **unknown: Any,
) -> Iterator[Outcome]:
    """Segment volumes in all processes of a job, with the same results as `segment_each`.

    A round has as many volumes as there are processes. Each process reads and prepares one of them. Then all processes
    predict every volume of the round, and each reads and writes only its own blocks. Finally each process labels its
    own planes of every volume, and writes the labels of the volume that it has read.

    Args:
        models: one partitioned model.
        sources, folder, ending: as for `segment_each`.
        task, patches, largest_liver, from_logits, intensities, classes, limits: as for `segment`.
        traffic: gets the numbers of bytes that this process reads and writes.
        workspace: where the processes give each other parts of images; by default in `folder`, which all of them see.
        unknown: options of `segment` that need the whole prediction in one process.

    Raises:
        ValueError: if the model or an option does not fit; it is raised before any volume is read.
    """
    given = sorted(name for name, value in unknown.items() if value)
    model = models[0]
    if given or len(models) != 1 or not isinstance(model, Model) or model.distribution is None:
        raise ValueError(
            f"several processes segment with one partitioned model, without flips and memory. Received: {len(models)} "
            f"model(s), {model.name!r} {'partitioned' if getattr(model, 'distribution', None) else 'not partitioned'}, "
            f"with {given or 'no such option'}"
        )
    known = task if isinstance(task, Task) else None
    if task is None and intensities is None:
        known = common_task(models)
    size = check_fits(models, known)
    shape = model.output_shape
    if not isinstance(shape, tuple) or shape[1:4] != size or shape[4] < 2:
        raise ValueError(
            f"model {model.name}: expected class scores [batch, x, y, z, classes] for every voxel of its input {size}, "
            f"two classes or more. Received: {shape}"
        )
    names = classes or (() if known is None else known.labels)

    def read(source: Source, path: Path) -> Prepared:
        return prepare(source.volume, path, size, known, patches, intensities, limits)

    def write(labels: np.ndarray, found: Prepared, path: Path) -> None:
        write_labels(path, on_grid(labels, found.original, largest_liver=largest_liver), found.original, classes=names)

    job = _Job(model, size, int(shape[4]), fill_of(known), from_logits, read, write, traffic or Traffic())
    return job.outcomes(sources, folder, ending, workspace or Workspace(folder / ".work"))


@dataclass(frozen=True)
class _Plan:
    """A volume as all processes know it: the shape of its image and that of its labels, in voxels."""

    image: tuple[int, int, int, int]
    labels: Shape
    windows: Windows | None
    blend: str

    @property
    def boxes(self) -> list[Box]:
        """Where the network's inputs lie in the image."""
        x, y, z = (slice(0, n) for n in self.image[:3])
        return [(x, y, z)] if self.windows is None else list(self.windows.boxes())

    @property
    def stored(self) -> tuple[int, int, int, int]:
        """The shape of the image with its padding."""
        return self.image if self.windows is None else (*self.windows.padded, self.image[3])


class _Job:
    """Segments round after round."""

    def __init__(
        self,
        model: Model,
        size: Shape,
        classes: int,
        fill: float | None,
        from_logits: bool,
        read: Callable[[Source, Path], Prepared],
        write: Callable[[np.ndarray, Prepared, Path], None],
        traffic: Traffic,
    ):
        self._job, self._model, self._size, self._classes = processes.current(), model, size, classes
        self._fill, self._from_logits, self._read, self._write = fill, from_logits, read, write
        self._traffic = traffic
        self._feed, self._predict = _Feed(model, size), Predictor(model)

    def outcomes(self, sources: Sequence[Source], folder: Path, ending: str, workspace: Workspace) -> Iterator[Outcome]:
        with shared_workspace(self._job, workspace) as work:
            for first in range(0, len(sources), self._job.count):
                chosen = sources[first : first + self._job.count]
                started = time.perf_counter()
                paths = [folder / (source.stem + ending) for source in chosen]
                reasons = self._round(chosen, paths, ending, work)
                # For all volumes of a round, because they are in progress together.
                seconds = time.perf_counter() - started
                for number, (source, path) in enumerate(zip(chosen, paths, strict=True)):
                    reason = reasons.get(number)
                    yield Outcome(source, None if reason else path, reason, seconds)

    def _round(self, sources: Sequence[Source], paths: Sequence[Path], ending: str, work: Workspace) -> dict[int, str]:
        """Segment as many volumes as there are processes; returns, by number, why volumes have no result."""
        own, what = self._job.rank, f"{sources[0].name} and those after it"
        reasons: dict[int, str] = {}
        found: Prepared | None = None
        facts: Any = None
        if own < len(sources):
            reason = sources[own].unusable(ending)
            if reason is None:
                try:
                    found = self._read(sources[own], paths[own])
                    facts = self._facts(found)
                except Exception as error:
                    # Any error: one volume must not cost a night's work on the others.
                    reason = reason_of(error, sources[own])
            reasons |= {} if reason is None else {own: reason}
        told = [json.loads(text) for text in self._job.exchange(f"images of {what}", json.dumps([facts, reasons]))]
        for _, theirs in told:
            reasons |= {int(number): reason for number, reason in theirs.items()}
        plans = {number: _plan(made, self._size) for number, (made, _) in enumerate(told) if made is not None}

        images = {n: BlockFiles(work / f"image-{n}", plan.stored, np.float32) for n, plan in plans.items()}
        if found is not None and own in images:
            windows = plans[own].windows
            image = found.image if windows is None else windows.pad(found.image, self._fill)
            images[own].write([slice(0, n) for n in image.shape], image)
        publish(self._job, f"images of {what}", list(images.values()))

        scores, failed = self._predicted(plans, images, work)
        for text in self._job.exchange(f"scores of {what}", json.dumps(failed)):
            reasons |= {int(number): reason for number, reason in json.loads(text).items()}
        good = [number for number in plans if number not in reasons]
        publish(self._job, f"scores of {what}", [array for number in good for array in scores[number]])
        given = [(_probabilities(plans[n], scores[n]), plans[n].labels) for n in good]
        labels = dict(zip(good, label_together(what, work, given), strict=True))

        failed = {}
        if found is not None and own in labels:
            try:
                self._write(labels[own][:], found, paths[own])
            except Exception as error:
                failed[own] = reason_of(error, sources[own])
        # It is also where the processes wait for each other, before the files that they read are removed.
        for text in self._job.exchange(f"results of {what}", json.dumps(failed)):
            reasons |= {int(number): reason for number, reason in json.loads(text).items()}
        self._count(images, scores, labels)
        for array in (*images.values(), *(array for arrays in scores.values() for array in arrays), *labels.values()):
            array.discard()
        return reasons

    def _facts(self, found: Prepared) -> list[Any]:
        overlap, blend = (None, "") if found.windows is None else (found.windows.overlap, found.windows.blend)
        if found.windows is not None and not 0 <= found.windows.overlap < 1:
            raise ValueError(f"overlap: expected at least 0 and below 1. Received: {found.windows.overlap}")
        return [list(found.image.shape), list(found.shape), overlap, blend]

    def _predicted(
        self, plans: dict[int, _Plan], images: dict[int, BlockFiles], work: Workspace
    ) -> tuple[dict[int, list[BlockFiles]], dict[int, str]]:
        """The probabilities of each window of each volume, to which this process has written its own blocks; and by the
        number of a volume, why its probabilities cannot be used.
        """
        scores: dict[int, list[BlockFiles]] = {number: [] for number in plans}
        failed: dict[int, str] = {}
        pieces = [(number, box) for number, plan in plans.items() for box in plan.boxes]
        waiting = iter(pieces)
        while batch := list(islice(waiting, self._feed.batch)):
            made = []
            for number, _ in batch:
                place = work / f"scores-{number}-{len(scores[number])}"
                made.append(BlockFiles(place, (*self._size, self._classes), np.float32))
                scores[number].append(made[-1])
            # The last batch is filled up, because another shape would be traced again.
            filled = [*batch, *batch[:1] * (self._feed.batch - len(batch))]
            blocks = self._predict(self._feed([(images[number], box) for number, box in filled]))
            try:
                write_probabilities(str(self._model.name), blocks, made, from_logits=self._from_logits)
            except ValueError as error:
                failed |= {number: f"ValueError: {error}" for number, _ in batch}
        return scores, failed

    def _count(
        self, images: dict[int, BlockFiles], scores: dict[int, list[BlockFiles]], labels: dict[int, BlockFiles]
    ) -> None:
        self._traffic.images_read += sum(array.bytes_read for array in images.values())
        self._traffic.scores_written += sum(array.bytes_written for arrays in scores.values() for array in arrays)
        self._traffic.labels_written += sum(array.bytes_written for array in labels.values())


def _plan(facts: Any, size: Shape) -> _Plan:
    (x, y, z, channels), (a, b, c), overlap, blend = facts
    windows = None if overlap is None else Windows((x, y, z), size, overlap)
    return _Plan((x, y, z, channels), (a, b, c), windows, blend)


def _probabilities(plan: _Plan, scores: Sequence[BlockFiles]) -> Probabilities:
    if plan.windows is None:
        return scores[0]
    return Blended(plan.windows, scores, importance(plan.windows.patch, plan.blend))  # pyright: ignore[reportArgumentType]


class _Feed:
    """Makes the batches of a network: each process reads the blocks of its own devices.

    Attributes:
        batch: the number of images in a batch.
    """

    def __init__(self, model: Model, size: Shape):
        distribution = model.distribution
        assert distribution is not None
        held = [part_of(distribution, place) for place in distribution.runtime.local_coordinates()]
        self._parts = list(dict.fromkeys(held))
        self._places = [self._parts.index(part) for part in held]
        self._counts = tuple(distribution.shards(axis) for axis in ("batch", "x", "y", "z"))
        self._size, self.batch = size, self._counts[0]
        # Blocks are not padded: a network that needs longer shards is given whole images.
        self._blockwise = model.takes_blocks((*size, model.input_shape[4]))

    def __call__(self, pieces: Sequence[tuple[BlockFiles, Box]]) -> Any:
        """Make a batch from boxes of images."""
        if not self._blockwise:
            return np.stack([image[box] for image, box in pieces])
        read = []
        for part in self._parts:
            share, inner = len(pieces) // part.batch_of, part.box(self._size)
            own = pieces[part.batch_index * share : (part.batch_index + 1) * share]
            boxes = [
                (
                    image,
                    tuple(
                        slice(s.start + a, s.start + b) for s, a, b in zip(box, inner.start, inner.stop, strict=True)
                    ),
                )
                for image, box in own
            ]
            read.append(tf.constant(np.stack([image[box] for image, box in boxes])))
        return LocalBlocks(tuple(read[place] for place in self._places), (*self._counts, 1))
