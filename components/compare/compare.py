"""Decide whether a model is good enough, compared with the best earlier one."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import console
from components.files import read_json, write_json


class BaselineError(ValueError):
    """The metrics of the earlier model cannot be used."""


def compare_models(
    evaluation: str, decision: str, *, baseline: str, tolerance: float
) -> Mapping[str, Mapping[str, Any]]:
    """Compare the Dice of an evaluation with that of an earlier run.

    Args:
        evaluation: the folder of the step evaluate.
        decision: the JSON file to write, with the decision and the Dice of both models.
        baseline: the path of `metrics.json` of the earlier run; if it is empty, the model is accepted.
        tolerance: how much lower the Dice of a class may be than that of the baseline.

    Raises:
        BaselineError: if the earlier metrics are missing, cannot be read, or belong to other held-out cases.
    """
    current = read_json(Path(evaluation) / "metrics.json")
    earlier = read_baseline(baseline) if baseline else None
    if earlier is not None and sorted(earlier["dice"]) != sorted(current["dice"]):
        raise BaselineError(
            f"{baseline}: expected the classes of this run, {sorted(current['dice'])}. Received: "
            f"{sorted(earlier['dice'])}. Leave baseline empty."
        )
    if earlier is not None and sorted(earlier["cases"]) != sorted(current["cases"]):
        raise BaselineError(
            f"{baseline}: expected the same held-out cases as in this run, {current['cases']}. Received: "
            f"{earlier['cases']}. Evaluate the earlier model on these cases, or leave baseline empty."
        )
    accepted = earlier is None or accept(current["dice"], earlier["dice"], tolerance)
    write_json(
        decision,
        {
            "accepted": accepted,
            "dice": current["dice"],
            "baseline": earlier and earlier["dice"],
            "tolerance": tolerance,
        },
    )
    if earlier is None:
        said = "the model is accepted, because there is no earlier one"
    else:
        verdict = "the model is accepted" if accepted else "the model is worse than the earlier one and not accepted"
        dice = console.figures(current["dice"])
        said = f"{verdict}: Dice {dice}, earlier {console.figures(earlier['dice'])}"
    console.result("compare", said)
    return {"decision": {"accepted": accepted}}


def accept(current: Mapping[str, float], earlier: Mapping[str, float], tolerance: float) -> bool:
    """Whether no class is worse than before by more than the tolerance."""
    return all(value >= earlier[part] - tolerance for part, value in current.items())


def read_baseline(path: str | Path) -> dict[str, Any]:
    """Read the Dice of the classes and the names of the cases from `metrics.json` of an earlier run.

    Raises:
        BaselineError: if the file is missing or not JSON, or lacks the Dice or the cases.
    """
    try:
        metrics = read_json(path)
        dice = {str(part): float(value) for part, value in metrics["dice"].items()}
        cases = [str(case) for case in metrics["cases"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaselineError(
            f"{path}: expected the metrics.json of an earlier run, with dice and cases. Received: {error!r}"
        ) from error
    if not dice or not all(math.isfinite(value) for value in dice.values()):
        raise BaselineError(f"{path}: expected finite Dice. Received: {dice}")
    return {"dice": dice, "cases": cases}
