"""LiTS as a TFDS data set; `prepare` builds it, and `tfds.load("lits/64")` finds it once this package is imported."""

from pathlib import Path

from datasets import preparing
from datasets.case_builder import CaseBuilder
from datasets.cases import OtherSourcesError
from datasets.lits.cases import Case, check_case, find_cases
from datasets.lits.lits_dataset_builder import Builder, LitsConfig
from datasets.locking import BuildInProgressError
from datasets.object_store import StorageError
from datasets.origins import Origin, opened
from datasets.progress import Tell
from datasets.splits import PUBLISHED
from keras_spatial.volumes import Limits

__all__ = [
    "BuildInProgressError",
    "Builder",
    "Case",
    "LitsConfig",
    "OtherSourcesError",
    "StorageError",
    "check_case",
    "find_cases",
    "prepare",
]


def prepare(
    manual_dir: str | Path | Origin,
    data_dir: str | Path,
    resolution: int | None = 64,
    blocks: tuple[int, int, int] = (1, 1, 1),
    on_bad_case: str = "raise",
    beam_options: list[str] | None = None,
    split: str = PUBLISHED,
    spacing: float | None = None,
    window: tuple[float, float] = (-512, 512),
    limits: Limits | None = None,
    on_other_sources: str = "raise",
    tell: Tell | None = None,
    file_format: str = preparing.TFRECORD,
    work: str | Path | None = None,
) -> CaseBuilder:
    """Build the data set from a folder of LiTS files unless it is there, and return its builder.

    Args:
        manual_dir: the folder with `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, or one in the Decathlon's layout.
            If it is in an object store (`s3://...`, `gs://...`), a worker downloads the files of a case when it
            converts the case, and removes them afterwards.
        data_dir: the folder in which TFDS stores data sets. Converted cases are kept in its `lits/converted` until the
            build is done, unless `work` names another folder. If it is a URL, the data set is built and read in a
            folder of this machine (`datasets.publishing.nearby`), and uploaded when it is complete.
        resolution: the number of voxels along each axis. It is None for cubic voxels, with `spacing`, or for the scan's
            own grid, without.
        blocks: the number of blocks in which a volume is stored, along x, y and z.
        on_bad_case: "raise" to end the build with the reasons, or "skip" to leave bad cases out.
        beam_options: the options of the Beam pipeline, such as `["--direct_num_workers=4",
            "--direct_running_mode=multi_processing"]`. By default, Beam's local runner works in this process.
            `--runner=...` chooses another runner, whose workers need this checkout and a data_dir that all machines
            share.
        split: "published", "fold-K-of-N" or "fold-K-of-N-brief"; see `datasets.splits.assign`.
        spacing: the edge of cubic voxels in mm.
        window: the Hounsfield units that become 0 and 1.
        limits: the limits that a case must keep; `Limits.current()` by default.
        on_other_sources: what to do if the data set exists, but was built from files with other digests than those in
            `manual_dir`, or under other limits: "raise", or "rebuild" to build it again and replace the old one once
            that has succeeded.
        tell: a function that gets the number of converted cases and the number of all cases; by default, `tqdm` shows
            a progress bar.
        file_format: "tfrecord", from which a process can read only the blocks that it needs, or "array_record", from
            which `tfds.data_source` reads whole cases in any order.
        work: the folder for converted cases, where they survive the loss of `data_dir`: the next call with the same
            folder converts only the others. The caller removes it.

    Returns:
        The builder: `as_dataset("train")` gives whole volumes, and `info.metadata` lists the cases of each split, the
        bad cases with their reasons, and warnings for the user.

    Raises:
        VolumeError: if the input is bad; its subclass says why. Converted cases are kept for the next call.
        OtherSourcesError: if the data set exists, but was built from other files than those in `manual_dir`, or under
            limits that may have left out other cases.
        BuildInProgressError: if another process is building it in the same `data_dir`, or converting cases in the same
            `work`.
        StoreError: if the data set exists, but its files are damaged.
        StorageError: if an object store refuses or cannot be reached. The next call resumes.

    Example:

    ```python
    from datasets import lits

    builder = lits.prepare("LiTS", "data", resolution=128, blocks=(2, 2, 1))
    ```
    """
    preparing.check_arguments(data_dir, on_other_sources, file_format)
    config = LitsConfig(
        resolution=resolution, spacing=spacing, window=window, blocks=blocks, split=split, on_bad_case=on_bad_case
    )
    # TFDS expects its own object for a config that the builder lists.
    config = Builder.builder_configs.get(config.name, config)
    with opened(manual_dir) as origin:
        return preparing.prepare(
            Builder,
            config,
            origin,
            data_dir,
            beam_options=beam_options,
            limits=limits,
            on_other_sources=on_other_sources,
            tell=tell,
            file_format=file_format,
            work=work,
        )
