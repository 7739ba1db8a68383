"""The report of a training run as one HTML file, which needs no network, no server and no other file.

`write_report` takes plain values and knows nothing about pipelines, models or data sets. The page contains the
compressed slices of every case for its viewer. A case with more voxels along an axis than `VIEWER_SIZE` is shown
resampled, and says so. The metrics are always those on the volume's own grid.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import jinja2
import numpy as np

from components.report import classes, plots, viewer
from keras_spatial._paths import partial
from keras_spatial.evaluation import CaseMetrics, Estimate, LabelledCase, Summary, case_row, summarise

_HERE = Path(__file__).parent


class ReportError(ValueError):
    """The values of a report do not fit together."""


@dataclass(frozen=True, eq=False)
class CaseVolumes:
    """The voxels of one case, for the viewer.

    Attributes:
        case: the name of the case, as in its metrics.
        image: the channels `[X, Y, Z, channels]`, or one channel `[X, Y, Z]`, in RAS order: HU of a CT, or the
            network's input (values from 0 to 1).
        truth: the true class numbers `[X, Y, Z]`; for LiTS, 0 background, 1 liver, 2 lesion.
        prediction: the predicted class numbers `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.
    """

    case: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class RunReport:
    """Everything that the page of one run shows.

    Attributes:
        title: the heading, which is also the name of the run if several are compared.
        metrics: the metrics of the held-out cases, at least one, either those of LiTS or those of any classes.
        volumes: any number of cases for the viewer; the worst ones are the most instructive.
        channels: the names of the channels of the volumes.
        history: the `History.history` of Keras: a list with one value per epoch, by name.
        validation_every: the number of epochs between two values of the `val_` names, `validation_freq` of `fit`.
        mesh: the mesh and the layout, such as "rows:2, columns:2; x:rows, y:columns".
        timings: the seconds of each step, by its name.
        model_summary: the text of `model.summary()`.
        memory: sizes in bytes by name, such as "one device, training".
        parameters: settings of the run by name, which are shown as they are.
        notes: what a reader must know to judge the figures; it is shown first.
    """

    title: str
    metrics: Sequence[CaseMetrics] | Sequence[LabelledCase]
    volumes: Sequence[CaseVolumes] = ()
    channels: Sequence[str] = ("CT",)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    validation_every: int = 1
    mesh: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    model_summary: str = ""
    memory: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(path: str | Path, run: RunReport, compared: Sequence[RunReport] = ()) -> Path:
    """Write the page of a run.

    Args:
        path: the path of the HTML file. Missing folders are made, and the file appears only when it is complete.
        run: the run that is shown in full.
        compared: earlier runs whose metrics and curves are shown beside it (only for LiTS).

    Returns:
        The path.

    Raises:
        ReportError: if there are no metrics, or the volumes do not fit together. Nothing is written then.
    """
    _check(run)
    for other in compared:
        _check(other)
    path = Path(path)
    if isinstance(run.metrics[0], LabelledCase):
        page = _environment().get_template("classes.html.j2").render(_classes_context(run))
    else:
        page = _environment().get_template("page.html.j2").render(_context(run, compared))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial(path)
    try:
        # Bytes of a name that are not UTF-8 are shown as escapes.
        part.write_text(page, encoding="utf-8", errors="backslashreplace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _check(run: RunReport) -> None:
    if not run.metrics:
        raise ReportError(f"report {run.title!r}: expected metrics of at least one case. Received: none")
    if run.validation_every < 1:
        raise ReportError(f"report {run.title!r}: expected validation_every >= 1. Received: {run.validation_every}")
    known = {metrics.case for metrics in run.metrics}
    for case in run.volumes:
        shapes = {case.image.shape[:3], case.truth.shape, case.prediction.shape}
        if len(shapes) != 1 or case.truth.ndim != 3 or case.image.size == 0:
            raise ReportError(
                f"report {run.title!r}, case {case.case}: expected image, truth and prediction of one shape "
                f"[X, Y, Z]. Received: {case.image.shape}, {case.truth.shape}, {case.prediction.shape}"
            )
        if _channels(case).shape[3] != len(run.channels):
            raise ReportError(
                f"report {run.title!r}, case {case.case}: expected the channels {list(run.channels)}. Received: an "
                f"image of shape {case.image.shape}"
            )
        if case.case not in known:
            raise ReportError(
                f"report {run.title!r}: expected metrics for every case shown. Received: volumes of {case.case!r}, "
                f"metrics of {sorted(known)}"
            )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "estimate": _estimate, "duration": _duration, "size": _bytes}
    return environment


def _context(run: RunReport, compared: Sequence[RunReport]) -> dict[str, object]:
    metrics = _lits(run)
    ordered = sorted(metrics, key=lambda c: (c.lesion.dice, c.liver.dice, c.case))
    place = {case.case: index for index, case in enumerate(ordered)}
    volumes = sorted(run.volumes, key=lambda v: place[v.case])
    summary = summarise(metrics)
    runs = [run, *compared]
    summaries = [summary, *(summarise(_lits(other)) for other in compared)]
    return {
        "run": run,
        "summary": summary,
        "rows": [case_row(case) for case in ordered],
        "metric_rows": _metric_rows(summary),
        "comparison": list(zip(runs, summaries, strict=True)) if compared else [],
        "plots": _plots(run, ordered, summary, runs, summaries),
        **_viewed(run, volumes, [viewer.LITS_LOOK]),
        "outlines": viewer.lits_outlines(),
        "classes": (),
        "lines": "Thin line: liver. Thick line: lesion.",
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
    }


def _viewed(run: RunReport, volumes: Sequence[CaseVolumes], looks: Sequence[viewer.Look]) -> dict[str, object]:
    """The values for the viewer's templates."""
    encoded = []
    for v in volumes:
        channels = list(zip(run.channels, np.moveaxis(_channels(v), 3, 0), looks, strict=True))
        encoded.append(viewer.encode(v.case, channels, v.truth, v.prediction, v.spacing))
    return {
        "volumes": encoded,
        "shown": [case.case for case in volumes],
        "script": (_HERE / "viewer.js").read_text(encoding="utf-8"),
    }


def _channels(case: CaseVolumes) -> np.ndarray:
    return case.image if case.image.ndim == 4 else case.image[..., None]


def _lits(run: RunReport) -> Sequence[CaseMetrics]:
    return cast(Sequence[CaseMetrics], run.metrics)


def _classes_context(run: RunReport) -> dict[str, object]:
    metrics = cast(Sequence[LabelledCase], run.metrics)
    found = classes.context(metrics)
    place = {case.case: index for index, case in enumerate(cast(Sequence[LabelledCase], found["rows"]))}
    volumes = sorted(run.volumes, key=lambda v: place[v.case])
    colours = itertools.cycle(viewer.COLOURS)
    coloured = [(number, name, next(colours)) for number, name in enumerate(metrics[0].classes, start=1)]
    return {
        "run": run,
        **found,
        **_viewed(run, volumes, [viewer.look_of(name) for name in run.channels]),
        "outlines": viewer.class_outlines(coloured),
        "classes": coloured,
        "lines": "Full line: truth. Dashed line: prediction.",
        "curves": plots.curves(run.history, run.validation_every),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
    }


def _plots(
    run: RunReport,
    ordered: Sequence[CaseMetrics],
    summary: Summary,
    runs: Sequence[RunReport],
    summaries: Sequence[Summary],
) -> dict[str, str | list[str]]:
    titles = [r.title for r in runs]
    return {
        "dice": plots.dice_per_case(ordered),
        "distances": plots.distances(ordered),
        "strata": plots.detection_by_size(summary.strata),
        "curves": plots.curves(run.history, run.validation_every),
        "compared": plots.compared(titles, summaries) if len(runs) > 1 else "",
        "compared_curves": plots.compared_curves({r.title: r.history for r in runs}) if len(runs) > 1 else "",
    }


_UNITS = {"assd": "mm", "rmsd": "mm", "msd": "mm"}
_LABELS = {
    "dice_per_case": "Dice per case",
    "dice_global": "Dice global",
    "dice": "Dice of detected lesions",
    "voe": "Volumetric overlap error",
    "rvd": "Relative volume difference",
    "assd": "Average symmetric surface distance",
    "rmsd": "Root mean square surface distance",
    "msd": "Maximum surface distance",
    "precision": "Precision, overlap > 0.5",
    "recall": "Recall, overlap > 0.5",
    "precision_greater_zero": "Precision, any overlap",
    "recall_greater_zero": "Recall, any overlap",
    "rmse": "Root mean square error",
    "max": "Largest error",
}


def _metric_rows(summary: Summary) -> list[dict[str, object]]:
    rows = []
    for name, value in summary.metrics.items():
        part, _, short = name.partition("_") if not name.startswith("tumour") else ("tumour burden", "", name[14:])
        rows.append({"part": part, "label": _LABELS[short], "unit": _UNITS.get(short, ""), "value": value})
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _estimate(value: Estimate) -> str:
    text = _number(value.defined)
    if value.low is not None and value.high is not None:
        text += f" ({value.low:.3f} to {value.high:.3f})"
    return text


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
