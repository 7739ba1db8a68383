"""Build the TFDS data set that the training reads from checked cases."""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import console, storage
from components.cases import Folder, open_checked, read_index
from components.preprocess.settings import PreprocessSettings
from datasets.cases import OtherSourcesError

_RUNNER = "DirectRunner"


class WindowError(ValueError):
    """A window is given for data whose description determines the normalisation."""


class RunnerError(ValueError):
    """The data set cannot be built with this runner of Beam."""


def check_runner(options: Sequence[str]) -> None:
    """Refuse runners whose workers are other machines, which cannot read or write the files in this step's pod.

    Raises:
        RunnerError: if another runner is asked for; the message names it and says what to do.
    """
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner", default=_RUNNER)
    runner = parser.parse_known_args(list(options))[0].runner
    if runner != _RUNNER:
        raise RunnerError(
            f"beam_options: expected this machine's own runner, {_RUNNER}. Received: {runner!r}, whose workers do not "
            "see this step's files. Give the step more processors (steps: preprocess: cpu in the cluster file) and "
            '"--direct_num_workers=0", "--direct_running_mode=multi_processing".'
        )


def check_window(folder: Folder, settings: PreprocessSettings) -> None:
    """Refuse a window for data that are not LiTS's.

    Raises:
        WindowError: if a window is given for such data; the message names it.
    """
    if folder.reader is not None and settings.window != PreprocessSettings.model_fields["window"].default:
        raise WindowError(
            f"window: the description of {folder.path} determines the normalisation, so a window has no effect. "
            f"Received: {list(settings.window)}. Leave it out."
        )


def build_dataset(
    cases: str, dataset: str, scratch: str | None = None, **settings: Any
) -> Mapping[str, Mapping[str, Any]]:
    """Build the data set with Beam, for LiTS or for any data that a `dataset.json` describes.

    Volumes are stored in the blocks that the processes of a training on the mesh read.

    Args:
        cases: the folder of the step ingest, by path or URL. Files in an object store are downloaded case by case.
        dataset: the folder to make, a TFDS data directory.
        scratch: the folder that outlives a failure, such as the loss of a pod, so that cases that were converted before
            are not converted again. None if there is no such folder.
        settings: the settings of `PreprocessSettings`.

    Returns:
        The metadata of the data set: the cases of each split, and warnings about them.

    Raises:
        OtherSourcesError: if the files in `cases` have changed since the step ingest checked them.
        ChangedCaseError: if files in an object store have changed since then.
        StorageError: if the store refuses or cannot be reached.
        VolumeError: as for `datasets.lits.prepare`.
        RunnerError: if Beam's runner cannot be used, see `check_runner`.
        WindowError: if a window is given for data that do not use one, see `check_window`.
    """
    given = PreprocessSettings.model_validate(settings)
    check_runner(given.beam_options)
    with open_checked(cases) as folder:
        return _build(folder, dataset, scratch, given)


def _build(
    folder: Folder, dataset: str, scratch: str | None, given: PreprocessSettings
) -> Mapping[str, Mapping[str, Any]]:
    # TFDS takes seconds to import, and the error for a wrong runner does not need it.
    from datasets import decathlon, lits
    from keras_spatial.data import write_classes

    check_window(folder, given)
    cube = given.resolution or None
    options: dict[str, Any] = {
        "resolution": cube,
        "split": given.split,
        "blocks": given.blocks,
        "beam_options": list(given.beam_options),
        "work": scratch,
        "tell": lambda done, total: console.progress("preprocess", done, total, "cases converted"),
    }
    if folder.reader is None:
        builder = lits.prepare(folder.origin, dataset, window=given.window, **options)
    else:
        builder = decathlon.prepare(folder.origin, dataset, spacing=None if cube else "median", **options)
    write_classes(builder)
    metadata = dict(builder.info.metadata or {})
    _check_sources(folder, metadata["sources"])
    # The converted cases are only needed to resume after a failure.
    shutil.rmtree(Path(dataset) / builder.name / "converted", ignore_errors=True)
    counts = {name: len(numbers) for name, numbers in metadata["cases"].items()}
    blocks = "x".join(map(str, given.blocks))
    splits = ", ".join(f"{number} for {name}" for name, number in counts.items())
    console.result(
        "preprocess",
        f"{console.count(sum(counts.values()), 'case')} ({splits}) on the grid {builder.config.grid}, "
        f"stored in {blocks} blocks",
    )
    return {
        "dataset": {
            "resolution": given.resolution,
            "split": given.split,
            "cases": json.dumps(metadata["cases"]),
            "warnings": json.dumps(metadata["warnings"]),
        }
    }


def _check_sources(folder: Folder, sources: Mapping[str, list[str]]) -> None:
    """Compare the digests of the converted files with those in the index of the step ingest, if there is one."""
    # The digests of files in an object store were compared when the files were downloaded.
    checked = read_index(folder.path).get("sha256", {})
    built = {
        name: value
        for case in folder.cases
        for name, value in zip(folder.names(case), sources.get(case.name, ()), strict=False)
    }
    changed = sorted(name for name, value in checked.items() if built.get(name) != value)
    if changed:
        raise OtherSourcesError(
            f"{folder.path}: files were changed since the step ingest checked them; run the pipeline in another "
            f"folder. Received: {changed}"
        )


def near_dataset(dataset: str, splits: Collection[str]) -> str:
    """The local path of a folder of `build_dataset`. From a URL, only the records of some splits are downloaded.

    Raises:
        StorageError: if the store refuses or cannot be reached.
    """

    def wanted(name: str) -> bool:
        # TFDS names the files with records after the data set and the split.
        return ".tfrecord" not in name or any(f"-{split}.tfrecord" in name for split in splits)

    # Each choice of splits has its own folder, because to another choice this one would look complete.
    cache = storage.own_folder(os.getpid()) / "-".join(["dataset", *splits])
    return str(storage.local(dataset, cache, wanted))


def open_dataset(dataset: str) -> Any:
    """The TFDS builder of a folder that `build_dataset` has made.

    Raises:
        FileNotFoundError: if the folder does not have exactly one data set.
        StoreError: if its files are damaged.
    """
    from keras_spatial.data import open_builder

    found = sorted(Path(dataset).glob("*/*/*/dataset_info.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{dataset}: expected one data set of the step preprocess, <name>/<config>/<version>. "
            f"Received: {len(found)}"
        )
    return open_builder(found[0].parent)
