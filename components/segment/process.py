"""One process of a segmentation. The results are on the volumes' own grids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components import console, devices
from components.files import write_json
from components.jobs.workspace import workspace_of
from components.segment.settings import ALL, SEEN, SegmentationSettings
from components.segment.volumes import batches, model_file
from keras_spatial import processes
from keras_spatial._paths import printable
from keras_spatial.inference import NothingToSegment, Source, Traffic, segment_all, write_failed
from keras_spatial.inference.tasks import channel_names, chosen_task


def segment_share(
    volumes: str,
    model: str,
    predictions: str,
    task_file: str,
    share: str,
    settings: SegmentationSettings,
    shared: str = "",
) -> Mapping[str, Mapping[str, Any]]:
    """Segment volumes; see `components.segment.segment.segment_folder`.

    Every process of the job must call it with the same arguments. Each downloads the volumes from an object store.

    Args:
        volumes, model, predictions, task_file, share, settings: see `components.segment.segment.segment_folder`.
        shared: the URL of a folder for what the processes give each other. Then `predictions` is each process's own
            folder, and it leaves there what it has made. "" if all processes see the same folders.
    """
    job, traffic = processes.current(), Traffic()
    network, outcomes = None, []
    seen: dict[str, str] = {}
    path = model_file(model)
    options = {"traffic": traffic, "workspace": workspace_of(Path(predictions) / ".work", shared)}
    task = chosen_task(path, task_file or settings.task, "--set task=")
    for batch in batches(volumes, share, seen, channel_names(task)):
        _agree(batch.sources)
        # The model is only loaded for a share that has volumes.
        if network is None:
            network = ks.load_model(path, distribution=devices.distribution(settings), compile=False)
        made = segment_all(network, batch.sources, predictions, _say, task=task, **options)
        # Messages name downloaded files by their local paths, but people know them by their addresses.
        outcomes += [replace(o, reason=o.reason and batch.shown(o.reason)) for o in made]
        if job.is_first:
            write_failed(predictions, outcomes)
    _agree(())
    if share != ALL and job.is_first:
        # The step of each share lists the folder by itself, and its content may have changed in between.
        write_json(Path(predictions) / SEEN, seen)
    if not outcomes and share != ALL:
        if job.is_first:
            console.result("segment", f"no volume is left for the share {share}")
        return {"predictions": {"segmented": 0, "failed": 0}}
    if not outcomes:
        raise NothingToSegment(
            f"{volumes}: no volume found. Expected .nii, .nii.gz, .nrrd or .mha files, or DICOM series."
        )
    if job.count > 1:
        console.detail(
            "segment",
            f"process {job.rank} has read {traffic.images_read} bytes of images, and written {traffic.scores_written} "
            f"of probabilities and {traffic.labels_written} of labels",
        )
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if len(failed) == len(outcomes) and share == ALL:
        raise NothingToSegment(f"{volumes}: none of {len(outcomes)} volumes can be used; the first: {failed[0].reason}")
    if job.is_first:
        for outcome in failed:
            console.note("segment", f"{printable(outcome.source.name)} is left out: {printable(str(outcome.reason))}")
        left_out = f"; {console.count(len(failed), 'volume')} left out, see failed.csv" if failed else ""
        console.result("segment", f"segmented {console.count(len(outcomes) - len(failed), 'volume')}{left_out}")
    return {"predictions": {"segmented": len(outcomes) - len(failed), "failed": len(failed)}}


def _agree(sources: Sequence[Source]) -> None:
    """Make sure that all processes, each of which has listed the volumes by itself, segment the same ones."""
    processes.current().agree("volumes", {"volumes": [source.stem for source in sources]})


def _say(line: str) -> None:
    console.say(f"segment: {line}")
