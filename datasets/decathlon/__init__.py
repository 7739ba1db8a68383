"""Your own data as a TFDS data set: the Medical Segmentation Decathlon's layout, nnU-Net's, or a plain folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from datasets import preparing
from datasets.case_builder import CaseBuilder
from datasets.cases import Case
from datasets.decathlon.decathlon_dataset_builder import Builder, DecathlonConfig
from datasets.decathlon.fingerprints import Fingerprint, fingerprint
from datasets.decathlon.layout import Layout, LayoutError, read_layout
from datasets.progress import Tell
from datasets.splits import PUBLISHED
from keras_spatial.volumes import Channel, Grid, Limits, Normalisation, Percentiles, Task, Window, ZScore

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
    folder: str | Path,
    data_dir: str | Path,
    *,
    resolution: int | None = None,
    spacing: float | tuple[float, float, float] | Literal["median"] | None = None,
    normalisation: Kind | tuple[float, float] = "auto",
    channels: Sequence[str] = (),
    labels: Sequence[str] = (),
    blocks: tuple[int, int, int] = (1, 1, 1),
    split: str = PUBLISHED,
    on_bad_case: str = "raise",
    limits: Limits | None = None,
) -> DecathlonConfig:
    """Look through a folder, and decide channels, labels, normalisation and grid; arguments as `prepare`."""
    layout = read_layout(folder, channels, labels)
    draft = Task(
        layout.name, layout.labels or ("background", "foreground"), tuple(Channel(c, ZScore()) for c in layout.channels)
    )
    facts = fingerprint(layout.cases, draft, Path(data_dir) / Builder.name / ".fingerprints", limits)
    grid = Grid(resolution, facts.spacing if spacing == "median" else spacing)
    task = Task(
        name=layout.name,
        labels=layout.labels or ("background", *(f"label {n}" for n in range(1, facts.labels + 1))),
        channels=tuple(
            Channel(name, _normalisation(index, name, normalisation, facts))
            for index, name in enumerate(layout.channels)
        ),
        grid=grid,
    )
    kind = normalisation if isinstance(normalisation, str) else "window_{:g}_{:g}".format(*normalisation)
    return DecathlonConfig(task=task, normalisation=kind, blocks=blocks, split=split, on_bad_case=on_bad_case)


def prepare(
    folder: str | Path,
    data_dir: str | Path,
    *,
    resolution: int | None = None,
    spacing: float | tuple[float, float, float] | Literal["median"] | None = None,
    normalisation: Kind | tuple[float, float] = "auto",
    channels: Sequence[str] = (),
    labels: Sequence[str] = (),
    blocks: tuple[int, int, int] = (1, 1, 1),
    split: str = PUBLISHED,
    on_bad_case: str = "raise",
    beam_options: list[str] | None = None,
    limits: Limits | None = None,
    on_other_sources: str = "raise",
    tell: Tell | None = None,
) -> CaseBuilder:
    """Build a data set of a folder unless it is there, and return its builder.

    Args:
        folder: with `dataset.json`, `imagesTr` and `labelsTr` (Medical Segmentation Decathlon, nnU-Net v2), or with
            `images` and `labels`; volumes as `.nii`, `.nii.gz`, `.nrrd` or `.mha`.
        data_dir: where TFDS stores data sets.
        resolution: voxels along each axis of a cube over the whole field of view.
        spacing: edge of the voxels in mm, once or for x, y and z (to the right, to the front, up), or "median" for the
            data set's own. Without it and a resolution every volume keeps its grid.
        normalisation: "percentiles" (nnU-Net's for CT), "zscore" (each volume by itself), "window" or its two ends in
            HU; "auto" takes percentiles for a channel named CT, and z-scores for any other, over the voxels that are
            not 0 where most of the volume is.
        channels: names of the channels of a plain folder, such as `["CT"]` or `["T1", "T2"]`.
        labels: names of its classes, the background first; without them "label 1", "label 2", ... are found.
        blocks: blocks to store a volume in, along x, y and z.
        split: "published", "fold-K-of-N" or "fold-K-of-N-brief", over the names of the cases in alphabetical order; see
            `datasets.splits.assign`.
        on_bad_case: "raise", or "skip" to leave bad cases out and list them in `info.metadata["bad_cases"]`.
        beam_options, limits, on_other_sources, tell: as `datasets.lits.prepare`.

    Returns:
        The builder: `as_dataset("train")` gives whole volumes; `info.metadata` lists the cases of each split and the
        bad cases with their reasons, and describes the task: `ks.volumes.Task.of(info.metadata["task"])`.

    Raises:
        LayoutError: the folder does not say what it holds, or asks for what is not supported.
        VolumeError, OtherSourcesError, BuildInProgressError, StoreError: as `datasets.lits.prepare`.

    Example:

    ```python
    builder = decathlon.prepare("Task04_Hippocampus", "data", split="fold-0-of-5")
    builder = decathlon.prepare("prostate", "data", spacing="median", channels=["T2", "ADC"],
                                labels=["background", "peripheral", "transition"])
    ```
    """
    preparing.check_arguments(data_dir, on_other_sources)
    config = configure(
        folder,
        data_dir,
        resolution=resolution,
        spacing=spacing,
        normalisation=normalisation,
        channels=channels,
        labels=labels,
        blocks=blocks,
        split=split,
        on_bad_case=on_bad_case,
        limits=limits,
    )
    return preparing.prepare(
        Builder,
        config,
        folder,
        data_dir,
        beam_options=beam_options,
        limits=limits,
        on_other_sources=on_other_sources,
        tell=tell,
    )


def _normalisation(index: int, name: str, wanted: Kind | tuple[float, float], facts: Fingerprint) -> Normalisation:
    if not isinstance(wanted, str):
        return Window(*wanted)
    if wanted == "window":
        return Window()
    if wanted == "percentiles" or (wanted == "auto" and Channel(name, ZScore()).is_ct):
        return Percentiles(*facts.intensities[index])
    if wanted in ("auto", "zscore"):
        return ZScore(nonzero=facts.cut_away[index])
    raise ValueError(
        'normalisation: expected "auto", "window", "percentiles", "zscore" or the two ends of a window. '
        f"Received: {wanted!r}"
    )
