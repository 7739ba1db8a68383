"""What a report shows of a task with any classes: tables and a plot by class, and slices of the worst cases."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg

from components.report import plots
from keras_spatial import plot
from keras_spatial.evaluation import LabelledCase, summarise_classes

COLUMNS = {
    "dice": ("Dice", ""),
    "hd95": ("Hausdorff distance, 95th percentile", "mm"),
    "nsd": ("Surface Dice", ""),
    "assd": ("Average surface distance", "mm"),
}


def context(cases: Sequence[LabelledCase]) -> dict[str, object]:
    """Values of the template `classes.html.j2`.

    Args:
        cases: held-out cases, at least one.
    """
    summary = summarise_classes(cases)
    return {
        "summary": summary,
        "columns": COLUMNS,
        "names": list(cases[0].classes),
        "rows": sorted(cases, key=lambda c: (c.mean_dice, c.case)),
        "dice_plot": plots.dice_of_classes(cases),
    }


def slices(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> Markup:
    """Three slices of a case with the labels outlined, as an image inside the page."""
    figure = plot.slices(image, truth, prediction, spacing=spacing)
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    text = base64.b64encode(out.getvalue()).decode("ascii")
    return Markup(f'<img alt="Slices with truth and prediction outlined" src="data:image/png;base64,{text}">')
