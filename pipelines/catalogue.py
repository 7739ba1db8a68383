"""The pipelines by name, and the results that each of them puts into the top folder of its run."""

import difflib
import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components import console
from components.files import read_json, write_json

if TYPE_CHECKING:
    # KFP takes seconds to import, and the help of the commands does not need it.
    from kfp.dsl.base_component import BaseComponent

    from pipelines.cluster import Cluster
    from pipelines.local import Step
    from pipelines.settings import Settings

PIPELINES = {
    "lits_segmentation": "Train a spatially partitioned network on CT volumes, evaluate it and write a report.",
    "resolution_study": "Train and evaluate at several resolutions, and compare the Dice on the grid of the scans.",
    "batch_inference": "Segment CT volumes with a trained model, each on its own grid.",
    "cross_validation": "Train and evaluate on several folds, so that every case is held out once.",
    "sweep": "Train at several learning rates, and compare the models on the validation cases.",
}
"""The names of the pipelines, which are also those of their modules and functions, and what each of them does."""


class UnknownPipeline(ValueError):
    """There is no pipeline with this name."""


def build(name: str, settings: "Settings", cluster: "Cluster | None" = None) -> "BaseComponent":
    """Build the pipeline with this name.

    Raises:
        UnknownPipeline: if there is none; the message has the nearest known name.
        SettingsError: if a setting is not read, or the mesh does not fit the cluster.
    """
    check_name(name)
    if cluster is not None:
        trains, predicts = tasks_of(name)
        settings = cluster.hardware().demand(settings, trains=trains, predicts=predicts)
    return getattr(importlib.import_module(f"pipelines.{name}"), name)(settings, cluster)


def tasks_of(name: str) -> tuple[bool, bool]:
    """Whether a pipeline trains, and whether it evaluates or segments."""
    return name != "batch_inference", name != "sweep"


def check_name(name: str) -> None:
    """Make sure that there is a pipeline with this name.

    Raises:
        UnknownPipeline: if there is none; the message has the nearest known name.
    """
    if name not in PIPELINES:
        near = difflib.get_close_matches(name, PIPELINES, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(PIPELINES)}."
        raise UnknownPipeline(f"{name}: no such pipeline. {hint}")


def results(name: str, folder: Path, steps: "Sequence[Step]") -> list[str]:
    """Put the results of a finished run into its top folder, and return a few lines that describe them."""
    by_name = {step.name: step for step in steps}
    reused = [step.name for step in steps if step.reused]
    lines = [f"Results taken from earlier runs: {', '.join(reused)}"] if reused else []
    collect = {
        "lits_segmentation": _segmentation,
        "resolution_study": _study,
        "batch_inference": _inference,
        "cross_validation": _folds,
        "sweep": _sweep,
    }
    return lines + collect[name](folder, by_name)


def _segmentation(folder: Path, steps: "Mapping[str, Step]") -> list[str]:
    evaluation = steps["evaluate"].path("evaluation")
    metrics = read_json(evaluation / "metrics.json")
    metrics["seconds"] = read_json(folder / "seconds.json")
    _copy(steps["report"].path("page"), folder / "report.html")
    _copy(steps["report"].path("summary"), folder / "report.md")
    _copy(steps["train"].path("model") / "model.keras", folder / "model.keras")
    _copy_folder(steps["train"].path("model") / "logs", folder / "tensorboard")
    _copy(evaluation / "cases.csv", folder / "cases.csv")
    _copy(steps["ingest"].path("quarantine"), folder / "quarantine.html")
    _copy(evaluation / "cases.json", folder / "cases.json")
    metrics["accepted"] = bool(read_json(steps["compare"].path("decision"))["accepted"])
    write_json(folder / "metrics.json", metrics)
    lines = []
    bad = steps["ingest"].outputs["quarantine"]["metadata"]["bad"]
    if bad:
        lines.append(f"{console.count(int(bad), 'bad case')} left out, see {folder / 'quarantine.html'}")
    if not metrics["accepted"]:
        lines.append("The model is not exported, because it is worse than the baseline.")
    if "threshold_dice" in metrics:
        lines.append(f"For comparison, the Dice of the best intensity thresholds: {_dice(metrics['threshold_dice'])}")
    lines.append(f"Report: {folder / 'report.html'}")
    cases = console.count(len(metrics["cases"]), "held-out case")
    lines.append(f"Mean Dice over {cases}: {_dice(metrics['dice'])}")
    return lines


def _study(folder: Path, steps: "Mapping[str, Step]") -> list[str]:
    _copy(steps["study"].path("page"), folder / "report.html")
    rows = read_json(steps["study"].path("table"))
    write_json(folder / "metrics.json", {"runs": rows, "seconds": read_json(folder / "seconds.json")})
    lines = [f"{row['resolution']}³: {_dice(row['dice'])}, training {row['seconds']:.0f} s" for row in rows]
    return [*lines, f"Report: {folder / 'report.html'}"]


def _inference(folder: Path, steps: "Mapping[str, Step]") -> list[str]:
    target = folder / "segmentations"
    last = steps.get("gather", steps["segment"])
    _copy_folder(last.path("predictions"), target)
    facts = last.outputs["predictions"]["metadata"]
    segmented, failed = (console.count(int(facts[name]), "volume") for name in ("segmented", "failed"))
    left_out = f"; {failed} could not be used, see failed.csv" if facts["failed"] else ""
    return [f"Segmented {segmented} into {target}{left_out}"]


def _folds(folder: Path, steps: "Mapping[str, Step]") -> list[str]:
    step = steps["cross_validation"]
    _copy(step.path("page"), folder / "report.html")
    table = read_json(step.path("table"))
    write_json(folder / "metrics.json", {**table, "seconds": read_json(folder / "seconds.json")})
    means = {part: estimate["value"] for part, estimate in table["dice"].items()}
    return [
        f"Report: {folder / 'report.html'}",
        f"Mean Dice over {console.count(table['cases'], 'case')}: {_dice(means)}",
    ]


def _sweep(folder: Path, steps: "Mapping[str, Step]") -> list[str]:
    _copy(steps["sweep"].path("summary"), folder / "report.md")
    rows = read_json(steps["sweep"].path("table"))
    write_json(folder / "metrics.json", {"trainings": rows, "seconds": read_json(folder / "seconds.json")})
    return [f"Best learning rate: {rows[0]['learning_rate']:g}, see {folder / 'report.md'}"]


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".part-{target.name}")
    shutil.copyfile(source, part)
    part.replace(target)


def _copy_folder(source: Path, target: Path) -> None:
    part = target.with_name(f".part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _dice(values: Mapping[str, float]) -> str:
    return console.figures(values)
