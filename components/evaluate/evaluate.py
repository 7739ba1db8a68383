"""Segmenting held-out cases on their own grid, and scoring them: with the metrics of LiTS, or those of any classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import numpy as np
from pydantic import TypeAdapter

from components import console, devices
from components.evaluate.classes import printable, score_case, write_scores
from components.evaluate.settings import EvaluationSettings
from components.evaluate.stored import StoredCases
from components.evaluate.truth import confusion_of, read_truth, write_prediction
from components.files import read_json, write_json
from components.settings import MeshSettings
from components.train.settings import MODEL
from components.train.task import task_of
from datasets.decathlon.layout import read_layout
from datasets.lits.cases import Case, find_cases
from datasets.phantom.thresholding import best_band, dice
from keras_spatial.evaluation import CaseMetrics, LabelledCase, evaluate_case, summarise, write_csv
from keras_spatial.volumes import LITS, Task, TaskError, metric_name, read_volume
from keras_spatial.volumes import task_of as model_task_of

CASES, SUMMARY, METRICS = "cases.json", "summary.json", "metrics.json"
CLASSES = LITS.labels
_METRICS: TypeAdapter[list[CaseMetrics] | list[LabelledCase]] = TypeAdapter(list[CaseMetrics] | list[LabelledCase])


def evaluate_model(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Segment the cases of the split test with a partitioned model, and score them on the grid of the scans.

    The network is fed the stored blocks, as in training, and its class scores are put into a file block by block, so
    that no image and no scores are whole in the memory. What is whole are the labels of one case at a time on the grid
    of its scan, true and predicted, in a byte for each voxel, and what the surface distances need (see
    `keras_spatial.evaluation`). `thresholds`, a comparison, reads the scans.

    Args:
        cases: folder with the checked cases.
        dataset: folder of the step preprocess; it says which cases are held out.
        model: folder of the step train.
        evaluation: folder to make: `cases.json` (all metrics of each case), `cases.csv`, `summary.json`,
            `metrics.json`.
        predictions: folder to make: `prediction-N.nii.gz`.
        settings: those of `EvaluationSettings`.

    Returns:
        Metadata of the evaluation: mean Dice per case of each class, and of the thresholds.

    Raises:
        TaskError: if the model was trained for other images or classes than those of the data set.
    """
    from components.preprocess.preprocess import open_dataset

    given = EvaluationSettings.model_validate(settings)
    distribution = devices.distribution(given.placed)
    network = ks.load_model(Path(model) / MODEL, distribution=distribution, compile=False)
    builder = open_dataset(dataset)
    task, members = task_of(builder), (builder.info.metadata or {})["cases"]
    trained = model_task_of(network)
    if trained is not None and not trained.same_input(task):
        raise TaskError(
            f"{model}: expected a model of the data set's task, {task.as_dict()}. Received: one that was trained for "
            f"{trained.as_dict()}"
        )
    Path(predictions).mkdir(parents=True, exist_ok=True)
    stored = StoredCases(network, builder, "test", Path(predictions))
    if task.scores == "classes":
        return _evaluate_classes(
            stored, cases, members["test"], task, Path(evaluation), Path(predictions), given.placed
        )
    found = {case.number: case for case in find_cases(cases)}
    held_out = [found[int(number)] for number in members["test"]]
    folder = Path(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    metrics = []
    for number, (case, probabilities) in enumerate(zip(held_out, stored, strict=True), start=1):
        scored, counts = _score(probabilities, case, Path(predictions))
        confusion += counts
        metrics.append(scored)
        dice_of = console.figures({"liver": scored.liver.dice, "lesion": scored.lesion.dice})
        console.progress("evaluate", number, len(held_out), f"cases, Dice of {case.name}: {dice_of}")
    (folder / CASES).write_bytes(_METRICS.dump_json(metrics))
    write_csv(folder / "cases.csv", metrics)
    summary = summarise(metrics)
    write_json(folder / SUMMARY, summary.as_dict())
    scores = {
        "dice": {part: summary.metrics[f"{part}_dice_per_case"].value for part in ("liver", "lesion")},
        "mesh": given.placed.mesh,
        "layout": given.placed.layout,
        "cases": [case.name for case in held_out],
        "classes": list(CLASSES),
        "confusion": confusion.tolist(),
    }
    if given.thresholds:
        scores["threshold_dice"] = _thresholds([found[int(n)] for n in members["train"]], held_out)
    write_json(folder / METRICS, scores)
    _say_result(scores["dice"], len(held_out))
    flat = {f"dice_{part}": value for part, value in scores["dice"].items()}
    flat |= {f"threshold_dice_{part}": value for part, value in scores.get("threshold_dice", {}).items()}
    return {"evaluation": {**flat, "cases": len(held_out), **_matrix(CLASSES, confusion)}}


def _evaluate_classes(
    stored: StoredCases,
    cases: str,
    names: Sequence[str],
    task: Task,
    folder: Path,
    predictions: Path,
    placed: MeshSettings,
) -> Mapping[str, Mapping[str, Any]]:
    found = {case.name: case for case in read_layout(cases).cases}
    confusion = np.zeros((len(task.labels), len(task.labels)), np.int64)
    metrics: list[LabelledCase] = []
    for number, (name, probabilities) in enumerate(zip(names, stored, strict=True), start=1):
        scored, counts = score_case(probabilities, found[name], task, predictions)
        confusion += counts
        metrics.append(scored)
        console.progress("evaluate", number, len(names), f"cases, Dice of {name}: {printable(scored)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CASES).write_bytes(_METRICS.dump_json(metrics))
    dice = write_scores(folder, metrics)
    write_json(
        folder / METRICS,
        {
            "dice": dice,
            "mesh": placed.mesh,
            "layout": placed.layout,
            "cases": list(names),
            "classes": list(task.labels),
            "confusion": confusion.tolist(),
        },
    )
    _say_result(dice, len(names))
    flat = {f"dice_{metric_name(name)}": value for name, value in dice.items()}
    return {"evaluation": {**flat, "cases": len(names), **_matrix(task.labels, confusion)}}


def _say_result(dice: Mapping[str, float | None], cases: int) -> None:
    known = console.figures({name: value for name, value in dice.items() if value is not None})
    console.result("evaluate", f"mean Dice over {console.count(cases, 'held-out case')}: {known}")


def _matrix(classes: Sequence[str], confusion: np.ndarray) -> dict[str, str]:
    """The confusion matrix as metadata, which hold no lists."""
    return {"classes": json.dumps(list(classes)), "confusion": json.dumps(confusion.tolist())}


def load_metrics(evaluation: str | Path) -> list[CaseMetrics] | list[LabelledCase]:
    """The metrics of each case that `evaluate_model` wrote."""
    return _METRICS.validate_json((Path(evaluation) / CASES).read_bytes())


def load_scores(evaluation: str | Path) -> dict[str, Any]:
    """What `evaluate_model` wrote as `metrics.json`."""
    return read_json(Path(evaluation) / METRICS)


def _score(probabilities: np.ndarray, case: Case, folder: Path) -> tuple[CaseMetrics, np.ndarray]:
    truth = read_truth(case.volume, case.segmentation, CLASSES)
    predicted = write_prediction(probabilities, truth, folder / f"prediction-{case.number}.nii.gz", CLASSES)
    counts = confusion_of(truth.array, predicted, len(CLASSES))
    return evaluate_case(predicted, truth.array, truth.spacing, case=case.name), counts


def _thresholds(train: Sequence[Case], test: Sequence[Case]) -> dict[str, float]:
    def arrays(cases: Sequence[Case]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(read_volume(c.volume).array, read_volume(c.segmentation).array) for c in cases]

    learned, held_out = arrays(train), arrays(test)
    return {
        part: dice(held_out, best_band(learned, lesion), lesion)
        for part, lesion in (("liver", False), ("lesion", True))
    }
