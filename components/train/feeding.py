"""Feed the cases of a split to a network. If possible, each process reads only the blocks of its own devices."""

from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import tensorflow as tf

from components.train.objective import for_outputs
from components.train.settings import TrainingError, TrainingSettings
from keras_spatial import data
from keras_spatial.data import Oversampling, Part, Store, StoreError
from keras_spatial.volumes import Task


class Feed:
    """The batches of one split for a network.

    Args:
        store: the store of the split.
        network: the partitioned network.
        batch_size: the number of cases in a batch.
        size: the number of voxels along each axis to which images of different sizes are padded; None if all images
            have one size.

    Attributes:
        store: the store of the split.
        batch_size: the number of cases in a batch.
        why_whole: why every process reads whole images; empty if each reads its own blocks.
    """

    def __init__(self, store: Store, network: ks.Model, batch_size: int, size: tuple[int, int, int] | None = None):
        self.store, self._network, self.batch_size, self._size = store, network, batch_size, size
        self.why_whole = _why_whole(store, network, batch_size, size)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.store.cases // self.batch_size)

    def load(self, **options: Any) -> tf.data.Dataset:
        """Batches of images and labels, and of weights if sizes differ; `options` are those of `ks.data.load`."""
        if not self.why_whole:
            options["distribution"] = self._network.distribution
        batches = data.load(self.store, self.store.split, self.batch_size, size=self._size, **options)
        return for_outputs(batches, len(self._network.outputs))


def oversampling(builder: Any, settings: TrainingSettings, task: Task) -> Oversampling | None:
    """Which training cases are drawn more often; None if the settings do not ask for oversampling.

    Raises:
        TrainingError: if a rare class is not a class of the task, or no training case has it.
    """
    if not settings.oversample:
        return None
    found = data.read_classes(builder, "train")
    unknown = [name for name in settings.rare_classes if name not in task.foreground]
    if unknown:
        raise TrainingError(f"rare_classes: expected some of {list(task.foreground)}. Received: {unknown}")
    named = tuple(task.labels.index(name) for name in settings.rare_classes)
    try:
        return Oversampling(settings.oversample, found, named or data.rare_classes(found))
    except ValueError as error:
        raise TrainingError(f"oversample, rare_classes: the training cases have no such class. {error}") from error


def describe(drawn: Oversampling, task: Task) -> str:
    """Describe an oversampling in a line for the log."""
    classes = ", ".join(f"{task.labels[n]} (in {len(drawn.cases_with(n))})" for n in drawn.classes)
    return f"{drawn.share:.0%} of the examples are drawn from the {len(drawn.found)} cases for their {classes}"


def _why_whole(store: Store, network: ks.Model, batch_size: int, size: tuple[int, int, int] | None) -> str:
    distribution = network.distribution
    assert distribution is not None
    counts = (distribution.shards("x"), distribution.shards("y"), distribution.shards("z"))
    batches = distribution.shards("batch")
    if counts == (1, 1, 1) and batches == 1:
        return "the layout splits nothing"
    if size is None:
        try:
            store.check(Part((0, 0, 0), counts))
        except StoreError as error:
            return str(error)
    shape = size or store.static_shape
    if None in shape or not network.takes_blocks((*shape, store.channels)):  # pyright: ignore[reportArgumentType]
        return f"the network needs longer shards than those of {shape} voxels in {counts} blocks"
    if batch_size % batches or store.cases % batch_size % batches:
        return f"{batches} parts of the batch cannot share {store.cases} cases in batches of {batch_size}"
    return ""
