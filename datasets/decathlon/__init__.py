"""Your own data as a TFDS data set: the Medical Segmentation Decathlon's layout, nnU-Net's, or a plain folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from datasets import preparing, splits
from datasets.case_builder import CaseBuilder
from datasets.cases import Case
from datasets.decathlon.decathlon_dataset_builder import Builder, DecathlonConfig
from datasets.decathlon.fingerprints import Fingerprint, fingerprint
from datasets.decathlon.layout import Layout, LayoutError, read_layout
from datasets.origins import Origin, opened
from datasets.progress import Tell
from datasets.publishing import nearby
from datasets.splits import PUBLISHED
from keras_spatial.volumes import Channel, Grid, Intensities, Limits, Percentiles, Task, Window, ZScore

__all__ = [
    "Builder",
    "Case",
    "DecathlonConfig",
    "Fingerprint",
    "Layout",
    "LayoutError",
    "configure",
    "fingerprint",
    "prepare",
    "read_layout",
]

Kind = Literal["auto", "window", "percentiles", "zscore"]


def configure(
    folder: str | Path | Origin,
    data_dir: str | Path,
    *,
    resolution: int | None = None,
    spacing: float | tuple[float, float, float] | Literal["median"] | None = None,
    intensities: Kind | tuple[float, float] = "auto",
    channels: Sequence[str] = (),
    labels: Sequence[str] = (),
    blocks: tuple[int, int, int] = (1, 1, 1),
    split: str = PUBLISHED,
    on_bad_case: str = "raise",
    limits: Limits | None = None,
    work: str | Path | None = None,
) -> DecathlonConfig:
    """Read all cases of a folder, and decide on channels, labels, intensities and grid.

    The arguments and errors are those of `prepare`.
    """
    with opened(folder) as origin:
        with origin.named():
            layout = read_layout(origin.folder, channels, labels)
        return _configure(
            origin,
            layout,
            nearby(data_dir) / Builder.name / ".fingerprints" if work is None else Path(work) / "fingerprints",
            resolution=resolution,
            spacing=spacing,
            intensities=intensities,
            blocks=blocks,
            split=split,
            on_bad_case=on_bad_case,
            limits=limits,
        )


def _configure(
    origin: Origin,
    layout: Layout,
    kept: Path,
    *,
    resolution: int | None,
    spacing: float | tuple[float, float, float] | Literal["median"] | None,
    intensities: Kind | tuple[float, float],
    blocks: tuple[int, int, int],
    split: str,
    on_bad_case: str,
    limits: Limits | None,
) -> DecathlonConfig:
    folder = origin.location
    # A split that is impossible is refused before all cases are read.
    splits.assign([case.name for case in layout.cases], split)
    draft = Task(
        layout.name, layout.labels or ("background", "foreground"), tuple(Channel(c, ZScore()) for c in layout.channels)
    )
    facts = fingerprint(layout.cases, draft, kept, limits, origin)
    grid = Grid(resolution, facts.spacing if spacing == "median" else spacing)
    task = Task(
        name=layout.name,
        labels=layout.labels or _found(folder, facts.labels),
        channels=tuple(
            Channel(name, _intensities(folder, index, name, intensities, facts))
            for index, name in enumerate(layout.channels)
        ),
        grid=grid,
    )
    kind = intensities if isinstance(intensities, str) else "window_{:g}_{:g}".format(*intensities)
    return DecathlonConfig(task=task, intensities=kind, blocks=blocks, split=split, on_bad_case=on_bad_case)


def prepare(
    folder: str | Path | Origin,
    data_dir: str | Path,
    *,
    resolution: int | None = None,
    spacing: float | tuple[float, float, float] | Literal["median"] | None = None,
    intensities: Kind | tuple[float, float] = "auto",
    channels: Sequence[str] = (),
    labels: Sequence[str] = (),
    blocks: tuple[int, int, int] = (1, 1, 1),
    split: str = PUBLISHED,
    on_bad_case: str = "raise",
    beam_options: list[str] | None = None,
    limits: Limits | None = None,
    on_other_sources: str = "raise",
    tell: Tell | None = None,
    file_format: str = preparing.TFRECORD,
    work: str | Path | None = None,
) -> CaseBuilder:
    """Build a data set of a folder unless it is there, and return its builder.

    Args:
        folder: the folder with `dataset.json`, `imagesTr` and `labelsTr` (Medical Segmentation Decathlon, nnU-Net v2),
            or with `images` and `labels`, by path or URL, as for the `manual_dir` of `datasets.lits.prepare`. All cases
            are read twice, first to decide on the intensities and the grid, and then to convert them; downloaded
            files that fit into `datasets.origins.KEPT_BYTES` are kept in between.
        data_dir: the folder in which TFDS stores data sets, by path or URL, see `datasets.lits.prepare`.
        resolution: the number of voxels along each axis of a cube over the whole field of view.
        spacing: the edge of the voxels in mm, one number or one for each of x, y and z (to the right, to the front,
            up), or "median" for that of the data set. Without spacing and resolution, every volume keeps its own grid.
        intensities: "percentiles" (nnU-Net's for CT), "zscore" (each volume by itself), "window", or the two ends of
            a window in HU. "auto" chooses percentiles for a channel named CT, and z-scores for any other; if the
            surroundings of the patients were set to 0 in most volumes, z-scores leave out these voxels.
        channels: the names of the channels of a plain folder, such as `["CT"]` or `["T1", "T2"]`.
        labels: the names of the classes of a plain folder, beginning with the background. Without names, the classes
            are called "label 1", "label 2", ..., and each number must occur.
        blocks: the number of blocks in which a volume is stored, along x, y and z.
        split: "published", "fold-K-of-N" or "fold-K-of-N-brief", over the names of the cases in alphabetical order; see
            `datasets.splits.assign`.
        on_bad_case: "raise" to end the build with the reasons, or "skip" to leave bad cases out and list them in
            `info.metadata["bad_cases"]`.
        beam_options, limits, on_other_sources, tell, file_format: as for `datasets.lits.prepare`.
        work: as for `datasets.lits.prepare`. What reading each case has shown is kept there as well.

    Returns:
        The builder: `as_dataset("train")` gives whole volumes, and `info.metadata` lists the cases of each split and
        the bad cases with their reasons, and describes the task: `ks.volumes.Task.of(info.metadata["task"])`.

    Raises:
        LayoutError: if the description of the folder is missing or damaged, or asks for something that is not
            supported.
        OtherSourcesError: if the data set exists, but was built from other files, or with other labels, channels,
            normalisation or limits.
        VolumeError, BuildInProgressError, StoreError, StorageError: as for `datasets.lits.prepare`.

    Example:

    ```python
    from datasets import decathlon

    builder = decathlon.prepare("Task04_Hippocampus", "data", split="fold-0-of-5")
    builder = decathlon.prepare("prostate", "data", spacing="median", channels=["T2", "ADC"],
                                labels=["background", "peripheral", "transition"])
    ```
    """
    preparing.check_arguments(data_dir, on_other_sources, file_format)
    with opened(folder) as origin:
        config = configure(
            origin,
            data_dir,
            resolution=resolution,
            spacing=spacing,
            intensities=intensities,
            channels=channels,
            labels=labels,
            blocks=blocks,
            split=split,
            on_bad_case=on_bad_case,
            limits=limits,
            work=work,
        )
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


def _found(folder: str | Path, labels: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the classes of a folder without names."""
    # Class 0 need not occur, because a case may be labelled everywhere.
    above = [number for number in labels if number > 0]
    if above != list(range(1, len(above) + 1)) or not above:
        raise LayoutError(
            f"{folder}: expected the labels 0 (background), 1, 2, ... without a gap, at least one above 0. Received: "
            f"{list(labels)}. Number the classes in this way in the label files, or name every class with labels=, "
            "including those that do not occur"
        )
    return ("background", *(f"label {number}" for number in above))


def _percentiles(folder: str | Path, index: int, name: str, facts: Fingerprint) -> Percentiles:
    low, high, mean, deviation = facts.intensities[index]
    if low < high:
        return Percentiles(low, high, mean, deviation)
    received = "no labelled voxel" if np.isnan(low) else f"{low:g} in nearly all labelled voxels"
    raise LayoutError(
        f"{folder}: channel {index} ({name}): expected labelled voxels with different values, because their "
        f"percentiles are used. Received: {received}. Correct the image or the labels, or pass intensities=, such as "
        "(-160, 240)"
    )


def _intensities(
    folder: str | Path, index: int, name: str, wanted: Kind | tuple[float, float], facts: Fingerprint
) -> Intensities:
    if not isinstance(wanted, str):
        return Window(*wanted)
    if wanted == "window":
        return Window()
    if wanted == "percentiles" or (wanted == "auto" and Channel(name, ZScore()).is_ct):
        return _percentiles(folder, index, name, facts)
    if wanted in ("auto", "zscore"):
        return ZScore(nonzero=facts.cut_away[index])
    raise ValueError(
        'intensities: expected "auto", "window", "percentiles", "zscore" or the two ends of a window. '
        f"Received: {wanted!r}"
    )
