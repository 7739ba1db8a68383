"""Segmenting held-out cases on their own grid, and scoring them with the metrics of LiTS."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np
from pydantic import TypeAdapter

from components.files import read_json, write_json
from components.train.settings import MODEL
from datasets.lits.cases import Case, find_cases, read_case
from datasets.phantom.thresholding import best_band, dice
from keras_spatial.evaluation import CaseMetrics, evaluate_case, summarise, write_csv
from keras_spatial.inference import segment
from keras_spatial.volumes import read_volume

CASES, SUMMARY, METRICS = "cases.json", "summary.json", "metrics.json"
CLASSES = ("background", "liver", "lesion")
_METRICS = TypeAdapter(list[CaseMetrics])


def evaluate_model(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    *,
    mesh: str,
    layout: str,
    thresholds: bool,
) -> Mapping[str, Mapping[str, Any]]:
    """Segment the cases of the split test with a partitioned model, and score them on the grid of the scans.

    Args:
        cases: folder with the checked cases.
        dataset: folder of the step preprocess; it says which cases are held out.
        model: folder of the step train.
        evaluation: folder to make: `prediction-N.nii.gz`, `cases.json` (all metrics of each case), `cases.csv`,
            `summary.json`, `metrics.json`.
        mesh: to predict on, such as "rows:2, columns:2"; layout: such as "x:rows, y:columns".
        thresholds: whether to score the best intensity thresholds, chosen on the training cases, as a yardstick.

    Returns:
        Metadata of the evaluation: mean Dice per case of liver and lesions, and of the thresholds.
    """
    from components.preprocess.preprocess import open_dataset

    distribution = ks.SpatialParallel(ks.device_mesh(mesh), layout)
    network = ks.load_model(Path(model) / MODEL, distribution=distribution, compile=False)
    members = (open_dataset(dataset).info.metadata or {})["cases"]
    found = {case.number: case for case in find_cases(cases)}
    held_out = [found[int(number)] for number in members["test"]]
    folder = Path(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    metrics = []
    for number, case in enumerate(held_out, start=1):
        scored, counts = _score(network, case, folder)
        confusion += counts
        metrics.append(scored)
        print(
            f"evaluate: {number}/{len(held_out)} {case.name}: Dice liver {scored.liver.dice:.3f}, "
            f"lesion {scored.lesion.dice:.3f}",
            flush=True,
        )
    (folder / CASES).write_bytes(_METRICS.dump_json(metrics))
    write_csv(folder / "cases.csv", metrics)
    summary = summarise(metrics)
    write_json(folder / SUMMARY, summary.as_dict())
    scores = {
        "dice": {part: summary.metrics[f"{part}_dice_per_case"].value for part in ("liver", "lesion")},
        "mesh": mesh,
        "layout": layout,
        "cases": [case.name for case in held_out],
        "confusion": confusion.tolist(),
    }
    if thresholds:
        scores["threshold_dice"] = _thresholds([found[int(n)] for n in members["train"]], held_out)
    write_json(folder / METRICS, scores)
    flat = {f"dice_{part}": value for part, value in scores["dice"].items()}
    flat |= {f"threshold_dice_{part}": value for part, value in scores.get("threshold_dice", {}).items()}
    return {"evaluation": {**flat, "cases": len(held_out), "confusion": json.dumps(confusion.tolist())}}


def load_metrics(evaluation: str | Path) -> list[CaseMetrics]:
    """The metrics of each case that `evaluate_model` wrote."""
    return _METRICS.validate_json((Path(evaluation) / CASES).read_bytes())


def load_scores(evaluation: str | Path) -> dict[str, Any]:
    """What `evaluate_model` wrote as `metrics.json`."""
    return read_json(Path(evaluation) / METRICS)


def _score(network: keras.Model, case: Case, folder: Path) -> tuple[CaseMetrics, np.ndarray]:
    volume, labels = read_case(case)
    predicted = segment(network, volume, folder / f"prediction-{case.number}.nii.gz").labels
    truth = labels.array
    pairs = truth.astype(np.int64).ravel() * len(CLASSES) + predicted.ravel()
    counts = np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), len(CLASSES))
    return evaluate_case(predicted, truth, volume.spacing, case=case.name), counts


def _thresholds(train: Sequence[Case], test: Sequence[Case]) -> dict[str, float]:
    def arrays(cases: Sequence[Case]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(read_volume(c.volume).array, read_volume(c.segmentation).array) for c in cases]

    learned, held_out = arrays(train), arrays(test)
    return {
        part: dice(held_out, best_band(learned, lesion), lesion)
        for part, lesion in (("liver", False), ("lesion", True))
    }
