"""One process of a segmentation; results lie on each volume's own grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components import console, devices
from components.files import write_json
from components.segment.segment import ALL, SEEN
from components.segment.settings import SegmentationSettings
from components.segment.volumes import model_file, shared, volumes_in
from keras_spatial import processes
from keras_spatial._paths import printable
from keras_spatial.inference import NothingToSegment, Traffic, segment_all
from keras_spatial.inference.tasks import chosen_task


def segment_share(
    volumes: str, model: str, predictions: str, task_file: str, share: str, settings: SegmentationSettings
) -> Mapping[str, Mapping[str, Any]]:
    """Segment volumes; see `components.segment.segment.segment_folder`. All processes of the job call it with the same
    arguments, and see the same folders."""
    found, job = volumes_in(volumes), processes.current()
    sources = shared(found, share)
    # Every process has looked into the folder by itself.
    job.agree("volumes", {"volumes": [source.stem for source in sources]})
    if share != ALL and job.is_first:
        # Every step looks into the folder by itself, and what is there may have changed since another one did.
        write_json(Path(predictions) / SEEN, {source.stem: source.name for source in found})
    if not sources:
        if job.is_first:
            console.result("segment", f"no volume is left for the share {share}")
        return {"predictions": {"segmented": 0, "failed": 0}}
    path = model_file(model)
    task = chosen_task(path, task_file or settings.task, "--set task=")
    network = ks.load_model(path, distribution=devices.distribution(settings), compile=False)
    traffic = Traffic()
    outcomes = segment_all(
        network,
        sources,
        predictions,
        lambda line: print(f"segment: {line}", flush=True),
        task=task,
        traffic=traffic,
    )
    if job.count > 1:
        console.detail(
            "segment",
            f"process {job.rank} has read {traffic.images_read} bytes of images, and written {traffic.scores_written} "
            f"of probabilities and {traffic.labels_written} of labels",
        )
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if len(failed) == len(sources) and share == ALL:
        raise NothingToSegment(f"{volumes}: none of {len(sources)} volumes can be used; the first: {failed[0].reason}")
    if job.is_first:
        for outcome in failed:
            console.note("segment", f"{printable(outcome.source.name)} is left out: {printable(str(outcome.reason))}")
        left_out = f"; {console.count(len(failed), 'volume')} left out, see failed.csv" if failed else ""
        console.result("segment", f"segmented {console.count(len(sources) - len(failed), 'volume')}{left_out}")
    return {"predictions": {"segmented": len(sources) - len(failed), "failed": len(failed)}}
