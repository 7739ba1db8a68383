"""The files with which a model leaves the pipeline."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components.evaluate.evaluate import load_scores
from components.files import read_json, write_json
from components.train.settings import MODEL, TRAINING

VERSION = "1"
"""The version of the exported model; whoever deploys several copies each into the next number."""


def export_model(model: str, evaluation: str, exported: str) -> Mapping[str, Mapping[str, Any]]:
    """Write the model as a Keras file, as a TensorFlow SavedModel for one device, and a description.

    Args:
        model: folder of the step train.
        evaluation: folder of the step evaluate.
        exported: folder to make: `model.keras`, `serving/1/`, `model.json` (metrics, input, SHA-256).
    """
    folder = Path(exported)
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(model) / MODEL
    shutil.copyfile(source, folder / MODEL)
    network = ks.load_model(source, compile=False)
    # TensorFlow Serving looks for a folder whose name is a number, the model's version.
    network.export(str(folder / "serving" / VERSION), verbose=False)
    training, scores = read_json(Path(model) / TRAINING), load_scores(evaluation)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    facts = {
        "input": "clip(HU / 1024 + 0.5, 0, 1), whole field of view in RAS order, float32 [batch, x, y, z, 1]",
        "output": "logits of background, liver, lesion [batch, x, y, z, 3]",
        "resolution": training["resolution"],
        "dice": scores["dice"],
        "cases": scores["cases"],
        "sha256": digest,
    }
    write_json(folder / "model.json", facts)
    return {
        "exported": {
            "sha256": digest,
            **{f"dice_{part}": value for part, value in scores["dice"].items()},
        }
    }
