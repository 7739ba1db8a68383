"""The part of a report for a task with any classes: tables and a plot by class."""

from collections.abc import Sequence

from components.report import plots
from keras_spatial.evaluation import LabelledCase, summarise_classes

COLUMNS = {
    "dice": ("Dice", ""),
    "hd95": ("Hausdorff distance, 95th percentile", "mm"),
    "nsd": ("Surface Dice", ""),
    "assd": ("Average surface distance", "mm"),
}


def context(cases: Sequence[LabelledCase]) -> dict[str, object]:
    """The values for the template `classes.html.j2`.

    Args:
        cases: the held-out cases, at least one.
    """
    summary = summarise_classes(cases)
    return {
        "summary": summary,
        "columns": COLUMNS,
        "names": list(cases[0].classes),
        "rows": sorted(cases, key=lambda c: (c.mean_dice, c.case)),
        "dice_plot": plots.dice_of_classes(cases),
    }
