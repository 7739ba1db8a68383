"""The heading of a report if the settings give none: it names what is segmented."""

from collections.abc import Sequence

from keras_spatial.evaluation import CaseMetrics, LabelledCase

_NAMED = 4
"""The most classes that a heading names. If there are more, it only gives their number."""


def heading(metrics: Sequence[CaseMetrics | LabelledCase], name: str = "") -> str:
    """What is segmented, such as "Prostate: segmentation of peripheral and transition".

    Args:
        metrics: the metrics of the cases, at least one.
        name: the name of the data set, if it is known.
    """
    first = metrics[0]
    if isinstance(first, CaseMetrics):
        return "Liver and lesion segmentation"
    *others, last = first.classes
    classes = f"{', '.join(others)} and {last}" if others else last
    if len(first.classes) > _NAMED:
        classes = f"{len(first.classes)} classes"
    return f"{name}: segmentation of {classes}" if name else f"Segmentation of {classes}"
