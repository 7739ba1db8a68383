"""The LiTS data set: liver and lesions in abdominal CT, at any resolution, whole or in blocks."""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow_datasets as tfds

from datasets.blocks import BlockBuilder, BlockGrid, Index, features
from datasets.building import keep_local
from datasets.lits import cases as lits_cases
from datasets.lits import splits as lits_splits
from datasets.lits.cases import BadCasesError, Case, check_header, find_cases
from datasets.lits.conversion import STORE, Converted, Grid, Target, convert, find
from datasets.lits.progress import progress
from keras_spatial import volumes
from keras_spatial.volumes import VolumeError

logger = logging.getLogger(__name__)


@dataclass
class LitsConfig(tfds.core.BuilderConfig):
    """A variant of the data set; its name follows from the rest unless given.

    Attributes:
        resolution: voxels along each axis of a cube over the whole field of view, or None.
        spacing: edge of cubic voxels in mm, or None. Neither: the grid of the scan.
        blocks: blocks that a volume is stored in, along x (right), y (front), z (up).
        split: "published" or "fold-K-of-N", see `splits.assign`.
        on_bad_case: "raise" to end the build with the reasons, or "skip" to build without the bad cases and list them
            in the data set's metadata.
    """

    resolution: int | None = None
    spacing: float | None = None
    blocks: Index = (1, 1, 1)
    split: str = lits_splits.PUBLISHED
    on_bad_case: str = "raise"
    name: str = "unnamed"
    description: str | None = None

    def __post_init__(self):
        self.blocks = tuple(self.blocks)
        grid, blocks = Grid(self.resolution, self.spacing), BlockGrid(*self.blocks)
        lits_splits.check_rule(self.split)
        if self.on_bad_case not in ("raise", "skip"):
            raise ValueError(f'on_bad_case: expected "raise" or "skip". Received: {self.on_bad_case!r}')
        if self.resolution is not None and any(self.resolution % n for n in blocks.counts):
            raise ValueError(f"blocks: expected divisors of the resolution {self.resolution}. Received: {blocks}")
        parts = [str(grid)]
        parts += [] if blocks.whole else [f"blocks-{blocks}"]
        parts += [] if self.split == lits_splits.PUBLISHED else [self.split]
        parts += ["skip"] if self.on_bad_case == "skip" else []
        if self.name == "unnamed":
            self.name = "-".join(parts)
        if not self.description:
            self.description = f"Grid {grid}, stored in {blocks} blocks, split {self.split}."

    @property
    def grid(self) -> Grid:
        return Grid(self.resolution, self.spacing)


class Builder(BlockBuilder):
    """`lits/<config>`, built from a folder of the official files, or of the Medical Segmentation Decathlon's Task03."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.1.0": "Images are stored as float16.", "1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Register at https://competitions.codalab.org/competitions/17094, download Training_Batch1.zip and
    Training_Batch2.zip, and unpack both into the manual directory: volume-N.nii and segmentation-N.nii, N from 0 to
    130, in any subfolders. Or unpack Task03_Liver.tar of http://medicaldecathlon.com (imagesTr, labelsTr) there.
    """
    BUILDER_CONFIGS: ClassVar = [
        *(LitsConfig(resolution=n) for n in (64, 128, 256, 512)),
        *(LitsConfig(resolution=256, blocks=b) for b in ((2, 2, 1), (4, 4, 1))),
        LitsConfig(resolution=512, blocks=(16, 16, 1)),
        *(LitsConfig(spacing=s) for s in (1.0, 2.0, 3.0)),
        LitsConfig(),
        *(LitsConfig(resolution=128, split=f"fold-{k}-of-5") for k in range(5)),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config = cast(LitsConfig, self.builder_config)
        return self.dataset_info_from_configs(
            features=features(config.grid.shape, self.blocks),
            supervised_keys=("image", "label"),
            homepage="https://competitions.codalab.org/competitions/17094",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                blocks=list(config.blocks), cases={}, bad_cases=[], warnings=[], sources={}
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager, pipeline: Any) -> dict[str, Any]:
        beam = tfds.core.lazy_imports.apache_beam
        keep_local(pipeline)
        config = cast(LitsConfig, self.builder_config)
        found = find_cases(str(dl_manager.manual_dir))
        usable, bad = _checked(found, check_header)
        if bad and config.on_bad_case == "raise":
            raise _error(bad)
        target = Target(config.grid, self.blocks, str(self.data_path.parents[1] / STORE))
        logger.info("lits: converting %d cases, kept in %s", len(usable), target.folder)
        done = functools.partial(_count, usable, target)
        with progress(done, len(usable)), beam.Pipeline(pipeline.runner, options=pipeline.options) as conversion:
            _ = (
                conversion
                | "cases" >> beam.Create(usable)
                | "one case per task" >> beam.Reshuffle()
                | "convert" >> beam.Map(_convert, target=target)
            )
        converted: dict[int, Converted] = {}
        for case in usable:
            result = find(case, target)
            if result is None:
                raise RuntimeError(
                    f"{target.folder}: lacks the workers' results. Give a data_dir that all machines share."
                )
            if result.error is None:
                converted[case.number] = result
            else:
                bad.append((case, *result.error))
        if bad and (config.on_bad_case == "raise" or not converted):
            raise _error(bad)
        splits = lits_splits.assign(sorted(converted), config.split)
        self._note(splits, bad, found)
        return self._stored(splits, converted)

    def _note(self, splits: lits_splits.Splits, bad: list[tuple[Case, str, str]], found: list[Case]) -> None:
        cast(dict, self.info.metadata).update(
            cases={name: list(numbers) for name, numbers in splits.items()},
            bad_cases=[{"case": c.name, "error": e, "reason": m} for c, e, m in bad],
            warnings=list(splits.warnings),
            sources=sources(found),
        )
        for warning in splits.warnings:
            logger.warning("lits: %s", warning)
        for case, error, message in bad:
            logger.warning("lits: left out %s: %s: %s", case.name, error, message)

    def _stored(self, splits: lits_splits.Splits, converted: dict[int, Converted]) -> dict[str, Any]:
        # Beam's workers have packed the blocks; what is left is copying. A Beam pipeline with a writer for each of
        # hundreds of block splits takes longer to plan than the copying takes.
        return {
            self.blocks.split(name, index): self._generate_examples([converted[n] for n in numbers], index)
            for name, numbers in splits.items()
            for index in self.blocks.indices()
        }

    def _generate_examples(self, cases: list[Converted], index: Index) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, case in enumerate(cases):
            yield key, _example(case, index)


def sources(cases: list[Case]) -> dict[str, list[int]]:
    """Sizes in bytes of each case's files, by which `prepare` notices that a data set was built of other files."""
    return {case.name: [path.stat().st_size for path in (case.volume, case.segmentation)] for case in cases}


def _checked(found: list[Case], check: Any) -> tuple[list[Case], list[tuple[Case, str, str]]]:
    usable, bad = [], []
    for case in found:
        try:
            check(case)
        except VolumeError as error:
            bad.append((case, type(error).__name__, str(error)))
        else:
            usable.append(case)
    return usable, bad


def _error(bad: list[tuple[Case, str, str]]) -> VolumeError:
    """One bad case raises its own error, several raise one that lists them."""
    if len(bad) == 1:
        _, name, message = bad[0]
        kind = getattr(lits_cases, name, None) or getattr(volumes, name, VolumeError)
        return kind(message)
    lines = "\n".join(f"  {case.name}: {name}: {message}" for case, name, message in bad)
    return BadCasesError(
        f'{len(bad)} cases cannot be used. Repair or remove them, or build with on_bad_case="skip":\n{lines}'
    )


def _convert(case: Case, target: Target) -> None:
    result = convert(case, target)
    logger.info("lits: %s %s", case.name, "converted" if result.error is None else "cannot be used")


def _count(cases: list[Case], target: Target) -> int:
    return sum(find(case, target) is not None for case in cases)


def _example(converted: Converted, index: Index) -> dict[str, Any]:
    image, label = converted.block(index)
    facts = converted.facts
    return {
        "image": image,
        "label": label,
        "case": facts["case"],
        "affine": np.array(facts["affine"]),
        "spacing": np.array(facts["spacing"], np.float32),
        "original_shape": np.array(facts["original_shape"]),
        "checksum": facts["checksum"],
        "shape": np.array(facts["shape"]),
        "block": np.array(index),
    }
