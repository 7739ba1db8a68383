"""One report over the folds of a cross-validation, with intervals over all cases."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from components import console
from components.evaluate.results import load_metrics, load_scores
from components.files import write_json
from components.report.headings import heading
from components.report.page import RunReport, write_report
from keras_spatial.evaluation import CaseMetrics, Estimate, summarise, summarise_classes
from keras_spatial.volumes import metric_name


class FoldsError(ValueError):
    """The evaluations are not the folds of one cross-validation."""


def report_folds(evaluations: Sequence[str], page: str, table: str, *, title: str) -> Mapping[str, Mapping[str, Any]]:
    """Write one page and one table over all folds.

    Every case is held out by exactly one fold, so the metrics of all folds together cover all cases, each predicted by
    a network that has not seen it. The intervals are bootstrapped over the cases. They do not include the variation
    between networks, which the means of the folds show.

    Args:
        evaluations: the folders of the step evaluate, one for each fold.
        page: the HTML file to write.
        table: the JSON file to write, with `dice` (`value`, `low` and `high` of each class), `confidence`, `cases` and
            `folds`.
        title: the heading; if it is empty, it says what is segmented.

    Returns:
        The metadata of the table: the Dice of each class and the ends of its interval.

    Raises:
        FoldsError: if a case is held out by more than one fold.
    """
    folds = [load_metrics(evaluation) for evaluation in evaluations]
    cases = [case for fold in folds for case in fold]
    twice = sorted(name for name, count in Counter(case.case for case in cases).items() if count > 1)
    if twice:
        raise FoldsError(f"expected folds without common held-out cases. Received: {', '.join(twice)} more than once.")
    confidence, estimates = _estimates(cases)
    scores = [load_scores(evaluation) for evaluation in evaluations]
    rows = [{"dice": score["dice"], "cases": score["cases"]} for score in scores]
    write_json(
        table,
        {
            "dice": {part: {"value": e.value, "low": e.low, "high": e.high} for part, e in estimates.items()},
            "confidence": confidence,
            "cases": len(cases),
            "folds": rows,
        },
    )
    note = f"{len(cases)} cases, each held out by one of {len(folds)} networks. Intervals are over the cases."
    folded = [
        RunReport(title=f"fold {number}", metrics=fold, mesh=f"{score['mesh']}; {score['layout']}")
        for number, (fold, score) in enumerate(zip(folds, scores, strict=True), start=1)
    ]
    title = title or f"{heading(cases)}: cross-validation"
    write_report(
        page, RunReport(title=title, metrics=cast(Any, cases), mesh=folded[0].mesh, notes=[note]), compared=folded
    )
    facts: dict[str, float] = {"cases": len(cases), "folds": len(folds)}
    for part, estimate in estimates.items():
        for name, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            if value is not None:
                facts[f"dice_{metric_name(part)}{name}"] = value
    means = console.figures({part: e.value for part, e in estimates.items() if e.value is not None})
    console.result("cross_validation", f"mean Dice over {len(cases)} cases: {means}")
    return {"table": facts}


def _estimates(cases: Sequence[Any]) -> tuple[float, dict[str, Estimate]]:
    """The confidence of the intervals, and the Dice of each class over all cases."""
    if isinstance(cases[0], CaseMetrics):
        lits = summarise(cases)
        return lits.confidence, {part: lits.metrics[f"{part}_dice_per_case"] for part in ("liver", "lesion")}
    found = summarise_classes(cases)
    return found.confidence, {name: metrics["dice"] for name, metrics in found.classes.items() if name != "mean"}
