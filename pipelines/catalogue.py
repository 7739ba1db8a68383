"""The pipelines by name, and what each leaves at the top of its run's folder."""

import difflib
from pathlib import Path

from kfp.dsl.base_component import BaseComponent

from pipelines.lits_segmentation import lits_segmentation
from pipelines.local import Step, collect_results
from pipelines.settings import Settings

PIPELINES = {
    "lits_segmentation": lits_segmentation,
}


class UnknownPipeline(ValueError):
    """No pipeline has this name."""


def build(name: str, settings: Settings) -> BaseComponent:
    """The pipeline of a name.

    Raises:
        UnknownPipeline: naming the nearest known one.
    """
    if name not in PIPELINES:
        near = difflib.get_close_matches(name, PIPELINES, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(PIPELINES)}."
        raise UnknownPipeline(f"{name}: no such pipeline. {hint}")
    return PIPELINES[name](settings)


def results(name: str, folder: Path, steps: list[Step]) -> list[str]:
    """Collect the results of a finished run, and say in a few lines what they are."""
    metrics = collect_results(folder, steps)
    reused = [step.name for step in steps if step.reused]
    lines = [f"Taken from earlier runs: {', '.join(reused)}"] if reused else []
    if "threshold_dice" in metrics:
        lines.append("Best intensity threshold: " + _dice(metrics["threshold_dice"]))
    lines.append(f"Report: {folder / 'report.html'}")
    lines.append(f"Dice per case on {len(metrics['cases'])} held-out case(s): " + _dice(metrics["dice"]))
    return lines


def _dice(values: dict[str, float]) -> str:
    return ", ".join(f"{part} {value:.3f}" for part, value in values.items())
