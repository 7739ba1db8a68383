"""A TFDS builder for cases in files: it finds and checks them, converts them with Beam, and stores them in blocks.

`datasets/lits` and `datasets/decathlon` extend it and define which files make a case, and how a case is read.
"""

import dataclasses
import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from datasets import splits as case_splits
from datasets.blocks import BlockBuilder, BlockGrid, Index, features
from datasets.building import on_local_runner, pipeline, writes_on_beam
from datasets.cases import BadCase, ChangedCaseError, error_of
from datasets.conversion import STORE, AnyCase, Converted, Reader, Target, changed, convert, find, present
from datasets.locking import exclusive
from datasets.object_store import is_url
from datasets.origins import HERE, Origin, opened
from datasets.progress import Tell, progress
from datasets.sources import Digests
from keras_spatial.ownership import NoLocks
from keras_spatial.volumes import Grid, Limits, Task, VolumeError

logger = logging.getLogger(__name__)

LOST_SECONDS = 120.0
"""For how long to wait for the lock on a folder of converted cases: NFSv4 and CephFS release the locks of a lost
machine when its lease of about a minute has expired."""


@dataclass
class CaseConfig(tfds.core.BuilderConfig):
    """The attributes that the configurations of all such data sets have.

    Attributes:
        blocks: the number of blocks in which a volume is stored, along x (right), y (front) and z (up).
        split: "published", "fold-K-of-N" or "fold-K-of-N-brief", see `splits.assign`.
        on_bad_case: "raise" to end the build with the reasons, or "skip" to build without the bad cases and list them
            in the data set's metadata.
    """

    blocks: Index = (1, 1, 1)
    split: str = case_splits.PUBLISHED
    on_bad_case: str = "raise"
    name: str = "unnamed"
    description: str | None = None

    @property
    def grid(self) -> Grid:
        """The grid of voxels to which every case is resampled."""
        raise NotImplementedError

    def _check(self) -> None:
        """Check the attributes above, and complete the name and the description."""
        self.blocks = tuple(self.blocks)
        grid, blocks = self.grid, BlockGrid(*self.blocks)
        case_splits.check_rule(self.split)
        if self.on_bad_case not in ("raise", "skip"):
            raise ValueError(f'on_bad_case: expected "raise" or "skip". Received: {self.on_bad_case!r}')
        if grid.resolution is not None and any(grid.resolution % n for n in blocks.counts):
            raise ValueError(f"blocks: expected divisors of the resolution {grid.resolution}. Received: {blocks}")
        if self.name == "unnamed":
            self.name = "-".join(self._parts())
        if not self.description:
            self.description = f"Grid {grid}, stored in {blocks} blocks, split {self.split}."

    def _parts(self) -> list[str]:
        """The parts of the configuration's name, which are joined by hyphens."""
        blocks = BlockGrid(*self.blocks)
        parts = [str(self.grid)]
        parts += [] if blocks.whole else [f"blocks-{blocks}"]
        parts += [] if self.split == case_splits.PUBLISHED else [self.split]
        return parts + (["skip"] if self.on_bad_case == "skip" else [])


class CaseBuilder(BlockBuilder, skip_registration=True):  # pyright: ignore
    """A builder for cases in files. Subclasses define `find_cases`, `task`, `reader` and, if need be, `key`."""

    limits: Limits | None = None
    """The limits that a case must keep; None for `Limits.current()`."""
    origin: Origin = HERE
    """Where the files of the cases are, while the data set is built or compared with them."""
    work: Path | None = None
    """The folder for what is kept until the build is done; None for the folder of the data sets."""
    tell: Tell | None = None
    """The function that gets the number of converted cases; None for a progress bar of `tqdm`."""

    def find_cases(self, folder: str) -> Sequence[AnyCase]:
        """The cases in a folder.

        Raises:
            VolumeError: if there are no cases, or their files do not fit together.
        """
        raise NotImplementedError

    @property
    def task(self) -> Task:
        """The classes, channels and grid of the data set."""
        raise NotImplementedError

    @property
    def reader(self) -> Reader:
        """The reader of the cases."""
        raise NotImplementedError

    def key(self, case: Any) -> int | str:
        """The name or number of a case in the splits and in `info.metadata["cases"]`."""
        return case.name

    @property
    def config(self) -> CaseConfig:
        return cast(CaseConfig, self.builder_config)

    def target(self, limits: Limits) -> Target:
        """The description of the form to which the cases are converted."""
        store = Path(self.work or self.shared) / STORE
        return Target(self.config.grid, self.blocks, str(store), self.reader, limits, self.origin)

    @property
    def accepted(self) -> Limits:
        """The limits that a case must keep."""
        return self.limits or Limits.current()

    def digests(self) -> Digests:
        """The digests of the files from which this data set, and others beside it, were built."""
        return Digests(Path(self.shared) / ".digests.json", self.origin)

    @property
    def lock_names(self) -> tuple[str, ...]:
        # Configurations that differ in split and in bad cases share the converted cases.
        return *super().lock_names, self._converted_name

    @property
    def _converted_name(self) -> str:
        return self.target(Limits()).folder.name

    @contextmanager
    def ownership(self) -> Iterator[None]:
        """Hold the locks without which no process may build this data set, or convert its cases.

        Raises:
            BuildInProgressError: if another process is doing so. For the lock on the work folder, this process first
                waits for `LOST_SECONDS`.
        """
        with super().ownership(), ExitStack() as locks:
            if self.work is not None and self.work.resolve() != Path(self.shared).resolve():
                # The folder of the data set may lie on the disk of a pod. If its node is lost but the pod keeps
                # running, its successor has another disk and the same converted cases.
                try:
                    lock = self.work / f".lock-{self._converted_name}"
                    locks.enter_context(exclusive(lock, "work folder", patience=LOST_SECONDS))
                except NoLocks as error:
                    warnings.warn(
                        f"{error}. Nothing prevents another process from converting the same cases there: make sure "
                        "that none does.",
                        stacklevel=2,
                    )
            yield

    def _info(self) -> tfds.core.DatasetInfo:
        task = self.task
        return self.dataset_info_from_configs(
            features=features(self.config.grid.shape, self.blocks, len(task.channels), task.labels),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                blocks=list(self.config.blocks),
                task=task.as_dict(),
                cases={},
                order={},
                bad_cases=[],
                warnings=[],
                sources={},
                limits={},
            ),
        )

    HOMEPAGE = ""

    def download_and_prepare(self, *, download_config: Any = None, **options: Any) -> None:
        """As in TFDS, but the folder of the user's files may also be the URL of an object store.

        Raises:
            BuildInProgressError: if another process is building the data set.
            VolumeError, StorageError: as for `datasets.lits.prepare`.
        """
        if self.data_path.exists() or download_config is None or download_config.manual_dir is None:
            super().download_and_prepare(download_config=download_config, **options)
            return
        before, given = self.origin, str(download_config.manual_dir)
        with opened(before if before.location == given else given) as origin:
            self.origin = origin
            try:
                config = download_config.replace(manual_dir=str(origin.folder))
                super().download_and_prepare(download_config=config, **options)
            finally:
                self.origin = before

    def _generate_splits(self, dl_manager: Any, download_config: tfds.download.DownloadConfig) -> Any:
        # Which cases TFDS's pipeline has to write is only known after the conversion, so the conversion needs a
        # pipeline of its own, on the same runner.
        if is_url(str(self.shared)):
            raise ValueError(
                f"{self.shared}: expected a folder of the file system, in which folders are renamed when they are "
                "complete. Received: a URL. datasets.lits.prepare and datasets.decathlon.prepare take one: they build "
                "here, and upload"
            )
        self._beam = on_local_runner(download_config)
        return super()._generate_splits(dl_manager, self._beam)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        beam = tfds.core.lazy_imports.apache_beam
        with self.origin.named():
            found = self.find_cases(str(dl_manager.manual_dir))
        target = self.target(self.accepted)
        usable, bad = list(found), []
        if self.origin.local:
            # In an object store, reading a header means downloading the file, and the conversion checks it anyway.
            usable, bad = _checked(found, functools.partial(self.reader.check_header, limits=target.limits))
        if bad and (self.config.on_bad_case == "raise" or not usable):
            raise error_of(bad, others=bool(usable))
        # This raises an error for too few cases before the hours of conversion.
        self._split(usable)
        logger.info("%s: converting %d cases, kept in %s", self.name, len(usable), target.folder)
        done = functools.partial(_count, usable, target)
        with (
            progress(done, len(usable), self.tell),
            pipeline(self._beam) as conversion,
        ):
            _ = (
                conversion
                | "cases" >> beam.Create(usable)
                | "one case per task" >> beam.Reshuffle()
                | "convert" >> beam.Map(_convert, target=target)
            )
        converted, failed = self._converted(usable, target)
        bad += failed
        if bad and (self.config.on_bad_case == "raise" or not converted):
            raise error_of(bad, others=bool(converted))
        splits = self._split([case for case in usable if self.key(case) in converted])
        self._note(splits, bad, self._sources(found, target), converted)
        stored = [[converted[key] for key in keys] for _, keys in splits.items()]
        size = sum(case.size for cases in stored for case in cases)
        generate = self._generate_examples if writes_on_beam(self._beam, size) else _examples
        return {name: generate(cases) for (name, _), cases in zip(splits.items(), stored, strict=True)}

    def _split(self, cases: Sequence[AnyCase]) -> case_splits.Splits:
        keys = sorted(self.key(case) for case in cases)  # pyright: ignore - All ints, or all strings.
        return case_splits.assign(keys, self.config.split)  # pyright: ignore

    def _converted(self, usable: Sequence[AnyCase], target: Target) -> tuple[dict[int | str, Converted], list[BadCase]]:
        """The converted cases that the workers have left on disk, by their keys, and the bad cases."""
        converted: dict[int | str, Converted] = {}
        bad: list[BadCase] = []
        for case in usable:
            result = find(case, target)
            if result is None and present(case, target):
                bad.append(BadCase(case.name, ChangedCaseError.__name__, str(changed(case))))
            elif result is None:
                raise RuntimeError(
                    f"{target.folder}: the workers' results are missing. Give a data_dir that all machines share."
                )
            elif result.error is None:
                converted[self.key(case)] = result
            else:
                bad.append(BadCase(case.name, *result.error))
        return converted, bad

    def _sources(self, found: Sequence[AnyCase], target: Target) -> dict[str, list[str]]:
        """The digests by which `prepare` recognises these files; the workers have computed most of them."""
        digests = self.digests()
        for case in found:
            result = find(case, target)
            if result is not None:
                for path, before, value in zip(
                    case.files, result.facts["identity"], result.facts["sources"], strict=True
                ):
                    digests.add(path, before, value)
        known = sources(found, digests)
        digests.save()
        return known

    def _note(
        self,
        splits: case_splits.Splits,
        bad: list[BadCase],
        known: dict[str, list[str]],
        converted: dict[int | str, Converted],
    ) -> None:
        x, y, z = np.max([case.facts["shape"] for case in converted.values()], axis=0).tolist()
        cast(dict, self.info.metadata).update(
            task=dataclasses.replace(self.task, largest=(x, y, z)).as_dict(),
            cases={name: list(keys) for name, keys in splits.items()},
            order={name: [converted[key].facts["case"] for key in keys] for name, keys in splits.items()},
            bad_cases=[dataclasses.asdict(b) for b in bad],
            warnings=list(splits.warnings),
            sources=known,
            limits=self.accepted.as_dict(),
        )
        for warning in splits.warnings:
            logger.warning("%s: %s", self.name, warning)
        for case in bad:
            logger.warning("%s: left out %s: %s: %s", self.name, case.case, case.error, case.reason)

    def _generate_examples(self, cases: list[Converted]) -> Any:
        """The examples of a split as a Beam transform, whose results TFDS also shards and writes with Beam."""
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create(list(enumerate(cases))) | beam.Reshuffle() | beam.MapTuple(_example)


def sources(cases: Sequence[AnyCase], digests: Digests) -> dict[str, list[str]]:
    """The digests of each case's files, by which `prepare` notices if a data set was built from other files."""
    return {case.name: [digests[path] for path in case.files] for case in cases}


def _checked(found: Sequence[AnyCase], check: Any) -> tuple[list[AnyCase], list[BadCase]]:
    usable, bad = [], []
    for case in found:
        try:
            check(case)
        except VolumeError as error:
            bad.append(BadCase.of(case, error))
        else:
            usable.append(case)
    return usable, bad


def _convert(case: AnyCase, target: Target) -> None:
    result = convert(case, target)
    logger.info("%s %s", case.name, "converted" if result.error is None else "cannot be used")


def _count(cases: Sequence[AnyCase], target: Target) -> int:
    return sum(find(case, target) is not None for case in cases)


def _examples(cases: list[Converted]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, case in enumerate(cases):
        yield _example(key, case)


def _example(key: int, converted: Converted) -> tuple[int, dict[str, Any]]:
    image, label = converted.packed()
    facts = converted.facts
    return key, {
        "image": image,
        "label": label,
        "case": facts["case"],
        "affine": np.array(facts["affine"]),
        "spacing": np.array(facts["spacing"], np.float32),
        "original_shape": np.array(facts["original_shape"]),
        "checksum": facts["checksum"],
        "shape": np.array(facts["shape"]),
    }
