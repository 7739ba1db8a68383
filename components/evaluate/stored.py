"""Predictions of stored cases, block by block: neither an image nor its class scores are whole in the memory."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import numpy as np

from components import console
from components.train.feeding import Feed
from keras_spatial.data import Store
from keras_spatial.data.loading import Placement
from keras_spatial.inference.probabilities import as_probabilities
from keras_spatial.volumes import TaskError


class StoredCases:
    """The class probabilities of the cases of a split, which are fed to a network as a training is.

    Args:
        network: partitioned, with one output of class scores.
        builder: The TFDS builder of the data set.
        split: "train", "validation" or "test".
        folder: gets the probabilities of a batch at a time, as a file that is mapped into memory.

    Raises:
        TaskError: if the network does not take images of this size.
    """

    def __init__(self, network: ks.Model, builder: Any, split: str, folder: Path):
        store = Store(builder, split)
        size = tuple(network.input_shape[1:4])
        shapes = [store.shape(case) for case in range(store.cases)]
        if any(n > m for shape in shapes for n, m in zip(shape, size, strict=True)):
            raise TaskError(
                f"model: expected one that takes the images of the split {split}, of up to "
                f"{tuple(max(sizes) for sizes in zip(*shapes, strict=True))} voxels. Received: an input of {size}"
            )
        distribution = network.distribution
        assert distribution is not None
        self._shapes, self._network, self._folder = shapes, network, folder
        self._size = (size[0], size[1], size[2])
        equal = store.static_shape == size
        self.feed = Feed(store, network, distribution.shards("batch"), None if equal else self._size)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The probabilities of each case, float32 `[x, y, z, classes]` on its stored grid. An array is valid until the
        next one is asked for."""
        reads = f"whole images, because {self.feed.why_whole}" if self.feed.why_whole else "stored blocks alone"
        console.detail("evaluate", f"the network is fed {reads}")
        cases = enumerate(self._shapes)
        for blocks in self._network.predict_blocks(self.feed.load()):
            count = max(block.index[0].stop for block in blocks)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".scores-") as scratch:
                shape = (count, *self._size, blocks[0].values.shape[-1])
                scores = _mapped(Path(scratch) / "scores", shape)
                for block in blocks:
                    scores[block.index] = as_probabilities(
                        self._network.name, np.asarray(block.values, np.float32), from_logits=True
                    )
                for one, (_, inside) in zip(scores, cases, strict=False):
                    start = Placement.of(inside, self._size, None, 0).start
                    yield one[tuple(slice(a, a + n) for a, n in zip(start, inside, strict=True))]
                del scores
        console.detail("evaluate", f"{self.feed.store.bytes_read} bytes of the data set were read")


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with path.open("wb") as file:
        # A full disk raises an error here; later, a process that writes into mapped memory would be killed.
        os.posix_fallocate(file.fileno(), 0, 4 * int(np.prod(shape)))
    return np.memmap(path, np.float32, "r+", shape=shape)
