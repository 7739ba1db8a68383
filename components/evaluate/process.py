"""One process of an evaluation: it predicts its own blocks, labels its own planes, and scores its own cases."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import numpy as np

from components import console, devices
from components.evaluate.needed import needed
from components.evaluate.results import CASE, METRICS, metadata, write_metrics
from components.evaluate.settings import EvaluationSettings
from components.evaluate.stored import StoredCases
from components.evaluate.thresholds import threshold_dice
from components.evaluate.truth import HeldOut, held_out, score
from components.files import write_json
from components.jobs.workspace import workspace_of
from components.preprocess.preprocess import open_dataset
from components.train.settings import MODEL
from components.train.task import task_of
from keras_spatial import processes
from keras_spatial.evaluation import CaseMetrics, LabelledCase
from keras_spatial.inference.block_files import Workspace, shared_workspace
from keras_spatial.inference.parts import label_together
from keras_spatial.volumes import Task, TaskError
from keras_spatial.volumes import task_of as model_task_of


def evaluate_cases(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    settings: EvaluationSettings,
    shared: str = "",
) -> Mapping[str, Mapping[str, Any]]:
    """Segment and score the held-out cases. Every process of the job must call it with the same arguments.

    The network is fed the stored blocks, as in training. Each process writes its own blocks of the class scores to a
    file, and then its own planes of the labels, so that it never holds a whole image or whole scores. Each of N
    processes scores every Nth case. It then holds the true and the predicted labels of that case on the grid of the
    scan, in one byte for each voxel, and what the surface distances need (see `keras_spatial.evaluation`).

    Args:
        cases, dataset, model, evaluation, predictions: see `components.evaluate.evaluate.evaluate_model`. Each
            process downloads what it needs from an object store.
        settings: the settings of the evaluation.
        shared: the URL of a folder for what the processes give each other. Then the folders to make are each process's
            own, and it leaves there what it has made. "" if all processes see the same folders.

    Returns:
        The metadata of the evaluation in the first process, and nothing in the others.

    Raises:
        TaskError: if the model was trained for other images or classes than those of the data set.
    """
    job, placed = processes.current(), settings.placed
    with needed(cases, dataset, thresholds=settings.thresholds) as (near_cases, near_dataset):
        network = ks.load_model(Path(model) / MODEL, distribution=devices.distribution(placed), compile=False)
        builder = open_dataset(near_dataset)
        task, members = task_of(builder), (builder.info.metadata or {})["cases"]
        _check_task(model, network, task)
        found = held_out(near_cases, members["test"], task)
        with shared_workspace(job, workspace_of(Path(predictions) / ".work", shared)) as work:
            stored = StoredCases(network, builder, "test", work)
            metrics, confusion = _score(stored, found, task, Path(predictions), work)
        thresholds = {}
        if settings.thresholds and task.scores == "lits":
            thresholds["threshold_dice"] = threshold_dice(held_out(near_cases, members["train"], task), found)
    if not job.is_first:
        return {}
    if settings.thresholds and not thresholds:
        console.note("evaluate", "thresholds: intensity thresholds can only be scored for LiTS, not for these data")
    dice = write_metrics(Path(evaluation), metrics, lits=task.scores == "lits")
    scores = {
        "dice": dice,
        "mesh": placed.mesh,
        "layout": placed.layout,
        "cases": [case.name for case in found],
        "classes": list(task.labels),
        "confusion": confusion.tolist(),
        "processes": job.count,
        **thresholds,
    }
    write_json(Path(evaluation) / METRICS, scores)
    known = console.figures({name: value for name, value in dice.items() if value is not None})
    console.result("evaluate", f"mean Dice over {console.count(len(found), 'held-out case')}: {known}")
    return {"evaluation": metadata(scores)}


def _check_task(model: str, network: keras.Model, task: Task) -> None:
    """Raise TaskError if a model was trained for other images or classes."""
    trained = model_task_of(network)
    if trained is not None and not trained.same_input(task):
        raise TaskError(
            f"{model}: expected a model of the data set's task, {task.as_dict()}. Received: one that was trained for "
            f"{trained.as_dict()}"
        )


def _score(
    stored: StoredCases, cases: Sequence[HeldOut], task: Task, predictions: Path, work: Workspace
) -> tuple[list[CaseMetrics | LabelledCase], np.ndarray]:
    """The metrics of all cases in their order, and the voxel counts over all cases. All processes get the same."""
    job = processes.current()
    metrics: dict[int, CaseMetrics | LabelledCase] = {}
    confusion = np.zeros((len(task.labels),) * 2, np.int64)
    for scores in stored.rounds():
        labels = label_together(
            f"cases {list(scores)}", work, [(values, cases[number].shape) for number, values in scores.items()]
        )
        own = {}
        for place, (number, found) in enumerate(zip(scores, labels, strict=True)):
            if place % job.count == job.rank:
                scored, counts = score(found[:], cases[number], task, predictions)
                own[number] = [CASE.dump_json(scored).decode(), counts.tolist()]
        # In this exchange the processes also wait for each other before the files that they read are removed.
        for theirs in job.exchange(f"metrics of cases {list(scores)}", json.dumps(own)):
            for number, (scored, counts) in json.loads(theirs).items():
                metrics[int(number)] = CASE.validate_json(scored)
                confusion += np.array(counts)
        for found in labels:
            found.discard()
        if job.is_first:
            for number in scores:
                said = f"cases, Dice of {cases[number].name}: {_printable(metrics[number])}"
                console.progress("evaluate", number + 1, len(cases), said)
    return [metrics[number] for number in range(len(cases))], confusion


def _printable(scored: CaseMetrics | LabelledCase) -> str:
    """The Dice of a case as text for the log."""
    if isinstance(scored, CaseMetrics):
        return console.figures({"liver": scored.liver.dice, "lesion": scored.lesion.dice})
    return console.figures({name: found.dice for name, found in scored.classes.items()})
