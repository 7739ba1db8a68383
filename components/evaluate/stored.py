"""Predict stored cases block by block, so that neither an image nor its class scores are ever whole in memory."""

from collections.abc import Iterator
from typing import Any

import keras_spatial as ks
from components import console
from components.train.feeding import Feed
from keras_spatial import processes
from keras_spatial.data import Store
from keras_spatial.data.loading import Placement
from keras_spatial.inference.block_files import BlockFiles, Workspace, publish
from keras_spatial.inference.parts import Part, write_probabilities
from keras_spatial.volumes import TaskError


class StoredCases:
    """The class probabilities of the cases of a split, which are fed to a network in the same way as in a training.

    Every process of the job predicts the blocks of its own devices, and writes them to files that all of them can read.

    Args:
        network: the partitioned network, with one output of class scores.
        builder: the TFDS builder of the data set.
        split: "train", "validation" or "test".
        workspace: where the processes give each other the probabilities of a few cases at a time.

    Raises:
        TaskError: if the network's input is smaller than an image.
    """

    def __init__(self, network: ks.Model, builder: Any, split: str, workspace: Workspace):
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
        self._shapes, self._network, self._workspace = shapes, network, workspace
        self._size = (size[0], size[1], size[2])
        equal = store.static_shape == size
        self.feed = Feed(store, network, distribution.shards("batch"), None if equal else self._size)

    def rounds(self) -> Iterator[dict[int, Part]]:
        """Yield the probabilities of a few cases on their stored grids, by the number of the case in the split.

        A round has at least as many cases as there are processes, except for the last one, so that each process can
        score a case. Every process must take all rounds. Taking the next round removes the arrays, so a process may
        take it only when no process reads them any more.
        """
        job = processes.current()
        reads = f"whole images, because {self.feed.why_whole}" if self.feed.why_whole else "only its own blocks"
        if job.is_first:
            console.detail("evaluate", f"every process is fed {reads}")
        classes, written, case = self._network.output_shape[-1], 0, 0
        found: dict[int, BlockFiles] = {}
        for blocks in self._network.predict_blocks(self.feed.load()):
            count = min(self.feed.batch_size, len(self._shapes) - case)
            shape = (*self._size, classes)
            new = [BlockFiles(self._workspace / f"scores-{case + i}", shape, "f4") for i in range(count)]
            write_probabilities(self._network.name, blocks, new, from_logits=True)
            found |= {case + i: array for i, array in enumerate(new)}
            case += count
            if len(found) >= job.count or case == len(self._shapes):
                publish(job, f"scores of {list(found)}", list(found.values()))
                yield {number: self._part(number, array) for number, array in found.items()}
                for array in found.values():
                    written += array.bytes_written
                    array.discard()
                found.clear()
        console.detail(
            "evaluate",
            f"process {job.rank} has read {self.feed.store.bytes_read} bytes of the data set, and written {written} of "
            "probabilities",
        )

    def _part(self, case: int, array: BlockFiles) -> Part:
        inside = self._shapes[case]
        x, y, z = (
            slice(a, a + n) for a, n in zip(Placement.of(inside, self._size, None, 0).start, inside, strict=True)
        )
        return Part(array, (x, y, z))
