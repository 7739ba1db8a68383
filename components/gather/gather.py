"""Putting together what several steps have segmented."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components import console
from components.resume import link_or_copy
from keras_spatial.inference import NothingToSegment, ResultsCollide
from keras_spatial.inference.batches import FAILED, read_failed, write_rows


def gather_segmentations(parts: Sequence[str], predictions: str) -> Mapping[str, Mapping[str, Any]]:
    """Put the results of all shares into one folder, with one table of the volumes that have none.

    Args:
        parts: folders of the step segment, one for each share of the volumes.
        predictions: folder to make, as that of a single step would be.

    Returns:
        Metadata: the numbers of segmented and of failed volumes.

    Raises:
        ResultsCollide: if two shares have a result of the same name; no share is to have a volume of another.
        NothingToSegment: if no share has a result.
    """
    target = Path(predictions)
    target.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    rows: list[tuple[str, str]] = []
    for part in parts:
        rows += read_failed(part)
        for file in sorted(Path(part).iterdir()):
            if file.name == FAILED or file.name.startswith("."):
                continue
            if file.name in written:
                raise ResultsCollide(
                    f"{file}: expected shares without common volumes. Received: {file.name} also in "
                    f"{written[file.name]}"
                )
            written[file.name] = part
            link_or_copy(file, target / file.name)
    write_rows(target, rows)
    if not written:
        first = f"; the first: {rows[0][0]}: {rows[0][1]}" if rows else ""
        raise NothingToSegment(f"none of {len(rows)} volumes can be used{first}")
    left_out = f"; {console.count(len(rows), 'volume')} left out, see {FAILED}" if rows else ""
    shares = console.count(len(parts), "share")
    console.result("gather", f"{console.count(len(written), 'segmentation')} of {shares}{left_out}")
    return {"predictions": {"segmented": len(written), "failed": len(rows)}}
