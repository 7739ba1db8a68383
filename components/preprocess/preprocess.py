"""From NIfTI files to the TFDS data set that training reads."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def build_dataset(
    cases: str, dataset: str, *, resolution: int, split: str = "published", beam_options: str = "[]"
) -> Mapping[str, Mapping[str, Any]]:
    """Build the LiTS data set at a cubic resolution with Beam.

    Args:
        cases: folder with the LiTS files.
        dataset: folder to make, a TFDS data directory.
        resolution: voxels along each axis.
        split: "published" or "fold-K-of-N".
        beam_options: JSON list of Beam pipeline options, which choose the runner.

    Returns:
        Metadata of the data set: cases of each split and warnings about them.
    """
    from datasets import lits

    options = json.loads(beam_options)
    builder = lits.prepare(cases, dataset, resolution=resolution, split=split, beam_options=options)
    metadata = dict(builder.info.metadata or {})
    # Scratch of the conversion, needed only to go on after a failure.
    shutil.rmtree(Path(dataset) / "lits" / "converted", ignore_errors=True)
    counts = {name: len(numbers) for name, numbers in metadata["cases"].items()}
    print(f"preprocess: {counts} cases at {resolution}x{resolution}x{resolution}", flush=True)
    return {
        "dataset": {
            "resolution": resolution,
            "split": split,
            "cases": json.dumps(metadata["cases"]),
            "warnings": json.dumps(metadata["warnings"]),
        }
    }


def open_dataset(dataset: str) -> Any:
    """The TFDS builder of a folder that `build_dataset` made.

    Raises:
        FileNotFoundError: if there is not exactly one data set.
    """
    import tensorflow_datasets as tfds

    found = sorted(Path(dataset).glob("lits/*/*/dataset_info.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{dataset}: expected one data set of the step preprocess, lits/<config>/<version>. Received: {len(found)}"
        )
    return tfds.builder_from_directory(str(found[0].parent))
