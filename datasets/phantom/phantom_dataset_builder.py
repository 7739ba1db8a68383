"""The phantoms as a TFDS data set. Nothing is downloaded, and each block is computed separately."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow_datasets as tfds

from datasets.blocks import SPLITS, BlockBuilder, BlockGrid, Index, features
from datasets.phantom.anatomy import LEVELS, patient
from datasets.phantom.folder import affine
from datasets.phantom.render import render, spacing
from keras_spatial.data.packing import Packed, compress
from keras_spatial.volumes import LITS, Grid, hu_window


@dataclass
class PhantomConfig(tfds.core.BuilderConfig):
    """A configuration of the data set. Its name follows from the other attributes unless it is given.

    Attributes:
        resolution: the number of voxels along each axis, from 16 to 512.
        difficulty: "easy", "medium" or "hard".
        blocks: the number of blocks in which a volume is stored, along x (right), y (front) and z (up), which divide
            the resolution.
        seed: the seed of the series of patients.
        cases: the numbers of patients for training, validation and test.
    """

    resolution: int = 64
    difficulty: str = "medium"
    blocks: Index = (1, 1, 1)
    seed: int = 0
    cases: tuple[int, int, int] = (16, 4, 4)
    name: str = "unnamed"
    description: str | None = None

    def __post_init__(self):
        blocks = BlockGrid(*self.blocks)
        if not 16 <= self.resolution <= 512 or any(self.resolution % n for n in blocks.counts):
            raise ValueError(
                "resolution: expected 16 to 512, divisible by the blocks. "
                f"Received: resolution={self.resolution}, blocks={blocks}"
            )
        if self.difficulty not in LEVELS:
            raise ValueError(f"difficulty: expected one of {list(LEVELS)}. Received: {self.difficulty!r}")
        if len(self.cases) != 3 or min(self.cases) < 1 or self.seed < 0:
            raise ValueError(
                "cases, seed: expected three counts from 1 and a seed from 0. "
                f"Received: cases={self.cases}, seed={self.seed}"
            )
        parts = [str(self.resolution), self.difficulty]
        parts += [] if blocks.whole else [f"blocks-{blocks}"]
        parts += [] if self.seed == 0 else [f"seed-{self.seed}"]
        parts += [] if self.cases == (16, 4, 4) else ["cases-" + "-".join(map(str, self.cases))]
        if self.name == "unnamed":
            self.name = "-".join(parts)
        if not self.description:
            self.description = (
                f"{self.difficulty} phantoms of {self.resolution} voxels along each axis, in {blocks} blocks."
            )


class Builder(BlockBuilder):
    """`phantom/<config>`: phantoms with the features, splits and blocks of `lits`."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "Each split has whole volumes as its examples, even if they are stored in blocks.",
        "1.2.0": "The feature of the label names the classes, and the metadata hold the task.",
        "1.1.0": "Images are stored as float16.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS: ClassVar = [
        *(PhantomConfig(resolution=n, difficulty=d) for n in (64, 128) for d in ("medium", "easy", "hard")),
        PhantomConfig(resolution=64, blocks=(2, 2, 1)),
        PhantomConfig(resolution=256, blocks=(4, 4, 1)),
        PhantomConfig(resolution=512, blocks=(16, 16, 1)),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config = cast(PhantomConfig, self.builder_config)
        return self.dataset_info_from_configs(
            features=features((config.resolution,) * 3, self.blocks, 1, LITS.labels),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                blocks=list(config.blocks),
                order=_order(config),
                task=dataclasses.replace(LITS, name="phantom", grid=Grid(config.resolution)).as_dict(),
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = cast(PhantomConfig, self.builder_config)
        ends = list(itertools.accumulate(config.cases))
        return {
            name: self._generate_examples(range(end - count, end))
            for name, count, end in zip(SPLITS, config.cases, ends, strict=True)
        }

    def _generate_examples(self, numbers: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, number in enumerate(numbers):
            yield key, _example(number, cast(PhantomConfig, self.builder_config))


def _order(config: PhantomConfig) -> dict[str, list[str]]:
    """The names of the cases of each split."""
    ends = list(itertools.accumulate(config.cases))
    return {
        name: [_name(config, number) for number in range(end - count, end)]
        for name, count, end in zip(SPLITS, config.cases, ends, strict=True)
    }


def _name(config: PhantomConfig, number: int) -> str:
    return f"phantom-{config.seed}-{number}"


def _example(number: int, config: PhantomConfig) -> dict[str, Any]:
    size = config.resolution, config.resolution, config.resolution
    person = patient(number, config.seed, config.difficulty)
    images, labels = [], []
    # One block at a time: the whole volume is never in memory.
    for part in BlockGrid(*config.blocks).slices(size):
        hu, label = render(person, size, [s.start for s in part], [s.stop for s in part])
        images.append(compress(hu_window(hu)[..., None].astype(np.float16)))
        labels.append(compress(label))
    return {
        "image": Packed.of(images, (*size, 1)),
        "label": Packed.of(labels, size),
        "case": _name(config, number),
        "affine": affine(person, size),
        "spacing": np.array(spacing(person, size), np.float32),
        "original_shape": np.array(size),
        "checksum": f"phantom {Builder.VERSION}, {config.difficulty}, seed {config.seed}, case {number}",
        "shape": np.array(size),
    }
