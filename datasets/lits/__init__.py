"""LiTS as a TFDS data set; `prepare` builds it, and `tfds.load("lits/64")` finds it once this package is imported."""

import shutil
from pathlib import Path
from typing import cast

import tensorflow_datasets as tfds

from datasets.building import build
from datasets.lits.cases import Case, OtherSourcesError, check_case, find_cases
from datasets.lits.conversion import STORE, Target
from datasets.lits.lits_dataset_builder import Builder, LitsConfig, sources
from datasets.lits.splits import PUBLISHED

__all__ = ["Builder", "Case", "LitsConfig", "OtherSourcesError", "check_case", "find_cases", "prepare"]


def prepare(
    manual_dir: str | Path,
    data_dir: str | Path,
    resolution: int | None = 64,
    blocks: tuple[int, int, int] = (1, 1, 1),
    on_bad_case: str = "raise",
    beam_options: list[str] | None = None,
    split: str = PUBLISHED,
    spacing: float | None = None,
) -> tfds.core.DatasetBuilder:
    """Build the data set from a folder of LiTS files unless it is there, and return its builder.

    Args:
        manual_dir: folder with `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, or the Decathlon's layout.
        data_dir: where TFDS stores data sets. Converted cases are kept in its `lits/converted` until the build is done.
        resolution: voxels along each axis; None with `spacing` for cubic voxels, None alone for the scan's grid.
        blocks: blocks to store a volume in, along x, y and z.
        on_bad_case: "raise" or "skip".
        beam_options: options of the Beam pipeline, such as `["--direct_num_workers=4",
            "--direct_running_mode=multi_processing"]`; the default is Beam's local runner in this process. With
            `--runner=...` any other, whose workers need this checkout and a data_dir that all machines share.
        split: "published" or "fold-K-of-N"; see `datasets.lits.splits.assign`.
        spacing: edge of cubic voxels in mm.

    Returns:
        The builder: `as_dataset("train")` gives whole volumes; `info.metadata` lists the cases of each split, the bad
        cases with their reasons, and warnings to pass on to the user.

    Raises:
        VolumeError: bad input, named by its subclass. Cases that were converted are kept for the next call.
        OtherSourcesError: the data set is there, but was built of other files than those in `manual_dir`.
    """
    config = LitsConfig(resolution=resolution, spacing=spacing, blocks=blocks, split=split, on_bad_case=on_bad_case)
    # TFDS wants its own object for the configs that the builder lists.
    config = Builder.builder_configs.get(config.name, config)
    builder = Builder(config=config, data_dir=str(data_dir))
    if (builder.data_path / "dataset_info.json").exists():
        _check_sources(builder, find_cases(manual_dir))
        return builder
    build(builder, manual_dir, beam_options)
    target = Target(config.grid, builder.blocks, str(Path(data_dir) / builder.name / STORE))
    shutil.rmtree(target.folder, ignore_errors=True)
    return builder


def _check_sources(builder: Builder, cases: list[Case]) -> None:
    expected, received = cast(dict, builder.info.metadata)["sources"], sources(cases)
    if expected != received:
        changed = sorted(k for k in {*expected, *received} if expected.get(k) != received.get(k))
        raise OtherSourcesError(
            f"{builder.data_path}: this data set was built of other files; delete it or give another data_dir. "
            f"Received: new, changed or missing cases {changed}"
        )
